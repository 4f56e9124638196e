"""One object for all that is equal: most instances share their version, host and metadata."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Pool"]

_T = TypeVar("_T", bound=Hashable)


class Pool(Generic[_T]):
    """Remembers values, up to a number, so that equal ones can be kept once.

    Not `sys.intern`: in some versions of Python what is interned stays for ever, and these
    values come from others.

    Args:
        room: how many values are remembered; then it begins anew.
    """

    def __init__(self, room: int) -> None:
        self._room = room
        self._known: dict[_T, _T] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, value: _T) -> _T | None:
        """The first of the values that are equal to this one; None if it would be this one."""
        return self._known.get(value)

    def shared(self, value: _T) -> _T:
        """The first of the values that are equal to this one."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= self._room:
                self._known.clear()
            known = self._known[value] = value
        return known


class Texts(Pool[str]):
    """Remembers texts, but none that is so long that it hardly repeats.

    Args:
        room: how many texts are remembered; then it begins anew.
        longest: how many characters one may have.
    """

    def __init__(self, room: int, longest: int) -> None:
        super().__init__(room)
        self._longest = longest

    def shared(self, value: str) -> str:
        """The first of the texts that are equal to this one."""
        known = self._known.get(value)
        if known is not None:
            return known
        return value if len(value) > self._longest else super().shared(value)
