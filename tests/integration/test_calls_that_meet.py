"""Calls about one service that meet, are cancelled or fail: what each caller was told holds."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.tools import eventually

from aioregistry import (
    EventType,
    InvalidService,
    NotRegistered,
    Registration,
    Registry,
    RegistryClosed,
    Status,
    TransportError,
    close_default,
    connect,
)
from aioregistry.testing.brokers import Broker
from aioregistry.transports import open_transport
from aioregistry.transports.base import Handler, Subscription
from aioregistry.transports.memory import MemoryBroker, MemoryTransport

MakeRegistry = Callable[..., Registry]

PLACE = "10.0.0.5:1"


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def cancelled(call: asyncio.Task[object]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


# ---- registering, changing, withdrawing ------------------------------------------------


async def test_registered_twice_it_stays_when_one_of_the_calls_is_cancelled(
    make: MakeRegistry,
) -> None:
    async with make() as provider, make() as observer:
        await observer.observe("orders")
        one = asyncio.create_task(provider.register("orders", PLACE))
        other = asyncio.create_task(provider.register("orders", PLACE))
        await turns(1)
        await cancelled(one)
        registration = await other
        assert provider.registered == (registration.service,)
        await eventually(lambda: observer.cached("orders"))
        await registration.set_status(Status.WARNING)


async def test_registered_twice_nothing_stays_when_both_calls_are_cancelled(
    make: MakeRegistry,
) -> None:
    async with make() as provider:
        one = asyncio.create_task(provider.register("orders", PLACE))
        other = asyncio.create_task(provider.register("orders", PLACE, version="2"))
        await turns(1)
        for call in (one, other):
            await cancelled(call)
        assert provider.registered == ()


@pytest.mark.parametrize("first", [0, 1])
async def test_a_cancelled_change_takes_back_that_change_and_no_other(
    make: MakeRegistry, first: int
) -> None:
    async with make() as provider:
        registration = await provider.register("orders", PLACE)
        changes = [
            asyncio.create_task(registration.set_status(Status.CRITICAL)),
            asyncio.create_task(registration.update(version="2")),
        ]
        await turns(1)
        await cancelled(changes[first])
        changed = registration.service
        assert (changed.status is Status.CRITICAL) is (first == 1)
        assert (changed.version == "2") is (first == 0)
        await asyncio.wait(changes)


async def test_cancelled_changes_leave_what_was_there(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await observer.observe("orders")
        registration = await provider.register("orders", PLACE)
        before = registration.service
        changes = [
            asyncio.create_task(registration.set_status(Status.CRITICAL)),
            asyncio.create_task(registration.update(version="2")),
        ]
        await turns(1)
        for change in changes:
            await cancelled(change)
        assert registration.service == before
        await eventually(lambda: observer.cached("orders") == (before,))


async def test_the_handle_of_an_earlier_registration_changes_nothing(make: MakeRegistry) -> None:
    async with make() as provider:
        earlier = await provider.register("orders", PLACE)
        await earlier.unregister()
        later = await provider.register("orders", PLACE)
        with pytest.raises(NotRegistered, match="has another handle"):
            await earlier.set_status(Status.CRITICAL)
        assert later.service.status is Status.PASSING


async def test_a_handle_says_that_its_registry_is_closed(make: MakeRegistry) -> None:
    async with make() as provider:
        registration = await provider.register("orders", PLACE)
    with pytest.raises(RegistryClosed):
        await registration.update(version="2")
    await registration.unregister()  # which has been done


class Slow(MemoryTransport):
    """Takes a moment for each message, as a connection does that has a lot to send."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.refused: set[str] = set()
        self.sending: list[str] = []
        self.pause = 0.0
        self.answering = asyncio.Event()
        self.answering.set()
        self.failures = 0

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        await asyncio.sleep(self.pause)
        return await super().subscribe(pattern, handler)

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        self.sending.append(subject)
        await asyncio.sleep(self.pause)
        if subject in self.refused:
            raise TransportError("no right to publish", subjects=frozenset({subject}))
        await super().publish(subject, payload, reply_to)

    async def flush(self) -> None:
        await self.answering.wait()
        if self.failures:
            self.failures -= 1
            raise TransportError("congested")
        await super().flush()


@asynccontextmanager
async def slow() -> AsyncGenerator[tuple[Slow, Registry, Registry]]:
    """A slow transport, the registry that has it, and another one."""
    broker = MemoryBroker()
    transport = Slow(broker)
    async with Registry(MemoryTransport(broker)) as observer:
        await observer.observe("orders")
        provider = Registry(transport, ttl=3600)
        await provider.start()
        yield transport, provider, observer
        await provider.aclose()


