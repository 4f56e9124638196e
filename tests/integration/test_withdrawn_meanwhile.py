"""A service that is withdrawn while others still say something about it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.tools import eventually

from aioregistry import Registry, TransportError
from aioregistry.transports.memory import MemoryBroker, MemoryTransport

PLACE = "10.0.0.5:1"


class Slow(MemoryTransport):
    """Takes a moment for each message, and answers when it is told to."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.pause = 0.0
        self.failures = 0
        self.sent: list[tuple[str, str]] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        await asyncio.sleep(self.pause)
        await super().publish(subject, payload, reply_to)
        verb = subject.split(".")[1]
        if verb != "ping":
            self.sent.append((verb, json.loads(payload)["add"]))

    async def flush(self) -> None:
        await self.answering.wait()
        if self.failures:
            self.failures -= 1
            raise TransportError("no answer in time")
        await super().flush()


@asynccontextmanager
async def slow() -> AsyncGenerator[tuple[Slow, Registry]]:
    transport = Slow(MemoryBroker())
    async with Registry(transport, ttl=3600) as provider:
        yield transport, provider


async def test_nothing_is_announced_after_its_withdrawal() -> None:
    """Peers without ids would take it for alive until its ttl is over."""
    async with slow() as (transport, provider):
        registration = await provider.register("orders", PLACE)
        await asyncio.sleep(0.1)
        transport.pause = 0.02

        async def register_and_change() -> None:
            await provider.register("returns", "10.0.0.5:2", wait=False)
            await registration.update(version="2")

        one = asyncio.create_task(register_and_change())
        await asyncio.sleep(0)
        await provider.register("refunds", "10.0.0.5:3", wait=False)  # the sender has to wait
        await eventually(lambda: provider.registered[0].version == "2", within=1)
        await registration.unregister()
        await asyncio.wait([one], timeout=2)
        await asyncio.sleep(0.1)
        about = [verb for verb, place in transport.sent if place == PLACE]
        assert about[-1] == "unregister", about


async def test_a_registration_ends_that_is_withdrawn_while_it_is_being_confirmed() -> None:
    async with slow() as (transport, provider):
        await provider.register("orders", PLACE)
        await asyncio.sleep(0.05)
        transport.answering.clear()
        transport.failures = 1
        again = asyncio.create_task(provider.register("orders", PLACE, version="2"))
        await asyncio.sleep(0.05)
        unregistering = asyncio.create_task(provider.unregister("orders"))
        await eventually(lambda: provider.stats().withdrawals_sent == 1)
        transport.answering.set()
        done, waiting = await asyncio.wait([again, unregistering], timeout=5)
        for call in waiting:
            call.cancel()
        assert len(done) == 2, "register waits for ever for a message that nobody will send"
