"""What callers of the registry see, on every transport."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from tests.tools import eventually, no_new_tasks

from aioregistry import (
    EventType,
    InvalidService,
    NotRegistered,
    Registry,
    RegistryClosed,
    RoundRobin,
    Service,
    ServiceNotFound,
    Status,
    TransportError,
    Watch,
    all_of,
    local,
    metadata,
    passing,
)
from aioregistry.testing.brokers import Broker
from aioregistry.transports import open_transport

MakeRegistry = Callable[..., Registry]
Foreign = Callable[[str, str, bytes], Awaitable[None]]


@pytest.fixture
async def foreign(url: str, prefix: str) -> AsyncIterator[Foreign]:
    """Publishes what a peer of another kind might."""
    transport = open_transport(url)
    await transport.connect(lambda _state, _reason: None)

    async def publish(kind: str, name: str, payload: bytes) -> None:
        await transport.publish(f"{prefix}.{kind}.{name}", payload)
        await transport.flush()

    yield publish
    await transport.aclose()


async def event_of(watch: Watch, kind: EventType, name: str | None = None) -> Service:
    async with asyncio.timeout(10):
        async for event in watch:
            if event.type is kind and name in (None, event.service.name):
                return event.service
    raise AssertionError(f"no {kind}")


async def test_a_registered_service_is_found_with_all_that_it_says(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        registration = await provider.register(
            "billing.orders",
            "10.0.0.5:8080",
            url="http://10.0.0.5:8080/v1?a=1&b=<2>",
            network="tcp",
            version="1.4.2",
            host="node-7",
            metadata={"zone": "eu-1", "empty": "", "ключ": "значение"},
            status=Status.WARNING,
        )
        found = await caller.get_service("billing.orders")
        assert found == registration.service
        assert provider.registered == (found,)
        assert caller.registered == ()


async def test_an_unknown_service_is_not_found_after_the_timeout(make: MakeRegistry) -> None:
    async with make() as caller:
        started = asyncio.get_running_loop().time()
        with pytest.raises(ServiceNotFound, match="no instance of 'nobody' is known"):
            await caller.get_service("nobody", timeout=0.2)
        assert asyncio.get_running_loop().time() - started >= 0.19


async def test_without_waiting_the_broker_says_at_once_that_nobody_is_there(
    make: MakeRegistry,
) -> None:
    async with make(lookup_timeout=30.0) as caller, asyncio.timeout(5):
        with pytest.raises(ServiceNotFound):
            await caller.get_service("nobody", wait=False)
        assert await caller.get_services("nobody", wait=False) == ()
        assert await caller.get_services("nobody", wait=False) == ()


async def test_without_waiting_somebody_who_is_there_is_found(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=10.0) as caller:
        await provider.register("x", "10.0.0.5:1")
        assert (await caller.get_service("x", wait=False)).address == "10.0.0.5:1"


async def test_a_lookup_without_waiting_ends_when_all_answers_are_in(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=30.0) as caller, asyncio.timeout(5):
        await provider.register("x", "10.0.0.5:1", status=Status.CRITICAL)
        with pytest.raises(ServiceNotFound, match="1 instance of 'x' known, all critical"):
            await caller.get_service("x", wait=False)


async def test_a_lookup_waits_for_an_instance_to_appear(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=20.0) as caller:
        looking = asyncio.create_task(caller.get_service("late"))
        await eventually(lambda: caller.stats().pings_sent == 1)
        await provider.register("late", "10.0.0.5:1")
        assert (await asyncio.wait_for(looking, 10)).address == "10.0.0.5:1"


async def test_many_cold_callers_share_one_ping_and_all_get_their_answer(
    make: MakeRegistry,
) -> None:
    async with make() as provider, make(lookup_timeout=10.0) as caller:
        await asyncio.gather(*(provider.register("x", f"10.0.0.5:{port}") for port in (1, 2, 3)))
        found = await asyncio.gather(*(caller.get_service("x") for _ in range(200)))
        assert len(found) == 200
        assert caller.stats().pings_sent == 1


async def test_a_cold_lookup_of_all_returns_all(make: MakeRegistry) -> None:
    async with make() as one, make() as two, make(lookup_timeout=10.0) as caller:
        await asyncio.gather(
            *(one.register("x", f"10.0.0.1:{port}") for port in range(1, 101)),
            *(two.register("x", f"10.0.0.2:{port}") for port in range(1, 101)),
        )
        assert len(await caller.get_services("x")) == 200
        assert len(caller.cached("x")) == 200


async def test_who_was_in_a_hurry_has_not_collected_all(make: MakeRegistry) -> None:
    async with AsyncExitStack() as stack:
        for port in range(1, 6):
            provider = await stack.enter_async_context(make())
            await provider.register("x", f"10.0.0.5:{port}")
        caller = await stack.enter_async_context(make())
        await caller.get_services("x", timeout=0)
        await caller.get_service("x")
        assert len(await caller.get_services("x")) == 5


async def test_a_minimum_is_waited_for(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=20.0) as caller:
        await provider.register("x", "10.0.0.5:1")
        looking = asyncio.create_task(caller.get_services("x", minimum=2))
        await eventually(lambda: len(caller.cached("x")) == 1)
        await provider.register("x", "10.0.0.5:2")
        assert len(await asyncio.wait_for(looking, 10)) == 2


async def test_a_minimum_that_comes_up_later_ends_the_wait(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=60.0) as caller, asyncio.timeout(20):
        looking = asyncio.create_task(caller.get_services("x", minimum=2))
        await eventually(lambda: caller.stats().pings_sent == 1)
        await asyncio.sleep(1)  # longer than any answer takes
        await provider.register("x", "10.0.0.5:1")
        await provider.register("x", "10.0.0.5:2")
        assert len(await looking) == 2


async def test_instances_of_one_process_all_answer_a_ping(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        for port in (1, 2, 3):
            await provider.register("x", f"10.0.0.5:{port}")
        assert len(await caller.get_services("x")) == 3


async def test_cancelling_a_lookup_is_immediate_and_leaves_the_others(make: MakeRegistry) -> None:
    async with make() as provider, make(lookup_timeout=30.0) as caller:
        first = asyncio.create_task(caller.get_service("x"))
        second = asyncio.create_task(caller.get_service("x"))
        await eventually(lambda: caller.stats().pings_sent == 1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(first, 1)
        await provider.register("x", "10.0.0.5:1")
        assert (await asyncio.wait_for(second, 10)).name == "x"


async def test_filters_choose_and_the_error_says_what_was_known(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1", metadata={"zone": "eu"})
        await provider.register("x", "10.0.0.5:2", metadata={"zone": "us"}, status=Status.CRITICAL)
        await caller.observe("x")
        assert (await caller.get_service("x", where=metadata(zone="eu"))).port == 1
        everything = await caller.get_services("x", where=all_of())
        assert {service.port for service in everything} == {1, 2}
        assert [service.port for service in caller.cached("x")] == [1]
        with pytest.raises(ServiceNotFound, match="2 instances of 'x' known, none matches"):
            await caller.get_service("x", where=metadata(zone="asia"), timeout=0.1)
        await provider.unregister("x", "10.0.0.5:2")
        await eventually(lambda: len(caller.cached("x", all_of())) == 1)
        with pytest.raises(ServiceNotFound, match=r"1 instance of 'x' known, none matches .*asia"):
            await caller.get_service("x", where=metadata(zone="asia"), timeout=0.1)


async def anybody(_service: Service) -> bool:
    return True


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (5, "5 is no function"),
        (Status.PASSING, "is no function"),
        (anybody, "is async, so that everything would match"),
        (local, r"only makes predicates; write local\(\.\.\.\)"),
    ],
)
async def test_what_is_no_predicate_is_said(make: MakeRegistry, given: Any, why: str) -> None:
    async with make() as registry:
        await registry.observe("x")
        await registry.register("x", "10.0.0.5:1")
        await registry.get_service("x")
        with pytest.raises(TypeError, match=why):
            await registry.get_service("x", where=given)
        with pytest.raises(TypeError, match=why):
            registry.cached("x", given)
        with pytest.raises(TypeError, match=why):
            registry.watch("x", where=given)


async def test_what_is_not_accepted_is_not_known(make: MakeRegistry) -> None:
    async with make() as provider, make(accept=metadata(zone="eu")) as caller:
        await provider.register("x", "10.0.0.5:1", metadata={"zone": "eu"})
        await provider.register("x", "10.0.0.5:2", metadata={"zone": "us"})
        found = await caller.get_services("x")
        assert [service.port for service in found] == [1]
        assert caller.stats().rejected >= 1


async def test_an_accept_that_raises_does_no_harm(
    make: MakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(service: Service) -> bool:
        return bool(service.metadata["zone"])

    async with make() as provider, make(accept=broken) as caller:
        await provider.register("x", "10.0.0.5:1")
        await provider.register("x", "10.0.0.5:2", metadata={"zone": "us"})
        found = await caller.get_services("x")
        assert [service.port for service in found] == [2]
    assert "KeyError('zone')" in caplog.text


async def test_round_robin_is_fair_per_name_under_filters(make: MakeRegistry) -> None:
    async with make() as provider, make(balancer=RoundRobin()) as caller:
        for port in range(1, 5):
            zone = "eu" if port <= 2 else "us"
            await provider.register("x", f"10.0.0.5:{port}", metadata={"zone": zone})
            await provider.register("y", f"10.0.0.6:{port}")
        await caller.get_services("x")
        await caller.get_services("y")
        shares: dict[str, Counter[int | None]] = {"x": Counter(), "y": Counter(), "eu": Counter()}
        for _ in range(40):
            shares["x"][(await caller.get_service("x")).port] += 1
            shares["eu"][(await caller.get_service("x", where=metadata(zone="eu"))).port] += 1
            shares["y"][(await caller.get_service("y")).port] += 1
        assert set(shares["x"].values()) == set(shares["y"].values()) == {10}
        assert set(shares["eu"].values()) == {20}


async def test_every_change_reaches_every_watcher(make: MakeRegistry) -> None:
    async with make() as provider, make() as one, make() as two:  # noqa: SIM117 - in two steps
        async with one.watch("x") as first, two.watch("*") as second:
            registration = await provider.register("x", "10.0.0.5:1", version="1")
            for watch in (first, second):
                assert await event_of(watch, EventType.REGISTERED) == registration.service
            await registration.update(metadata={"zone": "eu"})
            for watch in (first, second):
                assert (await event_of(watch, EventType.UPDATED)).metadata == {"zone": "eu"}
            await registration.set_status(Status.CRITICAL)
            for watch in (first, second):
                assert (await event_of(watch, EventType.UPDATED)).status is Status.CRITICAL
            await registration.set_status(Status.PASSING)
            for watch in (first, second):
                assert (await event_of(watch, EventType.UPDATED)).status is Status.PASSING
            await registration.unregister()
            for watch in (first, second):
                assert (await event_of(watch, EventType.UNREGISTERED)).version == "1"


async def test_a_watch_begins_with_what_is_known(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        await provider.register("a", "10.0.0.5:1")
        await provider.register("b", "10.0.0.5:1")
        await caller.get_service("a")
        await caller.get_service("b")
        async with caller.watch("a") as watch:
            assert (await event_of(watch, EventType.REGISTERED)).name == "a"
        async with caller.watch("a", include_current=False) as watch:
            await provider.unregister("a")
            event = await asyncio.wait_for(anext(watch), 10)
            assert event.type is EventType.UNREGISTERED


async def test_a_watch_ends_when_the_registry_closes(make: MakeRegistry) -> None:
    caller = make()
    await caller.start()

    async def collect() -> list[EventType]:
        return [event.type async for event in caller.watch()]

    collecting = asyncio.create_task(collect())
    await eventually(lambda: caller.stats().watches == 1)
    await caller.register("x", "10.0.0.5:1")
    await eventually(lambda: "x" in caller.service_names)
    await caller.aclose()
    assert await asyncio.wait_for(collecting, 5) in (
        [EventType.REGISTERED, EventType.UNREGISTERED],
        [],  # merged before anybody looked
    )


async def test_silence_ends_in_an_expiry_event(make: MakeRegistry, foreign: Foreign) -> None:
    """A provider that vanishes without a word, as a crashed one does."""
    async with make() as caller:
        async with caller.watch("x") as watch:
            await foreign("register", "x", b'{"name":"x","add":"h:1","t":{"Duration":200}}')
            await event_of(watch, EventType.REGISTERED)
            assert (await event_of(watch, EventType.EXPIRED)).address == "h:1"
        assert caller.stats().expired == 1
        assert caller.cached("x") == ()


async def test_heartbeats_keep_an_instance(make: MakeRegistry) -> None:
    async with make(ttl=0.3) as provider, make() as caller:
        async with caller.watch("x", "done") as watch:
            await provider.register("x", "10.0.0.5:1")
            await event_of(watch, EventType.REGISTERED)
            await eventually(lambda: caller.stats().announcements_received >= 10)
        assert caller.stats().expired == 0
        assert len(caller.cached("x")) == 1


async def test_no_ghost_after_unregistering(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        registration = await provider.register("x", "10.0.0.5:1")
        await caller.get_service("x")
        await registration.unregister()
        await eventually(lambda: caller.cached("x") == ())
        with pytest.raises(ServiceNotFound):
            await caller.get_service("x", wait=False)
        assert "x" not in caller.service_names
        await registration.unregister()  # doing it twice is harmless
        with pytest.raises(NotRegistered, match=r"'x' at '10\.0\.0\.5:1'"):
            await registration.update(version="2")


async def test_registering_again_is_a_change_not_a_second_instance(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        first = await provider.register("x", "10.0.0.5:1", version="1")
        await caller.get_service("x")
        second = await provider.register("x", "10.0.0.5:1", version="2")
        await eventually(lambda: [s.version for s in caller.cached("x")] == ["2"])
        assert first.service.id == second.service.id
        assert len(provider.registered) == 1


async def test_a_restart_is_an_update_with_another_id(make: MakeRegistry, foreign: Foreign) -> None:
    def announcement(incarnation: bytes) -> bytes:
        return b'{"name":"x","add":"h:1","t":{"Duration":9000},"seq":1,"id":"%s"}' % incarnation

    async with make() as caller, caller.watch("x") as watch:
        await foreign("register", "x", announcement(b"one"))
        assert (await event_of(watch, EventType.REGISTERED)).id == "one"
        await foreign("register", "x", announcement(b"two"))
        assert (await event_of(watch, EventType.UPDATED)).id == "two"
        await foreign("register", "x", announcement(b"one"))  # a late one
        await foreign("unregister", "x", b'{"name":"x","add":"h:1","id":"one"}')
        await eventually(lambda: caller.stats().withdrawals_received == 1)
        await eventually(lambda: caller.stats().late == 1)
        assert [service.id for service in caller.cached("x")] == ["two"]


@pytest.mark.parametrize("names", [1, 50])
async def test_many_registered_together_are_hardly_said_twice(
    make: MakeRegistry, names: int
) -> None:
    """Only who may have been asked for before it was listening announces itself again."""
    async with make() as registry:
        await registry.register("first", "10.0.0.4:1")
        before = registry.stats().announcements_sent
        await asyncio.gather(
            *(
                registry.register(f"orders{number % names}", f"10.0.0.4:{number + 1}")
                for number in range(200)
            )
        )
        assert 200 <= registry.stats().announcements_sent - before <= 205


async def test_a_new_name_is_said_once_where_listening_takes_no_wait(make: MakeRegistry) -> None:
    """Elsewhere twice: who asked before it was listening has had no answer."""
    async with make() as registry:
        for number in range(3):
            await registry.register(f"orders{number}", "10.0.0.4:1")
            await registry.register(f"orders{number}", "10.0.0.4:2")
        said = registry.stats().announcements_sent
        assert said == 6 if open_transport(registry.address).ordered else 6 <= said <= 9


@pytest.mark.parametrize("turns", range(6))
async def test_unobserving_that_is_cancelled_leaves_no_ghost(
    make: MakeRegistry, turns: int
) -> None:
    """Else half of the subscriptions would bring instances in, and their end would go unheard."""
    async with make() as provider, make() as observer:
        await observer.observe("orders", "returns")
        unobserving = asyncio.create_task(observer.unobserve("orders", "returns"))
        for _ in range(turns):
            await asyncio.sleep(0)
        unobserving.cancel()
        await asyncio.wait([unobserving])
        for name in ("orders", "returns"):
            await provider.register(name, "10.0.0.4:1")
        await observer.observe("other")  # a round trip: what was sent has arrived by now
        for name in ("orders", "returns"):
            assert bool(observer.cached(name)) is (name in observer.observed)


@pytest.mark.parametrize("turns", range(14))
async def test_closed_while_calls_are_under_way(make: MakeRegistry, turns: int) -> None:
    """Whoever waits learns that there is no more to wait for."""
    registry = make()
    await registry.start()
    registration = await registry.register("orders", "10.0.0.4:1")
    calls = under_way(registry) | {
        "change": asyncio.create_task(registration.set_status(Status.WARNING)),
        "unregister": asyncio.create_task(registration.unregister()),
    }
    for _ in range(turns):
        await asyncio.sleep(0)
    await registry.aclose()
    await they_end(calls)


async def test_closed_while_calls_wait_for_a_broker() -> None:
    registry = Registry("nats://127.0.0.1:1", connect_timeout=None)
    await registry.start()
    calls = under_way(registry)
    await asyncio.sleep(0.1)
    await registry.aclose()
    outcomes = await they_end(calls)
    for waiting in ("connect", "register", "find", "collect"):
        assert isinstance(outcomes[waiting], RegistryClosed)


def under_way(registry: Registry) -> dict[str, asyncio.Task[object]]:
    """Calls that all wait for something, some of them for long."""
    calls: dict[str, Coroutine[Any, Any, object]] = {
        "connect": registry.wait_connected(),
        "register": registry.register("orders", "10.0.0.4:2"),
        "find": registry.get_service("nobody", timeout=60),
        "collect": registry.get_services("nobody-else", timeout=60),
        "observe": registry.observe("deliveries"),
        "watch": anext(registry.watch("returns")),
        "forget": registry.unobserve("deliveries"),
    }
    return {name: asyncio.create_task(call) for name, call in calls.items()}


async def they_end(calls: dict[str, asyncio.Task[object]]) -> dict[str, BaseException | None]:
    """What the calls raised; all of it is known to their callers."""
    await asyncio.wait(calls.values(), timeout=5)
    assert [name for name, call in calls.items() if not call.done()] == []
    outcomes = {name: call.exception() for name, call in calls.items()}
    for outcome in filter(None, outcomes.values()):
        assert isinstance(outcome, (RegistryClosed, NotRegistered, StopAsyncIteration))
    return outcomes


async def test_pings_are_heard_for_as_long_as_a_name_is_registered(make: MakeRegistry) -> None:
    async with make() as provider, make() as asker:
        for _ in range(3):
            one = await provider.register("orders", "10.0.0.4:1")
            other = await provider.register("orders", "10.0.0.4:2")
            await one.unregister()
            await eventually(lambda: len(asker.cached("orders")) <= 1)
            before = provider.stats().pings_received
            await asker.get_services("orders")
            await asker.unobserve("orders")
            await asker.get_service("orders")
            await eventually(lambda: provider.stats().pings_received > before)  # noqa: B023 - awaited here
            await other.unregister()
            await asker.unobserve("orders")
            with pytest.raises(ServiceNotFound):
                await asker.get_service("orders", wait=False)


async def test_a_registration_is_a_context_manager(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        async with await provider.register("x", "10.0.0.5:1"):
            await caller.get_service("x")
        await eventually(lambda: caller.cached("x") == ())


async def test_unregister_and_set_status_by_name(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1")
        await provider.register("x", "10.0.0.5:2")
        with pytest.raises(NotRegistered, match=r"x at 10\.0\.0\.5:1, x at 10\.0\.0\.5:2"):
            await provider.set_status("x", Status.WARNING)
        await provider.set_status("x", Status.WARNING, "10.0.0.5:2")
        await provider.set_status(Service("x", "10.0.0.5:1"), Status.CRITICAL)
        await caller.observe("x")
        await eventually(lambda: len(caller.cached("x", where=all_of())) == 2)
        by_port = {s.port: s.status for s in caller.cached("x", where=all_of())}
        assert by_port == {1: Status.CRITICAL, 2: Status.WARNING}
        await provider.unregister("x", "10.0.0.5:1")
        await provider.unregister("x")
        assert provider.registered == ()
        with pytest.raises(LookupError, match="registered: nothing"):
            await provider.unregister("x")


async def test_the_text_of_a_wrong_name_does_not_list_thousands(make: MakeRegistry) -> None:
    async with make() as registry:
        for port in range(1, 26):
            await registry.register("x", f"10.0.0.5:{port}", wait=False)
        with pytest.raises(NotRegistered, match=r"x at 10\.0\.0\.5:10 and 15 more$"):
            await registry.unregister("y")


async def test_no_status_is_none(make: MakeRegistry) -> None:
    async with make() as provider:
        registration = await provider.register("x", "10.0.0.5:1")
        for status in (None, "bogus"):
            with pytest.raises(InvalidService, match="status must be one of 'passing'"):
                await provider.set_status("x", status)  # type: ignore[arg-type]  # that is the point
            with pytest.raises(InvalidService, match="status must be one of 'passing'"):
                await registration.set_status(status)  # type: ignore[arg-type]  # as above


async def test_draining_withdraws_and_goes_on_looking_up(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1")
        await caller.get_service("x")
        await caller.register("y", "10.0.0.6:1")
        draining = asyncio.create_task(provider.drain(0.5))
        await eventually(lambda: caller.cached("x") == ())
        assert not draining.done()
        assert (await provider.get_service("y")).port == 1
        await draining
        assert provider.registered == ()


async def test_observing_by_patterns(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        for name in ("billing.orders", "billing.orders.v2", "shipping", "billing"):
            await provider.register(name, "10.0.0.5:1")
        await caller.observe("billing.*")
        await eventually(lambda: caller.service_names == ("billing.orders",))
        await caller.observe("billing.>")
        await eventually(
            lambda: set(caller.service_names) == {"billing.orders", "billing.orders.v2"}
        )
        assert list(caller.observed) == ["billing.*", "billing.>"]
        await caller.unobserve("billing.>")
        assert list(caller.service_names) == ["billing.orders"]
        await provider.register("billing.third", "10.0.0.5:1")
        await eventually(lambda: "billing.third" in caller.service_names)
        await caller.unobserve("billing.*", "never.observed")
        assert not caller.service_names
        assert not caller.observed


async def test_what_a_pattern_brought_in_comes_without_a_gap(make: MakeRegistry) -> None:
    """Heartbeats, which would heal a gap, are too rare here to do so."""
    async with make(ttl=3600) as provider, make() as caller:
        registration = await provider.register("x", "10.0.0.5:1")
        await caller.observe("x")
        await eventually(lambda: caller.cached("x"))
        for number in range(10):
            await caller.observe(">")
            await registration.update(version=f"{number}, twice observed")
            await eventually(lambda: "twice" in caller.cached("x")[0].version, within=3)
            await caller.unobserve(">")
            await registration.update(version=f"{number}")
            await eventually(lambda: "twice" not in caller.cached("x")[0].version, within=3)


async def test_a_lookup_outlives_the_pattern_that_it_relies_on(make: MakeRegistry) -> None:
    async with make(ttl=3600) as provider, make() as caller:
        await caller.observe(">")
        before = caller.stats().pings_sent
        lookup = asyncio.create_task(caller.get_service("x", timeout=10))
        await eventually(lambda: caller.stats().pings_sent > before)
        await caller.unobserve(">")
        await provider.register("x", "10.0.0.5:1")
        assert (await lookup).address == "10.0.0.5:1"


async def test_what_was_unobserved_is_collected_again(make: MakeRegistry) -> None:
    async with make(ttl=3600) as one, make(ttl=3600) as other, make() as caller:
        await one.register("x", "10.0.0.5:1")
        await other.register("x", "10.0.0.6:1")
        for _ in range(20):
            assert len(await caller.get_services("x", minimum=2)) == 2
            await caller.unobserve("x")
            await caller.get_service("x")
            assert len(await caller.get_services("x")) == 2
            await caller.unobserve("x")


async def test_an_observed_name_is_kept_current(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        await caller.observe("x")
        registration = await provider.register("x", "10.0.0.5:1")
        await eventually(lambda: len(caller.cached("x")) == 1)
        await registration.update(version="2")
        await eventually(lambda: caller.cached("x")[0].version == "2")


async def test_tenants_do_not_see_each_other(make: MakeRegistry) -> None:
    async with make(prefix="acme.prod") as one, make(prefix="acme.test") as other:
        await other.observe(">")
        await one.register("x", "10.0.0.5:1")
        assert (await one.get_service("x")).name == "x"
        with pytest.raises(ServiceNotFound):
            await other.get_service("x", wait=False)
        assert other.service_names == ()


async def test_closing_twice_and_closing_one_of_two(make: MakeRegistry) -> None:
    one, two = make(), make()
    await one.start()
    await two.start()
    await two.register("x", "10.0.0.5:1")
    await asyncio.gather(one.aclose(), one.aclose())
    await one.aclose()
    assert (await two.get_service("x")).port == 1
    assert not one.connected
    for use in (
        one.register("x", "10.0.0.5:1"),
        one.get_service("x"),
        one.get_services("x"),
        one.observe("x"),
        one.unregister("x"),
        one.drain(1),
        one.start(),
        one.wait_connected(),
    ):
        with pytest.raises(RegistryClosed, match="closed"):
            await use
    for look in (lambda: one.cached("x"), lambda: one.watch("x"), one.stats):
        with pytest.raises(RegistryClosed, match="closed"):
            look()


async def test_before_the_start_the_error_says_what_is_missing(make: MakeRegistry) -> None:
    registry = make()
    assert not registry.connected
    assert not registry.registered
    assert not registry.observed
    assert not registry.service_names
    with pytest.raises(RegistryClosed, match="async with"):
        await registry.get_service("x")
    await registry.start()
    with pytest.raises(RuntimeError, match="started already"):
        await registry.start()


async def test_entering_and_leaving_in_different_tasks(make: MakeRegistry) -> None:
    registry, caller = make(), make()
    await asyncio.create_task(registry.__aenter__())
    await asyncio.create_task(caller.__aenter__())
    await asyncio.create_task(registry.register("x", "10.0.0.5:1"))
    assert (await caller.get_service("x")).port == 1
    await asyncio.create_task(registry.__aexit__(None, None, None))
    await eventually(lambda: caller.cached("x") == ())


async def test_a_payload_too_large_is_an_error_at_register(make: MakeRegistry) -> None:
    big = {f"key-{number}": "x" * 1000 for number in range(32)}
    async with make() as provider:
        with pytest.raises(InvalidService, match="metadata of 'x' has"):
            await provider.register("x", "10.0.0.5:1", metadata={**big, "one": "y" * 1000})
        with pytest.raises(InvalidService, match="shorten its metadata"):
            await provider.register("x", "10.0.0.5:1", metadata={"k": "\x01" * 20_000})
        assert provider.registered == ()
        await provider.register("x", "10.0.0.5:1", metadata=big)


@pytest.mark.parametrize("hours", [-1, 1])
async def test_clocks_an_hour_off_change_nothing(make: MakeRegistry, hours: int) -> None:
    async with make(wall_clock=lambda: 1e9 + 3600 * hours, ttl=0.5) as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1")
        await caller.get_service("x")
        await eventually(lambda: caller.stats().announcements_received >= 5)
        assert caller.stats().expired == 0


async def test_bad_names_raise_at_once(make: MakeRegistry) -> None:
    async with make() as registry:
        for call in (
            registry.get_service("a b"),
            registry.get_services("a.*"),
            registry.register("", "10.0.0.5:1"),
            registry.register("x", "no-port"),
            registry.register("_all", "10.0.0.5:1"),
            registry.observe("a..b"),
        ):
            with pytest.raises(InvalidService):
                await call
        with pytest.raises(InvalidService, match="pattern"):
            registry.watch("a.>.b")
        for timeout in (-1, float("nan"), True):
            with pytest.raises(ValueError, match="timeout must be a positive number"):
                await registry.get_service("x", timeout=timeout)


async def test_cancelling_register_leaves_nothing_registered(make: MakeRegistry) -> None:
    async with make() as provider, make() as caller:
        for delay in range(6):
            task = asyncio.create_task(provider.register("x", "10.0.0.5:1"))
            for _ in range(delay):
                await asyncio.sleep(0)
            if task.done():
                await provider.unregister("x")
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert provider.registered == ()
        await eventually(lambda: caller.stats().connected)
        await provider.register("y", "10.0.0.5:1")
        await caller.get_service("y")  # what was sent before has arrived, too
        with pytest.raises(ServiceNotFound):
            await caller.get_service("x", wait=False)


async def test_cancelling_the_start_leaves_nothing_behind(make: MakeRegistry) -> None:
    for steps in range(12):
        registry = make()
        task = asyncio.create_task(registry.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():  # it was quicker
            await registry.aclose()
        with pytest.raises(RegistryClosed):
            await registry.get_service("x")


async def test_cancelling_the_close_still_closes(make: MakeRegistry) -> None:
    async with make() as caller:
        for steps in range(1, 5):
            registry = make()
            await registry.start()
            await registry.register("x", f"10.0.0.5:{steps}")
            await caller.get_service("x")
            task = asyncio.create_task(registry.aclose())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await eventually(lambda: caller.cached("x") == ())


async def test_two_registries_of_one_process_hear_each_other_and_themselves(
    make: MakeRegistry,
) -> None:
    async with make() as one, make() as two:
        await one.register("x", "10.0.0.5:1")
        await two.register("x", "10.0.0.5:2")
        for registry in (one, two):
            assert len(await registry.get_services("x", minimum=2)) == 2


async def test_bad_messages_are_counted_and_dropped(make: MakeRegistry, foreign: Foreign) -> None:
    async with make() as caller:
        await caller.observe("x")
        bad = [
            b"null",
            b"{",
            b"\xff\xfe",
            b'{"name":"y"}',
            b'{"name":"x","kv":{"a":1}}',
            b"[" * 5000,
        ]
        for payload in bad:
            await foreign("register", "x", payload)
            await foreign("unregister", "x", payload)
        await eventually(lambda: caller.stats().malformed == 2 * len(bad))
        assert caller.cached("x", where=all_of()) == ()
        good = b'{"name":"x","add":"h:1","t":{"Registered":1,"Duration":20000}}'
        await foreign("register", "x", good)
        await eventually(lambda: len(caller.cached("x")) == 1)


async def test_max_instances_refuses_the_newest(make: MakeRegistry) -> None:
    async with make() as provider, make(max_instances=2) as caller:
        await caller.observe("x")
        for port in (1, 2, 3):
            await provider.register("x", f"10.0.0.5:{port}")
        await eventually(lambda: caller.stats().refused >= 1)
        assert [service.port for service in caller.cached("x")] == [1, 2]


async def test_predicates_and_balancers_of_ones_own(make: MakeRegistry) -> None:
    class Highest:
        def choose(self, services: tuple[Service, ...], scope: object) -> Service:
            return max(services, key=lambda service: service.port or 0)

    async with make() as provider, make(where=passing) as caller:
        for port in (1, 2, 3):
            await provider.register("x", f"10.0.0.5:{port}")
        await provider.register("x", "10.0.0.5:9", status=Status.WARNING)
        assert len(await caller.get_services("x")) == 3
        assert (await caller.get_service("x", balancer=Highest())).port == 3
        odd = await caller.get_service("x", where=lambda service: service.port == 1)
        assert odd.port == 1


async def test_names_from_outside_do_not_fill_memory(
    make: MakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.observer.MAX_IDLE", 10)
    async with make() as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1")
        await caller.get_service("x")
        for number in itertools.islice(itertools.count(), 50):
            with pytest.raises(ServiceNotFound):
                await caller.get_service(f"unknown-{number}", wait=False)
        assert len(caller.observed) <= 12
        assert len(caller.cached("x")) == 1


async def test_names_that_were_collected_do_not_fill_memory(
    make: MakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.lookup.MAX_COMPLETE", 10)
    async with make() as provider, make() as caller:
        await provider.register("x", "10.0.0.5:1")
        for number in range(25):
            assert await caller.get_services(f"unknown-{number}", wait=False) == ()
            assert len(inside(caller).complete) == number % 10 + 1
        assert len(await caller.get_services("x")) == 1


def inside(registry: Any) -> Any:
    """What keeps the catalogue current, for a look at what nobody else needs to see."""
    return registry._session.observer


def test_services_are_values() -> None:
    service = Service("x", "10.0.0.5:1")
    changed = msgspec.structs.replace(service, version="2")
    assert {service, changed} == {changed, service}
    assert service != changed


async def test_a_wrong_url_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"no transport for 'localhost:4222'.*nats://"):
        Registry("localhost:4222")
    with pytest.raises(ValueError, match="no transport for http"):
        Registry("http://user:secret@localhost")
    with pytest.raises(ValueError, match=r"no transport for '\*\*\*@localhost'"):
        Registry("user:secret@localhost")


async def test_no_broker_is_a_transport_error_in_time() -> None:
    for scheme in ("nats", "redis"):
        registry = Registry(f"{scheme}://127.0.0.1:1", connect_timeout=0.3)
        async with no_new_tasks():
            with pytest.raises(TransportError, match=r"127\.0\.0\.1:1 within 0\.3 s"):
                await registry.start()


async def test_a_url_in_capitals(nats_broker: Broker, redis_broker: Broker) -> None:
    for broker in (nats_broker, redis_broker):
        scheme, separator, rest = broker.url.partition("://")
        async with Registry(scheme.upper() + separator + rest) as registry:
            assert registry.connected


async def test_a_cancelled_observe_asks_all_the_same(
    nats_broker: Broker, redis_broker: Broker
) -> None:
    for broker in (nats_broker, redis_broker):
        async with (
            Registry(broker.url, prefix="cancelled", ttl=600) as provider,
            Registry(broker.url, prefix="cancelled") as observer,
        ):
            await provider.register("orders", "10.0.0.5:8080")
            observing = asyncio.create_task(observer.observe("orders"))
            await asyncio.sleep(0)
            observing.cancel()
            await asyncio.wait([observing])
            assert observing.cancelled()
            await eventually(functools.partial(observer.cached, "orders"))


async def test_names_that_are_given_up_while_others_are(
    old_redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a subscription takes a moment to end."""
    waited_for = [f"w{number}" for number in range(10)]
    async with Registry(old_redis_broker.url, prefix="given-up") as registry:
        await registry.get_services("idle1", wait=False)
        waiting = [
            asyncio.create_task(registry.get_services(name, timeout=0.5)) for name in waited_for
        ]
        await eventually(lambda: set(waited_for) <= set(registry.observed))
        for name in ("idle2", "idle3"):
            await registry.get_services(name, wait=False)
        monkeypatch.setattr("aioregistry.observer.MAX_IDLE", 1)
        one_more = asyncio.create_task(registry.get_services("more", wait=False))
        for _ in range(1000):
            if "idle1" not in registry.observed:
                break
            await asyncio.sleep(0)
        await registry.unobserve(*waited_for)  # while the first is on its way out
        assert await one_more == ()
        assert await asyncio.gather(*waiting) == [()] * len(waiting)
