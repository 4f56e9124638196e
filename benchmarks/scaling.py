"""Whether a fleet costs what the formulas of `docs/scaling.md` say, at three sizes each.

What stands in the column of the floor is what the formula predicts, so the ratio has to be
about one. Messages and bytes are counted in the simulator, in virtual time, and by a real
nats-server. CPU is that of real processes: a line (so much in peace, and so much for each
message) through the two smaller fleets predicts the largest.
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
from typing import Any

from aioregistry import free_port
from aioregistry.announcer import JITTER, LATEST
from aioregistry.testing import NetworkMonitor, SimulatedNetwork, run_virtual
from aioregistry.testing.brokers import nats_server
from aioregistry.testing.faults import Message
from aioregistry.testing.process import SimulatedProcess
from benchmarks.figures import Figure
from benchmarks.fleet import announcements, instance
from benchmarks.ingest import Observer
from benchmarks.plan import Plan
from benchmarks.processes import Part
from benchmarks.traffic import Provider

BEAT = LATEST - JITTER / 2
"""After so much of its interval an instance announces itself again, on the average."""

_HOST = 50
"""Instances of a process, in the simulator."""


@dataclass(frozen=True)
class Fleet:
    """What the formulas know of a fleet.

    Attributes:
        instances: N.
        observers: M, of all of them.
        interval: T, the heartbeat interval, in seconds.
    """

    instances: int
    observers: int
    interval: float

    def __str__(self) -> str:
        return f"N={self.instances:,} M={self.observers} T={self.interval:g} s"

    @property
    def published(self) -> float:
        """Announcements in a second."""
        return self.instances / (BEAT * self.interval)

    @property
    def delivered(self) -> float:
        """Announcements in a second that observers get."""
        return self.published * self.observers


SIMULATED = (Fleet(100, 5, 10 / 3), Fleet(1_000, 10, 10 / 3), Fleet(2_000, 20, 20.0))
REAL = (Fleet(250, 1, 2.0), Fleet(1_000, 2, 2.0), Fleet(2_000, 4, 1.0))


def scaling(plan: Plan) -> Iterator[Figure]:
    """First in virtual time, then for real."""
    for fleet in SIMULATED:
        yield from _simulated(fleet, 10 if plan.quick else 30)
    yield from _real(4 if plan.quick else 10)


class _Counter(NetworkMonitor):
    """Counts announcements."""

    def __init__(self) -> None:
        self.published = self.delivered = self.bytes = 0

    def sent(self, message: Message) -> None:
        if message.subject.startswith("registry.register."):
            self.published += 1

    def arrived(self, message: Message, process: SimulatedProcess) -> None:
        del process
        if message.subject.startswith("registry.register."):
            self.delivered += 1
            self.bytes += len(message.payload)


async def _count(fleet: Fleet, seconds: float) -> tuple[int, int, int, int]:
    """Count what happens in so many seconds: published, delivered, and their bytes.

    And then how many announcements one more observer causes.
    """
    options: dict[str, Any] = {"ttl": 3 * fleet.interval, "heartbeat_interval": fleet.interval}
    counter = _Counter()
    network = SimulatedNetwork(seed=1, monitor=counter)
    async with contextlib.AsyncExitStack() as stack:
        for number in range(fleet.observers):
            observer = await stack.enter_async_context(
                network.process(f"observer-{number}").registry(**options)
            )
            await observer.observe("orders")
        for first in range(0, fleet.instances, _HOST):
            provider = await stack.enter_async_context(
                network.process(f"provider-{first}").registry(**options)
            )
            numbers = range(first, min(first + _HOST, fleet.instances))
            await asyncio.gather(*(provider.register(instance(number, 1)) for number in numbers))
        await asyncio.sleep(3 * fleet.interval)
        counter.published = counter.delivered = counter.bytes = 0
        await asyncio.sleep(seconds)
        counts = counter.published, counter.delivered, counter.bytes
        late = await stack.enter_async_context(network.process("late").registry(**options))
        await late.observe("orders")
        await asyncio.sleep(0.1)
        extra = counter.published - counts[0]
        if late.stats().instances != fleet.instances:
            raise RuntimeError(f"{late.stats().instances} of {fleet.instances} known")
    return *counts, extra


def _simulated(fleet: Fleet, beats: int) -> Iterator[Figure]:
    seconds = beats * BEAT * fleet.interval
    published, delivered, payloads, extra = run_virtual(_count(fleet, seconds))
    size = len(announcements("registry", 1, 1)[0][1])
    for what, unit, measured, predicted in (
        ("announcements published", "msgs/s", published / seconds, fleet.published),
        ("announcements delivered", "msgs/s", delivered / seconds, fleet.delivered),
        ("payload delivered", "bytes/s", payloads / seconds, fleet.delivered * size),
        ("one more observer: announcements", "msgs", float(extra), float(fleet.instances)),
    ):
        yield Figure(f"simulated, {fleet}: {what}", unit, [measured], [predicted], "formula")


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
        measured = _measure(fleet, beats * BEAT * fleet.interval)
        size = len(announcements("ours", 1, 1)[0][1])
        predicted = {
            "messages to the broker": ("msgs/s", fleet.published),
            "messages from the broker": ("msgs/s", fleet.delivered),
            "payload to the broker": ("bytes/s", fleet.published * size),
            "payload from the broker": ("bytes/s", fleet.delivered * size),
        }
        for what, (unit, formula) in predicted.items():
            yield Figure(f"real, {fleet}: {what}", unit, [measured[what]], [formula], "formula")
        work = {
            "CPU of the provider": fleet.published,
            "CPU of an observer": fleet.published,
            "CPU of the broker": fleet.published + fleet.delivered,
        }
        for what, messages in work.items():
            known = points.setdefault(what, [])
            floor, text = _line(known, messages)
            yield Figure(f"real, {fleet}: {what}", "% of a core", [measured[what]], floor, text)
            known.append((messages, measured[what]))


def _line(known: list[tuple[float, float]], messages: float) -> tuple[list[float], str]:
    """What a line through two known points says, in per cent of a core; nothing for fewer."""
    if len(known) < 2:
        return [], ""
    (few, low), (many, high) = known
    each = (high - low) / (many - few)
    peace = low - each * few
    return [peace + each * messages], f"{peace:.2f} % and {each * 1e4:.1f} µs a message"


def _measure(fleet: Fleet, seconds: float) -> dict[str, float]:
    monitor = free_port()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(nats_server("--http_port", str(monitor)))
        observers = [
            stack.enter_context(Part(Observer, url=broker.url, pattern="orders"))
            for _ in range(fleet.observers)
        ]
        for observer in observers:
            observer.call("open")
        options = {"instances": fleet.instances, "first": 0, "url": broker.url}
        provider = stack.enter_context(
            Part(Provider, ttl=3 * fleet.interval, interval=fleet.interval, **options)
        )
        provider.call("open")
        time.sleep(2 * fleet.interval)
        processor = _Processor(broker.pid)
        before, spent, started = _counts(monitor), processor.spent(), time.monotonic()
        for observer in observers:
            observer.call("expect")
        living = provider.call("live", seconds=seconds)
        heard = {"messages": 0, "instances": fleet.instances}
        cpu = [observer.call("received", **heard)["cpu"] for observer in observers]
        after, spent, took = _counts(monitor), processor.spent() - spent, time.monotonic() - started
    return {
        "messages to the broker": (after["in_msgs"] - before["in_msgs"]) / took,
        "messages from the broker": (after["out_msgs"] - before["out_msgs"]) / took,
        "payload to the broker": (after["in_bytes"] - before["in_bytes"]) / took,
        "payload from the broker": (after["out_bytes"] - before["out_bytes"]) / took,
        "CPU of the provider": living / took * 100,
        "CPU of an observer": sum(cpu) / len(cpu) / took * 100,
        "CPU of the broker": spent / took * 100,
    }


def _counts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/varz", timeout=10) as answer:
        counts: dict[str, int] = json.load(answer)
        return counts
