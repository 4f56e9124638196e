"""What only the memory transport has; what every transport has is in tests/contract."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any
from unittest.mock import Mock

import pytest

from aioregistry.errors import TransportError
from aioregistry.transports.base import LinkState, Transport
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


class Inbox:
    """Keeps what a handler was called with."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []

    def __call__(self, subject: str, payload: bytes) -> None:
        self.messages.append((subject, payload))


def no_state(state: LinkState, reason: str) -> None:
    raise AssertionError(f"unexpected {state}: {reason}")


def ignore_state(state: LinkState, reason: str) -> None:
    pass


async def connected(broker: MemoryBroker) -> MemoryTransport:
    transport = MemoryTransport(broker)
    await transport.connect(no_state)
    return transport


def test_is_a_transport() -> None:
    transport: Transport = MemoryTransport(MemoryBroker())
    assert isinstance(transport, Transport)


@pytest.mark.parametrize("broker", ["memory://x", "", 5, MemoryBroker])
def test_what_is_no_broker_is_refused(broker: Any) -> None:
    with pytest.raises(TypeError, match=r"a MemoryBroker, such as .* Registry\('memory://test'\)"):
        MemoryTransport(broker)


async def test_delivery_is_never_within_publish() -> None:
    transport = await connected(MemoryBroker())
    inbox = Inbox()
    await transport.subscribe("a", inbox)
    await transport.publish("a", b"1")
    assert inbox.messages == []
    await transport.flush()
    assert inbox.messages == [("a", b"1")]


async def test_a_burst_is_one_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = await connected(MemoryBroker())
    inbox = Inbox()
    await transport.subscribe("a", inbox)
    call_soon = Mock(wraps=asyncio.get_running_loop().call_soon)
    monkeypatch.setattr(asyncio.get_running_loop(), "call_soon", call_soon)
    for number in range(1000):
        await transport.publish("a", b"%d" % number)
    assert call_soon.call_count == 1
    await transport.flush()
    assert [payload for _, payload in inbox.messages] == [b"%d" % n for n in range(1000)]


class TestNamed:
    def test_same_name_same_broker(self) -> None:
        broker = MemoryBroker.named("orders")
        assert MemoryBroker.named("orders") is broker
        assert MemoryBroker.named("billing") is not broker
        assert broker.address == "memory://orders"

    def test_default_is_the_unnamed_one(self) -> None:
        transport = MemoryTransport()
        assert transport.address == "memory://"
        assert MemoryBroker.named() is MemoryBroker.named("")

    async def test_transports_without_a_broker_share_one(self) -> None:
        left, right = MemoryTransport(), MemoryTransport()
        await left.connect(no_state)
        await right.connect(no_state)
        inbox = Inbox()
        await right.subscribe("a", inbox)
        await left.publish("a", b"1")
        await left.flush()
        assert inbox.messages == [("a", b"1")]
        await left.aclose()
        await right.aclose()

    async def test_vanishes_with_its_last_user(self) -> None:
        transport = MemoryTransport(MemoryBroker.named("short-lived"))
        await transport.connect(no_state)
        await transport.subscribe("a", Inbox())
        MemoryBroker.named("short-lived").max_payload = 7
        await transport.aclose()
        del transport
        gc.collect()
        assert MemoryBroker.named("short-lived").max_payload is None

    def test_lives_while_a_transport_is_connected(self) -> None:
        transport = MemoryTransport(MemoryBroker.named("held"))
        MemoryBroker.named("held").max_payload = 7
        gc.collect()
        assert MemoryBroker.named("held").max_payload == 7
        assert transport.address == "memory://held"