async def test_a_change_that_comes_while_another_is_sent_does_not_wait_for_the_heartbeat() -> None:
    async with slow() as (_, provider, observer):
        registration = await provider.register("orders", PLACE)
        await asyncio.gather(
            registration.update(version="2"), registration.set_status(Status.WARNING)
        )
        await eventually(
            lambda: (
                [(s.version, s.status) for s in observer.cached("orders")]
                == [("2", Status.WARNING)]
            )
        )


async def test_closing_while_a_withdrawal_is_sent() -> None:
    async with slow() as (transport, provider, observer):
        registration = await provider.register("orders", PLACE)
        watch = provider.watch("orders")
        transport.pause = 0.01
        unregistering = asyncio.create_task(registration.unregister())
        await turns(3)
        await provider.aclose()
        await asyncio.wait_for(asyncio.wait([unregistering]), 5)
        assert [event async for event in watch] == []
        await eventually(lambda: not observer.cached("orders"))


async def test_a_withdrawal_that_may_be_lost_is_not_said_again_over_a_successor() -> None:
    async with slow() as (transport, provider, observer):
        registration = await provider.register("orders", PLACE)
        transport.answering.clear()
        transport.failures = 1
        unregistering = asyncio.create_task(registration.unregister())
        await eventually(lambda: provider.stats().withdrawals_sent == 1)
        later = await provider.register("orders", PLACE, wait=False)
        transport.answering.set()
        await asyncio.wait_for(unregistering, 5)
        await eventually(lambda: observer.cached("orders") == (later.service,))
        assert provider.stats().withdrawals_sent == 1


async def test_every_withdrawal_that_is_refused_has_somebody_who_hears_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with slow() as (transport, provider, _):
        for port in range(1, 4):
            await provider.register("orders", f"10.0.0.5:{port}")
        transport.refused = {"registry.unregister.orders"}
        with pytest.raises(TransportError, match="no right"):
            await provider.drain(0)
        gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_withdrawal_is_done_when_it_is_sent_and_not_an_announcement_before_it() -> None:
    async with slow() as (transport, provider, observer):
        registration = await provider.register("orders", PLACE)
        await eventually(lambda: observer.cached("orders"))
        transport.pause = 0.02
        changing = asyncio.create_task(registration.update(version="2"))
        await turns(3)
        await registration.unregister()
        assert provider.stats().withdrawals_sent == 1
        await eventually(lambda: not observer.cached("orders"))
        await asyncio.wait([changing])


async def test_a_call_that_is_cancelled_as_it_sends_holds_up_nobody_else() -> None:
    async with slow() as (transport, provider, observer):
        await provider.register("returns", PLACE)  # from the second on each sends its own
        transport.pause = 0.02
        one = asyncio.create_task(provider.register("orders", PLACE))
        await turns(3)
        other = asyncio.create_task(provider.register("orders", PLACE))
        await eventually(lambda: "registry.register.orders" in transport.sending)
        await cancelled(one)
        await asyncio.wait_for(other, 5)
        await eventually(lambda: observer.cached("orders"))


async def test_a_withdrawal_that_is_cancelled_leaves_no_error_that_nobody_hears_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def close_after_it() -> None:
        async with slow() as (transport, provider, _):
            registration = await provider.register("orders", PLACE)
            transport.pause = 60
            unregistering = asyncio.create_task(registration.unregister())
            await turns(3)
            await cancelled(unregistering)

    await close_after_it()
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# ---- the life of a registry ------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
async def test_a_start_ends_when_the_registry_is_closed_meanwhile(
    make: MakeRegistry, steps: int
) -> None:
    registry = make()
    starting = asyncio.create_task(registry.start())
    await turns(steps)
    closing = [asyncio.create_task(registry.aclose()) for _ in range(2)]
    await turns(1)
    closing.append(asyncio.create_task(registry.aclose()))
    done, _ = await asyncio.wait([starting, *closing], timeout=5)
    assert len(done) == 4
    for call in closing:
        call.result()
    with pytest.raises(RegistryClosed):
        await registry.register("orders", PLACE)


