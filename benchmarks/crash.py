"""How soon a process that is killed (SIGKILL) is seen to be gone, with default settings.

Several providers, each a process of its own, are killed at different moments between two of
their heartbeats. The floor is the longest interval between two heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator

from aioregistry import EventType, Registry
from benchmarks.figures import Budget, Figure
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

_INTERVAL = 10 / 3
"""The default heartbeat interval, in seconds."""


class Provider:
    """A process that registers one instance, with default settings."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url)

    async def open(self, port: int) -> None:
        await self._registry.start()
        await self._registry.register("orders", f"10.0.0.1:{port}")

    async def close(self) -> None:
        await self._registry.aclose()


class Watcher:
    """A process that watches, with default settings."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url)
        self._gone: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe("orders")
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._registry.watch("orders"):
            if event.type in (EventType.EXPIRED, EventType.UNREGISTERED):
                self._gone[event.service.address] = time.monotonic()

    async def gone(self, count: int) -> dict[str, float]:
        """Wait for so many to be gone; when each was, on the clock of all processes."""
        await until(lambda: len(self._gone) >= count, 0.01)
        return self._gone

    async def close(self) -> None:
        await self._registry.aclose()


def crashes(plan: Plan) -> Iterator[Figure]:
    """From the kill to the event."""
    count = 4 if plan.quick else 8
    for kind, url in plan.brokers.items():
        with contextlib.ExitStack() as stack:
            watcher = stack.enter_context(Part(Watcher, url=url))
            watcher.call("open")
            providers = [stack.enter_context(Part(Provider, url=url)) for _ in range(count)]
            for port, provider in enumerate(providers, 1):
                provider.call("open", port=port)
            time.sleep(random.uniform(0.0, _INTERVAL))
            killed: dict[str, float] = {}
            for port, provider in enumerate(providers, 1):
                time.sleep(random.uniform(0.0, 2 * _INTERVAL / count))
                killed[f"10.0.0.1:{port}"] = time.monotonic()
                provider.kill()
            gone = watcher.call("gone", count=count)
        seconds = [gone[address] - moment for address, moment in killed.items()]
        yield Figure(
            f"{kind}: kill -9 to event",
            "s",
            seconds,
            [_INTERVAL] * count,
            "heartbeat interval",
            Budget(1.5, each=True),
        )
