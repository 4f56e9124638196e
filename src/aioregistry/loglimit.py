"""Log lines at a bounded rate and of a bounded length: a broken peer must not fill the disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

__all__ = ["LogLimiter", "listed", "printable"]

PERIOD: Final = 60.0
MAX_LINES: Final = 30
LISTED: Final = 5


class LogLimiter:
    """At most one line per source and minute, and thirty lines a minute in all.

    The sources of the current minute are remembered, up to a bound; beyond it, only counted.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._started = float("-inf")
        self._seen: set[str] = set()
        self._suppressed = 0

    def warning(self, source: str, now: float, message: str, *args: object) -> None:
        """Log a warning about `source`, unless there have been enough.

        Args:
            source: who is at fault; one line a minute for each.
            now: the monotonic clock, in seconds.
            message: the format of the line.
            args: what goes into it.
        """
        if now - self._started >= PERIOD:
            if self._suppressed:
                self._logger.warning("%d similar warnings were left out", self._suppressed)
            self._started, self._suppressed = now, 0
            self._seen.clear()
        if source in self._seen or len(self._seen) >= MAX_LINES:
            self._suppressed += 1
            return
        self._seen.add(source)
        self._logger.warning(message, *args)


def printable(text: str) -> str:
    """A text of somebody else's, escaped if it could be taken for a line of the log of its own."""
    return text if text.isprintable() else repr(text)


def listed(texts: Sequence[str]) -> str:
    """The first few texts, quoted, and how many more there are."""
    shown = ", ".join(map(repr, texts[:LISTED]))
    more = len(texts) - LISTED
    return f"{shown} and {more} more" if more > 0 else shown
