"""Test a service without a broker: on the memory transport, as the rest of the world sees it.

pytest examples/test_my_service.py         (needs pytest, pytest-asyncio)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from my_service import Checkout

from aioregistry import EventType, Registry, Status
from aioregistry.transports.memory import MemoryBroker, MemoryTransport

pytestmark = pytest.mark.asyncio


@pytest.fixture
def broker() -> MemoryBroker:
    """A broker for each test: nothing is left over from the one before."""
    return MemoryBroker()


@pytest_asyncio.fixture
async def checkout(broker: MemoryBroker) -> AsyncGenerator[Checkout]:
    async with Registry(MemoryTransport(broker), lookup_timeout=0.01) as registry:
        checkout = Checkout(registry, "10.0.0.1:80")
        await checkout.start()
        yield checkout


@pytest_asyncio.fixture
async def world(broker: MemoryBroker) -> AsyncGenerator[Registry]:
    """Everybody else: announces what the service calls, and sees what the service announces."""
    async with Registry(MemoryTransport(broker)) as registry:
        yield registry


async def test_payments_are_found(checkout: Checkout, world: Registry) -> None:
    await world.register("payments", "10.0.0.2:81")
    assert await checkout.payment_url("o-1") == "http://10.0.0.2:81/pay/o-1"


async def test_without_payments_it_says_so(checkout: Checkout, world: Registry) -> None:
    async with world.watch("checkout") as events:
        assert (await anext(events)).service.status is Status.PASSING
        assert await checkout.payment_url("o-1") is None
        event = await anext(events)
    assert event.type is EventType.UPDATED
    assert event.service.status is Status.WARNING


async def test_known_payments_are_found_while_the_broker_is_away(
    checkout: Checkout, world: Registry, broker: MemoryBroker
) -> None:
    await world.register("payments", "10.0.0.2:81")
    await checkout.payment_url("o-1")
    broker.stop()
    assert await checkout.payment_url("o-2") == "http://10.0.0.2:81/pay/o-2"
