"""Losing the link, noticing it, and getting it back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    UP,
    Reports,
    check_delivery,
    collector,
    connected,
    driver_of,
    eventually,
    freeze,
    ignore,
    must_not_arrive,
    served,
)

from aioregistry.errors import TransportError
from aioregistry.testing import TcpProxy
from aioregistry.testing.brokers import Broker
from aioregistry.transports import _nats_wire
from aioregistry.transports.nats import NatsTransport


async def test_a_broker_that_crashes_and_comes_back(broker: Broker) -> None:
    async with connected(broker.url) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("back.*", handler)
        ended = await transport.subscribe("back.>", must_not_arrive)
        await asyncio.to_thread(broker.kill)
        assert "the connection to NATS" in await reports.until(DOWN)
        started = time.monotonic()
        for call in (transport.publish("x", b""), transport.flush(), transport.unheard(["x"])):
            with pytest.raises(TransportError, match="not connected"):
                await call
        assert time.monotonic() - started < 0.1
        await ended.unsubscribe()
        await transport.subscribe("while.down", handler)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("back.again", b"1")
        await transport.publish("while.down", b"2")
        await transport.flush()
        assert sorted(messages) == [("back.again", b"1"), ("while.down", b"2")]


async def test_nothing_published_before_the_loss_comes_late(broker: Broker) -> None:
    """Pitfall 7: the driver would replay what it had kept."""
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("stale", handler)
        await transport.flush()
        await asyncio.to_thread(broker.kill)
        sent = 0
        with contextlib.suppress(TransportError):
            while True:  # as long as nobody has noticed
                await transport.publish("stale", b"")
                sent += 1
                await asyncio.sleep(0)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.flush()
        assert messages == []


async def test_a_frozen_broker_is_noticed_and_welcome_back(broker: Broker) -> None:
    """A half-open link: the socket stays, and nobody answers."""
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("thaw", handler)
        freeze(broker)
        flushing = asyncio.create_task(transport.flush())
        assert "has not answered" in await reports.until(DOWN)
        with pytest.raises(TransportError, match=r"did not answer within 0.2 s"):
            await flushing
        broker.thaw()
        await reports.until(DOWN, UP)
        await transport.publish("thaw", b"1")
        await transport.flush()
        assert messages == [("thaw", b"1")]


async def test_a_frozen_broker_is_noticed_though_somebody_flushes_all_the_time(
    broker: Broker,
) -> None:
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        flushes: list[asyncio.Task[None]] = []
        for _ in range(100):
            if DOWN in [state for state, _ in reports.all]:
                break
            flushes.append(asyncio.create_task(transport.flush()))
            await asyncio.sleep(0.02)
        assert DOWN in [state for state, _ in reports.all]
        assert all(await asyncio.gather(*flushes, return_exceptions=True))
        broker.thaw()


async def test_a_blocked_event_loop_is_no_loss(nats_broker: Broker) -> None:
    async with connected(nats_broker.url, probe_interval=0.05, probe_timeout=0.2) as (
        transport,
        reports,
    ):
        for _ in range(3):
            flushing = asyncio.create_task(transport.flush())
            await asyncio.sleep(0.03)
            time.sleep(0.5)  # noqa: ASYNC251 - the point of the test
            await flushing
        assert reports.all == []


async def test_a_subject_that_is_no_utf8_harms_nobody(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 1: it would end the driver's read loop; so would a header that is none."""
    async with connected(nats_broker.url) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("raw.*", handler)
        await transport.flush()
        with socket.create_connection(("127.0.0.1", nats_broker.port), timeout=5) as stranger:
            stranger.sendall(
                b'CONNECT {"headers":true,"no_responders":true}\r\n'
                b"PUB raw.\xff\xfe 2\r\nhi\r\n"
                b"HPUB raw.odd 14 16\r\nNATS/1.0 \xff\r\n\r\nhi\r\n"
                b"HPUB raw.\xff 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
                b"PUB raw.end 0\r\n\r\n"
            )
            await eventually(lambda: ("raw.end", b"") in messages)
        assert messages == [("raw.odd", b"hi"), ("raw.end", b"")]
        assert reports.all == []
    assert caplog.text.count("that is not UTF-8") == 1  # one line a minute


