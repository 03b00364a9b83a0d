"""The documentation's code runs, prints what the pages say it prints, and links to pages there are."""

from __future__ import annotations

import contextlib
import doctest
import gzip
import io
import re
import sys
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

# Beside the tests, not installed; last on the path, so that an installed pyconvopt comes first.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from pyconvopt import data
from pyconvopt.data import datasets
from tests.tiny_data import idx_bytes, write_tiny_set

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)?(#[^)\s]+)?\)")
TRAIN, TEST = 1000, 300


class Block(NamedTuple):
    """A block of code, the line it begins at, and what the page says it prints (None: nothing is said)."""

    code: str
    line: int
    printed: str | None


def blocks(text: str) -> list[Block]:
    """A page's Python blocks, each with the text block that follows it at once."""
    found = list(FENCE.finditer(text))
    result = []
    for fence, after in zip_longest(found, found[1:]):
        if fence[1] != "python":
            continue
        printed = None
        if after and after[1] == "text" and not text[fence.end() : after.start()].strip():
            printed = after[2]
        result.append(Block(fence[2], text[: fence.start()].count("\n") + 2, printed))
    return result


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Fashion-MNIST's first images, or where it is missing, images a network can tell apart."""
    base = tmp_path_factory.mktemp("data")
    if not (datasets.SYSTEM_FOLDER / "fashion-mnist").is_dir():
        write_tiny_set(base, TRAIN, TEST)
        return base
    (train, train_labels), (test, test_labels) = data.fashion_mnist()
    (base / "fashion-mnist").mkdir()
    arrays = (train[:TRAIN], train_labels[:TRAIN], test[:TEST], test_labels[:TEST])
    for file, array in zip(datasets.SOURCES["fashion-mnist"].files, arrays, strict=True):
        (base / "fashion-mnist" / file.name).write_bytes(gzip.compress(idx_bytes(array), 1))
    return base


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_code_runs(page, small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYCONVOPT_DATA", str(small_data))
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"__name__": "docs"}
    for block in blocks(page.read_text("utf-8")):
        output = io.StringIO()
        # As many empty lines before it as the page has: errors then name the page's own line.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        with contextlib.redirect_stdout(output):
            try:
                exec(code, namespace)
            except ImportError as error:
                if "pip install" not in str(error):
                    raise
                pytest.skip(f"{error}")
        if block.printed is not None:
            checker = doctest.OutputChecker()
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert checker.check_output(block.printed, output.getvalue(), flags), (
                f"{page}:{block.line} prints\n{output.getvalue()}\nand not\n{block.printed}"
            )


def test_pages_have_code():
    """A page whose blocks are no longer found would pass unseen."""
    for page in (*DOCS.glob("tutorials/*.md"), DOCS / "article.md"):
        assert len(blocks(page.read_text("utf-8"))) >= 2, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page):
    for target, _ in LINK.findall(page.read_text("utf-8")):
        if target and not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page} links to {target}"


def test_every_page_is_in_the_navigation():
    """`make docs` refuses a page that is not; hooks.py adds the method cards."""
    nav = (DOCS.parent / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2]
    listed = set(re.findall(r"[\w/]+\.md", nav))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert not {page for page in pages - listed if not page.startswith("methods/")}
    assert listed <= pages


def test_every_public_module_has_its_page():
    import pyconvopt

    text = "".join(page.read_text("utf-8") for page in DOCS.glob("reference/*.md"))
    shown = set(re.findall(r"^::: pyconvopt\.(\w+)$", text, re.MULTILINE))
    assert shown >= {*pyconvopt._MODULES, "settings", "explanation"}


class TestDocstringsAsMarkdown:
    @pytest.fixture(autouse=True)
    def needs_griffe(self):
        pytest.importorskip("griffe", reason="griffe, of the extra `docs`, is not installed")

    def test_examples(self):
        from docs import docstrings

        assert doctest.testmod(docstrings).failed == 0

    def test_doctests_and_formulas_become_blocks(self):
        from docs.docstrings import as_markdown

        shown = as_markdown(
            "Adds.\n\n    y = a + b\n\n>>> add(1, 1)  # doctest: +SKIP\n2\n\nSource: Peano."
        )
        assert shown.split("\n\n") == [
            "Adds.",
            "```text\ny = a + b\n```",
            "```pycon\n>>> add(1, 1)\n2\n```",
            "**Source:** Peano.",
        ]

    def test_no_markup_by_accident(self):
        from docs.docstrings import as_markdown

        shown = as_markdown("Σ a*b*c, t < at and `x < y`, [a][b].\nErrors: none.")
        assert shown == ("Σ a\\*b\\*c, t &lt; at and `x < y`, \\[a\\]\\[b\\].\n\n**Errors:** none.")
