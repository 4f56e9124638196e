"""The Redis transport over Sentinel, some of whose processes are gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.sentinel import Sentinel

from aioregistry.testing.brokers import (
    Broker,
    _redis_binary,  # pyright: ignore[reportPrivateUsage] - as a Sentinel it is started otherwise
    redis_server,
    unused_port,
)
from aioregistry.transports.base import LinkState
from aioregistry.transports.redis import RedisTransport

Untyped: Any = Sentinel  # partly untyped


UP, DOWN = LinkState.CONNECTED, LinkState.DISCONNECTED


@contextlib.asynccontextmanager
async def sentinel_of(primary: Broker, folder: Path) -> AsyncGenerator[Broker, None]:
    """A Sentinel that watches over one server."""

    def start() -> Broker:
        port = unused_port()
        config = folder / f"sentinel-{port}.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        )
        command = (_redis_binary(), str(config), "--sentinel")
        broker = Broker(command, "redis", port, (b"+PONG",))
        broker.start()
        return broker

    broker = await asyncio.to_thread(start)
    try:
        yield broker
    finally:
        await asyncio.to_thread(broker.stop)


@contextlib.asynccontextmanager
async def serving() -> AsyncGenerator[Broker, None]:
    server = redis_server()
    broker = await asyncio.to_thread(server.__enter__)
    try:
        yield broker
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@pytest.mark.parametrize("gone", ["hangs", "refuses"])
async def test_one_sentinel_of_two_is_gone(tmp_path: Path, gone: str) -> None:
    """As with a machine that dies, with a Sentinel and the primary on it."""
    async with (
        serving() as broker,
        sentinel_of(broker, tmp_path) as first,
        sentinel_of(broker, tmp_path) as second,
    ):
        sentinel: Any = Untyped([("127.0.0.1", first.port), ("127.0.0.1", second.port)])
        states: asyncio.Queue[LinkState] = asyncio.Queue()
        client = sentinel.master_for("main")
        transport = RedisTransport(client=client)
        await transport.connect(lambda state, _reason: states.put_nowait(state))
        if gone == "hangs":
            first.freeze()
        else:
            await asyncio.to_thread(first.kill)
        try:
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(20):
                assert await states.get() is DOWN
                while await states.get() is not UP:
                    pass
        finally:
            await transport.aclose()
            await client.aclose()
            await sentinel.aclose()
