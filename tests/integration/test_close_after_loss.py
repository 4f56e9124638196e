"""A call whose confirmation was under way when the link was lost ends with its registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.tools import eventually

from aioregistry import Registry
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


class Hanging(MemoryTransport):
    """Its flushes take the time that a dead link needs to be told from a slow one."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.answering = asyncio.Event()
        self.answering.set()
        self.flushes = 0

    async def flush(self) -> None:
        self.flushes += 1
        await self.answering.wait()
        await super().flush()


@pytest.mark.parametrize("loss", ["the broker is gone", "messages were lost"])
@pytest.mark.parametrize("call", ["register", "update", "unregister"])
async def test_a_call_that_waits_ends_when_the_link_is_lost_and_the_registry_closed(
    call: str, loss: str
) -> None:
    broker = MemoryBroker()
    transport = Hanging(broker)
    registry = Registry(transport)
    await registry.start()
    registration = await registry.register("orders", "10.0.0.5:1")
    await asyncio.sleep(0.05)
    transport.answering.clear()
    flushes = transport.flushes
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "register": lambda: registry.register("orders", "10.0.0.5:2"),
        "update": lambda: registration.update(version="2"),
        "unregister": registration.unregister,
    }
    task = asyncio.ensure_future(calls[call]())
    await eventually(lambda: transport.flushes > flushes)
    broker.stop()
    if loss == "messages were lost":  # although the link stayed, as `Transport.connect` has it
        broker.start()
    await registry.aclose()
    done, _ = await asyncio.wait([task], timeout=2)
    task.cancel()
    assert done, "the call hangs for ever"


@pytest.mark.parametrize("turns", range(8))
async def test_loss_and_close_together(turns: int) -> None:
    """With nothing that hangs: the broker and the program are stopped at the same moment."""
    broker = MemoryBroker()
    registry = Registry(MemoryTransport(broker))
    await registry.start()
    await registry.register("orders", "10.0.0.5:1")
    task = asyncio.create_task(registry.register("orders", "10.0.0.5:2"))
    for _ in range(turns):
        await asyncio.sleep(0)
    broker.stop()
    await registry.aclose()
    done, _ = await asyncio.wait([task], timeout=1)
    assert done, "the call hangs for ever"
