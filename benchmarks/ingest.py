"""Announcements taken in: decoded, applied to the catalogue, ready to be looked up.

The floor is the driver of the broker alone: a bare nats-py subscription whose callback does
nothing, a bare redis-py `listen()` whose messages nobody reads. Both receivers hang on one
broker and take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from aioregistry import NatsTransport, Registry
from aioregistry.limits import MAX_INSTANCES_PER_NAME
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import Fleet
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part
from benchmarks.shape import LIMIT

_POLL = 0.01
_MAX_INSTANCES = 1_000_000
_MANY = 100_000
"""Instances of many names; one name has as many as an observer takes in of it."""

_BUDGET = Budget(1 / 0.8)
"""Of the CPU: what a core takes in is at least 0.8 of what the bare driver does. The rate by
the clock says the same on a machine that has nothing else to do."""


class Receiver(ABC):
    """Counts messages, and what they cost this process."""

    def __init__(self) -> None:
        self._before = (0, 0.0, 0.0)

    @abstractmethod
    def count(self) -> int:
        """How many messages were received so far."""

    async def expect(self) -> None:
        """What comes from now on is measured by `received`."""
        self._before = (self.count(), time.perf_counter(), time.process_time())

    async def received(self, messages: int, instances: int) -> dict[str, float]:
        """Wait for so many messages; seconds and CPU seconds since `expect`.

        Raises:
            RuntimeError: a catalogue that does not know so many instances after them: to
                refuse is cheaper than to learn.
        """
        count, started, cpu = self._before
        await until(lambda: self.count() >= count + messages, _POLL)
        cost = {"wall": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        self.check(instances)
        return cost

    @abstractmethod
    def check(self, instances: int) -> None:
        """Raise `RuntimeError` unless so many instances are known, if any are kept at all."""


class Observer(Receiver):
    """A registry that observes everything."""

    def __init__(self, url: str, pattern: str) -> None:
        super().__init__()
        self._registry = Registry(url, prefix="ours", max_instances=_MAX_INSTANCES)
        self._pattern = pattern

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe(self._pattern)

    async def forget(self) -> None:
        """Begin anew, with an empty catalogue."""
        await self._registry.unobserve(self._pattern)
        await self._registry.observe(self._pattern)

    async def close(self) -> None:
        await self._registry.aclose()

    def count(self) -> int:
        return self._registry.stats().announcements_received

    def check(self, instances: int) -> None:
        stats = self._registry.stats()
        if (stats.instances, stats.refused, stats.malformed) != (instances, 0, 0):
            raise RuntimeError(
                f"{stats.instances:,} of {instances:,} instances known, {stats.refused:,} refused,"
                f" {stats.malformed:,} messages malformed"
            )


class Borrower(Observer):
    """The same through a client of nats-py that the application has opened.

    The registry leaves the reading to such a client: that is what nats-py costs, and ours.
    """

    def __init__(self, url: str, pattern: str) -> None:
        super().__init__(url, pattern)
        self._url = url
        self._client: Any = None

    async def open(self) -> None:
        self._client = await nats_client(self._url)
        transport = NatsTransport(client=self._client)
        self._registry = Registry(transport, prefix="ours", max_instances=_MAX_INSTANCES)
        await super().open()

    async def close(self) -> None:
        await super().close()
        await self._client.close()


class Bare(Receiver):
    """The driver alone."""

    def __init__(self, url: str, pattern: str) -> None:
        super().__init__()
        self._url = url
        self._pattern = f"floor.register.{pattern}"
        self._received = 0
        self._subscription: Any = None
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            self._subscription = await client.subscribe(self._pattern, cb=_nothing)
            await client.flush()
            return
        pubsub: Any = redis_client(self._url).pubsub()
        await pubsub.psubscribe(self._pattern)
        self._listener = asyncio.create_task(self._listen(pubsub))

    async def forget(self) -> None:
        """There is nothing to forget."""

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    def count(self) -> int:
        if self._subscription is None:
            return self._received
        return int(self._subscription.delivered) - int(self._subscription.pending_msgs)

    def check(self, instances: int) -> None:
        """It keeps none."""

    async def _listen(self, pubsub: Any) -> None:
        async for _ in pubsub.listen():
            self._received += 1


async def _nothing(_message: object) -> None:
    pass


class _Hall:
    """A fleet, an observer and a bare driver on one broker."""

    def __init__(
        self,
        url: str,
        count: int,
        names: int,
        stack: contextlib.ExitStack,
        observer: type[Observer] = Observer,
    ) -> None:
        pattern = "orders" if names == 1 else "*"
        self.count = count
        self.fleet = stack.enter_context(Part(Fleet, url=url, count=count, names=names))
        self.ours = stack.enter_context(Part(observer, url=url, pattern=pattern))
        self.floor = stack.enter_context(Part(Bare, url=url, pattern=pattern))
        self.ours.call("open")
        self.floor.call("open")

    def send(self, receiver: Part, prefix: str) -> dict[str, float]:
        """Let every instance announce itself once, and one receiver hear it."""
        receiver.call("expect")
        self.fleet.begin("announce", prefix=prefix)
        cost: dict[str, float] = receiver.call(
            "received", messages=self.count, instances=self.count
        )
        self.fleet.result()
        return cost

    def both(self) -> tuple[dict[str, float], dict[str, float]]:
        return self.send(self.ours, "ours"), self.send(self.floor, "floor")


def _figures(
    title: str,
    count: int,
    rounds: list[tuple[dict[str, float], dict[str, float]]],
    budget: Budget | None,
) -> Iterator[Figure]:
    floor = f"bare {title.partition(' ')[0]} driver"
    yield Figure(
        f"{title}: rate",
        "msgs/s",
        [count / ours["wall"] for ours, _ in rounds],
        [count / bare["wall"] for _, bare in rounds],
        floor,
    )
    yield Figure(
        f"{title}: CPU",
        "µs/msg",
        [ours["cpu"] / count * 1e6 for ours, _ in rounds],
        [bare["cpu"] / count * 1e6 for _, bare in rounds],
        floor,
        budget,
    )


def heartbeats(plan: Plan) -> Iterator[Figure]:
    """Announcements of instances that are known, and of instances that are new."""
    count = 10_000 if plan.quick else 20_000
    for kind, url in plan.brokers.items():
        with contextlib.ExitStack() as stack:
            hall = _Hall(url, count, 1, stack)
            hall.both()
            known = [hall.both() for _ in range(plan.rounds)]
            new: list[tuple[dict[str, float], dict[str, float]]] = []
            for _ in range(plan.rounds):
                hall.ours.call("forget")
                new.append(hall.both())
        yield from _figures(f"{kind} heartbeats of known instances", count, known, _BUDGET)
        yield from _figures(f"{kind} new instances", count, new, None)
    with contextlib.ExitStack() as stack:
        hall = _Hall(plan.brokers["nats"], count, 1, stack, Borrower)
        hall.both()
        known = [hall.both() for _ in range(plan.rounds)]
    yield from _figures("nats heartbeats through a borrowed client", count, known, None)


def growth(plan: Plan) -> Iterator[Figure]:
    """How long it takes to learn of many instances, and how that grows."""
    limits = {(10_000, 1): 1.0, (_MANY, _MANY // 10): 10.0}
    for spread, largest in (("of one name", MAX_INSTANCES_PER_NAME), ("of many names", _MANY)):
        sizes = (1_000, 10_000) if plan.quick else (1_000, 10_000, largest)
        fewer, smaller = 0, [0.0]
        for size in sizes:
            names = 1 if spread == "of one name" else size // 10
            rounds: list[tuple[dict[str, float], dict[str, float]]] = []
            with contextlib.ExitStack() as stack:
                hall = _Hall(plan.brokers["nats"], size, names, stack)
                for _ in range(plan.rounds if size < largest else 2):
                    rounds.append(hall.both())
                    hall.ours.call("forget")
            limit = limits.get((size, names))
            walls = [ours["wall"] for ours, _ in rounds]
            yield Figure(
                f"nats: {size:,} new instances {spread}",
                "s",
                walls,
                [bare["wall"] for _, bare in rounds],
                "bare nats driver",
                Budget(limit, "figure") if limit else None,
            )
            cpu = [ours["cpu"] for ours, _ in rounds]
            if fewer:
                yield Figure(
                    f"nats: CPU for {size:,} {spread}, beside {fewer:,}",
                    "s",
                    cpu,
                    [min(smaller)] * len(cpu),
                    f"{fewer:,}, at best",
                    shape=LIMIT * size / fewer / 10,
                )
            fewer, smaller = size, cpu
