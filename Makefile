# make demo   on a fresh machine: environment, torch, build, data, then the article's program
# make test   all tests           make lint   style and types       make bench   speed beside the peers
# make wheel  a wheel, checked in a clean environment               make sanitize  kernels under TSan, ASan and UBSan
# make docs   the documentation, into site/                         make cards  the methods, measured (hours; goes on where it was)
# make qemu   the kernels on NEON and on x86-64 without AVX, emulated
# make cuda   the CUDA plug-in, with nvcc (docs/cuda.md)

PYTHON ?= python3
VENV ?= .venv
# Pinned, so that pip takes torch's CPU build; any torch from 2.10 on will do.
TORCH ?= torch==2.13.0
EPOCHS ?= 5
# Libraries that only some extras use; where they cannot be had their tests are skipped.
OPTIONAL := torchmetrics optuna tensorboard onnx onnxscript

BIN := $(VENV)/bin
CXX_SOURCES := $(shell find csrc tests benchmarks -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh' -o -path '*cuda*' -name '*.h')
SOURCES := $(shell find csrc -type f) CMakeLists.txt pyproject.toml

.PHONY: demo test lint format bench docs cards wheel sanitize qemu cuda data clean

demo: $(VENV)/.installed data
	$(BIN)/pyconvopt train --data fashion-mnist --recipe seed --epochs $(EPOCHS)

# Two processes, each test file in one of them: most tests keep one processor busy. Threads that wait give theirs up.
test: $(VENV)/.tested
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)

format: $(VENV)/.tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

bench: $(VENV)/.tested
	$(BIN)/python -m benchmarks.train_step

docs: $(VENV)/.documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "written: site/index.html"

cards: $(VENV)/.tested data
	$(BIN)/python -m docs.make_cards run $(CARDS)

# --- environment -----------------------------------------------------------------------------------

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV) || { echo "python3 needs its venv module: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)" numpy
	touch $@

# Editable: the Python files are used in place, the kernels are built into the environment. Without isolation,
# for its new place each time would have the bindings compiled anew.
INSTALL := $(BIN)/pip install --quiet --no-build-isolation --editable
$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install --quiet scikit-build-core pybind11 cmake ninja
	$(INSTALL) ".[cli]"
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(INSTALL) ".[cli,test,dev]"
	$(BIN)/pip install --quiet --no-deps keras absl-py h5py ml-dtypes namex optree pytorch-optimizer
	$(BIN)/pip install --quiet $(TORCH) $(OPTIONAL) || echo "not to be had: $(OPTIONAL); their tests are skipped"
	touch $@

$(VENV)/.documented: $(VENV)/.installed pyproject.toml
	$(INSTALL) ".[cli,docs]"
	touch $@

# Debian's package where it may be installed; else the program downloads the files, checked by SHA-256.
data:
	@if [ ! -d /usr/share/datasets/fashion-mnist ] && [ -z "$$PYCONVOPT_DATA" ] \
	    && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get install -y -q dataset-fashion-mnist || { apt-get update -q && apt-get install -y -q dataset-fashion-mnist; }; } \
	    >/dev/null 2>&1 || echo "dataset-fashion-mnist is not to be had from apt: the images are downloaded instead"; \
	fi

# --- checks beyond the tests -----------------------------------------------------------------------

wheel: $(VENV)/.tested
	.ci/check_wheel $(BIN)/python "$(TORCH)"

sanitize: $(VENV)/.tested
	.ci/sanitize $(BIN)/python

qemu: $(VENV)/.tested
	.ci/emulate $(BIN)/python

# All over each time, so that the compiler tells of every kernel. The table is compared with the last one;
# `make cuda ACCEPT=--write` replaces it.
cuda:
	cmake -S csrc/kernels/cuda -B build/cuda -DCMAKE_BUILD_TYPE=Release >/dev/null
	cmake --build build/cuda --clean-first --parallel 2 >build/cuda/log 2>&1 || { cat build/cuda/log; exit 1; }
	.ci/cuda_resources build/cuda csrc/kernels/cuda/resources.txt $(ACCEPT)
	cp build/cuda/libpyconvopt_cuda.so pyconvopt/

clean:
	rm -rf build dist wheelhouse site $(VENV)
