"""The CUDA kernels on a GPU, beside torch's and cuDNN's: ``python -m benchmarks.gpu``."""
