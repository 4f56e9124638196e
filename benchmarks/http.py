"""What it costs an HTTP client to have its requests balanced, and what it gains.

The floor is the bare client, which takes the addresses in turn. Both go to the same three
servers, which do as little as a server can, in one process of their own. One request at a
time, so that it is the client that is measured: by the clock, and by the CPU time of its
process, which a busy machine disturbs less. Small batches of both alternate.

Then a rolling restart of three services under constant load, with the defaults that users get:
how many POSTs fail, which nobody may send again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import httpx2
from aiohttp import web

from aioregistry import Registry, free_port
from aioregistry.integrations import aiohttp as for_aiohttp
from aioregistry.integrations import httpx as for_httpx
from aioregistry.integrations import httpx2 as for_httpx2
from aioregistry.integrations.aiohttp_server import REGISTRY, register, serve
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import TTL
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

CLIENTS = ("httpx", "httpx2", "aiohttp")

_INSTANCES = 3
_BATCH = 25
_SENDERS = 4
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

    async def compare(self, client: str, batches: int, rounds: int) -> list[list[list[float]]]:
        """For each round: what a request takes, and what one of the bare client does.

        Each is microseconds by the clock, and of CPU time.
        """
        ours, bare = self._ways[client]
        await self._round(ours, bare, 2)
        return [await self._round(ours, bare, batches) for _ in range(rounds)]

    async def _round(self, ours: _Get, bare: _Get, batches: int) -> list[list[float]]:
        spent = [[0.0, 0.0], [0.0, 0.0]]
        for _ in range(batches):
            for total, get in zip(spent, (ours, bare), strict=True):
                clock, cpu = await _timed(get)
                total[0] += clock / batches
                total[1] += cpu / batches
        return spent

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


async def _timed(get: _Get) -> tuple[float, float]:
    """Microseconds for each request, by the clock and of CPU time."""
    started, used = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(_BATCH):
        await get()
    scale = 1000 * _BATCH
    return (time.perf_counter_ns() - started) / scale, (time.process_time_ns() - used) / scale


class Provider:
    """The process of one service."""

    def __init__(self, broker: str, port: int) -> None:
        self._broker = broker
        self._port = port
        self._stop = asyncio.Event()

    async def open(self) -> None:
        """Serve, and return when the service is announced."""
        app = web.Application()
        app.cleanup_ctx.append(register(self._broker, "orders"))
        app.router.add_post("/items", _answer)
        where: Any = {"host": "127.0.0.1", "port": self._port, "access_log": None}
        self._serving = asyncio.create_task(serve(app, stop=self._stop, **where))
        await until(lambda: bool((registry := app.get(REGISTRY)) and registry.registered))

    async def close(self) -> None:
        """Withdraw, drain and stop."""
        self._stop.set()
        await self._serving


async def _answer(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(text="ok")


class Load:
    """The process that sends POSTs all the time, balanced and bare."""

    def __init__(self, broker: str, addresses: list[str]) -> None:
        self._registry = Registry(broker)
        self._addresses = addresses
        self._over = False

    async def start(self) -> None:
        """Begin, when every instance is known."""
        await self._registry.start()
        await self._registry.get_services("orders", minimum=len(self._addresses), timeout=30)
        balanced = httpx.AsyncClient(transport=for_httpx.RegistryTransport(self._registry))
        bare = httpx.AsyncClient(trust_env=False)
        urls = itertools.cycle([f"http://{address}/items" for address in self._addresses])
        ways = [(balanced, itertools.repeat("http://orders/items")), (bare, urls)]
        self._work = [
            asyncio.create_task(self._post(*way)) for way in ways for _ in range(_SENDERS)
        ]
        self._clients = [balanced, bare]

    async def stop(self) -> list[float]:
        """End; returns how many of a thousand have failed, balanced and bare."""
        self._over = True
        counts = await asyncio.gather(*self._work)
        for client in self._clients:
            await client.aclose()
        await self._registry.aclose()
        shares: list[float] = []
        for some in (counts[:_SENDERS], counts[_SENDERS:]):
            sent, failed = (sum(column) for column in zip(*some, strict=True))
            shares.append(1000 * failed / sent)
        return shares

    async def _post(self, client: httpx.AsyncClient, urls: Iterator[str]) -> tuple[int, int]:
        """How many were sent, and how many failed."""
        sent = failed = 0
        while not self._over:
            sent += 1
            try:
                await client.post(next(urls), content=b"one", timeout=30)
            except httpx.TransportError:
                failed += 1
                await asyncio.sleep(0.01)  # else a closed port would be a million failures
        return sent, failed


def _rolling_restart(broker: str) -> tuple[float, float]:
    """How many POSTs of a thousand fail, balanced and bare."""
    ports = [free_port() for _ in range(_INSTANCES)]
    with contextlib.ExitStack() as stack:
        providers = [stack.enter_context(_provider(broker, port)) for port in ports]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        load = stack.enter_context(Part(Load, broker=broker, addresses=addresses))
        load.call("start")
        for provider, port in zip(providers, ports, strict=True):
            provider.__exit__()  # it withdraws, drains and ends
            stack.enter_context(_provider(broker, port))
        balanced, bare = load.call("stop")
    return balanced, bare


def _provider(broker: str, port: int) -> Part:
    part = Part(Provider, broker=broker, port=port)
    part.call("open")
    return part


def http_clients(plan: Plan) -> Iterator[Figure]:
    """The price of a request, by client; and what a rolling restart costs."""
    batches = 4 if plan.quick else 12
    with Part(Servers) as servers:
        addresses = servers.call("open")
        with Part(Caller, addresses=addresses) as caller:
            caller.call("open")
            for client in CLIENTS:
                rounds = caller.call(
                    "compare", client=client, batches=batches, rounds=plan.rounds * 3
                )
                for place, kind in enumerate(("", ", CPU time")):
                    yield Figure(
                        f"{client}: a balanced GET{kind}",
                        "µs",
                        [ours[place] for ours, _ in rounds],
                        [bare[place] for _, bare in rounds],
                        f"bare {client}",
                    )
    restarts = [_rolling_restart(plan.brokers["nats"]) for _ in range(1 if plan.quick else 3)]
    yield Figure(
        "httpx: POSTs that fail in a rolling restart",
        "of 1,000",
        [balanced for balanced, _ in restarts],
        [bare for _, bare in restarts],
        "bare httpx",
        Budget(0.0, "figure"),
    )
