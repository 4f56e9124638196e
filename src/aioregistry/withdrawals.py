"""Which withdrawals are due, and how often each is said again: without I/O, clock or task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aioregistry.announcer import Announced

__all__ = ["Withdrawal", "Withdrawals"]

REPEATS: Final = 2
REPEAT_AFTER: Final = 1.5
"""A withdrawal from around an outage is said three times, so many seconds apart: until then
everybody has reconnected."""


class Withdrawal:
    """A withdrawal that is due, and how often it will be said again.

    Attributes:
        announced: what is withdrawn.
        said: whether it was sent before.
    """

    __slots__ = ("announced", "due", "repeats", "said")

    def __init__(self, announced: Announced, due: float, repeats: int) -> None:
        self.announced = announced
        self.due = due
        self.repeats = repeats
        self.said = False


class Withdrawals:
    """The withdrawals that are still to be said, and those that nobody has confirmed yet.

    Times are those of the caller's monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._pending: dict[Withdrawal, None] = {}
        self._unconfirmed: list[Withdrawal] = []

    def __bool__(self) -> bool:
        return bool(self._pending)

    def add(self, announced: Announced, now: float, *, safe: bool) -> None:
        """Something is withdrawn.

        Args:
            announced: what.
            now: the time.
            safe: whether it will be heard at once; or else it is said again: those who reconnect
                later would miss it.
        """
        self._pending[Withdrawal(announced, now, 0 if safe else REPEATS)] = None

    def due(self, now: float) -> list[Withdrawal]:
        """Those to be said now."""
        return [withdrawal for withdrawal in self._pending if withdrawal.due <= now]

    def next_deadline(self) -> float | None:
        """When the next one is due; None: there is none."""
        return min((withdrawal.due for withdrawal in self._pending), default=None)

    def hurry(self, now: float) -> None:
        """All of them are due."""
        for withdrawal in self._pending:
            withdrawal.due = now

    def said(self, withdrawal: Withdrawal, now: float) -> None:
        """It was handed to the broker, which has not confirmed it."""
        withdrawal.said = True
        self._unconfirmed.append(withdrawal)
        if withdrawal.repeats:
            withdrawal.repeats -= 1
            withdrawal.due = now + REPEAT_AFTER
        else:
            self._pending.pop(withdrawal, None)

    def drop(self, withdrawal: Withdrawal) -> None:
        """It is not to be said again."""
        self._pending.pop(withdrawal, None)

    def take_unconfirmed(self) -> list[Withdrawal]:
        """Those that were said and not confirmed, once."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        return unconfirmed

    def say_again(self, withdrawals: Iterable[Withdrawal], now: float) -> None:
        """These may not have reached everybody, or anybody."""
        for withdrawal in withdrawals:
            withdrawal.due, withdrawal.repeats = now, REPEATS
            self._pending[withdrawal] = None

    def doubt(self, now: float) -> None:
        """The link is gone: none of them can be confirmed any more."""
        self.say_again([*self._pending, *self.take_unconfirmed()], now)
