"""Lookups that memory answers; the floor is an awaited look into a dict.

They need no broker, so the instances come over the in-memory transport. Each batch of calls
is followed by a batch of the floor in the same process, within milliseconds.
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
    Registry,
    Rendezvous,
    RoundRobin,
    Service,
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


class Caller:
    """A process that looks services up."""

    def __init__(self, instances: int) -> None:
        self._registry = Registry("memory://", ttl=TTL)
        self._instances = instances

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe("orders")
        every = [instance(number, 1) for number in range(self._instances)]
        await asyncio.gather(*map(self._registry.register, every))
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
            "passing + RoundRobin": (passing, RoundRobin()),
            "metadata predicate": (metadata(zone="eu-west-0"), None),
            "Random": (None, Random()),
            "LeastPending": (None, LeastPending()),
            "Weighted": (None, Weighted()),
            "Rendezvous": (None, Rendezvous("customer-42")),
        }


WAYS = (
    "default",
    "passing + RoundRobin",
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
    for size in (1, 10_000) if plan.quick else (1, 10, 1_000, 10_000):
        with Part(Caller, instances=size) as caller:
            caller.call("open")
            for way in WAYS:
                pairs = caller.call("compare", way=way, rounds=rounds)
                ours, floor = zip(*pairs, strict=True)
                budget = Budget(1_000, "figure") if way == "passing + RoundRobin" else None
                what = way if way == "cached()" else f"get_service, {way}"
                title = f"{what}, {size:,} instance{'s' * (size > 1)}"
                yield Figure(title, "ns", ours, floor, "awaited dict", budget)
