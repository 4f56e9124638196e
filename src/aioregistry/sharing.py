"""One object for all that is equal: most instances share their version, host and metadata."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

__all__ = ["Pool", "Texts"]

_T = TypeVar("_T", bound=Hashable)


class Pool(dict[_T, _T]):
    """Remembers values, up to a number, so that equal ones can be kept once: `pool[value]`.

    Not `sys.intern`: in some versions of Python what is interned stays for ever, and these
    values come from others.

    Args:
        room: how many values are remembered; then it begins anew.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def __missing__(self, value: _T) -> _T:
        """Remember a value that is new."""
        if len(self) >= self._room:
            self.clear()
        self[value] = value
        return value


class Texts(Pool[str]):
    """Remembers texts, but none that is so long that it hardly repeats.

    Args:
        room: how many texts are remembered; then it begins anew.
        longest: how many characters one may have.
    """

    def __init__(self, room: int, longest: int) -> None:
        super().__init__(room)
        self._longest = longest

    def __missing__(self, value: str) -> str:
        """Remember a text that is new, unless it is long."""
        return value if len(value) > self._longest else super().__missing__(value)
