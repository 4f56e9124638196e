"""From a change in one process to its event in another.

Both read the same clock, that of the machine, so each way is measured by itself. The floor
is a bare publish to a bare callback, with a message of the same size.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

from aioregistry import EventType, Registry, Status
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL, announcements, instance
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

_PAUSE = 0.002
"""Between two changes, in seconds: none of them waits for another."""

_STRAGGLERS = 1.0
"""How long to wait for the last events, in seconds."""

WAYS = {
    "register to event": EventType.REGISTERED.value,
    "status change to event": EventType.UPDATED.value,
    "withdrawal to event": EventType.UNREGISTERED.value,
}


class Provider:
    """Registers, changes and withdraws, and says when."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url, prefix="ours", ttl=TTL)

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.register("bystander", "10.0.0.1:80")

    async def close(self) -> None:
        await self._registry.aclose()

    async def run(self, count: int) -> list[list[int]]:
        """For each instance, when each of its changes was asked for, in nanoseconds."""
        return [await self._life(number) for number in range(count)]

    async def _life(self, number: int) -> list[int]:
        service = instance(number, 1)
        registered = time.monotonic_ns()
        registration = await self._registry.register(service)
        await asyncio.sleep(_PAUSE)
        changed = time.monotonic_ns()
        await registration.set_status(Status.WARNING)
        await asyncio.sleep(_PAUSE)
        withdrawn = time.monotonic_ns()
        await registration.unregister()
        await asyncio.sleep(_PAUSE)
        return [registered, changed, withdrawn]


class Watcher:
    """Watches, and says when it saw what."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url, prefix="ours")
        self._seen: dict[str, dict[str, int]] = {}
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe("orders")
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._registry.watch("orders"):
            events = self._seen.setdefault(event.service.address, {})
            events[event.type.value] = time.monotonic_ns()

    async def close(self) -> None:
        await self._registry.aclose()

    async def expect(self) -> None:
        self._seen = {}

    async def seen(self, count: int) -> list[list[int]]:
        """When the events of each instance came, in nanoseconds; nothing where some merged."""
        until = time.monotonic() + _STRAGGLERS
        while time.monotonic() < until:
            await asyncio.sleep(_PAUSE)
            if sum(map(len, self._seen.values())) == count * len(WAYS):
                break
        every = [self._seen.get(instance(number, 1).address, {}) for number in range(count)]
        return [list(events.values()) if len(events) == len(WAYS) else [] for events in every]


class BarePublisher:
    """Publishes with the bare driver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = None

    async def open(self) -> None:
        if self._url.startswith("nats"):
            self._client = await nats_client(self._url)
        else:
            self._client = redis_client(self._url)
            await self._client.ping()

    async def run(self, count: int) -> list[list[int]]:
        """When each message was published, in nanoseconds."""
        times: list[list[int]] = []
        for subject, payload in announcements("floor", count, 1):
            times.append([time.monotonic_ns()])
            await self._client.publish(subject, payload)
            await asyncio.sleep(_PAUSE)
        return times


class BareSubscriber:
    """Receives with the bare driver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: list[list[int]] = []
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            await client.subscribe("floor.register.orders", cb=self._take)
            await client.flush()
        else:
            pubsub: Any = redis_client(self._url).pubsub()
            await pubsub.subscribe("floor.register.orders")
            self._task = asyncio.create_task(self._listen(pubsub))

    async def _take(self, _message: object) -> None:
        self._seen.append([time.monotonic_ns()])

    async def _listen(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                self._seen.append([time.monotonic_ns()])

    async def expect(self) -> None:
        self._seen = []

    async def seen(self, count: int) -> list[list[int]]:
        """When the messages came, in nanoseconds."""
        await until(lambda: len(self._seen) >= count)
        return self._seen

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


def quantile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of a hundred stay below."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def changes(plan: Plan) -> Iterator[Figure]:
    """Each kind of change, its median and its hundredth worst."""
    count = 100 if plan.quick else 300
    for kind, url in plan.brokers.items():
        ours: list[list[list[float]]] = []
        bare: list[list[list[float]]] = []
        with contextlib.ExitStack() as stack:
            parts = [
                stack.enter_context(Part(each, url=url))
                for each in (Provider, Watcher, BarePublisher, BareSubscriber)
            ]
            for part in (parts[1], parts[0], parts[3], parts[2]):
                part.call("open")
            _once(parts[0], parts[1], 20)
            _once(parts[2], parts[3], 20)
            for _ in range(plan.rounds):
                ours.append(_once(parts[0], parts[1], count))
                bare.append(_once(parts[2], parts[3], count))
        for column, way in enumerate(WAYS):
            for percent in (50, 99):
                yield Figure(
                    f"{kind}: {way}, p{percent}",
                    "ms",
                    [quantile([row[column] for row in each], percent) for each in ours],
                    [quantile([row[0] for row in each], percent) for each in bare],
                    "bare publish to callback",
                    Budget(1.2) if column == 0 and percent == 50 else None,
                )


def _once(publisher: Part, subscriber: Part, count: int) -> list[list[float]]:
    """The milliseconds that each change of each instance took.

    Where the machine paused for longer than the pause between two changes, their events are
    one; such an instance is left out.
    """
    subscriber.call("expect")
    publisher.begin("run", count=count)
    sent = publisher.result()
    seen = subscriber.call("seen", count=count)
    return [
        [(there - here) / 1e6 for here, there in zip(starts, ends, strict=True)]
        for starts, ends in zip(sent, seen, strict=True)
        if ends
    ]
