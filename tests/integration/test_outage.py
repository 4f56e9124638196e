"""What callers see when the broker is not there yet, goes away, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis.asyncio
from tests.tools import eventually, in_time

from aioregistry import (
    EventType,
    Registry,
    RegistryClosed,
    ServiceNotFound,
    Status,
    TransportError,
    all_of,
)
from aioregistry.testing.brokers import Broker, nats_server, redis_server

MakeRegistry = Callable[..., Registry]


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own, to be stopped and started."""
    with nats_server() if request.param == "nats" else redis_server() as running:
        yield running


@pytest.fixture
def url(broker: Broker) -> str:
    return broker.url


async def stop(broker: Broker) -> None:
    await asyncio.to_thread(broker.kill)


async def start(broker: Broker) -> None:
    await asyncio.to_thread(broker.start)


def sockets() -> int:
    names: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(os.readlink(descriptor))  # noqa: PTH115 - no path
    return sum(name.startswith("socket:") for name in names)


async def test_while_the_broker_is_gone_the_catalogue_answers_and_nothing_expires(
    make: MakeRegistry, broker: Broker
) -> None:
    async with make(ttl=0.6) as provider, make() as caller, caller.watch("x") as watch:
        await provider.register("x", "10.0.0.5:1")
        assert (await anext(watch)).type is EventType.REGISTERED
        await stop(broker)
        await eventually(lambda: not caller.connected and not provider.connected)
        assert caller.stats().detail
        await asyncio.sleep(1.2)  # two ttls: time is what this test is about
        assert (await caller.get_service("x")).port == 1
        with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
            await caller.get_service("unknown")
        with pytest.raises(TransportError):
            await caller.get_services("unknown", wait=False)
        with pytest.raises(ServiceNotFound):
            await caller.get_service("x", where=lambda service: service.port == 2, timeout=0.05)
        await start(broker)
        await caller.wait_connected(10)
        await provider.wait_connected(10)
        await asyncio.sleep(1.2)  # and two ttls more
        assert len(caller.cached("x")) == 1
        stats = caller.stats()
        assert (stats.expired, stats.losses, stats.connected) == (0, 1, True)
        await provider.set_status("x", Status.WARNING)
        assert (await anext(watch)).type is EventType.UPDATED  # nothing was in between


async def test_after_an_outage_everything_works_again(make: MakeRegistry, broker: Broker) -> None:
    async with make() as provider, make() as caller, caller.watch("*") as watch:
        await provider.register("old", "10.0.0.5:1")
        await provider.register("gone", "10.0.0.5:1")
        await provider.register("changed", "10.0.0.5:1")
        await eventually(lambda: len(caller.service_names) == 3)
        await stop(broker)
        await eventually(lambda: not caller.connected and not provider.connected)
        async with in_time(1):  # none of these waits for a broker
            await provider.register("quick", "10.0.0.5:1", wait=False)
            await provider.unregister("gone")
            await provider.set_status("changed", Status.WARNING)
        patient = asyncio.create_task(provider.register("patient", "10.0.0.5:1"))
        await caller.observe("later")
        await asyncio.sleep(0.1)
        assert not patient.done()
        await start(broker)
        await asyncio.wait_for(patient, 15)
        expected = {"old", "changed", "quick", "patient"}
        await eventually(lambda: set(caller.service_names) == expected)
        await eventually(lambda: caller.cached("changed")[0].status is Status.WARNING)
        await provider.register("later", "10.0.0.5:1")
        await eventually(lambda: len(caller.cached("later")) == 1)
        assert (await caller.get_services("old"))[0].port == 1  # pings arrive, too
        async with make() as stranger:
            assert (await stranger.get_service("old")).port == 1
        while (await anext(watch)).service.name != "later":
            pass


