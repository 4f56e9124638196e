"""Many instances registered through the API by one process, until another knows them all.

The floor publishes as many messages of the same size with the bare driver to a bare
subscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from aioregistry import Registry
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL, announcements, instance
from benchmarks.ingest import Bare, Observer
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part
from benchmarks.shape import LIMIT


class Provider:
    """A process that registers many instances."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._registry: Registry | None = None
        self._cpu = 0.0

    async def spent(self) -> float:
        """The CPU seconds since they began to be registered."""
        return time.process_time() - self._cpu

    async def register(self, count: int) -> float:
        """Register them all together; when that began, on the clock of all processes."""
        self._registry = registry = Registry(self._url, prefix="ours", ttl=TTL)
        await registry.start()
        every = [instance(number, 1) for number in range(count)]
        self._cpu = time.process_time()
        started = time.monotonic()
        await asyncio.gather(*map(registry.register, every))
        return started

    async def withdraw(self) -> None:
        await self.close()

    async def close(self) -> None:
        if self._registry is not None:
            await self._registry.aclose()
            self._registry = None


class BareProvider:
    """A process that publishes as many messages."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._cpu = 0.0

    async def spent(self) -> float:
        """The CPU seconds since they began to be published."""
        return time.process_time() - self._cpu

    async def register(self, count: int) -> float:
        """Publish them all; when that began, on the clock of all processes."""
        messages = announcements("floor", count, 1)
        self._cpu = time.process_time()
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            started = time.monotonic()
            for subject, payload in messages:
                await client.publish(subject, payload)
            await client.flush()
            await client.close()
            return started
        async with redis_client(self._url) as connection:
            started = time.monotonic()
            async with connection.pipeline(transaction=False) as pipeline:
                for subject, payload in messages:
                    pipeline.publish(subject, payload)
                await pipeline.execute()
        return started

    async def withdraw(self) -> None:
        """There is nothing to withdraw."""


class Knower(Observer):
    """Knows when everybody is there."""

    async def know(self, instances: int) -> float:
        """Wait for so many instances; when that was, on the clock of all processes."""
        await until(lambda: self._registry.stats().instances == instances)
        return time.monotonic()


class BareKnower(Bare):
    """Knows when every message is there."""

    async def know(self, instances: int) -> float:
        """Wait for so many messages; when that was, on the clock of all processes."""
        target = self._before[0] + instances
        await until(lambda: self.count() >= target)
        await self.expect()
        return time.monotonic()


def registering(plan: Plan) -> Iterator[Figure]:
    """From the first call of `register` to a catalogue that has them all."""
    for kind, url in plan.brokers.items():
        smaller: list[float] = []
        for count in (1_000, 10_000):
            with contextlib.ExitStack() as stack:
                options = {"url": url, "pattern": "orders"}
                pairs = [
                    (
                        stack.enter_context(Part(Provider, url=url)),
                        stack.enter_context(Part(Knower, **options)),
                    ),
                    (
                        stack.enter_context(Part(BareProvider, url=url)),
                        stack.enter_context(Part(BareKnower, **options)),
                    ),
                ]
                for _, knower in pairs:
                    knower.call("open")
                rounds = [[_once(*pair, count) for pair in pairs] for _ in range(plan.rounds)]
            ours, bare = zip(*rounds, strict=True)
            yield Figure(
                f"{kind}: {count:,} registered until another process knows all",
                "s",
                [wall for wall, _ in ours],
                [wall for wall, _ in bare],
                "bare publish to callback",
                Budget(1.0, "figure") if count == 10_000 else None,
            )
            cpu = [spent for _, spent in ours]
            if smaller:
                yield Figure(
                    f"{kind}: CPU of who registers {count:,}, beside {count // 10:,}",
                    "s",
                    cpu,
                    [min(smaller)] * len(cpu),
                    "a tenth of them, at best",
                    shape=LIMIT,
                )
            smaller = cpu


def _once(provider: Part, knower: Part, count: int) -> tuple[float, float]:
    """The seconds until all are known, and the CPU seconds of the one who registers."""
    provider.begin("register", count=count)
    known: float = knower.call("know", instances=count)
    started: float = provider.result()
    spent: float = provider.call("spent")
    provider.call("withdraw")
    knower.call("forget")  # on a busy machine not everything is withdrawn before it closes
    return known - started, spent