async def test_a_registry_whose_work_was_cancelled_says_so() -> None:
    registry = Registry(MemoryTransport(MemoryBroker()))
    before = asyncio.all_tasks()
    await registry.start()
    registration = await registry.register("orders", PLACE)
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await eventually(lambda: registry.closed)
    for call in (registry.register("orders", PLACE), registry.get_service("orders")):
        with pytest.raises(RegistryClosed, match="work of this registry was cancelled"):
            await call
    with pytest.raises(RegistryClosed):
        await registration.update(version="2")
    await registry.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_process_has_a_registry_of_its_own(nats_broker: Broker) -> None:
    """Else it would speak over the connection of its parent."""

    async def child(inherited: Registry, registration: Registration) -> int:
        with pytest.raises(RegistryClosed, match="forked"):
            await inherited.register("orders", "10.0.0.9:1")
        with pytest.raises(RegistryClosed, match="forked"):
            await inherited.get_service("orders")
        with pytest.raises(RegistryClosed, match="forked"):
            await registration.update(version="2")
        await registration.unregister()
        await inherited.aclose()
        registry = await connect(nats_broker.url, prefix="forked")
        assert registry is not inherited
        await registry.register("orders", "10.0.0.6:1")
        count = len(await registry.get_services("orders", minimum=2))
        await close_default()
        return count

    def fork(inherited: Registry, registration: Registration) -> int:
        process = os.fork()
        if not process:
            outcome = 1
            try:
                outcome = 0 if asyncio.run(child(inherited, registration)) == 2 else 2
            finally:
                os._exit(outcome)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    async def parent() -> None:
        registry = await connect(nats_broker.url, prefix="forked")
        registration = await registry.register("orders", PLACE)
        assert await asyncio.to_thread(fork, registry, registration) == 0
        await registry.register("orders", "10.0.0.7:1")
        assert registry.stats().losses == 0
        await close_default()

    asyncio.run(parent())


async def test_another_event_loop_has_to_have_a_registry_of_its_own() -> None:
    await connect("memory://")
    with pytest.raises(RuntimeError, match="lives in another event loop"):
        await asyncio.to_thread(lambda: asyncio.run(connect()))
    await close_default()


async def test_a_transport_serves_one_registry(make: MakeRegistry, url: str, prefix: str) -> None:
    transport = open_transport(url)
    async with Registry(transport, prefix=prefix) as first:
        second = Registry(transport, prefix=prefix)
        with pytest.raises(RuntimeError, match="serves another registry"):
            await second.start()
        await second.aclose()
        await first.register("orders", PLACE)
        async with make() as caller:
            assert (await caller.get_service("orders")).address == PLACE
    with pytest.raises(TransportError, match="is closed"):  # and not after a long wait
        await asyncio.wait_for(Registry(transport, connect_timeout=60).start(), 5)


def run(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
    asyncio.run(call())


async def test_another_event_loop_is_told_that_the_registry_is_not_its_own() -> None:
    async with Registry("memory://") as registry:
        registration = await registry.register("orders", PLACE)
        calls: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
            lambda: registry.register("orders", PLACE),
            lambda: registry.get_service("orders"),
            lambda: registry.observe("orders"),
            lambda: registration.update(version="2"),
            registration.unregister,
            registry.watch("orders").__anext__,
            registry.aclose,
        )
        for call in calls:
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                await asyncio.to_thread(run, call)


async def test_a_drain_ends_with_the_registry(make: MakeRegistry) -> None:
    registry = make()
    await registry.start()
    await registry.register("orders", PLACE)
    draining = asyncio.create_task(registry.drain(60))
    await eventually(lambda: not registry.registered)
    await registry.aclose()
    await asyncio.wait_for(draining, 5)


async def test_an_error_that_is_raised_again_and_again_keeps_nothing() -> None:
    registry = Registry(MemoryTransport(MemoryBroker()))
    before = asyncio.all_tasks()
    await registry.start()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await eventually(lambda: registry.closed)
    for _ in range(3):
        with pytest.raises(RegistryClosed) as caught:
            await registry.get_service("orders")
        assert len(caught.traceback) < 10
    await registry.aclose()


async def test_a_watch_that_is_waited_for_gets_its_events(make: MakeRegistry) -> None:
    """Also if nobody refers to the task that waits."""
    seen: list[EventType] = []

    async def look(registry: Registry) -> None:
        watch = registry.watch("orders")
        while True:
            seen.append((await anext(watch)).type)

    async with make() as registry:
        asyncio.create_task(look(registry))  # noqa: RUF006 - that is the point
        registration = await registry.register("orders", PLACE)
        await eventually(lambda: seen)
        gc.collect()
        await registration.set_status(Status.WARNING)
        await eventually(lambda: EventType.UPDATED in seen)


async def test_a_watch_that_is_given_up_ends(make: MakeRegistry) -> None:
    async with make() as registry:
        await registry.register("orders", PLACE)
        await anext(registry.watch("orders"))
        gc.collect()
        assert registry.stats().watches == 0


@pytest.mark.parametrize("target", [MemoryTransport, 5, b"nats://localhost:4222"])
def test_what_is_no_broker_is_said_at_once(target: Any) -> None:
    with pytest.raises(ValueError, match=r"target=.*: (a class|neither a URL nor a transport)"):
        Registry(target)


async def test_what_cannot_be_a_name_is_not_in_memory_either(make: MakeRegistry) -> None:
    async with make() as registry:
        for name in ("a*", "billing.>", None):
            with pytest.raises(InvalidService):
                registry.cached(name)  # type: ignore[arg-type]  # that is the point