async def test_who_died_during_the_outage_expires_after_it(
    make: MakeRegistry, broker: Broker
) -> None:
    async with make(ttl=0.6) as caller, caller.watch("x") as watch:
        doomed = make(ttl=0.6)
        await doomed.start()
        await doomed.register("x", "10.0.0.5:1")
        assert (await anext(watch)).type is EventType.REGISTERED
        await stop(broker)
        await eventually(lambda: not doomed.connected)
        await doomed.aclose()  # nobody hears its withdrawal
        await start(broker)
        async with asyncio.timeout(10):
            assert (await anext(watch)).type is EventType.EXPIRED


async def test_the_broker_may_come_later(make: MakeRegistry, broker: Broker) -> None:
    await stop(broker)
    provider, caller = make(connect_timeout=None), make(connect_timeout=30.0)
    await provider.start()
    assert not provider.connected
    await provider.register("x", "10.0.0.5:1", wait=False)
    with pytest.raises(TransportError):
        await provider.wait_connected(0.05)
    with pytest.raises(TransportError):
        await provider.get_service("y", timeout=0.05)
    await provider.observe("y")
    waiting = asyncio.create_task(caller.start())
    patient = asyncio.create_task(provider.register("z", "10.0.0.5:1"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await start(broker)
    await asyncio.wait_for(asyncio.gather(waiting, patient), 15)
    assert (await caller.get_service("x")).port == 1
    assert (await caller.get_service("z")).port == 1
    await caller.register("y", "10.0.0.6:1")
    await eventually(lambda: len(provider.cached("y")) == 1)


async def test_closing_without_a_broker_is_prompt_and_leaves_nothing(
    make: MakeRegistry, broker: Broker
) -> None:
    before = sockets()
    registry = make()
    await registry.start()
    await registry.register("x", "10.0.0.5:1")
    assert sockets() > before
    await stop(broker)
    await eventually(lambda: not registry.connected)
    async with in_time(2):
        await registry.aclose()
    await eventually(lambda: sockets() == before)
    never = make(connect_timeout=None)
    await never.start()
    pending = asyncio.create_task(never.register("x", "10.0.0.5:1"))
    await asyncio.sleep(0.05)
    async with in_time(2):
        await never.aclose()
    with pytest.raises(RegistryClosed):
        await pending
    await eventually(lambda: sockets() == before)


async def test_a_broker_that_hangs_bounds_every_call(make: MakeRegistry, broker: Broker) -> None:
    caller = make(lookup_timeout=0.2)
    await caller.start()
    await caller.register("x", "10.0.0.5:1")
    await caller.get_service("x")
    broker.freeze()
    try:
        async with in_time(0.7):
            with pytest.raises((ServiceNotFound, TransportError)):
                await caller.get_service("unknown")
        await eventually(lambda: not caller.connected)
        assert (await caller.get_service("x")).port == 1
        async with in_time(5):
            await caller.aclose()
    finally:
        broker.thaw()


@contextlib.asynccontextmanager
async def busy_redis(broker: Broker) -> AsyncGenerator[None]:
    """A script keeps Redis from doing anything else, as long as the block lasts."""
    async with cast("Any", redis.asyncio.Redis(port=broker.port, protocol=2)) as admin:
        await admin.config_set("lua-time-limit", 20)
        script = asyncio.create_task(admin.eval("while true do end", 0))
        await asyncio.sleep(0.1)
        try:
            yield
        finally:
            await admin.script_kill()
            await asyncio.wait([script])


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
async def test_a_redis_that_is_busy_for_a_while_fails_nobody(
    make: MakeRegistry, broker: Broker
) -> None:
    async with make() as provider, make() as caller:
        await provider.register("old", "10.0.0.5:1")
        await caller.observe("old")
        async with busy_redis(broker):
            pending = asyncio.create_task(provider.register("new", "10.0.0.5:2"))
            await provider.set_status("old", Status.WARNING)
            await eventually(lambda: not provider.connected and not caller.connected)
            with pytest.raises(TransportError, match="BUSY"):
                await caller.get_service("unknown")
            watch = caller.watch("new")
            event = asyncio.create_task(anext(watch))
            await asyncio.sleep(0.3)
            assert not pending.done()
        await asyncio.wait_for(pending, 10)
        async with asyncio.timeout(10):
            assert (await event).type is EventType.REGISTERED
        await eventually(lambda: caller.cached("old")[0].status is Status.WARNING)
        for registry in (provider, caller):
            assert (registry.stats().denied, registry.stats().losses) == (0, 1)
        await watch.aclose()


async def until_role(admin: Any, wanted: bytes) -> None:
    """Wait until a server has a role, and as a replica all data."""
    async with asyncio.timeout(20):
        while True:
            role = await admin.role()
            if role[0] == wanted and (wanted == b"master" or role[3] == b"connected"):
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
async def test_nobody_expires_for_whoever_is_left_on_a_demoted_redis(
    make: MakeRegistry, broker: Broker, prefix: str
) -> None:
    starting = redis_server("--replicaof", f"127.0.0.1 {broker.port}")
    replica = await asyncio.to_thread(starting.__enter__)
    try:
        async with (
            make() as left,
            cast("Any", redis.asyncio.Redis(port=broker.port, protocol=2)) as admin,
            cast("Any", redis.asyncio.Redis(port=replica.port, protocol=2)) as its_admin,
        ):
            await left.observe("x")
            await until_role(its_admin, b"slave")
            await admin.execute_command("FAILOVER")
            await until_role(its_admin, b"master")
            async with Registry(replica.url, prefix=prefix) as provider:
                await provider.register("x", "10.0.0.5:1")
                await eventually(lambda: not left.connected)
                assert "is a replica" in left.stats().detail
                await asyncio.sleep(3)  # longer than a crash takes to be seen
                assert left.stats().expired == 0
                assert left.stats().losses == 1
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


async def test_closing_leaves_no_connection(make: MakeRegistry) -> None:
    before = sockets()
    for _ in range(3):
        async with make() as registry:
            await registry.register("x", "10.0.0.5:1")
            await registry.get_services("x", where=all_of())
    await eventually(lambda: sockets() == before)


async def test_cancelled_in_the_middle_of_everything(make: MakeRegistry, broker: Broker) -> None:
    """Whatever is cancelled wherever: the registry stays usable."""
    async with make() as registry:
        for steps in range(12):
            calls = (
                registry.register("x", "10.0.0.5:1"),
                registry.get_service("unknown"),
                registry.get_services("other"),
                registry.observe(f"a{steps}", f"b{steps}.>"),
                registry.unobserve("a1", "b1.>"),
                registry.drain(0),
                anext(registry.watch(f"w{steps}")),
            )
            tasks = [asyncio.ensure_future(call) for call in calls]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        registration = await registry.register("end", "10.0.0.5:1")
        assert (await registry.get_service("end")).port == 1
        await registration.unregister()
        await eventually(lambda: not registry.cached("end"))


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[Broker]:
    """One that takes small messages only."""
    config = tmp_path / "small.conf"
    config.write_text("max_payload: 1024")
    with nats_server("--config", str(config)) as broker:
        yield broker


async def test_a_payload_too_large_for_the_broker_is_an_error_at_register(
    small_broker: Broker,
) -> None:
    async with Registry(small_broker.url) as registry:
        with pytest.raises(TransportError, match="1024"):
            await registry.register("x", "10.0.0.5:1", metadata={"k": "x" * 2000})
        assert registry.registered == ()
        registration = await registry.register("x", "10.0.0.5:1", metadata={"k": "x"})
        with pytest.raises(TransportError, match="1024"):
            await registration.update(metadata={"k": "x" * 2000})
        assert (await registry.get_service("x")).metadata == {"k": "x"}
        assert registration.service.metadata == {"k": "x"}