class TestOutage:
    async def test_reports_both_ends_of_it(self) -> None:
        broker = MemoryBroker("b")
        seen: list[tuple[LinkState, str]] = []
        transport = MemoryTransport(broker)
        await transport.connect(lambda state, reason: seen.append((state, reason)))
        broker.stop()
        broker.stop()
        broker.start()
        broker.start()
        assert [state for state, _ in seen] == [LinkState.DISCONNECTED, LinkState.CONNECTED]
        assert all(reason for _, reason in seen)

    async def test_everything_that_needs_the_broker_raises(self) -> None:
        broker = MemoryBroker("b")
        transport = MemoryTransport(broker)
        await transport.connect(ignore_state)
        broker.stop()
        for call in (transport.publish("a", b""), transport.unheard(["a"]), transport.flush()):
            with pytest.raises(TransportError, match="memory://b is stopped"):
                await call
        newcomer = MemoryTransport(broker)
        with pytest.raises(TransportError, match="memory://b is stopped") as caught:
            await newcomer.connect(no_state)
        assert not caught.value.permanent
        broker.start()
        await newcomer.connect(no_state)

    async def test_what_was_on_its_way_is_lost(self) -> None:
        broker = MemoryBroker()
        transport = MemoryTransport(broker)
        await transport.connect(ignore_state)
        inbox = Inbox()
        await transport.subscribe("a", inbox)
        await transport.publish("a", b"lost")
        broker.stop()
        broker.start()
        await transport.publish("a", b"kept")
        await transport.flush()
        assert inbox.messages == [("a", b"kept")]

    async def test_stopped_by_a_handler(self) -> None:
        broker = MemoryBroker()
        transport = MemoryTransport(broker)
        await transport.connect(ignore_state)
        inbox = Inbox()
        await transport.subscribe("a", lambda _subject, _payload: broker.stop())
        await transport.subscribe("b", inbox)
        await transport.publish("a", b"")
        await transport.publish("b", b"")
        await asyncio.sleep(0)
        assert inbox.messages == []

    async def test_stopped_while_a_flush_waits(self) -> None:
        broker = MemoryBroker()
        transport = MemoryTransport(broker)
        await transport.connect(ignore_state)
        flush = asyncio.create_task(transport.flush())
        await asyncio.sleep(0)
        broker.stop()
        with pytest.raises(TransportError):
            await flush

    async def test_subscriptions_survive_and_new_ones_come_into_force(self) -> None:
        broker = MemoryBroker()
        transport = MemoryTransport(broker)
        await transport.connect(ignore_state)
        old, new = Inbox(), Inbox()
        await transport.subscribe("a", old)
        broker.stop()
        await transport.subscribe("a", new)
        broker.start()
        await transport.publish("a", b"1")
        await transport.flush()
        assert old.messages == new.messages == [("a", b"1")]

    async def test_closed_during_an_outage_hears_of_nothing(self) -> None:
        broker = MemoryBroker()
        seen: list[LinkState] = []
        transport = MemoryTransport(broker)
        await transport.connect(lambda state, _: seen.append(state))
        broker.stop()
        await transport.aclose()
        broker.start()
        assert seen == [LinkState.DISCONNECTED]

    async def test_a_raising_state_handler_harms_nobody(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        broker = MemoryBroker()
        seen: list[LinkState] = []

        def raising(state: LinkState, reason: str) -> None:
            raise RuntimeError("no")

        first, second = MemoryTransport(broker), MemoryTransport(broker)
        await first.connect(raising)
        await second.connect(lambda state, _: seen.append(state))
        broker.stop()
        assert seen == [LinkState.DISCONNECTED]
        assert "RuntimeError: no" in caplog.text


async def test_max_payload() -> None:
    transport = await connected(MemoryBroker(max_payload=4))
    inbox = Inbox()
    await transport.subscribe("a", inbox)
    await transport.publish("a", b"1234")
    with pytest.raises(TransportError, match=r"at most 4 bytes.*'a' has 5") as caught:
        await transport.publish("a", b"12345")
    assert caught.value.subjects == {"a"}
    await transport.flush()
    assert inbox.messages == [("a", b"1234")]


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_a_raising_handler_is_logged(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    transport = await connected(MemoryBroker("b"))

    def raising(subject: str, payload: bytes) -> None:
        raise error

    inbox = Inbox()
    await transport.subscribe("a", raising)
    await transport.subscribe("a", inbox)
    with caplog.at_level(logging.ERROR, "aioregistry"):
        await transport.publish("a", b"1")
        await transport.flush()
    assert inbox.messages == [("a", b"1")]
    assert "'a' at memory://b" in caplog.text


async def test_unsubscribed_while_a_message_was_on_its_way() -> None:
    transport = await connected(MemoryBroker())
    inbox = Inbox()
    subscription = await transport.subscribe("a", inbox)
    await transport.publish("a", b"1")
    await subscription.unsubscribe()
    await transport.flush()
    assert inbox.messages == []


async def test_not_connected() -> None:
    transport = MemoryTransport(MemoryBroker("b"))
    for call in (transport.publish("a", b""), transport.unheard(["a"]), transport.flush()):
        with pytest.raises(TransportError, match="not connected to memory://b"):
            await call


async def test_connected_twice() -> None:
    transport = await connected(MemoryBroker("b"))
    with pytest.raises(TransportError, match="already connected to memory://b"):
        await transport.connect(ignore_state)


async def test_closing_leaves_nothing_at_the_broker() -> None:
    broker = MemoryBroker()
    transport, other = await connected(broker), await connected(broker)
    await transport.subscribe("a", Inbox())
    await transport.subscribe("a.*", Inbox())
    await transport.aclose()
    assert await other.unheard(["a", "a.b"]) == {"a", "a.b"}
    assert repr(broker) == "<MemoryBroker memory:// running, 1 connected>"


class TestLoops:
    def test_a_transport_left_open_by_a_dead_loop_is_dropped(self) -> None:
        broker = MemoryBroker()
        dead = Inbox()

        async def leave_it_open() -> None:
            transport = await connected(broker)
            await transport.subscribe("a", dead)
            await transport.subscribe("*", dead)

        async def use() -> None:
            transport = await connected(broker)
            assert await transport.unheard(["a"]) == {"a"}
            alive = Inbox()
            await transport.subscribe("a", alive)
            await transport.publish("a", b"1")
            await transport.flush()
            assert alive.messages == [("a", b"1")]
            await transport.aclose()

        asyncio.run(leave_it_open())
        asyncio.run(use())
        assert dead.messages == []

    def test_a_delivery_that_its_loop_never_made(self) -> None:
        broker = MemoryBroker()
        inbox = Inbox()

        async def publish_and_stop_at_once() -> None:
            transport = await connected(broker)
            await transport.subscribe("a", inbox)
            await transport.publish("a", b"dead")
            asyncio.get_running_loop().stop()

        loop = asyncio.new_event_loop()
        task = loop.create_task(publish_and_stop_at_once())
        loop.run_forever()
        loop.close()
        assert task.done()
        inbox.messages.clear()

        async def use() -> None:
            transport = await connected(broker)
            await transport.subscribe("a", inbox)
            await transport.publish("a", b"alive")
            await transport.flush()

        asyncio.run(use())
        assert inbox.messages == [("a", b"alive")]
