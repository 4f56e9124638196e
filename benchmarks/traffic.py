"""What a fleet that just lives costs: messages and bytes on the wire, and CPU at both ends.

Bytes are counted by a process that stands between the registries and the broker and passes on
what it gets, so they are what TCP carries: commands, subjects, probes of the link and all.
The floor of messages is one for each heartbeat interval; that of bytes the payloads of these.
Once with many instances in one process, where the probes of the link do not count, and once with
one in each.

CPU is measured at a trickle, for a heartbeat every five seconds: a few messages in each read
of the socket, as in life, and not the full buffers of `ingest.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from aioregistry import Registry
from aioregistry.announcer import JITTER, LATEST
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Figure
from benchmarks.fleet import Fleet, announcements, instance
from benchmarks.ingest import Bare, Observer
from benchmarks.plan import Plan
from benchmarks.processes import Part

TTL = 10.0
INTERVAL = TTL / 3
"""The defaults, in seconds."""

_BEAT = 5.0
_BEATS = LATEST - JITTER / 2
_SPREAD = JITTER
"""A registry beats after so much of its interval on the average, give or take half of that: what
was registered together beats within so much of it. Windows are whole numbers of beats long."""

_OBSERVERS = 2
_ALONE = 10
"""So many providers have one instance each: one would tell little about a minute."""

_SETTLE = 3.0


class Meter:
    """A process that passes bytes on between clients and a broker, and counts them."""

    def __init__(self, url: str) -> None:
        self._broker = urlsplit(url)
        self._counts = [0, 0]
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        """Begin; the URL to use in place of the broker's."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"{self._broker.scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def counts(self) -> list[int]:
        """How many bytes went to the broker, and how many came from it."""
        return self._counts

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._broker.hostname, self._broker.port)
        for way, source, target in ((0, reader, there[1]), (1, there[0], writer)):
            task = asyncio.create_task(self._pass_on(way, source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, way: int, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(2**16):
                self._counts[way] += len(data)
                target.write(data)
                await target.drain()
        target.close()


class Provider:
    """A process that provides many instances."""

    def __init__(
        self,
        url: str,
        instances: int,
        ttl: float,
        interval: float,
        first: int,
        prefix: str = "ours",
    ) -> None:
        self._registry = Registry(url, prefix=prefix, ttl=ttl, heartbeat_interval=interval)
        self._services = [instance(first + number, 1) for number in range(instances)]

    async def open(self) -> int:
        """Register them; how many bytes the payload of an announcement has."""
        await self._registry.start()
        await asyncio.gather(*map(self._registry.register, self._services))
        return len(announcements("ours", 1, 1)[0][1])

    async def sent(self) -> int:
        """How many announcements went out."""
        return self._registry.stats().announcements_sent

    async def live(self, seconds: float) -> float:
        """The CPU seconds that pass in so many seconds."""
        before = time.process_time()
        await asyncio.sleep(seconds)
        return time.process_time() - before

    async def close(self) -> None:
        await self._registry.aclose()


class Providers:
    """As many registries as there would be processes, each with a connection of its own.

    To the broker they are processes; here they share one, as hundreds of interpreters would ask
    too much of a machine.
    """

    def __init__(
        self,
        url: str,
        processes: int,
        instances: int,
        ttl: float,
        interval: float,
        prefix: str = "ours",
    ) -> None:
        each = instances // processes
        self._pause = interval / processes
        self._providers = [
            Provider(url, each, ttl, interval, each * number, prefix) for number in range(processes)
        ]

    async def open(self) -> int:
        """Start them, evenly over an interval; how many bytes an announcement's payload has."""
        size = 0
        for provider in self._providers:
            size = await provider.open()
            await asyncio.sleep(self._pause)
        return size

    async def sent(self) -> int:
        """How many announcements went out."""
        return sum([await provider.sent() for provider in self._providers])

    async def live(self, seconds: float) -> float:
        """The CPU seconds of all of them that pass in so many seconds."""
        return await self._providers[0].live(seconds)

    async def close(self) -> None:
        await asyncio.gather(*[provider.close() for provider in self._providers])


class BareProvider:
    """A process that publishes as many messages, prepared beforehand, in the same rhythm."""

    def __init__(self, url: str, instances: int) -> None:
        self._url = url
        self._messages = announcements("floor", instances, 1)
        self._client: Any = None

    async def open(self) -> None:
        self._client = (
            await nats_client(self._url)
            if self._url.startswith("nats")
            else redis_client(self._url)
        )

    async def live(self, seconds: float) -> float:
        """The CPU seconds that pass in so many seconds."""
        before, ends = time.process_time(), time.monotonic() + seconds
        pause = _BEAT * _SPREAD / len(self._messages)
        while (started := time.monotonic()) < ends:
            for number, (subject, payload) in enumerate(self._messages):
                early = started + number * pause - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
                await self._client.publish(subject, payload)
            await asyncio.sleep(max(0.0, started + _BEAT * _BEATS - time.monotonic()))
        return time.process_time() - before


class Beating(Fleet):
    """A fleet whose instances announce themselves one after the other."""

    async def beat(self, prefix: str, seconds: float) -> int:
        """Let each of them announce itself every five seconds; how many messages that was."""
        count = len(self._commands[prefix])
        with self.connected() as connection:
            started = time.monotonic()
            sent = 0
            while (now := time.monotonic() - started) < seconds:
                due = int(now / _BEAT * count)
                for number in range(sent, due):
                    connection.sendall(self._commands[prefix][number % count])
                sent = due
                await asyncio.sleep(0.005)
        return sent


def on_the_wire(plan: Plan) -> Iterator[Figure]:
    """Messages and bytes for each instance and minute, at default settings."""
    instances, beats = (100, 1) if plan.quick else (200, 8)
    seconds = beats * INTERVAL * _BEATS
    for kind, url in plan.brokers.items():
        rounds: list[tuple[float, ...]] = []
        with contextlib.ExitStack() as stack:
            meters = [stack.enter_context(Part(Meter, url=url)) for _ in range(3)]
            above, below, aside = (meter.call("open") for meter in meters)
            observers = [
                stack.enter_context(Part(Observer, url=below, pattern="orders"))
                for _ in range(_OBSERVERS)
            ]
            for observer in observers:
                observer.call("open")
            options = {"ttl": TTL, "interval": INTERVAL}
            provider = stack.enter_context(
                Part(Provider, url=above, instances=instances, first=0, **options)
            )
            alone = stack.enter_context(
                Part(
                    Providers,
                    url=aside,
                    processes=_ALONE,
                    instances=_ALONE,
                    prefix="alone",
                    **options,
                )
            )
            size = provider.call("open")
            alone.call("open")
            time.sleep(_SETTLE)
            before = _look(provider, meters)
            for _ in range(2 if plan.quick else 3):
                time.sleep(seconds)
                now = _look(provider, meters)
                minutes = (now[-1] - before[-1]) / 60
                shares = (instances, instances, _OBSERVERS * instances, _ALONE, _ALONE)
                rounds.append(
                    tuple(
                        (after - earlier) / share / minutes
                        for after, earlier, share in zip(now, before, shares, strict=False)
                    )
                )
                before = now
        sent, up_there, down_here, up_alone, down_alone = map(list, zip(*rounds, strict=True))
        least = 60 / INTERVAL
        title = f"{kind}: of an instance in a minute, with defaults,"
        yield Figure(f"{title} messages", "msgs", sent, [least] * len(rounds), "one an interval")
        bare = [least * size] * len(rounds)
        payloads = "payloads of these"
        yield Figure(f"{title} bytes to the broker", "bytes", up_there, bare, payloads)
        yield Figure(f"{title} bytes to each observer", "bytes", down_here, bare, payloads)
        title = f"{kind}: of a process with one instance in a minute, with defaults,"
        yield Figure(f"{title} bytes to the broker", "bytes", up_alone, bare, payloads)
        yield Figure(f"{title} bytes from the broker", "bytes", down_alone, (), "observes nothing")


def _look(provider: Part, meters: list[Part]) -> tuple[float, ...]:
    """Announcements sent; bytes of the many, to observers, of the lone ones both ways; the time."""
    there, here, alone = (meter.call("counts") for meter in meters)
    return provider.call("sent"), there[0], here[1], *alone, time.monotonic()


def living(plan: Plan) -> Iterator[Figure]:
    """CPU for each instance and second, at both ends, at a heartbeat every five seconds."""
    instances, rounds = (1_000, 1) if plan.quick else (2_000, 4)
    seconds = _BEAT * _BEATS
    for kind, url in plan.brokers.items():
        yield _cpu(
            f"{kind}: CPU of an observer for an instance and second",
            f"bare {kind} driver",
            _observing(url, instances, seconds, rounds),
            instances * seconds,
        )
        yield _cpu(
            f"{kind}: CPU of a provider for an instance and second",
            f"bare {kind} driver",
            _providing(url, instances, seconds, rounds),
            instances * seconds,
        )


def _cpu(title: str, floor: str, pairs: list[tuple[float, float]], work: float) -> Figure:
    ours, bare = zip(*pairs, strict=True)
    return Figure(
        title,
        "µs",
        [each / work * 1e6 for each in ours],
        [each / work * 1e6 for each in bare],
        floor,
    )


def _observing(url: str, instances: int, seconds: float, rounds: int) -> list[tuple[float, float]]:
    with contextlib.ExitStack() as stack:
        fleet = stack.enter_context(Part(Beating, url=url, count=instances, names=1))
        ours = stack.enter_context(Part(Observer, url=url, pattern="orders"))
        bare = stack.enter_context(Part(Bare, url=url, pattern="orders"))
        for part in (ours, bare):
            part.call("open")
        for receiver, prefix in ((ours, "ours"), (bare, "floor")):
            receiver.call("expect")
            fleet.call("announce", prefix=prefix)
            receiver.call("received", messages=instances, instances=instances)

        def once(receiver: Part, prefix: str) -> float:
            receiver.call("expect")
            messages = fleet.call("beat", prefix=prefix, seconds=seconds)
            cost = receiver.call("received", messages=messages, instances=instances)
            cpu: float = cost["cpu"]
            return cpu

        return [(once(ours, "ours"), once(bare, "floor")) for _ in range(rounds)]


def _providing(url: str, instances: int, seconds: float, rounds: int) -> list[tuple[float, float]]:
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(Part(BareProvider, url=url, instances=instances))
        bare.call("open")
        ours = stack.enter_context(
            Part(Provider, url=url, instances=instances, ttl=3 * _BEAT, interval=_BEAT, first=0)
        )
        ours.call("open")
        ours.call("live", seconds=_BEAT)  # the first heartbeats are all at once
        return [
            (ours.call("live", seconds=seconds), bare.call("live", seconds=seconds))
            for _ in range(rounds)
        ]
