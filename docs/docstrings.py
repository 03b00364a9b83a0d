"""Docstrings of this package as Markdown, for mkdocstrings: a Griffe extension.

The docstrings are written to be read in an editor: examples as doctests, `Args:` and its kin either
as one sentence or as an indented list, formulas as indented blocks or in the running text. Here
doctests become code blocks, lists become lists, and in the text every sign that Markdown would take
for markup stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from griffe import Extension

LABEL = re.compile(
    r"(?P<label>(?:Args|Returns|Raises|Errors|Shapes|Parameters|Defaults|Sources?)"
    r"(?: \([^)]*\)| are Keras')?):(?: (?P<rest>.*))?$"
)
ITEM = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*): (?P<text>.*)")
CODE = re.compile(r"(``?[^`]+``?)")


def as_markdown(text: str) -> str:
    """A docstring, its indentation cleaned, as Markdown.

    >>> print(as_markdown("x * y.\\n\\nArgs:\\n    x: left,\\n        or not.\\n    y: right."))
    x \\* y.
    <BLANKLINE>
    **Args:**
    <BLANKLINE>
    - **x**: left,
      or not.
    - **y**: right.
    """
    return "\n\n".join(piece for each in paragraphs(text) for piece in converted(each))


def paragraphs(text: str) -> Iterator[list[str]]:
    """The runs of lines between blank ones; those of one indented block after a label stay together."""
    for blank, lines in groupby(text.splitlines(), key=lambda line: not line.strip()):
        if not blank:
            yield list(lines)


def converted(lines: list[str]) -> Iterator[str]:
    """One paragraph: a doctest, an indented formula, or text with labels in it."""
    if lines[0].lstrip().startswith(">>>"):
        indent = len(lines[0]) - len(lines[0].lstrip())
        code = [line[indent:].replace("  # doctest: +SKIP", "") for line in lines]
        yield "\n".join(
            ["```pycon", *(re.sub(r" +# doctest:.*", "", line) for line in code), "```"]
        )
        return
    if lines[0].startswith("    "):
        yield "\n".join(["```text", *(line[4:] for line in lines), "```"])
        return
    starts = [row for row, line in enumerate(lines) if row == 0 or LABEL.match(line)]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield from labelled(lines[start:end])


def labelled(lines: list[str]) -> Iterator[str]:
    """Text, with its label in bold, and the list below the label as a list."""
    match = LABEL.match(lines[0])
    if match is None:
        yield escaped("\n".join(lines))
        return
    label = f"**{escaped(match['label'])}:**"
    if match["rest"]:
        yield escaped("\n".join([match["rest"], *lines[1:]])).join([f"{label} ", ""])
        return
    yield label
    body = [line[4:] for line in lines[1:]]
    if body and ITEM.match(body[0]):
        yield "\n".join(map(as_item, body))
    else:
        yield escaped("\n".join(body))


def as_item(line: str) -> str:
    """A line of an indented list: the start of an entry, or more of the one above."""
    match = None if line.startswith(" ") else ITEM.match(line)
    if match is None:
        return f"  {escaped(line.strip())}"
    return f"- **{escaped(match['names'])}**: {escaped(match['text'])}"


def escaped(text: str) -> str:
    """Text without accidental markup; what stands in backticks is left alone."""
    parts = CODE.split(text)
    parts[::2] = [re.sub(r"([*\[\]])", r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


class Docstrings(Extension):
    """Rewrites every docstring of the package, and completes the lists of what a module exports."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        """Each object as it is read."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_attribute_instance(self, *, attr: Any, **kwargs: Any) -> None:
        """A bare `ClassVar` is no field of a dataclass, so no argument either."""
        if str(attr.annotation) == "ClassVar":
            attr.annotation = None

    def on_package(self, *, pkg: Any, **kwargs: Any) -> None:
        """A table spread into `__all__` cannot be read without running it: its names are imported."""
        for module in [pkg, *pkg.modules.values()]:
            names = module.exports or []
            if any(not isinstance(name, str) for name in names) or "*" in str(names):
                module.exports = [
                    name
                    for name, member in module.members.items()
                    if name[0].isupper() and member.is_alias
                ]
