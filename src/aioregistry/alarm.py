"""A wake-up call that can be moved forward: the one timer of a loop with many deadlines."""

from __future__ import annotations

import asyncio
import math

__all__ = ["Alarm"]


class Alarm:
    """One task sleeps on it; any code of the same event loop may wake it earlier."""

    def __init__(self) -> None:
        self._due = math.inf
        self._early = False
        self._sleeper: asyncio.Future[None] | None = None

    async def sleep_until(self, due: float | None) -> None:
        """Sleep until the event loop's clock reads `due`, or until somebody wakes it.

        A call to `wake` that came while nobody slept ends the next sleep at once.

        Args:
            due: the time on the event loop's clock, in seconds; None: until woken.
        """
        loop = asyncio.get_running_loop()
        if self._early or (due is not None and due <= loop.time()):
            self._early = False
            return
        self._sleeper = loop.create_future()
        self._due = math.inf if due is None else due
        timer = None if due is None else loop.call_at(due, self.wake)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            self._early = False
            self._due = math.inf
            if timer is not None:
                timer.cancel()

    def wake(self) -> None:
        """End the sleep now."""
        self._early = True
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    def wake_for(self, due: float | None) -> None:
        """End the sleep now if it would last beyond `due`, so that it can be set anew."""
        if due is not None and due < self._due:
            self.wake()
