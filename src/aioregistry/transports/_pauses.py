"""How long to wait between attempts to bring a lost link up again."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

__all__ = ["Pauses"]

_FIRST: Final = 0.05
_GROWTH: Final = 1.5
_LONGEST: Final = 1.0
"""Observers that are back give everybody else this long, and a ttl, to be back too."""

_EAGER_FOR: Final = 2.5
_LONGEST_EAGER: Final = 0.1
"""Observers give up a provider that is gone for more than two seconds (see `vigil`). Whoever
was cut off for that long must be back at once when the cut ends, so for the first seconds
the attempts are close together."""

_STABLE_AFTER: Final = 1.0
"""A link that was lost sooner hardly lived."""


class Pauses:
    """The pauses between attempts: short at first, then growing, and never twice the same.

    Args:
        clock: the monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause = _FIRST
        self._eager_until = float("-inf")
        self._stable = True

    def lost(self, since: float) -> None:
        """A link was lost that had been up since `since`.

        A broker that takes us and hangs up at once is not helped by haste: when a link hardly
        lived for the second time in a row, the pauses go on growing.
        """
        now = self._clock()
        stable = now - since > _STABLE_AFTER
        if stable or self._stable:
            self._pause = _FIRST
            self._eager_until = now + _EAGER_FOR
        self._stable = stable

    def next(self) -> float:
        """How long to wait before the next attempt, in seconds."""
        longest = _LONGEST_EAGER if self._clock() < self._eager_until else _LONGEST
        pause = self._pause = min(self._pause, longest)
        self._pause *= _GROWTH
        # Jittered, since everybody else lost the same broker at the same moment.
        return pause * random.uniform(0.5, 1.0)
