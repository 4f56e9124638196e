"""Lookups that memory answers; the floor is an awaited look into a dict.

They need no broker, so the instances come over the in-memory transport. Each batch of calls
is followed by a batch of the floor in the same process, within milliseconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from aioregistry import (
    LeastPending,
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

_Lookup = Callable[[str], Awaitable[object]]


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
        table = {"orders": instance(0, 1)}

        async def floor(name: str) -> Service:
            return table[name]

        async def ours(calls: int) -> float:
            return self._plain(calls) if way == "cached()" else await _timed(ways[way], calls)

        ways = self._ways()
        once = max(await ours(1), await ours(1))
        calls = min(max(int(_BATCH_SECONDS * 1e9 / once), 2), _MAX_BATCH)
        return [[await ours(calls), await _timed(floor, _MAX_BATCH)] for _ in range(rounds)]

    def _plain(self, calls: int) -> float:
        cached = self._registry.cached
        started = time.perf_counter_ns()
        for _ in range(calls):
            cached("orders")
        return (time.perf_counter_ns() - started) / calls

    def _ways(self) -> dict[str, _Lookup]:
        get = self._registry.get_service
        in_zone = metadata(zone="eu-west-0")
        turns = RoundRobin()
        balancers: dict[str, Any] = {
            "Random": Random(),
            "LeastPending": LeastPending(),
            "Weighted": Weighted(),
            "Rendezvous": Rendezvous("customer-42"),
        }

        def with_balancer(balancer: Any) -> _Lookup:
            def look_up(name: str) -> Awaitable[object]:
                return get(name, balancer=balancer)

            return look_up

        def with_both(name: str) -> Awaitable[object]:
            return get(name, where=passing, balancer=turns)

        def by_metadata(name: str) -> Awaitable[object]:
            return get(name, where=in_zone)

        return {
            "default": get,
            "passing + RoundRobin": with_both,
            "metadata predicate": by_metadata,
            **{name: with_balancer(balancer) for name, balancer in balancers.items()},
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


async def _timed(look_up: _Lookup, calls: int) -> float:
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
