"""A server that does what a test wants, and a client of each kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import httpx
import httpx2

from aioregistry import Registry
from aioregistry.integrations import aiohttp as for_aiohttp
from aioregistry.integrations import httpx as for_httpx
from aioregistry.integrations import httpx2 as for_httpx2
from tests.tools import eventually


@dataclass
class Received:
    """A request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone: Callable[[], bool]
    """Whether the client has closed the connection."""


Behaviour = Callable[["Received", asyncio.StreamWriter], Awaitable[object]]


def response(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines]
    return "\r\n".join((*head, "", "")).encode() + body


@dataclass
class Instance:
    """A server: raw, so that it can misbehave in every way."""

    tag: str
    behaviour: Behaviour | None = None
    context: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    received: list[Received] = field(default_factory=list[Received])
    connections: int = 0
    open: int = 0
    address: str = ""
    server: asyncio.Server | None = None

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.context)
        port = self.server.sockets[0].getsockname()[1]
        self.address = f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def refuse(self) -> None:
        """Take no more connections."""
        assert self.server is not None
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    request = await _read(reader)
                    self.received.append(request)
                    await (self.behaviour or self._echo)(request, writer)
                    await writer.drain()
        finally:
            self.open -= 1
            writer.close()

    async def _echo(self, request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(json.dumps({"tag": self.tag, "path": request.path}).encode()))


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split()
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    body = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, path, headers, body, reader.at_eof)


async def hang_up(_: Received, writer: asyncio.StreamWriter) -> None:
    """Close the connection instead of answering."""
    writer.close()


async def never(request: Received, writer: asyncio.StreamWriter) -> None:
    """Say nothing, until the client goes."""
    await eventually(request.gone, 30)
    writer.close()


async def half(_: Received, writer: asyncio.StreamWriter) -> None:
    """Die in the middle of the body."""
    writer.write(response(b"0123456789")[:-5])
    await writer.drain()
    await asyncio.sleep(0.01)
    writer.transport.abort()


async def add_a_slash(request: Received, writer: asyncio.StreamWriter) -> None:
    """Redirect as frameworks do, with the scheme of a server that has TLS."""
    if request.path.endswith("/"):
        writer.write(response(b"there"))
        return
    location = f"location: https://{request.headers['host']}{request.path}/"
    writer.write(response(b"", location, status="307 Temporary Redirect"))


async def unwell(_: Received, writer: asyncio.StreamWriter) -> None:
    """Answer 503."""
    writer.write(response(b"no", status="503 Service Unavailable"))


@asynccontextmanager
async def running(*instances: Instance) -> AsyncGenerator[None]:
    for instance in instances:
        await instance.start()
    try:
        yield
    finally:
        for instance in instances:
            assert instance.server is not None
            instance.server.close()


@dataclass
class Answer:
    """A response, whichever client got it."""

    status: int
    body: bytes
    url: str
    service: str

    @property
    def tag(self) -> str:
        tag: str = json.loads(self.body)["tag"]
        return tag


class Client(Protocol):
    """What the tests ask of a client."""

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        """`data`: the body; `headers`; `timeout`: for reading, in seconds."""
        ...

    @asynccontextmanager
    def stream(self, url: str) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """The body of a GET, in chunks."""
        ...


class HttpxClient:
    """Of httpx or httpx2."""

    def __init__(self, client: Any) -> None:
        self.raw = client

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        if "data" in options:
            options["content"] = options.pop("data")
        got = await self.raw.request(method, url, **options)
        service = got.extensions.get("service")
        return Answer(
            got.status_code, got.content, str(got.url), service.address if service else ""
        )

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncGenerator[AsyncGenerator[bytes]]:
        async with self.raw.stream("GET", url) as got:
            yield got.aiter_raw()


class AiohttpClient:
    """Of aiohttp."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.raw = session

    async def request(self, method: str, url: str, **options: Any) -> Answer:
        if "timeout" in options:
            options["timeout"] = aiohttp.ClientTimeout(sock_read=options["timeout"])
        async with self.raw.request(method, url, **options) as got:
            where = got.request_info.url
            return Answer(got.status, await got.read(), str(got.url), f"{where.host}:{where.port}")

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncGenerator[AsyncGenerator[bytes]]:
        async with self.raw.get(url) as got:
            yield _chunks(got)


async def _chunks(got: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    async for chunk in got.content.iter_any():
        yield chunk


@dataclass(frozen=True)
class Kind:
    """A kind of client: how to make one, and what it raises."""

    name: str
    connect: Callable[..., Any]
    not_connected: type[Exception]
    broken: tuple[type[Exception], ...]
    late: type[Exception]
    payload: type[Exception]


@asynccontextmanager
async def _httpx(registry: Registry, **options: Any) -> AsyncGenerator[HttpxClient]:
    transport = for_httpx.RegistryTransport(registry, **options)
    async with httpx.AsyncClient(transport=transport) as client:
        yield HttpxClient(client)


@asynccontextmanager
async def _httpx2(registry: Registry, **options: Any) -> AsyncGenerator[HttpxClient]:
    transport = for_httpx2.RegistryTransport(registry, **options)
    async with httpx2.AsyncClient(transport=transport) as client:
        yield HttpxClient(client)


@asynccontextmanager
async def _aiohttp(registry: Registry, **options: Any) -> AsyncGenerator[AiohttpClient]:
    middleware = for_aiohttp.RegistryMiddleware(registry, **options)
    async with aiohttp.ClientSession(middlewares=[middleware]) as session:
        yield AiohttpClient(session)
    await middleware.aclose()


KINDS = {
    "httpx": Kind(
        "httpx",
        _httpx,
        httpx.ConnectError,
        (httpx.RemoteProtocolError, httpx.ReadError),
        httpx.ReadTimeout,
        httpx.RemoteProtocolError,
    ),
    "httpx2": Kind(
        "httpx2",
        _httpx2,
        httpx2.ConnectError,
        (httpx2.RemoteProtocolError, httpx2.ReadError),
        httpx2.ReadTimeout,
        httpx2.RemoteProtocolError,
    ),
    "aiohttp": Kind(
        "aiohttp",
        _aiohttp,
        aiohttp.ClientConnectorError,
        (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError),
        aiohttp.SocketTimeoutError,
        aiohttp.ClientPayloadError,
    ),
}
