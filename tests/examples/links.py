"""Whether the links of a page lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["dead_links"]


def dead_links(page: Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading of it."""
    return [target for target in _targets(page) if not _is_alive(page, target)]


def _targets(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", page.read_text())


def _is_alive(page: Path, target: str) -> bool:
    if target.startswith("https://"):
        return True
    path, _, heading = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not heading or heading in _anchors(file))


def _anchors(file: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings: list[str] = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
