"""What drivers do to themselves: read loops that die, messages that are dropped."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from aioregistry.testing.brokers import nats_server, redis_server
from aioregistry.transports import _nats_wire
from tests.chaos.scene import Scene, scene, serving
from tests.tools import eventually

FLOOD = 64 * 2**20
"""More than the sockets between a broker and us hold."""


@contextlib.asynccontextmanager
async def losing(fleet: Scene, *, everybody: bool) -> AsyncGenerator[None]:
    """The block makes the observer of everything, or everybody, lose what they had."""
    affected = fleet.everybody if everybody else [fleet.witnesses[0].registry]
    before = [each.stats().losses for each in affected]
    yield
    await eventually(
        lambda: all(each.stats().losses > n for each, n in zip(affected, before, strict=True))
    )


@pytest.fixture
def plain_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that reads by itself, as a borrowed client does."""
    monkeypatch.setattr("aioregistry.transports._nats_driver.Parser", object)


@pytest.mark.usefixtures("plain_driver")
async def test_a_subject_that_kills_the_read_loop_on_nats() -> None:
    """One that is not UTF-8, from any client at all: nats-py stops reading, and says nothing."""
    async with serving(nats_server()) as broker, scene(broker) as fleet:
        async with losing(fleet, everybody=False):
            with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as stranger:
                stranger.recv(4096)
                stranger.sendall(
                    b"CONNECT {}\r\nPUB registry.register.\xff\xfe 2\r\nhi\r\nPING\r\n"
                )
                await asyncio.sleep(0.2)
            fleet.somebody_dies()
            await fleet.check_calls()
        await fleet.all_up()
        await fleet.check_aftermath(announced=False)


async def test_a_subject_that_is_no_utf8_on_nats() -> None:
    """It is dropped, and nothing else happens."""
    async with serving(nats_server()) as broker, scene(broker) as fleet:
        with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as stranger:
            stranger.recv(4096)
            stranger.sendall(b"CONNECT {}\r\nPUB registry.register.\xff\xfe 2\r\nhi\r\nPING\r\n")
            while b"PONG" not in stranger.recv(4096):
                pass
        fleet.somebody_dies()
        await fleet.check_calls()
        await fleet.check_aftermath(announced=False)
        assert not any(each.stats().losses for each in fleet.everybody)


async def test_a_channel_that_is_no_utf8_on_redis() -> None:
    """It is dropped, and nothing else happens."""
    async with serving(redis_server()) as broker, scene(broker) as fleet:
        with socket.create_connection(("127.0.0.1", broker.port), timeout=5) as stranger:
            channel = b"registry.register.\xff\xfe"
            stranger.sendall(b"*3\r\n$7\r\nPUBLISH\r\n$20\r\n%b\r\n$2\r\nhi\r\n" % channel)
            await asyncio.sleep(0.2)
        fleet.somebody_dies()
        await fleet.check_calls()
        await fleet.check_aftermath(announced=False)
        assert [each.stats().losses for each in fleet.everybody] == [0] * 4


async def test_a_slow_consumer_is_cut_off_by_redis() -> None:
    async with serving(redis_server()) as broker, scene(broker) as fleet:
        server: Any = cast("Any", redis.Redis)(port=broker.port)
        server.config_set("client-output-buffer-limit", "pubsub 256kb 0 0")
        fleet.somebody_dies()
        async with losing(fleet, everybody=False):
            # Nobody reads meanwhile: this blocks the event loop, as busy processes do.
            for _ in range(FLOOD // 500_000):
                server.publish("registry.register.flood", b"x" * 500_000)
        server.close()
        await fleet.all_up()
        await fleet.check_calls()
        await fleet.check_aftermath(announced=False, malformed=None)


async def test_a_slow_consumer_is_cut_off_by_nats(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('max_pending: 2000000\nwrite_deadline: "0.2s"')
    server = nats_server("--config", str(config))
    async with serving(server) as broker, scene(broker) as fleet:
        fleet.somebody_dies()
        async with losing(fleet, everybody=False):
            # Nobody reads meanwhile: this blocks the event loop, as busy processes do.
            flood_nats(broker.port, b"x" * 500_000, FLOOD // 500_000)
        await fleet.all_up()
        await fleet.check_calls()
        await fleet.check_aftermath(announced=False, malformed=None)


@pytest.mark.usefixtures("plain_driver")
async def test_messages_dropped_by_the_driver_on_nats(monkeypatch: pytest.MonkeyPatch) -> None:
    """It drops the newest when too many wait: the instances of these are asked for again."""
    monkeypatch.setattr(_nats_wire, "_PENDING_MESSAGES", 10)
    async with serving(nats_server()) as broker, scene(broker) as fleet:
        fleet.somebody_dies()
        async with losing(fleet, everybody=False):
            await asyncio.to_thread(flood_nats, broker.port, b"hi", 20_000)
        await fleet.all_up()
        await fleet.check_calls()
        await fleet.check_aftermath(announced=False, malformed=None)


def flood_nats(port: int, payload: bytes, count: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.recv(4096)
        message = b"PUB registry.register.flood %d\r\n%b\r\n" % (len(payload), payload)
        stranger.sendall(b"CONNECT {}\r\n" + message * count + b"PING\r\n")
        while b"PONG" not in stranger.recv(4096):
            pass
