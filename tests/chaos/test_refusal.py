"""Brokers that are up, and refuse: for lack of room, or because the credentials ran out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from aioregistry.testing.brokers import Broker, nats_server, redis_server
from aioregistry.testing.proxy import TcpProxy
from tests.chaos.scene import Scene, scene, serving

ROOM = 20
"""So many connections does the broker take; a scene needs 6 on NATS and 12 on Redis."""


async def refused_for_a_while(fleet: Scene) -> None:
    """Nobody gets in, and somebody leaves."""
    await fleet.somebody_leaves()
    await asyncio.sleep(1)
    await fleet.check_calls()
    assert not any(each.connected for each in fleet.everybody)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "nats.conf"
    path.write_text("authorization { user: u, password: p }")
    return path


@pytest.fixture
def guarded_nats(config: Path) -> Iterator[Broker]:
    with nats_server("--config", str(config)) as broker:
        broker.url = broker.url.replace("//", "//u:p@")
        yield broker


async def test_credentials_taken_away_and_given_back_on_nats(
    guarded_nats: Broker, config: Path
) -> None:
    def allow(password: str) -> None:
        config.write_text(f"authorization {{ user: u, password: {password} }}")
        os.kill(guarded_nats.pid, signal.SIGHUP)

    async with scene(guarded_nats) as fleet:
        allow("another")
        await fleet.all_down()
        fleet.somebody_dies()
        await refused_for_a_while(fleet)
        assert "credentials" in fleet.providers[0].stats().detail
        allow("p")
        await fleet.all_up()
        await fleet.check_aftermath()


@pytest.mark.soak
async def test_credentials_taken_away_and_given_back_on_redis() -> None:
    async with serving(redis_server()) as broker:
        admin: Any = cast("Any", redis.Redis)(port=broker.port)
        admin.execute_command("ACL", "SETUSER", "u", "on", ">p", "~*", "&*", "+@all")
        broker.url = broker.url.replace("//", "//u:p@")
        async with scene(broker) as fleet:
            admin.execute_command("ACL", "SETUSER", "u", "off")
            admin.execute_command("CLIENT", "KILL", "USER", "u")
            await fleet.all_down()
            fleet.somebody_dies()
            await refused_for_a_while(fleet)
            assert "refuses" in fleet.providers[0].stats().detail
            admin.execute_command("ACL", "SETUSER", "u", "on")
            await fleet.all_up()
            await fleet.check_aftermath()
        admin.close()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.conf"
    path.write_text(f"max_connections: {ROOM}")
    return path


@pytest.mark.parametrize("scheme", ["nats", "redis"])
async def test_no_room_for_a_while(scheme: str, small: Path) -> None:
    server = (
        nats_server("--config", str(small))
        if scheme == "nats"
        else redis_server("--maxclients", str(ROOM))
    )
    async with (
        serving(server) as broker,
        TcpProxy(broker.port) as path,
        scene(broker, path.url(scheme)) as fleet,
    ):
        path.cut()
        await fleet.all_down()
        fleet.somebody_dies()
        await asyncio.sleep(0.5)  # until the broker knows that all these places are free
        with no_room(broker):
            path.restore()
            await refused_for_a_while(fleet)
        await fleet.all_up()
        await fleet.check_aftermath()


@contextlib.contextmanager
def no_room(broker: Broker) -> Generator[None]:
    """Take every place that the broker has."""
    with contextlib.ExitStack() as stack:
        for _ in range(ROOM + 5):
            taken = socket.create_connection(("127.0.0.1", broker.port), timeout=5)
            stack.enter_context(taken)
        yield
