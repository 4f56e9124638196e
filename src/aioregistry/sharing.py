"""One object for all that is equal: most instances share their version, host and metadata."""

from __future__ import annotations

__all__ = ["Texts"]


class Texts(dict[str, str]):
    """Remembers texts, up to a number, so that equal ones can be kept once: `texts[text]`.

    Not `sys.intern`: in some versions of Python what is interned stays for ever, and these
    texts come from others.

    Args:
        room: how many texts are remembered; then it begins anew.
        longest: how many characters one may have; a longer one hardly repeats.
    """

    def __init__(self, room: int, longest: int) -> None:
        super().__init__()
        self._room = room
        self._longest = longest

    def __missing__(self, text: str) -> str:
        """Remember a text that is new, unless it is long."""
        if len(text) <= self._longest:
            if len(self) >= self._room:
                self.clear()
            self[text] = text
        return text
