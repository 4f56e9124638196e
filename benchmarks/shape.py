"""How the CPU grows with the number of instances, without a broker and within one process.

What is counted in `tests/unit/test_shape.py` (calls, lines, allocations) does not see a scan
that is a single call of something written in C. It shows here: ten times as many must cost
about ten times as much. For being out of shape, and for that alone, figures make a run of the
benchmarks fail, and the limit leaves room for every noise: a cost that grows with the square
meets a hundred.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Callable, Iterator

from aioregistry import EventType, Registry, Service, ServiceEvent, Watch
from aioregistry.announcer import Announcer
from aioregistry.catalogue import Catalogue
from aioregistry.wire import Announcement, decode
from benchmarks.figures import Figure
from benchmarks.fleet import TTL, announcements, instance
from benchmarks.plan import Plan
from benchmarks.polling import until

LIMIT = 30.0
"""What ten times as many may cost, as a multiple."""

_FEW, _MANY = 1_000, 10_000


@functools.cache
def _messages(size: int, names: int) -> list[Announcement]:
    return [decode(payload) for _, payload in announcements("ours", size, names)]


def _learn(size: int, names: int) -> float:
    messages = _messages(size, names)
    catalogue = Catalogue()
    started = time.process_time()
    for message in messages:
        catalogue.announce(message, 0.0)
        catalogue.next_deadline()
    return time.process_time() - started


def _hear(size: int, names: int) -> float:
    messages = _messages(size, names)
    catalogue = Catalogue()
    for message in messages:
        catalogue.announce(message, 0.0)
    started = time.process_time()
    for now in range(1, 6):
        for message in messages:
            catalogue.announce(message, float(now))
    return time.process_time() - started


def _withdraw(size: int, names: int) -> float:
    messages = _messages(size, names)
    catalogue = Catalogue()
    for message in messages:
        catalogue.announce(message, 0.0)
    started = time.process_time()
    for message in messages:
        catalogue.withdraw(message, 1.0)
    return time.process_time() - started


def _beat(size: int, names: int) -> float:
    announcer = Announcer(3.0, random.Random(1))
    services = [instance(number, names) for number in range(size)]
    started = time.process_time()
    for service in services:
        announcer.announce(service, 0.0)
    while (due := announcer.next_deadline()) is not None and due <= 3.0:
        announcer.due(due)
    return time.process_time() - started


def _register_and_see(size: int, names: int) -> float:
    async def work() -> float:
        async with (
            Registry("memory://growth", ttl=TTL) as ours,
            Registry("memory://growth", ttl=TTL) as theirs,
        ):
            services = [instance(number, names) for number in range(size)]
            async with theirs.watch(">"):
                started = time.process_time()
                await asyncio.gather(*map(ours.register, services))
                await until(lambda: theirs.stats().instances == size, 0.0)
                return time.process_time() - started

    return asyncio.run(work())


class _Source:
    """What a watch needs, without a registry."""

    def __init__(self) -> None:
        self.awaited: set[Watch] = set()

    def attach(self, watch: Watch) -> tuple[Service, ...]:
        """Nothing is known when it begins."""
        del watch
        return ()

    def detach(self, watch: Watch) -> None:
        """It is offered nothing but by us."""

    async def observe(self, *patterns: str) -> None:
        """There is no catalogue."""


def _take(size: int, names: int) -> float:
    async def work() -> float:
        async with Watch(_Source(), (">",)) as watch:
            for number in range(size):
                watch.offer(ServiceEvent(EventType.REGISTERED, instance(number, names)))
            started = time.process_time()
            for _ in range(size):
                await anext(watch)
            return time.process_time() - started

    return asyncio.run(work())


WORK: dict[str, Callable[[int, int], float]] = {
    "learned": _learn,
    "heard again, five times": _hear,
    "withdrawn": _withdraw,
    "announced twice": _beat,
    "registered, and seen by a watcher who is stuck": _register_and_see,
    "taken by a watcher who was stuck": _take,
}


def shape(plan: Plan) -> Iterator[Figure]:
    """Ten thousand beside one thousand."""
    for what, work in WORK.items():
        for spread in ("one name", "many names"):
            sizes = [(size, 1 if spread == "one name" else size // 10) for size in (_MANY, _FEW)]
            rounds = range(2 if plan.quick else plan.rounds)
            pairs = [[work(*size) for size in sizes] for _ in rounds]
            many, few = zip(*pairs, strict=True)
            yield Figure(
                f"growth: {_MANY:,} of {spread} {what}",
                "ms",
                [each * 1e3 for each in many],
                [each * 1e3 for each in few],
                "a tenth of them",
                shape=LIMIT,
            )
