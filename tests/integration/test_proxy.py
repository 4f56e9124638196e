"""The proxy that breaks connections on demand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from tests.tools import eventually, no_new_tasks

from aioregistry.testing import TcpProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A server that sends everything back, and remembers what it got."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                self.got += data
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with no_new_tasks():
        server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
        echo.port = server.sockets[0].getsockname()[1]
        yield echo
        server.close()


@contextlib.asynccontextmanager
async def client(proxy: TcpProxy) -> AsyncGenerator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    yield reader, writer
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def said(streams: Streams, what: bytes) -> bytes:
    reader, writer = streams
    writer.write(what)
    return await asyncio.wait_for(reader.readexactly(len(what)), 5)


async def test_what_goes_in_comes_out(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as one, client(proxy) as other:
        assert proxy.url("nats") == f"nats://127.0.0.1:{proxy.port}"
        assert await said(one, b"one") == b"one"
        assert await said(other, b"x" * 500_000) == b"x" * 500_000
        assert proxy.connections == 2


async def test_what_was_sent_before_the_end_still_arrives(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy:
        async with client(proxy) as (_, writer):
            writer.write(b"x" * 500_000)
        await eventually(lambda: len(echo.got) == 500_000)
        await eventually(lambda: proxy.connections == 0)


async def test_cut_and_restored(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy:
        for _ in range(3):
            async with client(proxy) as streams:
                assert await said(streams, b"hello") == b"hello"
                proxy.cut()
                proxy.cut()  # twice is harmless
                with contextlib.suppress(ConnectionResetError):
                    assert await streams[0].read() == b""
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", proxy.port)
            proxy.restore()
            proxy.restore()


async def test_dropped_connections_may_come_back(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as streams:
        assert await said(streams, b"hello") == b"hello"
        proxy.drop()
        with contextlib.suppress(ConnectionResetError):
            assert await streams[0].read() == b""
        async with client(proxy) as again:
            assert await said(again, b"hello") == b"hello"


async def test_frozen_connections_fill_and_go_on(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as (reader, writer):
        assert await said((reader, writer), b"hello") == b"hello"
        proxy.freeze()
        writer.write(b"x" * 50_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.3)
        assert len(echo.got) == 5
        proxy.thaw()
        assert len(await asyncio.wait_for(reader.readexactly(50_000_000), 30)) == 50_000_000


async def test_frozen_and_cut(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as (reader, writer):
        proxy.freeze()
        writer.write(b"x" * 1000)
        await asyncio.sleep(0.05)
        proxy.cut()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await eventually(lambda: proxy.connections == 0)


async def test_slow(echo: Echo) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as streams:
        proxy.slow(20_000, delay=0.05)
        started = time.monotonic()
        assert await said(streams, b"x" * 2000) == b"x" * 2000
        assert time.monotonic() - started > 0.3  # there and back
        proxy.slow()
        assert await said(streams, b"x" * 500_000) == b"x" * 500_000


@pytest.mark.parametrize("towards_broker", [False, True])
async def test_garbage(echo: Echo, *, towards_broker: bool) -> None:
    async with TcpProxy(echo.port) as proxy, client(proxy) as (reader, writer):
        assert await said((reader, writer), b"hello") == b"hello"
        proxy.corrupt(3, b"#", towards_broker=towards_broker)
        writer.write(b"abcdef")
        assert await asyncio.wait_for(reader.readexactly(7), 5) == b"abc#def"
        assert bytes(echo.got[5:]) == (b"abc#def" if towards_broker else b"abcdef")
        assert await said((reader, writer), b"clean") == b"clean"


async def test_nobody_behind_it() -> None:
    async with TcpProxy(1) as proxy, client(proxy) as (reader, _):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
