"""Choose among the instances of a service: predicates say which will do, balancers take one.

    python examples/choosing.py

It runs without a broker, on the memory transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Hashable
from contextlib import contextmanager

from aioregistry import (
    Registry,
    Rendezvous,
    Service,
    all_of,
    metadata,
    not_critical,
    version,
)

EUROPE = {"zone": "eu-1"}


def has_room(service: Service) -> bool:
    """A predicate is a function; its answers are kept until the instance changes.

    Metadata is what a peer says, so it may be anything; what a predicate raises, lookups raise.
    """
    try:
        return int(service.metadata.get("free_slots", "0")) > 0
    except ValueError:
        return False


# Made once, so that every lookup asks the same question: its matches are then kept in memory.
SUITABLE = all_of(not_critical, metadata(EUROPE), version(">=1.4,<2"), has_room)


class Fastest:
    """A balancer: takes the instance with the lowest mean latency so far; strangers first."""

    def __init__(self) -> None:
        self._latency: dict[tuple[str, str], float] = {}

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:  # noqa: ARG002 - the protocol's
        return min(services, key=lambda service: self._latency.get(service.key, 0.0))

    @contextmanager
    def timed(self, service: Service) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            self._latency[service.key] = 0.8 * self._latency.get(service.key, took) + 0.2 * took


async def call(service: Service) -> None:
    """In place of a request: the instance on port 8002 is the slow one."""
    await asyncio.sleep(0.02 if service.port == 8002 else 0.001)


async def main() -> None:
    async with Registry("memory://choosing") as registry:
        fleet = (
            ("10.0.0.1:8001", "1.4.0", EUROPE | {"free_slots": "3"}),
            ("10.0.0.2:8002", "1.5.2", EUROPE | {"free_slots": "9"}),
            ("10.0.0.3:8003", "1.5.2", EUROPE | {"free_slots": "0"}),
            ("10.0.0.4:8004", "2.0.0", EUROPE | {"free_slots": "5"}),
            ("10.0.0.5:8005", "1.5.2", {"zone": "us-1", "free_slots": "5"}),
            ("10.0.0.6:8006", "1.5.2", EUROPE | {"free_slots": "plenty"}),
        )
        for address, number, tags in fleet:
            await registry.register("render", address, version=number, metadata=tags)

        suitable = await registry.get_services("render", where=SUITABLE)
        print("suitable:", *(service.address for service in suitable))

        balancer = Fastest()
        for _ in range(5):
            service = await registry.get_service("render", where=SUITABLE, balancer=balancer)
            with balancer.timed(service):
                await call(service)
            print("fastest:", service.address)

        for user in ("ada", "bob", "ada"):  # the same key goes to the same instance
            service = await registry.get_service("render", balancer=Rendezvous(user))
            print(f"{user}:", service.address)


if __name__ == "__main__":
    asyncio.run(main())
