"""The first lookup of a name: one ping, and the first answer to it.

The floor is a bare request and its reply: with nats-py's `request`, and with redis-py by a
publish there and a publish back to a subscription that stands already.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from aioregistry import Registry
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL, announcements, service_name
from benchmarks.latency import quantile
from benchmarks.plan import Plan
from benchmarks.processes import Part

_PAUSE = 0.002
_NAMES = 300


class Provider:
    """Provides every name once."""

    def __init__(self, url: str) -> None:
        self._registry = Registry(url, prefix="ours", ttl=TTL)

    async def open(self) -> None:
        await self._registry.start()
        names = [service_name(number, _NAMES) for number in range(_NAMES)]
        await asyncio.gather(*[self._registry.register(name, "10.0.0.1:80") for name in names])

    async def close(self) -> None:
        await self._registry.aclose()


class Caller:
    """Looks each name up once."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        """There is nothing to prepare: each run has a registry of its own."""

    async def run(self, count: int) -> list[float]:
        """Milliseconds for each lookup."""
        took: list[float] = []
        async with Registry(self._url, prefix="ours", lookup_timeout=2.0) as registry:
            for number in range(count):
                name = service_name(number, _NAMES)
                started = time.monotonic_ns()
                await registry.get_service(name)
                took.append((time.monotonic_ns() - started) / 1e6)
                await asyncio.sleep(_PAUSE)
        return took


class BareResponder:
    """Answers each request with an announcement."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._answer = announcements("floor", 1, 1)[0][1]
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            await client.subscribe("floor.ping", cb=self._respond)
            await client.flush()
            return
        connection: Any = redis_client(self._url)
        pubsub = connection.pubsub()
        await pubsub.subscribe("floor.ping")
        self._task = asyncio.create_task(self._listen(connection, pubsub))

    async def _respond(self, message: Any) -> None:
        await message.respond(self._answer)

    async def _listen(self, connection: Any, pubsub: Any) -> None:
        async for message in pubsub.listen():
            if message["type"] == "message":
                await connection.publish("floor.answer", self._answer)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class BareCaller:
    """Requests, and waits for each reply."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def open(self) -> None:
        """There is nothing to prepare: each run has a connection of its own."""

    async def run(self, count: int) -> list[float]:
        """Milliseconds for each request."""
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            await client.request("floor.ping", b"")  # which subscribes to the replies
            took = [await _timed(client.request("floor.ping", b"")) for _ in range(count)]
            await client.close()
            return took
        async with redis_client(self._url) as connection:
            pubsub: Any = connection.pubsub()
            await pubsub.subscribe("floor.answer")
            answers = pubsub.listen()
            await anext(answers)  # the confirmation
            took = [await _timed(_request(connection, answers)) for _ in range(count)]
            await pubsub.aclose()
        return took


async def _request(connection: Any, answers: Any) -> None:
    await connection.publish("floor.ping", b"")
    await anext(answers)


async def _timed(work: Any) -> float:
    started = time.monotonic_ns()
    await work
    took = (time.monotonic_ns() - started) / 1e6
    await asyncio.sleep(_PAUSE)
    return took


def cold_lookups(plan: Plan) -> Iterator[Figure]:
    """A lookup of a name that nobody here has asked for."""
    count = 100 if plan.quick else _NAMES
    for kind, url in plan.brokers.items():
        with contextlib.ExitStack() as stack:
            _, caller, _, bare = parts = [
                stack.enter_context(Part(each, url=url))
                for each in (Provider, Caller, BareResponder, BareCaller)
            ]
            for part in parts:
                part.call("open")
            rounds: list[tuple[list[float], list[float]]] = [
                (caller.call("run", count=count), bare.call("run", count=count))
                for _ in range(plan.rounds)
            ]
        for percent in (50, 99):
            yield Figure(
                f"{kind}: cold lookup, p{percent}",
                "ms",
                [quantile(ours, percent) for ours, _ in rounds],
                [quantile(floor, percent) for _, floor in rounds],
                "bare request and reply",
                Budget(1.3) if percent == 50 else None,
            )
