"""Brokers that are up, and refuse: for lack of room, or because the credentials ran out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from aioregistry.testing.brokers import Broker, nats_server, redis_server
from aioregistry.testing.proxy import TcpProxy
from tests.chaos.scene import Scene, scene, serving

ROOM = 20
"""So many connections does the broker take; a scene needs 6 on NATS and 12 on Redis."""

Place = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
        async with no_room(broker):
            path.restore()
            await refused_for_a_while(fleet)
        await fleet.all_up()
        await fleet.check_aftermath()


@contextlib.asynccontextmanager
async def no_room(broker: Broker) -> AsyncGenerator[None]:
    """Take every place that the broker has, until the block ends.

    A connection that stands is not a place yet: those that wait to be accepted are served in
    any order, so somebody who came later may be let in before. And places of those who left
    are free only when the broker has noticed. So each of ours has to be answered; when as many
    are as there are places, nobody else is inside.
    """
    async with contextlib.AsyncExitStack() as stack:
        places: list[Place] = []
        while len(places) < ROOM:
            place = await asyncio.open_connection("127.0.0.1", broker.port)
            if await is_served(place, broker):
                places.append(place)
                stack.push_async_callback(hang_up, place)
            else:
                await hang_up(place)
                await asyncio.sleep(0.05)
        yield
        for place in places:
            assert await is_served(place, broker)  # it was ours all the time


async def is_served(place: Place, broker: Broker) -> bool:
    """Whether the broker answers a connection; else it had no place for it, and ended it."""
    reader, writer = place
    writer.write(b"CONNECT {}\r\nPING\r\n" if broker.url.startswith("nats") else b"PING\r\n")
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"PONG\r\n")
        return True
    return False


async def hang_up(place: Place) -> None:
    place[1].close()
    with contextlib.suppress(ConnectionError):
        await place[1].wait_closed()
