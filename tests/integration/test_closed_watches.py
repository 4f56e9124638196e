"""What is observed for watches alone, and given up when the last of them is closed."""

from __future__ import annotations

import asyncio

import pytest
from tests.integration.conftest import MakeRegistry
from tests.tools import eventually

from aioregistry import EventType, Registry, ServiceNotFound, link


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is idle is given up soon."""
    monkeypatch.setattr(link, "CHECK_INTERVAL", 0.05)


async def rounds(registry: Registry) -> None:
    """Let the registry look at what is idle: `marker` is, from now on."""
    async with registry.watch("marker.*"):
        assert "marker.*" in registry.observed
    await eventually(lambda: "marker.*" not in registry.observed)


async def test_a_pattern_is_given_up_with_its_last_watch(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await provider.register("billing.orders", "10.0.0.5:1")
        async with observer.watch("billing.*") as first:
            await anext(first)
            async with observer.watch("billing.*") as second:
                await anext(second)
            await rounds(observer)
            assert observer.observed == ("billing.*",)
            await provider.register("billing.orders", "10.0.0.5:2")
            assert (await anext(first)).service.port == 2
        await eventually(lambda: not observer.observed and not observer.service_names)


async def test_everything_is_given_up_when_a_loop_is_left(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await provider.register("orders", "10.0.0.5:1")
        async for event in observer.watch():
            assert event.service.name == "orders"
            break
        await eventually(lambda: observer.observed == ())
        assert (await observer.get_service("orders")).port == 1


async def test_what_was_asked_for_by_itself_stays(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await provider.register("billing.orders", "10.0.0.5:1")
        await observer.observe("billing.*")
        async with observer.watch("billing.*", "shop.*"):
            await observer.observe("shop.*")
        await rounds(observer)
        assert observer.observed == ("billing.*", "shop.*")
        await eventually(lambda: observer.cached("billing.orders"))
        await observer.unobserve("billing.*", "shop.*")
        assert not observer.observed


async def test_what_relies_on_a_pattern_survives_it(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await provider.register("billing.orders", "10.0.0.5:1")
        async with observer.watch("billing.*") as wide:
            await anext(wide)
            narrow = observer.watch("billing.orders")
            assert (await anext(narrow)).type is EventType.REGISTERED
        await eventually(lambda: observer.observed == ("billing.orders",))
        await provider.register("billing.orders", "10.0.0.5:2")
        event = await anext(narrow)
        assert (event.type, event.service.port) == (EventType.REGISTERED, 2)
        await narrow.aclose()
        assert len(observer.cached("billing.orders")) == 2


async def test_a_watch_that_begins_as_the_last_one_ends(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        await provider.register("billing.orders", "10.0.0.5:1")
        for _ in range(20):
            async with observer.watch("billing.*") as watch:
                await asyncio.wait_for(anext(watch), 5)
                await asyncio.sleep(0.01)
        async with observer.watch("billing.*") as watch:
            await anext(watch)
            await rounds(observer)
            await provider.register("billing.orders", "10.0.0.5:2")
            assert (await asyncio.wait_for(anext(watch), 5)).service.port == 2


async def test_names_that_were_watched_do_not_fill_memory(
    make: MakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.observer.MAX_IDLE", 10)
    async with make() as provider, make() as observer:
        await provider.register("x", "10.0.0.5:1")
        async with observer.watch("x") as kept:
            await anext(kept)
            async with observer.watch("nobody"):
                for number in range(30):
                    async with observer.watch(f"gone-{number}"):
                        pass
                for number in range(30):
                    with pytest.raises(ServiceNotFound):
                        await observer.get_service(f"unknown-{number}", wait=False)
                await eventually(lambda: len(observer.observed) <= 14)
                assert {"x", "nobody"} <= set(observer.observed)
        assert len(observer.cached("x")) == 1
