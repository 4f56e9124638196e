"""The permission templates of docs/security.md, ready to be loaded into a broker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "security.md"

_TEMPLATE = re.compile(r"<!-- template: (\w+ \w+) -->\n```\n(.*?)```", re.DOTALL)
_EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)```", re.DOTALL)
_LINE = re.compile(r"\s*(?P<rule>[^#\s][^#]*?)\s*#\s*(?P<purposes>.*)")


@dataclass(frozen=True)
class Template:
    """The lines of a template, each with what it is for."""

    name: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def purposes(self) -> frozenset[str]:
        """Everything that works with the whole template."""
        return frozenset(purpose for line in self.lines for purpose in _purposes(line))

    def variants(self) -> Iterator[tuple[str, frozenset[str], Template]]:
        """The template without one line: that line, what ceases to work, and what is left."""
        for at, line in enumerate(self.lines):
            if purposes := _purposes(line):
                left = self.lines[:at] + self.lines[at + 1 :]
                yield line.partition("#")[0].strip(), purposes, Template(self.name, left)

    def for_tenant(self, prefix: str) -> Template:
        """The same for another prefix."""
        lines = tuple(line.replace("registry.", f"{prefix}.") for line in self.lines)
        return Template(self.name, lines)

    def nats(self) -> str:
        """As nats-server's configuration takes it."""
        return "\n".join(self.lines)

    def redis(self) -> list[str]:
        """As the arguments of ACL SETUSER: a selector is one of them."""
        text = " ".join(line.partition("#")[0].strip() for line in self.lines)
        return [
            f"({' '.join(selector.split())})" if selector else rule
            for selector, rule in re.findall(r"\(([^)]*)\)|(\S+)", text)
        ]


def _purposes(line: str) -> frozenset[str]:
    match = _LINE.fullmatch(line)
    return frozenset(match["purposes"].split(", ")) if match else frozenset()


def templates(broker: str) -> dict[str, Template]:
    """The templates for one broker, by role."""
    found: dict[str, str] = dict(_TEMPLATE.findall(DOCUMENT.read_text("utf-8")))
    return {
        name.split()[1]: Template(name, tuple(text.splitlines()))
        for name, text in found.items()
        if name.split()[0] == broker
    }


def example(name: str) -> str:
    """The code of an example."""
    found: dict[str, str] = dict(_EXAMPLE.findall(DOCUMENT.read_text("utf-8")))
    return found[name]
