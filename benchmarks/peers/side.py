"""What every system is asked to do, at its two ends.

Each end is a process of its own. An instance is a number, of a service name; who appears and
who disappears is noted by number, on the clock of all processes.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import cast

from benchmarks.memory import resident
from benchmarks.polling import until

NAME = "orders"
VERSION = "1.4.2"
METADATA = {"zone": "eu-west-1", "tier": "gold", "build": "2024-11-05T10:00"}

_STRAGGLERS = 5.0
PATIENCE = 120.0
"""After so many seconds a question counts as not answered."""

_BATCHES = 9
_BATCH_SECONDS = 0.003
_MAX_BATCH = 2_000


def address(number: int) -> str:
    """The host of an instance; its port is 8080."""
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Provider(ABC):
    """A process that provides instances."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._registered: list[tuple[str, int]] = []

    @abstractmethod
    async def open(self) -> None:
        """Connect."""

    @abstractmethod
    async def register(self, name: str, number: int) -> None:
        """Register an instance."""

    @abstractmethod
    async def unregister(self, name: str, number: int) -> None:
        """Withdraw an instance."""

    @abstractmethod
    async def close(self) -> None:
        """Close the connection."""

    async def register_many(self, name: str, numbers: range) -> None:
        """Register many instances together."""
        await asyncio.gather(*(self.register(name, number) for number in numbers))

    async def lives(self, count: int, pause: float) -> list[int]:
        """Register and withdraw one after the other: when each began to be, in nanoseconds."""
        times: list[int] = []
        for number in range(count):
            times.append(time.monotonic_ns())
            await self.register(NAME, number)
            await asyncio.sleep(pause)
            await self.unregister(NAME, number)
            await asyncio.sleep(pause)
        return times

    async def many(self, count: int, first: int = 0) -> float:
        """Register so many; when that began, in seconds."""
        numbers = range(first, first + count)
        started = time.monotonic()
        await self.register_many(NAME, numbers)
        self._registered += [(NAME, number) for number in numbers]
        return started

    async def names(self, names: list[str]) -> None:
        """Register an instance of each of the names."""
        await asyncio.gather(*(self.register(name, 0) for name in names))
        self._registered += [(name, 0) for name in names]

    async def withdraw(self) -> None:
        """Withdraw what `many` and `names` registered."""
        await asyncio.gather(*(self.unregister(*each) for each in self._registered))
        self._registered.clear()


class Knower(ABC):
    """A process that wants to know who is there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.known: set[int] = set()
        self.seen_at: dict[int, int] = {}
        self.gone_at: dict[str, float] = {}

    @abstractmethod
    async def open(self) -> None:
        """Connect, and begin to watch."""

    @abstractmethod
    async def look_up(self, name: str) -> object:
        """Find an instance of a name that nobody here has asked for."""

    def cached(self) -> Callable[[], object]:
        """What gives one of the known instances, or awaits it, without asking anybody.

        Not abstract: some keep nothing, and are not asked for it.
        """
        raise NotImplementedError(f"{type(self).__module__} keeps nothing")

    @abstractmethod
    async def close(self) -> None:
        """Close the connection."""

    def appeared(self, number: int) -> None:
        """An instance is there."""
        self.known.add(number)
        self.seen_at.setdefault(number, time.monotonic_ns())

    def disappeared(self, number: int) -> None:
        """An instance is gone."""
        self.known.discard(number)
        self.gone_at[str(number)] = time.monotonic()

    async def expect(self) -> None:
        """Forget what was seen so far."""
        self.seen_at.clear()
        self.gone_at.clear()

    async def seen(self, count: int) -> list[int]:
        """When each appeared, in nanoseconds; 0 for what was not seen."""
        patience = time.monotonic() + _STRAGGLERS
        await until(lambda: len(self.seen_at) >= count or time.monotonic() > patience)
        return [self.seen_at.get(number, 0) for number in range(count)]

    async def know(self, count: int) -> float:
        """Wait until so many are known; when that was, in seconds."""
        async with asyncio.timeout(PATIENCE):
            await until(lambda: len(self.known) == count)
        return time.monotonic()

    async def gone(self, count: int) -> dict[str, float]:
        """Wait until so many are gone; when that was, in seconds."""
        async with asyncio.timeout(PATIENCE):
            await until(lambda: len(self.gone_at) >= count, 0.01)
        return self.gone_at

    async def cold(self, names: list[str], pause: float) -> list[float]:
        """Milliseconds for the first lookup of each name."""
        took: list[float] = []
        for name in names:
            started = time.monotonic_ns()
            await self.look_up(name)
            took.append((time.monotonic_ns() - started) / 1e6)
            await asyncio.sleep(pause)
        return took

    async def time_cached(self) -> float:
        """Nanoseconds for a lookup of what is known, the median of some batches.

        Each batch is over in a few milliseconds, before the scheduler of a busy machine takes
        the processor away.
        """
        look = self.cached()
        once = min([await _timed(look, 1) for _ in range(3)])
        calls = min(max(int(_BATCH_SECONDS * 1e9 / once), 2), _MAX_BATCH)
        return statistics.median([await _timed(look, calls) for _ in range(_BATCHES)])

    async def memory(self) -> float:
        """The memory of this process, in megabytes."""
        return resident() / 1e6


async def _timed(look: Callable[[], object], calls: int) -> float:
    started = time.perf_counter_ns()
    if isinstance(first := look(), Awaitable):
        await first
        waiting = cast("Callable[[], Awaitable[object]]", look)
        for _ in range(calls - 1):
            await waiting()
    else:
        for _ in range(calls - 1):
            look()
    return (time.perf_counter_ns() - started) / calls
