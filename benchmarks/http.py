"""What it costs an HTTP client to have its requests balanced; the floor is the bare client.

Both go to the same three servers, which do as little as a server can, in one process of their
own; the bare client takes the addresses in turn. One request at a time, so that it is the
client that is measured. Each batch is followed by a batch of the floor.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx2

from aioregistry import Registry
from aioregistry.integrations import aiohttp as for_aiohttp
from aioregistry.integrations import httpx as for_httpx
from aioregistry.integrations import httpx2 as for_httpx2
from benchmarks.figures import Figure
from benchmarks.fleet import TTL
from benchmarks.plan import Plan
from benchmarks.processes import Part

CLIENTS = ("httpx", "httpx2", "aiohttp")

_INSTANCES = 3
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"

_Get = Callable[[], Awaitable[object]]


class _Connection(asyncio.Protocol):
    """Answers whatever comes: a GET comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(_ANSWER)


class Servers:
    """The process of the servers."""

    async def open(self) -> list[str]:
        """Start them; returns their addresses."""
        loop = asyncio.get_running_loop()
        self._servers = [
            await loop.create_server(_Connection, "127.0.0.1", 0) for _ in range(_INSTANCES)
        ]
        return [f"127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in self._servers]


class Caller:
    """The process of the clients."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._turns = itertools.cycle(addresses)
        self._registry = Registry("memory://", ttl=TTL)
        self._closing: list[Callable[[], Awaitable[object]]] = []
        self._ways: dict[str, tuple[_Get, _Get]] = {}

    async def open(self) -> None:
        await self._registry.start()
        for address in self._addresses:
            await self._registry.register("orders", address)
        self._ways = {
            "httpx": self._with_httpx(httpx, for_httpx.RegistryTransport(self._registry)),
            "httpx2": self._with_httpx(httpx2, for_httpx2.RegistryTransport(self._registry)),
            "aiohttp": self._with_aiohttp(),
        }

    async def close(self) -> None:
        for close in self._closing:
            await close()
        await self._registry.aclose()

    async def compare(self, client: str, requests: int, rounds: int) -> list[list[float]]:
        """Microseconds for each request, and for each of the bare client, in turn."""
        ours, bare = self._ways[client]
        await _timed(ours, requests)
        await _timed(bare, requests)
        return [[await _timed(ours, requests), await _timed(bare, requests)] for _ in range(rounds)]

    def _with_httpx(self, library: Any, transport: Any) -> tuple[_Get, _Get]:
        ours = library.AsyncClient(transport=transport)
        bare = library.AsyncClient(trust_env=False)
        self._closing += [ours.aclose, bare.aclose]
        turns = self._turns
        return (
            lambda: ours.get("http://orders/items"),
            lambda: bare.get(f"http://{next(turns)}/items"),
        )

    def _with_aiohttp(self) -> tuple[_Get, _Get]:
        middleware = for_aiohttp.RegistryMiddleware(self._registry)
        ours = aiohttp.ClientSession(middlewares=[middleware])
        bare = aiohttp.ClientSession()
        self._closing += [ours.close, bare.close, middleware.aclose]

        async def get(session: aiohttp.ClientSession, url: str) -> bytes:
            async with session.get(url) as response:
                return await response.read()

        turns = self._turns
        return (
            lambda: get(ours, "http://orders/items"),
            lambda: get(bare, f"http://{next(turns)}/items"),
        )


async def _timed(get: _Get, requests: int) -> float:
    started = time.perf_counter_ns()
    for _ in range(requests):
        await get()
    return (time.perf_counter_ns() - started) / requests / 1000


def http_clients(plan: Plan) -> Iterator[Figure]:
    """The price of a request, by client."""
    requests = 100 if plan.quick else 300
    with Part(Servers) as servers:
        addresses = servers.call("open")
        with Part(Caller, addresses=addresses) as caller:
            caller.call("open")
            for client in CLIENTS:
                pairs = caller.call(
                    "compare", client=client, requests=requests, rounds=plan.rounds * 3
                )
                yield Figure(
                    f"{client}: a balanced GET",
                    "µs",
                    [ours for ours, _ in pairs],
                    [bare for _, bare in pairs],
                    f"bare {client}",
                )
