"""What happened in a simulation, line by line, and a digest of all of it."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable

__all__ = ["Trace"]


class Trace:
    """The lines of one run: the same seed gives the same lines.

    Args:
        clock: the virtual time, in seconds.
        keep: how many of the last lines to keep; None: all.

    Attributes:
        count: how many lines there have been.
        lines: those that are kept.
    """

    def __init__(self, clock: Callable[[], float], *, keep: int | None = 200) -> None:
        self.count = 0
        self.lines: deque[str] = deque(maxlen=keep)
        self._clock = clock
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *words: object) -> None:
        """Note that something happened now."""
        line = f"{self._clock():10.4f} {' '.join(map(str, words))}"
        self.count += 1
        self.lines.append(line)
        self._hash.update(line.encode() + b"\n")

    @property
    def digest(self) -> str:
        """A digest of all lines, those that are not kept included."""
        return self._hash.hexdigest()
