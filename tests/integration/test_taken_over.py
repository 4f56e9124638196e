"""What can happen to connections that are read and written past their drivers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast
from urllib.request import urlopen

import pytest
import redis.asyncio
import uvloop
from tests.chaos.scene import sockets
from tests.tools import eventually

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker, nats_server, redis_server, unused_port
from aioregistry.transports import _nats_wire
from aioregistry.transports.nats import NatsTransport
from aioregistry.transports.redis import RedisTransport

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


async def fill(transport: NatsTransport, size: int) -> None:
    """Publish messages of so many bytes until no more are taken."""
    while True:
        await transport.publish("a" * 400, bytes(size))


async def drained(transport: NatsTransport) -> None:
    """Wait until the connection takes messages again."""
    async with asyncio.timeout(5):
        while True:
            with contextlib.suppress(TransportError):
                return await transport.publish("a", b"")
            await asyncio.sleep(0.01)


def ignore(_one: object, _other: object) -> None:
    pass


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A NATS broker of one test, which it may freeze."""
    with nats_server() as broker:
        yield broker


@pytest.fixture
async def frozen(broker: Broker) -> AsyncIterator[NatsTransport]:
    """A transport whose broker takes nothing any longer."""
    transport = NatsTransport(broker.url)
    await transport.connect(ignore)
    broker.freeze()
    yield transport
    broker.thaw()


@pytest.mark.parametrize("megabytes", [1, 3, 7])
async def test_the_broker_takes_what_was_published_while_it_is_closed(
    broker: Broker, frozen: NatsTransport, megabytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection then ends by itself, before it is taken down."""
    for _ in range(20 * megabytes):
        await frozen.publish("a", bytes(50_000))
    threading.Timer(0.01, broker.thaw).start()
    await frozen.aclose()
    await asyncio.sleep(0.1)
    gc.collect()  # a task whose error nobody looked at is found now
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@LOOPS
def test_no_socket_is_left_to_a_frozen_broker(run: Callable[[Any], None], broker: Broker) -> None:
    async def leave() -> None:
        before = sockets()
        transport = NatsTransport(broker.url)
        await transport.connect(ignore)
        broker.freeze()
        with pytest.raises(TransportError, match="congested"):
            await fill(transport, 50_000)
        await transport.aclose()
        await eventually(lambda: sockets() == before)

    try:
        run(leave())
    finally:
        broker.thaw()


@LOOPS
def test_a_refusal_that_comes_before_a_question(run: Callable[[Any], None]) -> None:
    async def connect(broker: Broker) -> None:
        async with cast("Any", redis.asyncio.Redis(port=broker.port)) as admin:
            await admin.config_set("maxclients", 1)
            transport = RedisTransport(broker.url)
            with pytest.raises(TransportError, match="max number of clients reached"):
                await transport.connect(ignore)
            await transport.aclose()

    with redis_server() as broker:
        run(connect(broker))


@pytest.fixture
def monitored() -> Iterator[tuple[Broker, int]]:
    """A NATS broker, and the port that tells about it."""
    port, others = unused_port(), iter(unused_port, 0)
    with nats_server("-m", str(port), port=next(each for each in others if each != port)) as broker:
        yield broker, port


async def test_who_unsubscribes_during_a_jam_is_unsubscribed(
    monitored: tuple[Broker, int],
) -> None:
    broker, port = monitored

    async def subscriptions() -> int:
        url = f"http://127.0.0.1:{port}/connz?subs=1"
        report = json.load(await asyncio.to_thread(urlopen, url))
        return sum(each["subscriptions"] for each in report["connections"])

    transport = NatsTransport(broker.url)
    await transport.connect(ignore)
    made = [await transport.subscribe(f"some.{number}", ignore) for number in range(10)]
    await transport.flush()
    before = await subscriptions()
    broker.freeze()
    for size in (50_000, 0):
        with pytest.raises(TransportError, match="congested"):
            await fill(transport, size)
    for subscription in made:
        await subscription.unsubscribe()
    broker.thaw()
    await drained(transport)
    await transport.flush()
    assert await subscriptions() == before - len(made)
    await transport.aclose()


async def test_more_subscriptions_than_a_connection_holds(
    nats_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of before the connection come into force in portions."""
    monkeypatch.setattr(_nats_wire, "_ROOM", 200_000)
    transport = NatsTransport(nats_broker.url)
    heard: list[str] = []
    subjects = [f"taken.{number:0100}" for number in range(5000)]
    for subject in subjects:
        await transport.subscribe(subject, lambda subject, _payload: heard.append(subject))
    await transport.connect(ignore)
    await transport.publish(subjects[-1], b"")
    await transport.flush()
    assert heard == subjects[-1:]
    await transport.aclose()


@pytest.mark.parametrize(("servers", "ordered"), [(1, True), (2, False)])
def test_the_servers_of_a_cluster_keep_no_common_order(servers: int, *, ordered: bool) -> None:
    transport = NatsTransport([f"nats://127.0.0.1:{4222 + number}" for number in range(servers)])
    assert transport.ordered is ordered
