"""Paths that are slow, and links that are full."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    SLOW,
    UP,
    Reports,
    borrowing,
    check_delivery,
    collector,
    connected,
    eventually,
    fill,
    flushed,
    freeze,
    ignore,
)

from aioregistry.errors import TransportError
from aioregistry.testing import TcpProxy
from aioregistry.testing.brokers import Broker
from aioregistry.transports import _nats_driver
from aioregistry.transports.nats import NatsTransport


@pytest.mark.parametrize("whose", ["own", "own, by the driver", "borrowed"])
async def test_a_burst_that_takes_longer_than_an_echo_may_is_no_loss(
    nats_broker: Broker, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system takes it all at once, and nothing comes back for a long time."""
    times: dict[str, Any] = {"probe_interval": 0.1, "probe_timeout": 0.4}
    if whose == "own, by the driver":
        monkeypatch.setattr(_nats_driver, "Parser", object)
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(nats_broker.port))
        if whose == "borrowed":
            times["client"] = await stack.enter_async_context(borrowing(proxy.url("nats")))
        else:
            times["servers"] = proxy.url("nats")
        transport, reports = await stack.enter_async_context(connected(**times))
        proxy.slow(SLOW)
        for _ in range(3000):
            await transport.publish("burst", b"x" * 300)
        await eventually(lambda: flushed(transport))
        proxy.slow()
        assert reports.all == []


async def test_many_subscriptions_come_back_over_a_slow_path(nats_broker: Broker) -> None:
    async with TcpProxy(nats_broker.port) as proxy:
        url = proxy.url("nats")
        async with connected(url, probe_interval=0.1, probe_timeout=0.4) as (transport, reports):
            messages, handler = collector()
            for number in range(25_000):
                await transport.subscribe(f"slow.path.{number}", ignore)
            await transport.subscribe("slow.path.last", handler)
            await transport.flush()
            proxy.slow(SLOW)
            proxy.drop()
            await reports.until(DOWN, UP)
            proxy.slow()
            await transport.publish("slow.path.last", b"")
            await transport.flush()
            assert messages == [("slow.path.last", b"")]
            assert reports.states == [DOWN, UP]


async def only_talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A NATS server that answers for a moment, and then only talks."""
    writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1000,"headers":true}\r\n')
    heard = 0
    while heard < 5 and (line := await reader.readline()):
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
        elif line.startswith(b"PUB _INBOX."):
            heard += 1
            writer.write(b"MSG %b 1 0\r\n\r\n" % line.split()[1])
    with contextlib.suppress(OSError):
        while not writer.is_closing():
            writer.write(b"+OK\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
    writer.close()


async def test_a_link_that_is_stuck_in_one_direction_is_noticed() -> None:
    async with await asyncio.start_server(only_talking, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connected(url, probe_interval=0.05, probe_timeout=0.1) as (_, reports):
            started = time.monotonic()
            assert "has not answered 2 times" in await reports.until(DOWN)
            assert time.monotonic() - started < 3
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


@pytest.mark.parametrize("whose", ["own", "borrowed"])
async def test_a_full_link_refuses_and_never_hangs(broker: Broker, whose: str) -> None:
    """Pitfalls 3, 4 and 9: a half-open link whose buffers are full."""
    async with contextlib.AsyncExitStack() as stack:
        if whose == "borrowed":
            client = await stack.enter_async_context(borrowing(broker.url))
            transport = NatsTransport(client=client, probe_interval=60)
        else:
            transport = NatsTransport(broker.url, probe_interval=60)
        await transport.connect(Reports())
        freeze(broker)
        await fill(transport)
        await fill(transport)
        publishing = asyncio.create_task(publish_stubbornly(transport))
        await asyncio.sleep(0.05)
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=1)
        assert publishing.cancelled()
        for number in range(1500):  # more than the driver's queue of flushes takes
            with contextlib.suppress(TransportError):
                async with asyncio.timeout(1):
                    await transport.subscribe(f"full.{number}", ignore)
        started = time.monotonic()
        await transport.aclose()
        assert time.monotonic() - started < 2
        broker.thaw()


async def publish_stubbornly(transport: NatsTransport) -> None:
    while True:
        with contextlib.suppress(TransportError):
            await transport.publish("full", b"x" * 1000)
        await asyncio.sleep(0)


async def test_a_full_link_is_replaced_and_leaves_nothing(broker: Broker) -> None:
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        await fill(transport)
        await reports.until(DOWN)
        broker.thaw()
        await reports.until(DOWN, UP)
        await check_delivery(transport)


async def test_a_crash_of_a_full_broker_leaves_nothing(broker: Broker) -> None:
    """The driver fails half-way through its own clean-up when it still has data to send."""
    tasks = asyncio.all_tasks()
    async with connected(broker.url) as (transport, reports):
        await transport.subscribe("crash", ignore)
        freeze(broker)
        await fill(transport)
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await check_delivery(transport)
    assert asyncio.all_tasks() == tasks


async def test_a_long_burst_is_no_congestion(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        for _ in range(20_000):
            await transport.publish("burst", b"x" * 1000)
        await transport.flush()


async def test_a_large_burst_that_takes_longer_than_an_echo_may_is_no_loss(
    nats_broker: Broker,
) -> None:
    """More than the buffers of the operating system take: most of it waits in the process."""
    async with (
        TcpProxy(nats_broker.port) as proxy,
        connected(proxy.url("nats"), probe_interval=0.1, probe_timeout=0.4) as (transport, reports),
    ):
        proxy.slow(SLOW)
        for _ in range(25_000):
            await transport.publish("burst", b"x" * 300)
        for _ in range(100):
            if reports.all or await flushed(transport):
                break
        proxy.slow()
        assert reports.all == []
