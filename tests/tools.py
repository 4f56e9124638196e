"""What several tests need."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

POLL = 0.005

WITHOUT_RESP3 = ("--rename-command", "HELLO", "")
"""Options that make of a Redis server one as before Redis 6."""


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until a condition that others bring about holds.

    By how much the event loop comes late does not count: that is the machine's doing, and
    whoever is waited for has to bear it too.
    """
    started = time.monotonic()
    for _ in range(math.ceil(within / POLL)):
        if condition():
            return
        await asyncio.sleep(POLL)
    took = time.monotonic() - started
    assert condition(), f"not within {within:g} s, nor within {took:.2f} s by the clock"


class Pulse:
    """How late an event loop comes, added up: what the machine adds to every bound."""

    def __init__(self) -> None:
        self._late = 0.0
        self._due = time.monotonic()

    @property
    def late(self) -> float:
        """The sum so far, in seconds; differences of it tell about the time between."""
        return self._late + max(0.0, time.monotonic() - self._due)

    async def run(self) -> None:
        while True:
            self._due = time.monotonic() + 4 * POLL
            await asyncio.sleep(4 * POLL)
            self._late = self.late


@asynccontextmanager
async def pulse() -> AsyncGenerator[Pulse]:
    """A pulse that beats until the block ends."""
    pulse = Pulse()
    beating = asyncio.create_task(pulse.run())
    try:
        yield pulse
    finally:
        beating.cancel()
        await asyncio.wait([beating])


@asynccontextmanager
async def in_time(bound: float) -> AsyncGenerator[None]:
    """Fail when the block takes longer than `bound` seconds and what the machine adds."""
    async with pulse() as beats:
        started = time.monotonic()
        yield
        took, late = time.monotonic() - started, beats.late
    assert took < bound + late, f"{took:.2f} s, {late:.2f} s of them late, bound {bound} s"


@asynccontextmanager
async def no_new_tasks() -> AsyncGenerator[None]:
    """Fail when the block leaves a task behind.

    A driver that closes cancels tasks of its own without awaiting them: they get a moment.
    """
    before = asyncio.all_tasks()
    yield

    def left() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    for _ in range(10):
        await asyncio.sleep(0)
    assert not left(), sorted(str(task.get_coro()) for task in left())
