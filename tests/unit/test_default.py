"""The registry of the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

import pytest

from aioregistry.choosing import Predicate, Random, RoundRobin
from aioregistry.default import close_default, connect, get_default
from aioregistry.errors import RegistryClosed, TransportError
from aioregistry.service import Service
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from tests.tools import eventually

T = TypeVar("T")


@pytest.fixture(autouse=True)
async def no_default_is_left() -> AsyncIterator[None]:
    yield
    await close_default()


def everything() -> Predicate:
    """A function made anew."""

    def accept(_service: Service) -> bool:
        return True

    return accept


def stopped_broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.stop()
    return broker


async def test_every_call_gives_the_same() -> None:
    registry = await connect("memory://")
    assert await connect() is registry
    assert await connect("memory://") is registry
    assert get_default() is registry
    assert registry.connected


async def test_it_works() -> None:
    registry = await connect("memory://", ttl=5.0)
    await registry.register("orders", "a:1")
    assert (await get_default().get_service("orders")).address == "a:1"


async def test_concurrent_first_calls_share_one_start() -> None:
    registries = await asyncio.gather(*(connect("memory://") for _ in range(10)))
    assert len(set(map(id, registries))) == 1


async def test_the_same_call_again_gives_the_same_registry() -> None:
    """Though balancers and functions that are made anew compare as different."""
    registries = [
        await connect("memory://", ttl=5.0, balancer=RoundRobin(), accept=everything())
        for _ in range(2)
    ]
    assert registries[0] is registries[1]
    with pytest.raises(ValueError, match="already, with another target or options"):
        await connect("memory://", ttl=5.0, balancer=Random(), accept=everything())


async def test_a_later_call_that_asks_for_something_else_is_an_error() -> None:
    await connect("memory://", ttl=5.0)
    for call in (connect("memory://other"), connect("memory://", ttl=6.0), connect(ttl=5.0)):
        with pytest.raises(ValueError, match="already, with another target or options"):
            await call
    assert await connect("memory://", ttl=5.0) is get_default()


async def test_none_before_connect() -> None:
    with pytest.raises(RegistryClosed, match=r"await aioregistry\.connect\(\) first"):
        get_default()


async def test_none_while_connecting() -> None:
    task = asyncio.ensure_future(connect("memory://"))
    await asyncio.sleep(0)
    with pytest.raises(RegistryClosed):
        get_default()
    assert await task is get_default()


async def test_none_after_closing() -> None:
    registry = await connect("memory://")
    await close_default()
    with pytest.raises(RegistryClosed):
        get_default()
    with pytest.raises(RegistryClosed):
        registry.cached("orders")
    await close_default()
    assert await connect("memory://") is not registry


async def test_closing_what_never_was() -> None:
    await close_default()


async def test_a_bad_option_is_raised_at_once_and_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="ttl"):
        await connect("memory://", ttl=-1)
    with pytest.raises(RegistryClosed):
        get_default()
    assert await connect("memory://") is get_default()


async def test_a_first_call_that_fails_fails_for_all_and_the_next_tries_anew() -> None:
    transport = MemoryTransport(stopped_broker())
    calls = [connect(transport, connect_timeout=0.01) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, TransportError) for outcome in outcomes)
    with pytest.raises(RegistryClosed):
        get_default()
    assert await connect("memory://") is get_default()


async def test_cancelling_a_call_does_not_stop_the_start() -> None:
    first = asyncio.ensure_future(connect("memory://"))
    second = asyncio.ensure_future(connect())
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is get_default()


async def test_a_start_that_nobody_waits_for_may_fail_quietly() -> None:
    transport = MemoryTransport(stopped_broker())
    call = asyncio.ensure_future(connect(transport, connect_timeout=0.005))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await close_default()


async def test_closing_while_it_starts() -> None:
    transport = MemoryTransport(stopped_broker())
    calls = [asyncio.ensure_future(connect(transport, connect_timeout=100)) for _ in range(2)]
    await asyncio.sleep(0)
    await close_default()
    for call in calls:
        with pytest.raises(RegistryClosed, match="closed while"):
            await call
    with pytest.raises(RegistryClosed):
        get_default()


async def test_closed_by_its_user_it_is_made_anew() -> None:
    registry = await connect("memory://")
    await registry.aclose()
    with pytest.raises(RegistryClosed):
        get_default()
    again = await connect("memory://")
    assert again is not registry
    assert again.connected


async def test_when_its_work_has_failed_it_is_made_anew() -> None:
    before = asyncio.all_tasks()
    registry = await connect("memory://")
    for task in asyncio.all_tasks() - before:
        task.cancel()
    await eventually(lambda: registry.closed)
    with pytest.raises(RegistryClosed):
        get_default()
    assert (await connect("memory://")).connected


def test_each_event_loop_has_its_own() -> None:
    first = asyncio.run(_value(connect("memory://")))
    with pytest.raises(RegistryClosed):
        get_default()
    assert asyncio.run(_value(connect("memory://"))) is not first


def test_closing_after_its_event_loop_is_gone() -> None:
    asyncio.run(_value(connect("memory://")))
    asyncio.run(close_default())
    with pytest.raises(RegistryClosed):
        get_default()


def test_a_start_that_its_event_loop_cut_short() -> None:
    async def begin() -> None:
        call = asyncio.ensure_future(
            connect(MemoryTransport(stopped_broker()), connect_timeout=100)
        )
        await asyncio.wait([call], timeout=0.005)

    asyncio.run(begin())

    async def begin_again() -> bool:
        return (await connect("memory://")).connected

    assert asyncio.run(begin_again())
    asyncio.run(close_default())


async def _value(awaitable: Awaitable[T]) -> T:
    return await awaitable
