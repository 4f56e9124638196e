"""Whether a fleet costs what the formulas of `docs/scaling.md` say.

What stands in the column of the floor is what the formula predicts, so the ratio has to be
about one. Messages and bytes are counted in the simulator, in virtual time, and by real brokers.
CPU is that of real processes: a line (so much in peace, and so much for each message) through the
two smaller fleets of one provider predicts the largest.

In other fleets each instance is a process to the broker, with a connection of its own that is
probed; on Redis each observer asks after all of them besides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aioregistry import free_port
from aioregistry.announcer import JITTER, LATEST
from aioregistry.testing import NetworkMonitor, SimulatedNetwork, run_virtual
from aioregistry.testing.brokers import Broker, nats_server, redis_server
from aioregistry.testing.faults import Message
from aioregistry.testing.process import SimulatedProcess
from benchmarks.bare import redis_client
from benchmarks.figures import Figure
from benchmarks.fleet import announcements, instance, redis_command
from benchmarks.ingest import Observer
from benchmarks.plan import Plan
from benchmarks.processes import Part
from benchmarks.traffic import Providers

BEAT = LATEST - JITTER / 2
"""After so much of its interval an instance announces itself again, on the average."""

_OUTAGE = 3.0
_AFTERMATH = 2.0
"""How long the broker is away, and what belongs to its return, in seconds."""

_PROBES = 1.0
"""A process proves its connection so many times in a second."""

_COMMANDS = 2 + 0.1
"""So many commands that is on Redis: PING and HELLO, and every ten seconds a PING after which
refusals are known."""

_PROBE_BYTES = 58, 232
"""What they take, and bring: HELLO, which tells the role, is answered at length."""

_LOOK = 0.25
_LOOK_COST = 0.002
"""Seconds between two looks of an observer at all processes on Redis, and more for each of them."""


@dataclass(frozen=True)
class Fleet:
    """What the formulas know of a fleet.

    Attributes:
        instances: N.
        observers: M, of all of them.
        interval: T, the heartbeat interval, in seconds.
        processes: P, those that provide the instances.
    """

    instances: int
    observers: int
    interval: float
    processes: int

    def __str__(self) -> str:
        sizes = f"N={self.instances:,} M={self.observers} P={self.processes}"
        return f"{sizes} T={self.interval:.3g} s"

    @property
    def published(self) -> float:
        """Announcements in a second."""
        return self.instances / (BEAT * self.interval)

    @property
    def delivered(self) -> float:
        """Announcements in a second that observers get."""
        return self.published * self.observers

    @property
    def probes(self) -> float:
        """Looks at connections in a second: on NATS a message there and back each."""
        return _PROBES * (self.processes + self.observers)

    @property
    def looks(self) -> float:
        """Looks at the other processes in a second, on Redis in peace."""
        return self.observers / (_LOOK + _LOOK_COST * self.processes)


SIMULATED = (
    Fleet(100, 5, 10 / 3, 2),
    Fleet(1_000, 10, 10 / 3, 20),
    Fleet(2_000, 20, 20.0, 40),
    Fleet(100, 40, 10 / 3, 100),
)
REAL = (Fleet(250, 1, 2.0, 1), Fleet(1_000, 2, 2.0, 1), Fleet(2_000, 4, 1.0, 1))
ALONE = Fleet(100, 2, 10 / 3, 100)


def scaling(plan: Plan) -> Iterator[Figure]:
    """First in virtual time, then for real."""
    for fleet in SIMULATED:
        yield from _simulated(fleet, 10 if plan.quick else 30)
    beats = 4 if plan.quick else 10
    yield from _real(beats)
    yield from _alone("nats", beats)
    yield from _alone("redis", beats)


class _Counter(NetworkMonitor):
    """Counts announcements, and the pings that processes get."""

    def __init__(self) -> None:
        self.published = self.delivered = self.bytes = self.asked = 0

    def sent(self, message: Message) -> None:
        if message.subject.startswith("registry.register."):
            self.published += 1

    def arrived(self, message: Message, process: SimulatedProcess) -> None:
        del process
        if message.subject.startswith("registry.register."):
            self.delivered += 1
            self.bytes += len(message.payload)
        elif message.subject.startswith("registry.ping."):
            self.asked += 1


@dataclass(frozen=True)
class _Counts:
    """What happened.

    Attributes:
        published: announcements, in the time that was asked for.
        delivered: those that observers got.
        payload: their bytes.
        extra: announcements that one more observer caused.
        storm: what followed an outage: announcements, those delivered, and pings delivered.
    """

    published: int
    delivered: int
    payload: int
    extra: int
    storm: tuple[int, int, int]


async def _count(fleet: Fleet, seconds: float) -> _Counts:
    """Count what happens in so many seconds, for one more observer, and after an outage."""
    options: dict[str, Any] = {"ttl": 3 * fleet.interval, "heartbeat_interval": fleet.interval}
    counter = _Counter()
    network = SimulatedNetwork(seed=1, monitor=counter)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(fleet.observers):
            observer = await stack.enter_async_context(
                network.process(f"observer-{number}").registry(**options)
            )
            await observer.observe("orders")
        host = fleet.instances // fleet.processes
        for first in range(0, fleet.instances, host):
            provider = await stack.enter_async_context(
                network.process(f"provider-{first}").registry(**options)
            )
            numbers = range(first, first + host)
            await asyncio.gather(*(provider.register(instance(number, 1)) for number in numbers))
        await asyncio.sleep(3 * fleet.interval)
        counter.published = counter.delivered = counter.bytes = 0
        await asyncio.sleep(seconds)
        peace = counter.published, counter.delivered, counter.bytes
        async with network.process("late").registry(**options) as late:
            await late.observe("orders")
            await asyncio.sleep(0.1)
            extra = counter.published - peace[0]
            if late.stats().instances != fleet.instances:
                raise RuntimeError(f"{late.stats().instances} of {fleet.instances} known")
        network.stop()
        await asyncio.sleep(_OUTAGE)
        counter.published = counter.delivered = counter.asked = 0
        network.start()
        await asyncio.sleep(_AFTERMATH)
        storm = counter.published, counter.delivered, counter.asked
    return _Counts(*peace, extra, storm)


def _simulated(fleet: Fleet, beats: int) -> Iterator[Figure]:
    seconds = beats * BEAT * fleet.interval
    counts = run_virtual(_count(fleet, seconds))
    size = len(announcements("registry", 1, 1)[0][1])
    for what, unit, measured, predicted in (
        ("announcements published", "msgs/s", counts.published / seconds, fleet.published),
        ("announcements delivered", "msgs/s", counts.delivered / seconds, fleet.delivered),
        ("payload delivered", "bytes/s", counts.payload / seconds, fleet.delivered * size),
        ("one more observer: announcements", "msgs", counts.extra, fleet.instances),
    ):
        yield Figure(f"simulated, {fleet}: {what}", unit, [measured], [predicted], "formula")
    announced, delivered, asked = counts.storm
    fully = fleet.instances * fleet.observers
    title = f"simulated, {fleet}: after an outage,"
    yield Figure(
        f"{title} announcements of an instance", "msgs", [announced / fleet.instances], (), ""
    )
    yield Figure(f"{title} deliveries", "N M", [delivered / fully], (), "")
    yield Figure(
        f"{title} pings delivered", "P M", [asked / fleet.processes / fleet.observers], (), ""
    )


class _Processor:
    """The CPU seconds of another process."""

    def __init__(self, process: int) -> None:
        self._file = Path(f"/proc/{process}/stat")

    def spent(self) -> float:
        fields = self._file.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _real(beats: int) -> Iterator[Figure]:
    points: dict[str, list[tuple[float, float]]] = {}
    for fleet in REAL:
        measured = _measure("nats", fleet, beats * BEAT * fleet.interval)
        size = len(announcements("ours", 1, 1)[0][1])
        predicted = {
            "messages to the broker": ("msgs/s", fleet.published + fleet.probes),
            "messages from the broker": ("msgs/s", fleet.delivered + fleet.probes),
            "payload to the broker": ("bytes/s", fleet.published * size),
            "payload from the broker": ("bytes/s", fleet.delivered * size),
        }
        for what, (unit, formula) in predicted.items():
            yield Figure(f"nats, {fleet}: {what}", unit, [measured[what]], [formula], "formula")
        work = {
            "CPU of the provider": fleet.published,
            "CPU of an observer": fleet.published,
            "CPU of the broker": fleet.published + fleet.delivered,
        }
        for what, messages in work.items():
            known = points.setdefault(what, [])
            floor, text = _line(known, messages)
            yield Figure(f"nats, {fleet}: {what}", "% of a core", [measured[what]], floor, text)
            known.append((messages, measured[what]))


def _line(known: list[tuple[float, float]], messages: float) -> tuple[list[float], str]:
    """What a line through two known points says, in per cent of a core; nothing for fewer."""
    if len(known) < 2:
        return [], ""
    (few, low), (many, high) = known
    each = (high - low) / (many - few)
    peace = low - each * few
    return [peace + each * messages], f"{peace:.2f} % and {each * 1e4:.1f} µs a message"


def _alone(kind: Literal["nats", "redis"], beats: int) -> Iterator[Figure]:
    """Each instance is a process to the broker."""
    fleet = ALONE
    measured = _measure(kind, fleet, beats * BEAT * fleet.interval)
    if kind == "nats":
        predicted = {
            "messages to the broker": fleet.published + fleet.probes,
            "messages from the broker": fleet.delivered + fleet.probes,
        }
    else:
        predicted = {
            "announcements": fleet.published,
            "probes (PING and HELLO)": _COMMANDS * fleet.probes,
            "looks (PUBSUB NUMSUB)": fleet.looks,
            "commands": fleet.published + _COMMANDS * fleet.probes + fleet.looks,
        }
    for what, formula in predicted.items():
        title = f"{kind}, {fleet}: {what}"
        yield Figure(title, "msgs/s", [measured[what]], [formula], "formula")
    if kind == "redis":
        for way, formula in _redis_bytes(fleet).items():
            title = f"redis, {fleet}: {way}"
            yield Figure(title, "bytes/s", [measured[way]], [formula], "formula")


def _redis_bytes(fleet: Fleet) -> dict[str, float]:
    """What is sent in a second, and what comes back."""
    published = len(redis_command(*announcements("ours", 1, 1)[0]))  # and as long when delivered
    node = len(f"$26\r\nours.alive.{'0' * 15}\r\n")
    asked = fleet.looks * fleet.processes
    up, down = _PROBE_BYTES
    return {
        "bytes to the broker": fleet.published * published + fleet.probes * up + asked * node,
        "bytes from the broker": fleet.delivered * published
        + fleet.probes * down
        + asked * (node + len(":1\r\n")),
    }


def _measure(kind: Literal["nats", "redis"], fleet: Fleet, seconds: float) -> dict[str, float]:
    monitor = free_port()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(
            nats_server("--http_port", str(monitor)) if kind == "nats" else redis_server()
        )
        observers = [
            stack.enter_context(Part(Observer, url=broker.url, pattern="orders"))
            for _ in range(fleet.observers)
        ]
        for observer in observers:
            observer.call("open")
        options = {"instances": fleet.instances, "processes": fleet.processes, "url": broker.url}
        provider = stack.enter_context(
            Part(Providers, ttl=3 * fleet.interval, interval=fleet.interval, **options)
        )
        provider.call("open")
        time.sleep(2 * fleet.interval)
        processor = _Processor(broker.pid)
        before, spent, started = _counts(broker, monitor), processor.spent(), time.monotonic()
        for observer in observers:
            observer.call("expect")
        living = provider.call("live", seconds=seconds)
        heard = {"messages": 0, "instances": fleet.instances}
        cpu = [observer.call("received", **heard)["cpu"] for observer in observers]
        after = _counts(broker, monitor)
        spent, took = processor.spent() - spent, time.monotonic() - started
    rates = {what: (after[what] - count) / took for what, count in before.items()}
    return rates | {
        "CPU of the provider": living / took * 100,
        "CPU of an observer": sum(cpu) / len(cpu) / took * 100,
        "CPU of the broker": spent / took * 100,
    }


def _counts(broker: Broker, monitor: int) -> dict[str, int]:
    """What the broker has counted so far."""
    if broker.url.startswith("redis"):
        return asyncio.run(_redis_counts(broker.url))
    with urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)
    return {
        "messages to the broker": counts["in_msgs"],
        "messages from the broker": counts["out_msgs"],
        "payload to the broker": counts["in_bytes"],
        "payload from the broker": counts["out_bytes"],
    }


async def _redis_counts(url: str) -> dict[str, int]:
    async with redis_client(url) as client:
        commands: dict[str, dict[str, int]] = await client.info("commandstats")
        totals: dict[str, int] = await client.info("stats")
    calls = {
        command.removeprefix("cmdstat_"): numbers["calls"] for command, numbers in commands.items()
    }
    return {
        "announcements": calls.get("publish", 0),
        "probes (PING and HELLO)": calls.get("ping", 0) + calls.get("hello", 0),
        "looks (PUBSUB NUMSUB)": calls.get("pubsub|numsub", 0),
        "commands": totals["total_commands_processed"],
        "bytes to the broker": totals["total_net_input_bytes"],
        "bytes from the broker": totals["total_net_output_bytes"],
    }