@pytest.mark.usefixtures("plain_driver")
async def test_a_dead_read_loop_is_noticed(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 1: one subject that is no UTF-8, and the driver hears nothing any more."""
    async with connected(nats_broker.url, probe_interval=0.1, probe_timeout=0.2) as (
        transport,
        reports,
    ):
        await transport.subscribe("raw.*", ignore)
        await transport.flush()
        _, writer = await asyncio.open_connection("127.0.0.1", nats_broker.port)
        writer.write(b"CONNECT {}\r\nPUB raw.\xff\xfe 0\r\n\r\n")
        await reports.until(DOWN)
        await reports.until(DOWN, UP)
        await check_delivery(transport)
        writer.close()
        await writer.wait_closed()


async def test_a_late_echo_harms_nothing(broker: Broker) -> None:
    """Pitfall 1: a late PONG would end the driver's read loop."""
    async with connected(broker.url, probe_interval=60, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        with pytest.raises(TransportError, match="did not answer"):
            await transport.flush()
        broker.thaw()
        await transport.flush()
        await check_delivery(transport)
        assert reports.all == []


async def test_closed_for_good_by_an_error_of_the_server(broker: Broker) -> None:
    """Pitfall 2: the driver gives up after most -ERR; here one for a protocol line too long."""
    async with connected(broker.url) as (transport, reports):
        driver_of(transport)._transport.write(b"PUB " + b"x" * 5000 + b" 0\r\n\r\n")
        reason = await reports.until(DOWN)
        assert "maximum control line exceeded" in reason
        await reports.until(DOWN, UP)
        await check_delivery(transport)


async def test_refused_after_a_restart_it_keeps_trying_and_says_why(
    tmp_path: Path, broker: Broker
) -> None:
    async with connected(broker.url) as (transport, reports):
        await asyncio.to_thread(broker.stop)
        await reports.until(DOWN)
        config = tmp_path / "nats.conf"
        config.write_text("authorization { user: u, password: p }")
        async with served(config, port=broker.port):
            assert "refuses the credentials" in await reports.until(DOWN, DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, DOWN, UP)
        await check_delivery(transport)


async def test_too_many_connections(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_connections: 1")

    async def let_in(transport: NatsTransport) -> bool:
        with contextlib.suppress(TransportError):
            await transport.connect(Reports())
            return True
        return False

    async with served(config) as broker:
        first, late = NatsTransport(broker.url), NatsTransport(broker.url)
        await eventually(lambda: let_in(first))  # the server may not have forgotten its starter
        with pytest.raises(TransportError, match="cannot connect") as refusal:
            await late.connect(Reports())
        assert not refusal.value.permanent
        await first.aclose()
        await eventually(lambda: let_in(late))
        await late.aclose()


async def test_the_servers_of_a_cluster_are_remembered(tmp_path: Path) -> None:
    """The one that was configured dies, and stays dead."""
    ports: list[int] = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    config = tmp_path / "nats.conf"
    config.write_text("authorization { user: u, password: p }")

    def member(index: int) -> AbstractAsyncContextManager[Broker]:
        routes = f"nats://127.0.0.1:{ports[1 - index]}"
        name = ("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{ports[index]}")
        return served(config, *name, "--routes", routes)

    async with member(0) as first, member(1) as second:
        login = first.url.replace("//", "//u:p@")

        async def knows_both() -> bool:
            async with connected(login) as (transport, _):
                return bool(driver_of(transport).discovered_servers)

        await eventually(knows_both)
        async with connected(login) as (transport, reports):
            await asyncio.to_thread(first.kill)
            await reports.until(DOWN)
            assert second.url in await reports.until(DOWN, UP)
            await check_delivery(transport)


@pytest.mark.usefixtures("plain_driver")
async def test_dropped_messages_are_a_reason_to_resync(
    nats_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 10: the driver drops the newest messages when its queue is full."""
    monkeypatch.setattr(_nats_wire, "_PENDING_MESSAGES", 10)
    async with (
        connected(nats_broker.url, probe_interval=0.1) as (transport, reports),
        connected(nats_broker.url) as (sender, _),
    ):
        messages, handler = collector()
        await transport.subscribe("slow", handler)
        await transport.flush()
        for _ in range(3000):
            await sender.publish("slow", b"")
        reason = await reports.until(DOWN, UP)
        assert "were dropped" in reason
        assert len(messages) < 3000
        await transport.flush()
        await asyncio.sleep(1.3)  # nothing was dropped since: nothing more to report
        assert reports.states[-2:] == [DOWN, UP]
        assert len(reports.states) <= 4


async def test_what_is_ended_while_a_link_is_opened_does_not_come_with_it(
    nats_broker: Broker,
) -> None:
    """The broker would go on to send it, and tell everybody that somebody listens."""
    async with TcpProxy(nats_broker.port) as proxy, connected(nats_broker.url) as (other, _):

        async def has_it() -> bool:
            return not await other.unheard(["ended.early"])

        transport = NatsTransport(proxy.url("nats"))
        subscription = await transport.subscribe("ended.early", must_not_arrive)
        proxy.slow(1_000_000, delay=0.2)  # so that the echo is on its way for a while
        connecting = asyncio.create_task(transport.connect(Reports()))
        await eventually(has_it)
        assert not connecting.done()
        await subscription.unsubscribe()
        await connecting
        proxy.slow()
        await transport.flush()
        heard = await has_it()
        await transport.aclose()
        assert not heard


async def test_what_is_ended_while_a_reconnect_is_under_way_does_not_come_back(
    nats_broker: Broker,
) -> None:
    async with (
        TcpProxy(nats_broker.port) as proxy,
        connected(nats_broker.url) as (other, _),
        connected(proxy.url("nats")) as (transport, reports),
    ):

        async def has_it() -> bool:
            return not await other.unheard(["ended.again"])

        async def has_it_not() -> bool:
            return not await has_it()

        subscription = await transport.subscribe("ended.again", must_not_arrive)
        await transport.flush()
        proxy.slow(1_000_000, delay=0.2)
        proxy.cut()
        await reports.until(DOWN)
        await eventually(has_it_not)
        proxy.restore()
        await eventually(has_it)
        assert reports.states == [DOWN]
        await subscription.unsubscribe()
        await reports.until(DOWN, UP)
        proxy.slow()
        await transport.flush()
        assert await has_it_not()


async def test_a_server_that_left_the_cluster_is_not_tried(tmp_path: Path) -> None:
    """Its address may belong to somebody else by now, or to nobody: then it takes two seconds."""
    ports: list[int] = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    config = tmp_path / "nats.conf"
    config.write_text("")

    def member(index: int) -> AbstractAsyncContextManager[Broker]:
        name = ("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{ports[index]}")
        routes = ("--routes", f"nats://127.0.0.1:{ports[0]}") if index else ()
        return served(config, *name, *routes)

    callers: list[object] = []

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer)
        await reader.read()
        writer.close()

    async with (
        member(0) as first,
        connected(first.url, dont_randomize=True) as (transport, reports),
    ):

        def known() -> set[str]:
            link: Any = transport
            return {server.netloc for server in link._link.discovered}

        async with member(1) as second:
            await eventually(lambda: f"127.0.0.1:{second.port}" in known())
        stranger = await asyncio.start_server(say_nothing, "127.0.0.1", second.port)
        async with stranger, member(2) as third:
            await eventually(lambda: f"127.0.0.1:{third.port}" in known())
            await asyncio.to_thread(first.kill)
            assert third.url in await reports.until(DOWN, UP)
            assert callers == []
