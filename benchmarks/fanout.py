"""How the events of one process reach many watchers in it, one of whom is stuck.

The floor hands as many objects to as many tasks through queues of asyncio, and takes in
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

from aioregistry import Registry, Watch
from benchmarks.figures import Figure
from benchmarks.fleet import Fleet
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

_LEAST = 1_000
_TOGETHER = 5_000
"""How many events there are for each watcher at least, and for all of them together."""

_READ = 500
"""So many messages come with a read of the socket from a fleet that speaks all at once: 300 to
700. The watchers have their turn after each, and those of the floor likewise."""


def events(watchers: int) -> int:
    """How many events each of so many watchers sees."""
    return max(_LEAST, _TOGETHER // watchers)


class Watchers:
    """A process with many watchers."""

    def __init__(self, url: str, watchers: int) -> None:
        self._url = url
        self._count = watchers
        self._events = events(watchers)
        self._seen = 0
        self._first = self._last = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._stuck: Watch | None = None
        self._registry: Registry | None = None

    async def open(self) -> None:
        """Begin to watch, with one more watcher who never takes an event but the first."""
        self._registry = registry = Registry(self._url, prefix="ours")
        await registry.start()
        self._stuck = registry.watch("orders")
        await self._stuck.__aenter__()
        self._seen = 0
        self._tasks = [asyncio.create_task(self._watch(registry)) for _ in range(self._count)]
        await until(lambda: registry.stats().watches >= self._count + 1, 0.0)

    async def _watch(self, registry: Registry) -> None:
        everything = self._count * self._events
        async for _ in registry.watch("orders"):
            self._seen += 1
            if self._seen == 1:
                self._first = time.perf_counter()
            elif self._seen == everything:
                self._last = time.perf_counter()

    async def seen(self) -> list[float]:
        """When everybody has all: CPU microseconds for each event, and events in a second."""
        everything = self._count * self._events
        before = time.process_time()
        await until(lambda: self._seen >= everything)
        cpu = time.process_time() - before
        return [cpu / everything * 1e6, everything / (self._last - self._first)]

    async def floor(self) -> list[float]:
        """The same through queues."""
        everything = self._count * self._events
        queues = [asyncio.Queue[object]() for _ in range(self._count)]

        async def take(queue: asyncio.Queue[object]) -> None:
            for _ in range(self._events):
                await queue.get()

        before, started = time.process_time(), time.perf_counter()
        tasks = [asyncio.create_task(take(queue)) for queue in queues]
        for number in range(self._events):
            for queue in queues:
                queue.put_nowait(number)
            if number % _READ == _READ - 1:
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        cpu, wall = time.process_time() - before, time.perf_counter() - started
        return [cpu / everything * 1e6, everything / wall]

    async def shut(self) -> None:
        if self._registry is not None:
            await self._registry.aclose()
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Everything is shut by now."""


def fan_out(plan: Plan) -> Iterator[Figure]:
    """For each event of each watcher, the taking in of the message included."""
    url = plan.brokers["nats"]
    for watchers in (1, 10, 100):
        rounds: list[tuple[list[float], list[float]]] = []
        with contextlib.ExitStack() as stack:
            fleet = stack.enter_context(Part(Fleet, url=url, count=events(watchers), names=1))
            part = stack.enter_context(Part(Watchers, url=url, watchers=watchers))
            for _ in range(plan.rounds):
                part.call("open")
                part.begin("seen")
                fleet.call("announce", prefix="ours")
                ours = part.result()
                rounds.append((ours, part.call("floor")))
                part.call("shut")
        title = f"watch fan-out, {watchers} and one stuck"
        for column, (what, unit) in enumerate((("CPU", "µs/event"), ("rate", "events/s"))):
            yield Figure(
                f"{title}: {what}",
                unit,
                [ours[column] for ours, _ in rounds],
                [bare[column] for _, bare in rounds],
                "asyncio queues",
            )
