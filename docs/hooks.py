"""What the site takes from elsewhere in the repository, so that nothing is written twice.

- `{{ README: How fast }}` in a page stands for that section of README.md, its pictures included.
- The navigation gets a line for each method card.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
SECTION = re.compile(r"^\{\{ README: (.+) \}\}$", re.MULTILINE)
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")


def readme_section(title: str) -> str:
    """The text below a heading of README.md, up to the next one."""
    parts = re.split(r"^## (.+)$", (ROOT / "README.md").read_text("utf-8"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    if title not in sections:
        raise PluginError(f"README.md has no section {title!r}, only {', '.join(sections)}")
    return sections[title].strip()


def on_config(config: Any) -> Any:
    """Add the cards to the navigation."""
    cards = sorted(
        f"methods/{path.name}"
        for path in (ROOT / "docs/methods").glob("*.md")
        if path.name != "index.md"
    )
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = [*entry["Methods"], *cards]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add README's pictures, by the paths they have there."""
    for path in PICTURE.findall((ROOT / "README.md").read_text("utf-8")):
        if (ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put README's sections in; pictures are found from the page's place."""
    up = "../" * page.file.src_uri.count("/")

    def section(match: re.Match[str]) -> str:
        text = readme_section(match[1])
        return PICTURE.sub(lambda picture: picture[0].replace(picture[1], up + picture[1]), text)

    return SECTION.sub(section, markdown)
