"""What was never asked for is not known completely."""

from __future__ import annotations

import asyncio
import json

from aioregistry import Registry
from aioregistry.testing.virtual_time import run_virtual
from aioregistry.transports.base import Handler, LinkState, Subscription
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


class Far(MemoryTransport):
    """Its subscriptions take a round trip, as those to Redis over two connections do."""

    round_trip = 0.0

    @property
    def ordered(self) -> bool:
        return False

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        try:
            await asyncio.sleep(self.round_trip)
        except asyncio.CancelledError:
            await subscription.unsubscribe()
            raise
        return subscription


def ignore(_state: LinkState, _reason: str) -> None:
    pass


def announcement(number: int) -> bytes:
    return json.dumps(
        {"name": "orders", "add": f"10.0.0.{number}:80", "t": {"Duration": 20000}}
    ).encode()


def test_nobody_is_no_answer_from_memory_where_the_question_was_not_sent() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        async with Registry(MemoryTransport(broker)) as provider:
            await provider.register("orders", "10.0.0.5:80")
            transport = Far(broker)
            async with Registry(transport) as caller:
                transport.round_trip = 0.2  # longer than the lookup waits
                assert await caller.get_services("orders", minimum=0) == ()
                transport.round_trip = 0.0  # a moment later the link is as quick as usual
                assert caller.stats().pings_sent == 0
                found = await caller.get_services("orders", minimum=0)
                assert [each.address for each in found] == ["10.0.0.5:80"]

    run_virtual(scenario())


def test_the_first_answer_is_not_taken_for_all_of_them() -> None:
    async def scenario() -> None:
        broker = MemoryBroker()
        peer = MemoryTransport(broker)
        await peer.connect(ignore)
        asked = 0

        def say(number: int) -> None:
            assert peer.publish_now("registry.register.orders", announcement(number))

        def answer(_subject: str, _payload: bytes) -> None:
            nonlocal asked
            asked += 1
            for number in range(3):
                asyncio.get_running_loop().call_later(0.002 * (number + 1), say, number)

        await peer.subscribe("registry.ping.orders", answer)
        transport = Far(broker)
        async with Registry(transport) as caller:
            transport.round_trip = 0.2
            await caller.get_services("orders")
            assert asked == 0
            transport.round_trip = 0.0
            await caller.get_service("orders")
            assert len(await caller.get_services("orders")) == 3
        await peer.aclose()

    run_virtual(scenario())
