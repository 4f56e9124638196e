"""Lookups that memory answers; the floor is an awaited look into a dict.

They need no broker, so the instances come over the in-memory transport. Each batch of calls
is followed by a batch of the floor in the same process, within milliseconds.

What was found stays until something of the name changes: the first lookup after that goes
through all its instances, and has a line of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from aioregistry import (
    Balancer,
    LeastPending,
    Predicate,
    Random,
    Registration,
    Registry,
    Rendezvous,
    RoundRobin,
    Service,
    Status,
    Weighted,
    metadata,
    passing,
)
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL, instance
from benchmarks.plan import Plan
from benchmarks.processes import Part

_BATCH_SECONDS = 0.005
_MAX_BATCH = 5_000

_HEADLINE = "passing + RoundRobin"
"""What the project has promised something of."""

_LIMIT = 5.0
"""What a lookup among ten thousand may cost, as a multiple of one among a single instance: not
even noise explains more. A look at each of them would be a thousand times as much."""


class Caller:
    """A process that looks services up."""

    def __init__(self, instances: int) -> None:
        self._registry = Registry("memory://", ttl=TTL)
        self._instances = instances
        self._registrations: list[Registration] = []

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe("orders")
        every = [instance(number, 1) for number in range(self._instances)]
        self._registrations = await asyncio.gather(*map(self._registry.register, every))
        found = await self._registry.get_services("orders", minimum=self._instances, timeout=30)
        if len(found) != self._instances:
            raise RuntimeError(f"{len(found)} of {self._instances} instances known")

    async def close(self) -> None:
        await self._registry.aclose()

    async def compare(self, way: str, rounds: int) -> list[list[float]]:
        """Nanoseconds for each call, and for each call of the floor, in turn."""
        ways = self._ways()

        async def ours(calls: int) -> float:
            return self._plain(calls) if way == "cached()" else await self._timed(*ways[way], calls)

        await ours(1)  # the first finds out which instances match
        once = await ours(2)
        calls = min(max(int(_BATCH_SECONDS * 1e9 / once), 2), _MAX_BATCH)
        return [[await ours(calls), await _floor(_MAX_BATCH)] for _ in range(rounds)]

    async def after_change(self, rounds: int) -> list[float]:
        """Nanoseconds for the first call after each change of one instance, of the headline."""
        where, balancer = self._ways()[_HEADLINE]
        registration = self._registrations[0]
        took: list[float] = []
        async with self._registry.watch("orders", include_current=False) as watch:
            for number in range(rounds):
                await registration.set_status(Status.PASSING if number % 2 else Status.WARNING)
                await anext(watch)
                took.append(await self._timed(where, balancer, 1))
        return took

    def _plain(self, calls: int) -> float:
        cached = self._registry.cached
        started = time.perf_counter_ns()
        for _ in range(calls):
            cached("orders")
        return (time.perf_counter_ns() - started) / calls

    async def _timed(self, where: Predicate | None, balancer: Balancer | None, calls: int) -> float:
        get = self._registry.get_service
        started = time.perf_counter_ns()
        for _ in range(calls):
            await get("orders", where=where, balancer=balancer)
        return (time.perf_counter_ns() - started) / calls

    def _ways(self) -> dict[str, tuple[Predicate | None, Balancer | None]]:
        return {
            "default": (None, None),
            _HEADLINE: (passing, RoundRobin()),
            "metadata predicate": (metadata(zone="eu-west-0"), None),
            "Random": (None, Random()),
            "LeastPending": (None, LeastPending()),
            "Weighted": (None, Weighted()),
            "Rendezvous": (None, Rendezvous("customer-42")),
        }


WAYS = (
    "default",
    _HEADLINE,
    "metadata predicate",
    "Random",
    "LeastPending",
    "Weighted",
    "Rendezvous",
    "cached()",
)


async def _floor(calls: int) -> float:
    table = {"orders": instance(0, 1)}

    async def look_up(name: str) -> Service:
        return table[name]

    started = time.perf_counter_ns()
    for _ in range(calls):
        await look_up("orders")
    return (time.perf_counter_ns() - started) / calls


def lookups(plan: Plan) -> Iterator[Figure]:
    """The price of an answer from memory, by the number of instances to choose from."""
    rounds = 3 * plan.rounds if plan.quick else 7 * plan.rounds
    sizes = (1, 10_000) if plan.quick else (1, 10, 1_000, 10_000)
    headline: dict[int, list[float]] = {}
    for size in sizes:
        with Part(Caller, instances=size) as caller:
            caller.call("open")
            for way in WAYS:
                pairs = caller.call("compare", way=way, rounds=rounds)
                ours, floor = zip(*pairs, strict=True)
                if way == _HEADLINE:
                    headline[size] = list(ours)
                budget = Budget(1_000, "figure") if way == _HEADLINE else None
                what = way if way == "cached()" else f"get_service, {way}"
                title = f"{what}, {size:,} instance{'s' * (size > 1)}"
                yield Figure(title, "ns", ours, floor, "awaited dict", budget)
            if size == sizes[-1]:
                changed = caller.call("after_change", rounds=rounds)
                yield Figure(
                    f"get_service, {_HEADLINE}, first after a change, {size:,} instances",
                    "µs",
                    [each / 1e3 for each in changed],
                    [each / 1e3 for each in headline[size]],
                    "further ones",
                )
    few, many = headline[sizes[0]], headline[sizes[-1]]
    title = f"growth: get_service, {_HEADLINE}, {sizes[-1]:,} instances beside one"
    yield Figure(title, "ns", many, few, "one instance", shape=_LIMIT)
