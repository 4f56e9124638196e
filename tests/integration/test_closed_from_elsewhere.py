"""A call from another event loop that is turned away changes nothing."""

from __future__ import annotations

import asyncio

import pytest
from tests.tools import eventually

from aioregistry import Registry, close_default, connect
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


async def test_a_registry_that_another_event_loop_could_not_close_goes_on() -> None:
    async with Registry(MemoryTransport(MemoryBroker())) as registry:
        with pytest.raises(RuntimeError, match="belongs to another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(registry.aclose()))
        assert not registry.closed
        await registry.register("orders", "10.0.0.5:1")


async def test_the_registry_of_the_process_can_be_closed_after_another_loop_has_tried() -> None:
    broker = MemoryBroker()
    async with Registry(MemoryTransport(broker)) as observer:
        await observer.observe("orders")
        registry = await connect(MemoryTransport(broker))
        await registry.register("orders", "10.0.0.5:1")
        await eventually(lambda: observer.cached("orders"))
        try:
            with pytest.raises(RuntimeError, match="another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(close_default()))
            await close_default()
            await eventually(lambda: not observer.cached("orders"), within=1)
        finally:
            await registry.aclose()
