"""Closing, and what is left after it."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    Reports,
    collector,
    connected,
    driver_of,
    eventually,
    fill,
    freeze,
    ignore,
)

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.transports.nats import NatsTransport


async def test_after_the_end_everything_is_refused(nats_broker: Broker) -> None:
    transport = NatsTransport(nats_broker.url)
    await transport.connect(Reports())
    subscription = await transport.subscribe("end", ignore)
    await transport.aclose()
    await transport.aclose()
    await subscription.unsubscribe()
    for call in (
        transport.connect(Reports()),
        transport.publish("x", b""),
        transport.subscribe("x", ignore),
        transport.unheard(["x"]),
        transport.flush(),
    ):
        with pytest.raises(TransportError, match="is closed"):
            await call


async def test_what_was_published_last_still_goes_out(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (listener, _):
        messages, handler = collector()
        await listener.subscribe("last.words", handler)
        await listener.flush()
        transport = NatsTransport(nats_broker.url)
        await transport.connect(Reports())
        await transport.publish("last.words", b"bye")
        await transport.aclose()
        await eventually(lambda: bool(messages))


async def test_opened_and_closed_in_different_tasks(nats_broker: Broker) -> None:
    before = asyncio.all_tasks()
    transport = NatsTransport(nats_broker.url)
    await asyncio.create_task(transport.connect(Reports()))
    await asyncio.create_task(transport.flush())
    flushing = asyncio.create_task(transport.flush())
    await asyncio.sleep(0)
    await asyncio.create_task(transport.aclose())
    with pytest.raises(TransportError, match="closed"):
        await flushing
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("state", ["flowing", "frozen"])
async def test_a_cancelled_close_still_leaves_nothing(broker: Broker, state: str) -> None:
    before = asyncio.all_tasks()
    transport = NatsTransport(broker.url)
    await transport.connect(Reports())
    if state == "frozen":
        freeze(broker)
        await fill(transport)
    closing = asyncio.create_task(transport.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await eventually(lambda: asyncio.all_tasks() == before)
    if state == "frozen":
        broker.thaw()


async def test_closed_while_the_broker_is_away(broker: Broker) -> None:
    async with connected(broker.url) as (_, reports):
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
    assert reports.states == [DOWN]


async def test_a_close_that_was_forgotten_is_made_up_for(nats_broker: Broker) -> None:
    """The event loop ends; the fixture sees what would be complained about."""

    async def forget() -> None:
        transport = NatsTransport(nats_broker.url)
        await transport.connect(Reports())
        await transport.subscribe("forgotten", ignore)

    await asyncio.to_thread(asyncio.run, forget())


async def test_no_socket_is_left(broker: Broker, tmp_path: Path) -> None:
    for closing in ("thawed", "frozen"):
        transport = NatsTransport(broker.url)
        await transport.connect(Reports())
        transport_of_driver = driver_of(transport)._transport._io_writer.transport
        if closing == "frozen":
            freeze(broker)
            await fill(transport)
        await transport.aclose()
        assert transport_of_driver.get_extra_info("socket").fileno() == -1
        if closing == "frozen":
            broker.thaw()
    del transport, transport_of_driver
    gc.collect()  # a socket left open would be a ResourceWarning, which is an error
