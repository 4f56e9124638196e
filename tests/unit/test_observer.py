"""What an observer does about time, on a clock that jumps."""

from __future__ import annotations

import asyncio
import json

from aioregistry.registry import Registry
from aioregistry.service import EventType
from aioregistry.testing.virtual_time import run_virtual
from aioregistry.transports.base import LinkState
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


def announcement(duration: int) -> bytes:
    return json.dumps({"name": "orders", "add": "a:1", "t": {"Duration": duration}}).encode()


def ignore(_state: LinkState, _reason: str) -> None:
    pass


def test_an_instance_that_shortens_its_ttl_expires_by_the_new_one() -> None:
    async def scenario() -> float:
        broker = MemoryBroker()
        peer = MemoryTransport(broker)
        await peer.connect(ignore)
        async with Registry(MemoryTransport(broker)) as registry, registry.watch() as watch:
            await peer.publish("registry.register.orders", announcement(3_600_000))
            assert (await anext(watch)).type is EventType.REGISTERED
            await asyncio.sleep(10)
            await peer.publish("registry.register.orders", announcement(1000))
            before = asyncio.get_running_loop().time()
            assert (await anext(watch)).type is EventType.EXPIRED
            return asyncio.get_running_loop().time() - before

    assert 1.5 <= run_virtual(scenario()) < 1.6
