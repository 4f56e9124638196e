"""From a change in one process to its event in another.

Both read the same clock, that of the machine, so each way is measured by itself. The floor
is a bare publish to a bare callback, with a message of the same size and in the same rhythm:
what runs more often finds more of its code in the caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Final

from aioregistry import EventType, Registration, Registry, Status
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL, announcements, instance, service_name
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

_PERIOD: Final = 0.003
"""From one change to the next, in seconds: none of them waits for another."""

_STRAGGLERS: Final = 1.0
"""How long to wait for the last events, in seconds."""

_MOST_LOST: Final = 0.01
"""Where the machine paused, the events of two changes may be one. More than so many of all are
not lost to that, and the times of the rest would flatter."""


class EventsLost(Exception):
    """Too many events did not come."""


@dataclasses.dataclass(frozen=True)
class Way:
    """A kind of change.

    Attributes:
        title: what it is, for the table.
        event: what the watcher sees.
        alone: whether each instance is the first of its name.
        promised: whether there is a budget for it.
    """

    title: str
    event: EventType
    alone: bool = True
    promised: bool = False


WAYS: Final = {
    "announce": Way("register(wait=False) to event", EventType.REGISTERED),
    "register": Way("register to event", EventType.REGISTERED, promised=True),
    "change": Way("status change to event", EventType.UPDATED),
    "withdraw": Way("withdrawal to event", EventType.UNREGISTERED),
    "register more": Way(
        "register to event, a further instance", EventType.REGISTERED, alone=False
    ),
}
"""In the order in which they are measured: what is changed was registered before."""


class Provider:
    """Registers, changes and withdraws, and says when."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url, prefix="ours", ttl=TTL)
        self._made: list[Registration] = []

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.register("orders", "10.255.0.1:80")

    async def close(self) -> None:
        await self._registry.aclose()

    async def run(self, count: int, way: str) -> list[int]:
        """When each change was asked for, in nanoseconds."""
        times: list[int] = []
        made, register = self._made, self._registry.register
        async for number in _in_rhythm(count):
            service = instance(number, count if WAYS[way].alone else 1)
            times.append(time.monotonic_ns())
            match way:
                case "change":
                    await made[number].set_status(Status.WARNING)
                case "withdraw":
                    await made[number].unregister()
                case _:
                    made.append(await register(service, wait=way != "announce"))
        if way in ("announce", "withdraw", "register more"):
            for registration in made:
                await registration.unregister()
            made.clear()
        return times


class Watcher:
    """Watches `orders` and many more names, and says when it saw what."""

    def __init__(self, url: str, names: int) -> None:
        self._registry = Registry(url, prefix="ours")
        self._names = ["orders", *(service_name(number, names) for number in range(names))]
        self._seen: dict[tuple[str, str, EventType], int] = {}
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe(*self._names)
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._registry.watch(*self._names):
            self._seen[*event.service.key, event.type] = time.monotonic_ns()

    async def close(self) -> None:
        await self._registry.aclose()

    async def expect(self) -> None:
        self._seen = {}

    async def seen(self, count: int, way: str) -> list[int]:
        """When the event of each change came, in nanoseconds; 0 if it did not."""
        names = count if WAYS[way].alone else 1
        keys = [(*instance(number, names).key, WAYS[way].event) for number in range(count)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STRAGGLERS):
                await until(lambda: all(key in self._seen for key in keys))
        return [self._seen.get(key, 0) for key in keys]


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

    async def run(self, count: int) -> list[int]:
        """When each message was published, in nanoseconds."""
        times: list[int] = []
        messages = announcements("floor", count, 1)
        async for number in _in_rhythm(count):
            subject, payload = messages[number]
            times.append(time.monotonic_ns())
            await self._client.publish(subject, payload)
        return times


class BareSubscriber:
    """Receives with the bare driver."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: list[int] = []
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
        self._seen.append(time.monotonic_ns())

    async def _listen(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                self._seen.append(time.monotonic_ns())

    async def expect(self) -> None:
        self._seen = []

    async def seen(self, count: int) -> list[int]:
        """When the messages came, in nanoseconds."""
        await until(lambda: len(self._seen) >= count)
        return self._seen

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


async def _in_rhythm(count: int) -> AsyncIterator[int]:
    """Count from zero, however long it takes what is done between the beats."""
    clock = asyncio.get_running_loop().time
    begin = clock()
    for number in range(count):
        await asyncio.sleep(begin + number * _PERIOD - clock())
        yield number


def changes(plan: Plan) -> Iterator[Figure]:
    """Each kind of change, its median and its hundredth worst."""
    count = 100 if plan.quick else 300
    for kind, url in plan.brokers.items():
        ours: dict[str, list[list[float]]] = {way: [] for way in WAYS}
        bare: list[list[float]] = []
        with contextlib.ExitStack() as stack:
            watcher, provider, subscriber, publisher = (
                stack.enter_context(part)
                for part in (
                    Part(Watcher, url=url, names=count),
                    Part(Provider, url=url),
                    Part(BareSubscriber, url=url),
                    Part(BarePublisher, url=url),
                )
            )
            for part in (watcher, provider, subscriber, publisher):
                part.call("open")
            for way in WAYS:
                _once(kind, provider, watcher, 20, way=way)
            _once(kind, publisher, subscriber, 20)
            for _ in range(plan.rounds):
                for way, times in ours.items():
                    times.append(_once(kind, provider, watcher, count, way=way))
                bare.append(_once(kind, publisher, subscriber, count))
        for way, about in WAYS.items():
            for percent in (50, 99):
                yield Figure(
                    f"{kind}: {about.title}, p{percent}",
                    "ms",
                    [quantile(times, percent) for times in ours[way]],
                    [quantile(times, percent) for times in bare],
                    "bare publish to callback",
                    Budget(1.2) if about.promised and percent == 50 else None,
                )


def _once(kind: str, publisher: Part, subscriber: Part, count: int, **way: str) -> list[float]:
    """The milliseconds that each change took."""
    subscriber.call("expect")
    publisher.begin("run", count=count, **way)
    sent = publisher.result()
    seen = subscriber.call("seen", count=count, **way)
    return milliseconds(sent, seen, f"{kind}: {way.get('way', 'bare publish')}")


def milliseconds(sent: Sequence[int], seen: Sequence[int], what: str) -> list[float]:
    """How long each took; what was not seen, which is 0 there, is left out and told.

    Raises:
        EventsLost: that is more than one in a hundred.
    """
    lost = sum(not there for there in seen)
    if lost:
        told = f"{what}: {lost} of {len(seen)} events did not come"
        if lost > _MOST_LOST * len(seen):
            raise EventsLost(told)
        print(told, flush=True)
    return [(there - here) / 1e6 for here, there in zip(sent, seen, strict=True) if there]


def quantile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of a hundred stay below."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
