"""Clients that the application has lent."""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import Any

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    UP,
    Message,
    Reports,
    borrowing,
    check_delivery,
    collector,
    connected,
    eventually,
    ignore,
    must_not_arrive,
)

from aioregistry import Registry
from aioregistry.errors import TransportError
from aioregistry.testing import TcpProxy
from aioregistry.testing.brokers import Broker
from aioregistry.transports.base import LinkState
from aioregistry.transports.nats import NatsTransport


def watched(client: Any) -> tuple[Any, ...]:
    """What must not change in a borrowed client."""
    return client._error_cb, client._closed_cb, client._disconnected_cb, dict(client._subs)


async def test_a_borrowed_client_stays_open_and_is_left_as_it_was(nats_broker: Broker) -> None:
    async with borrowing(nats_broker.url) as client:
        callbacks, tasks = watched(client), asyncio.all_tasks()
        async with connected(client=client) as (transport, _):
            assert transport.address == nats_broker.url
            await check_delivery(transport)
            assert await transport.unheard(["nobody"]) == {"nobody"}
            await transport.subscribe("left", must_not_arrive)
        assert asyncio.all_tasks() == tasks
        assert client.is_connected
        assert watched(client) == callbacks
        await client.publish("left", b"")
        await client.flush()


@pytest.mark.parametrize(("queue", "names"), [(1024, 2000), (100, 3000)])
async def test_a_borrowed_client_takes_many_subscriptions_at_once(
    broker: Broker, queue: int, names: int
) -> None:
    """Its queue of flushes is full only because the event loop gave it no turn."""
    async with (
        borrowing(broker.url, flusher_queue_size=queue) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        last, handler = collector()
        made = [await transport.subscribe(f"many.{number}", ignore) for number in range(names)]
        await transport.subscribe("many.last", handler)
        await transport.flush()
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("many.last", b"")
        await transport.flush()
        assert last == [("many.last", b"")]
        for subscription in made:
            await subscription.unsubscribe()
        assert len(watched(client)[-1]) == 2  # the last one, and the inbox
        assert reports.states == [DOWN, UP]


async def test_what_is_subscribed_to_while_a_link_breathes_comes_into_force(
    broker: Broker,
) -> None:
    async with (
        borrowing(broker.url, flusher_queue_size=10) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        for number in range(500):
            await transport.subscribe(f"many.{number}", ignore)
        late: dict[str, list[Message]] = {}
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await eventually(lambda: client.is_connected)
        while reports.states == [DOWN]:
            await asyncio.sleep(0)
            for _ in range(3):
                subject = f"late.{len(late)}"
                late[subject], handler = collector()
                await transport.subscribe(subject, handler)
        for subject in late:
            await transport.publish(subject, b"")
        await transport.flush()
        assert [subject for subject in late if not late[subject]] == []


async def test_two_transports_may_borrow_one_client(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client) as (one, _),
        connected(client=client) as (other, _),
    ):
        await check_delivery(one)
        await check_delivery(other)
        await one.aclose()
        await check_delivery(other)


async def test_a_borrowed_client_that_reconnects(broker: Broker) -> None:
    async with (
        borrowing(broker.url) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        messages, handler = collector()
        await transport.subscribe("borrowed", handler)
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        with pytest.raises(TransportError, match="not connected"):
            await transport.publish("borrowed", b"stale")
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("borrowed", b"1")
        await transport.flush()
        assert messages == [("borrowed", b"1")]


async def test_a_reconnect_between_two_looks_is_reported(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=2) as (transport, reports),
    ):
        await client.force_reconnect()
        await eventually(lambda: client.stats["reconnects"] == 1)
        assert "reconnected" in (await reports.until(DOWN, UP), reports.all[0][1])[1]
        await check_delivery(transport)


async def test_a_borrowed_client_that_is_closed(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        await client.close()
        assert "closed for good; make a new NatsTransport" in await reports.until(DOWN)
        with pytest.raises(TransportError, match="not connected"):
            await transport.publish("x", b"")
        again = NatsTransport(client=client)
        with pytest.raises(TransportError, match="closed for good"):
            await again.connect(Reports())
        await again.aclose()


async def test_a_borrowed_client_with_a_dead_read_loop(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=0.1, probe_timeout=0.2) as (transport, reports),
    ):
        await transport.subscribe("raw2.*", ignore)
        await transport.flush()
        _, writer = await asyncio.open_connection("127.0.0.1", nats_broker.port)
        writer.write(b"CONNECT {}\r\nPUB raw2.\xff\xfe 0\r\n\r\n")
        assert "is stuck: reconnect it" in await reports.until(DOWN)
        await client.force_reconnect()
        await reports.until(DOWN, UP)
        await check_delivery(transport)
        writer.close()
        await writer.wait_closed()


async def test_a_borrowed_client_without_echo_is_refused(nats_broker: Broker) -> None:
    async with borrowing(nats_broker.url, no_echo=True) as client:
        transport = NatsTransport(client=client)
        with pytest.raises(TransportError, match="no_echo=True") as refusal:
            await transport.connect(Reports())
        assert refusal.value.permanent
        await transport.aclose()


async def test_missing_permissions_of_a_borrowed_client(restricted_broker: Broker) -> None:
    async with (
        borrowing(restricted_broker.url, user="some", password="some") as client,
        connected(client=client) as (transport, _),
    ):
        await transport.publish("Denied.Two", b"")
        with pytest.raises(TransportError, match=r"no permission to publish to 'Denied.Two'"):
            await transport.flush()


def nobody_listens(_state: LinkState, _reason: str) -> None:
    pass


async def test_a_failure_of_many_servers_has_the_same_words_each_time() -> None:
    """So that it is logged once, though each attempt goes through them in another order."""
    transport = NatsTransport(",".join(f"nats://127.0.0.1:{port}" for port in range(1, 5)))
    words: set[str] = set()
    for _ in range(20):
        with pytest.raises(TransportError) as failure:
            await transport.connect(nobody_listens)
        words.add(str(failure.value))
    assert len(words) == 1
    await transport.aclose()


async def test_a_heartbeat_that_is_too_large_is_told_once_and_not_counted(
    restricted_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"nats://all:p%40ss@127.0.0.1:{restricted_broker.port}"
    async with Registry(url, ttl=0.3) as registry:
        registration = await registry.register(
            "orders", "10.0.0.5:1", metadata={"x": "y" * 1500}, wait=False
        )
        await asyncio.sleep(0.5)
        assert registry.stats().announcements_sent == 0
        await registration.update(metadata={"x": "y"})
        assert registry.stats().announcements_sent == 1
    assert caplog.text.count("the broker refuses registry.register.orders") == 1


async def subscribe_for_ever(transport: NatsTransport) -> None:
    for number in itertools.count():
        await transport.subscribe(f"fill.{number}", ignore)


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="waits for ever on 3.13: why is not known yet"
)
async def test_what_is_ended_on_a_full_borrowed_client_ends_when_there_is_room(
    nats_broker: Broker,
) -> None:
    async with (
        TcpProxy(nats_broker.port) as proxy,
        borrowing(proxy.url("nats"), flusher_queue_size=10) as client,
        connected(client=client, probe_timeout=5) as (transport, reports),
    ):
        subscription = await transport.subscribe("ended.late", ignore)
        await transport.flush()
        proxy.freeze()
        while client.pending_data_size < 200_000:  # the connection takes no more
            await transport.publish("fill", b"x" * 10_000)
            await asyncio.sleep(0)
        with pytest.raises(TransportError, match="congested"):
            await subscribe_for_ever(transport)
        await subscription.unsubscribe()
        proxy.thaw()
        await transport.flush()
        await transport.flush()
        assert reports.all == []
        assert "ended.late" not in [each.subject for each in watched(client)[-1].values()]


async def test_a_borrowed_client_that_is_closed_for_good_is_permanent(nats_broker: Broker) -> None:
    async with borrowing(nats_broker.url) as client:
        await client.close()
        transport = NatsTransport(client=client)
        with pytest.raises(TransportError, match="closed for good") as refusal:
            await transport.connect(Reports())
        await transport.aclose()
        assert refusal.value.permanent
