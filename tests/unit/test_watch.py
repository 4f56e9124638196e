"""The waiting side of a watch: tasks, cancellation, the end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterable

import pytest

from aioregistry.choosing import passing
from aioregistry.errors import RegistryError, TransportError
from aioregistry.registry import Registry
from aioregistry.service import EventType, Service, ServiceEvent, Status
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from aioregistry.watch import Watch

A = Service("orders", "a:1", id="a")
B = Service("orders", "b:1", id="b")


def registered(service: Service) -> ServiceEvent:
    return ServiceEvent(EventType.REGISTERED, service)


def updated(service: Service, previous: Service) -> ServiceEvent:
    return ServiceEvent(EventType.UPDATED, service, previous)


def removed(service: Service, why: EventType = EventType.EXPIRED) -> ServiceEvent:
    return ServiceEvent(why, service, service)


def with_status(service: Service, status: Status) -> Service:
    return Service(service.name, service.address, status=status, id=service.id)


class Source:
    """Knows some services, and which watches are attached."""

    def __init__(self, *known: Service) -> None:
        self.known = known
        self.attached: weakref.WeakSet[Watch] = weakref.WeakSet()
        self.awaited: set[Watch] = set()
        self.observed: list[tuple[str, ...]] = []
        self.refuses: Exception | None = None
        self.gate: asyncio.Event | None = None

    def attach(self, watch: Watch) -> Iterable[Service]:
        self.attached.add(watch)
        return self.known

    def detach(self, watch: Watch) -> None:
        self.attached.discard(watch)

    async def observe(self, *patterns: str) -> None:
        self.observed.append(patterns)
        if self.gate is not None:
            await self.gate.wait()
        if self.refuses is not None:
            raise self.refuses


async def waiting(watch: Watch) -> asyncio.Task[ServiceEvent]:
    """A task that waits for the next event."""
    task = asyncio.ensure_future(anext(watch))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def started(watch: Watch) -> Watch:
    return await watch.__aenter__()


def pending(watch: Watch) -> list[ServiceEvent]:
    """What is there without waiting."""
    events: list[ServiceEvent] = []
    while True:
        try:
            anext(watch).send(None)
        except StopIteration as done:
            events.append(done.value)
        else:
            return events


class TestStarting:
    async def test_first_what_is_known(self) -> None:
        async with Watch(Source(A, B), ("orders",)) as watch:
            assert await anext(watch) == registered(A)
            assert await anext(watch) == registered(B)

    async def test_without_what_is_known(self) -> None:
        async with Watch(Source(A), ("orders",), include_current=False) as watch:
            watch.offer(registered(B))
            assert await anext(watch) == registered(B)

    async def test_the_patterns_are_observed_once(self) -> None:
        source = Source(A)
        async with Watch(source, ("orders", "billing.*")) as watch:
            await anext(watch)
        assert source.observed == [("orders", "billing.*")]

    async def test_iterating_starts_it_too(self) -> None:
        source = Source(A)
        async for event in Watch(source, ("orders",)):
            assert event == registered(A)
            break
        assert source.observed == [("orders",)]

    async def test_nothing_gets_lost_while_it_starts(self) -> None:
        source = Source(A)
        source.gate = asyncio.Event()
        watch = Watch(source, ("orders",))
        task = await waiting(watch)
        watch.offer(registered(B))
        source.gate.set()
        assert await task == registered(A)
        assert await anext(watch) == registered(B)

    async def test_a_refusal_is_raised_and_trying_again_works(self) -> None:
        source = Source(A)
        source.refuses = TransportError("no")
        watch = Watch(source, ("orders",))
        with pytest.raises(TransportError):
            await anext(watch)
        source.refuses = None
        assert await anext(watch) == registered(A)

    async def test_other_names_do_not_concern_it(self) -> None:
        async with Watch(Source(A, Service("mail", "c:1")), ("orders", "billing.*")) as watch:
            watch.offer(registered(Service("billing.mail", "d:1")))
            watch.offer(registered(Service("billing.mail.eu", "e:1")))
            names = [(await anext(watch)).service.name for _ in range(2)]
            assert names == ["orders", "billing.mail"]
            (await waiting(watch)).cancel()


class TestMerging:
    async def test_two_updates_are_one_with_the_older_previous(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        assert pending_one(watch) == registered(A)
        warning, critical = with_status(A, Status.WARNING), with_status(A, Status.CRITICAL)
        watch.offer(updated(warning, A))
        watch.offer(updated(critical, warning))
        assert await anext(watch) == updated(critical, A)

    async def test_an_update_and_back_is_nothing(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        await anext(watch)
        warning = with_status(A, Status.WARNING)
        watch.offer(updated(warning, A))
        watch.offer(updated(A, warning))
        (await waiting(watch)).cancel()

    async def test_what_came_and_went_unseen_vanishes(self) -> None:
        watch = await started(Watch(Source(), ("orders",)))
        watch.offer(registered(A))
        watch.offer(removed(A))
        (await waiting(watch)).cancel()

    async def test_an_addition_that_changed_is_an_addition(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        warning = with_status(A, Status.WARNING)
        watch.offer(updated(warning, A))
        assert await anext(watch) == registered(warning)

    async def test_a_change_before_the_removal(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        await anext(watch)
        warning = with_status(A, Status.WARNING)
        watch.offer(updated(warning, A))
        watch.offer(removed(warning))
        assert await anext(watch) == ServiceEvent(EventType.EXPIRED, warning, A)

    async def test_a_removal_and_another_addition_are_an_update(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        await anext(watch)
        again = Service("orders", "a:1", id="a2")
        watch.offer(removed(A))
        watch.offer(registered(again))
        assert await anext(watch) == updated(again, A)

    async def test_the_last_reason_counts(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        await anext(watch)
        watch.offer(removed(A, EventType.EXPIRED))
        watch.offer(registered(A))
        watch.offer(removed(A, EventType.UNREGISTERED))
        assert await anext(watch) == removed(A, EventType.UNREGISTERED)

    async def test_memory_is_bounded_by_the_instances(self) -> None:
        watch = await started(Watch(Source(), ("orders",)))
        previous = A
        watch.offer(registered(A))
        for number in range(1000):
            current = Service("orders", "a:1", version=str(number))
            watch.offer(updated(current, previous))
            previous = current
        assert pending(watch) == [registered(previous)]


def pending_one(watch: Watch) -> ServiceEvent:
    (event,) = pending(watch)
    return event


class TestWhere:
    async def test_beginning_and_ceasing_to_match(self) -> None:
        critical = with_status(A, Status.CRITICAL)
        watch = await started(Watch(Source(critical, B), ("orders",), where=passing))
        assert await anext(watch) == registered(B)
        watch.offer(updated(A, critical))
        assert await anext(watch) == registered(A)
        watch.offer(updated(critical, A))
        assert await anext(watch) == ServiceEvent(EventType.UNREGISTERED, critical, A)
        watch.offer(removed(critical))
        (await waiting(watch)).cancel()

    async def test_a_predicate_that_raises_ends_the_watch_with_its_error(self) -> None:
        def broken(service: Service) -> bool:
            raise KeyError(service.name)

        source = Source()
        watch = await started(Watch(source, ("orders",), where=broken))
        task = await waiting(watch)
        watch.offer(registered(A))
        with pytest.raises(KeyError):
            await task
        with pytest.raises(KeyError):
            await anext(watch)
        assert not source.attached

    async def test_a_predicate_that_raises_harms_nobody_else(self) -> None:
        def broken(service: Service) -> bool:
            raise KeyError(service.name)

        async with Registry(MemoryTransport(MemoryBroker())) as registry:
            watches = [registry.watch("orders") for _ in range(5)]
            for watch in watches:
                await started(watch)
            bad = [registry.watch("orders", where=broken) for _ in range(5)]
            for watch in bad:
                await started(watch)
            await registry.register("orders", "a:1")
            for watch in watches:
                assert (await anext(watch)).service.address == "a:1"
            for watch in bad:
                with pytest.raises(KeyError):
                    await anext(watch)
            assert registry.stats().watches == 5


class TestWaiting:
    async def test_an_event_wakes_it(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        watch.offer(registered(A))
        assert await task == registered(A)

    async def test_cancelling_loses_nothing(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        watch.offer(registered(A))
        task.cancel()  # at the worst moment: woken, but not run yet
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await anext(watch) == registered(A)

    async def test_cancelling_early_loses_nothing(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        task.cancel()
        watch.offer(registered(A))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await anext(watch) == registered(A)

    async def test_cancelling_the_start_loses_nothing(self) -> None:
        source = Source(A)
        source.gate = asyncio.Event()
        watch = Watch(source, ("orders",))
        task = await waiting(watch)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        watch.offer(registered(B))
        source.gate.set()
        assert [await anext(watch), await anext(watch)] == [registered(A), registered(B)]

    async def test_two_waiting_tasks_are_an_error(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        with pytest.raises(RuntimeError, match="give each task its own watch"):
            await anext(watch)
        watch.offer(registered(A))
        assert await task == registered(A)

    async def test_after_a_timeout_it_goes_on(self) -> None:
        watch = Watch(Source(), ("orders",))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await anext(watch)
        watch.offer(registered(A))
        assert await anext(watch) == registered(A)


class TestEnding:
    async def test_the_rest_is_read_before_the_end(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        watch.end()
        assert [event async for event in watch] == [registered(A)]
        assert [event async for event in watch] == []

    async def test_an_error_comes_after_the_rest_and_stays(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        watch.end(RegistryError("died"))
        assert await anext(watch) == registered(A)
        for _ in range(2):
            with pytest.raises(RegistryError, match="died"):
                await anext(watch)

    async def test_the_first_error_counts(self) -> None:
        watch = await started(Watch(Source(), ("orders",)))
        watch.end(RegistryError("died"))
        watch.end(RegistryError("again"))
        watch.end()
        with pytest.raises(RegistryError, match="died"):
            await anext(watch)

    async def test_the_end_wakes_whoever_waits(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        watch.end()
        with pytest.raises(StopAsyncIteration):
            await task

    async def test_an_error_wakes_whoever_waits(self) -> None:
        watch = Watch(Source(), ("orders",))
        task = await waiting(watch)
        watch.end(RegistryError("died"))
        with pytest.raises(RegistryError):
            await task

    async def test_closing_while_somebody_waits(self) -> None:
        source = Source()
        watch = Watch(source, ("orders",))
        task = await waiting(watch)
        await watch.aclose()
        with pytest.raises(StopAsyncIteration):
            await task
        assert not source.attached

    async def test_closing_drops_the_rest_and_may_be_repeated(self) -> None:
        watch = await started(Watch(Source(A), ("orders",)))
        await watch.aclose()
        await watch.aclose()
        assert [event async for event in watch] == []

    async def test_closing_before_it_started(self) -> None:
        source = Source(A)
        watch = Watch(source, ("orders",))
        await watch.aclose()
        assert [event async for event in watch] == []
        assert not source.observed

    async def test_closing_while_it_starts(self) -> None:
        source = Source(A)
        source.gate = asyncio.Event()
        watch = Watch(source, ("orders",))
        task = await waiting(watch)
        await watch.aclose()
        source.gate.set()
        with pytest.raises(StopAsyncIteration):
            await task
        assert not source.attached

    async def test_leaving_the_block_detaches(self) -> None:
        source = Source(A)
        async with Watch(source, ("orders",)):
            assert len(source.attached) == 1
        assert not source.attached

    async def test_garbage_collection_detaches(self) -> None:
        async with Registry(MemoryTransport(MemoryBroker())) as registry:
            watch = await started(registry.watch("orders"))
            assert registry.stats().watches == 1
            del watch
            gc.collect()
            assert registry.stats().watches == 0

    async def test_the_registrys_end_is_the_watches_end(self) -> None:
        registry = Registry(MemoryTransport(MemoryBroker()))
        await registry.start()
        task = await waiting(registry.watch("orders"))
        await registry.aclose()
        with pytest.raises(StopAsyncIteration):
            await task
