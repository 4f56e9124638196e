"""The event loop that uvicorn takes where it is installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop
from tests.chaos.witness import witness
from tests.tools import eventually

from aioregistry import EventType, Registry
from aioregistry.testing import TransportCheck, transport_checks
from aioregistry.testing.proxy import TcpProxy
from aioregistry.transports.nats import NatsTransport
from aioregistry.transports.redis import RedisTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioregistry.testing.brokers import Broker
    from aioregistry.transports.base import Transport

every_check = pytest.mark.parametrize("check", transport_checks, ids=str)


async def keeps(check: TransportCheck, make: Callable[[], Transport]) -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
    await check(make)


@every_check
def test_nats(check: TransportCheck, nats_broker: Broker) -> None:
    uvloop.run(keeps(check, lambda: NatsTransport(nats_broker.url)))


@every_check
def test_redis(check: TransportCheck, redis_broker: Broker) -> None:
    uvloop.run(keeps(check, lambda: RedisTransport(redis_broker.url)))


@pytest.mark.parametrize("kind", ["nats", "redis"])
def test_a_registry_and_its_way_back(kind: str, request: pytest.FixtureRequest) -> None:
    uvloop.run(lose_the_way_and_find_it(kind, request.getfixturevalue(f"{kind}_broker")))


async def lose_the_way_and_find_it(kind: str, broker: Broker) -> None:
    async with (
        TcpProxy(broker.port) as proxy,
        Registry(proxy.url(kind), prefix="uvloop") as provider,
        Registry(broker.url, prefix="uvloop") as observer,
        witness(observer, "orders") as seen,
    ):
        await provider.register("orders", "10.0.0.5:80")
        assert (await observer.get_service("orders")).address == "10.0.0.5:80"
        proxy.cut()
        await eventually(lambda: not provider.connected)
        proxy.restore()
        await eventually(lambda: provider.connected)
        await provider.unregister("orders")
        await eventually(lambda: not seen.instances)
        kinds = [each.event.type for each in seen.seen]
        assert kinds == [EventType.REGISTERED, EventType.UNREGISTERED]
