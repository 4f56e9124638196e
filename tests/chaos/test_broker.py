"""The broker dies, hangs, or is not there yet; or the way to it does."""

from __future__ import annotations

import asyncio

import pytest

from aioregistry import Registry, TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.testing.proxy import TcpProxy
from tests.chaos.scene import LIVING, LONGEST_CLOSE, NAME, TTL, scene
from tests.tools import eventually, in_time


@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.soak)])
async def test_killed_and_restarted(broker: Broker, seconds: float) -> None:
    async with scene(broker) as fleet:
        await asyncio.to_thread(broker.kill)
        await fleet.all_down()
        fleet.somebody_dies()
        await fleet.somebody_leaves()
        await fleet.check_calls()
        await asyncio.sleep(seconds)
        await fleet.check_calls()
        await asyncio.to_thread(broker.start)
        await fleet.all_up()
        await fleet.check_aftermath()


async def test_stopped_for_longer_than_the_ttl(broker: Broker) -> None:
    async with scene(broker) as fleet:
        broker.freeze()
        try:
            await fleet.check_calls()  # while nobody has noticed yet
            await fleet.somebody_leaves()
            await fleet.all_down()
            fleet.somebody_dies()
            await asyncio.sleep(TTL / 2)
            await fleet.check_calls()
        finally:
            broker.thaw()
        await fleet.all_up()
        await fleet.check_aftermath()


async def test_half_open_with_full_buffers(broker: Broker) -> None:
    """The path swallows what is sent, until nothing more fits; then it works again."""
    scheme = broker.url.partition(":")[0]
    async with TcpProxy(broker.port) as path, scene(broker, path.url(scheme)) as fleet:
        path.freeze()
        flooding = asyncio.create_task(flood(fleet.providers[0]))
        await fleet.check_calls()
        await fleet.all_down()
        fleet.somebody_dies()
        await fleet.somebody_leaves()
        await fleet.check_calls()
        path.thaw()
        flooding.cancel()
        await asyncio.wait([flooding])
        await fleet.all_up()
        await fleet.check_aftermath()


async def flood(registry: Registry) -> None:
    """Change one registration over and over, with much to say each time."""
    name, address = LIVING[0]
    for number in range(2000):
        metadata = {"number": f"{number:1000}"} | {f"k{n}": "x" * 1000 for n in range(30)}
        await registry.register(name, address, metadata=metadata, wait=False)
        await asyncio.sleep(0.001)
    await registry.register(name, address)


@pytest.mark.soak
async def test_cut_and_restored(broker: Broker) -> None:
    """The path breaks for longer than the ttl, under everybody at once."""
    scheme = broker.url.partition(":")[0]
    async with TcpProxy(broker.port) as path, scene(broker, path.url(scheme)) as fleet:
        path.cut()
        await fleet.all_down()
        fleet.somebody_dies()
        await fleet.somebody_leaves()
        await asyncio.sleep(1.5 * TTL)
        await fleet.check_calls()
        path.restore()
        await fleet.all_up()
        await fleet.check_aftermath()


@pytest.mark.parametrize("towards_broker", [False, pytest.param(True, marks=pytest.mark.soak)])
async def test_garbage_on_the_way(broker: Broker, *, towards_broker: bool) -> None:
    scheme = broker.url.partition(":")[0]
    async with TcpProxy(broker.port) as path, scene(broker, path.url(scheme)) as fleet:
        losses = [each.stats().losses for each in fleet.everybody]
        path.corrupt(10, towards_broker=towards_broker)
        fleet.somebody_dies()
        await eventually(
            lambda: all(
                each.stats().losses > before
                for each, before in zip(fleet.everybody, losses, strict=True)
            ),
            within=15,
        )
        await fleet.check_calls()
        await fleet.all_up()
        await fleet.check_aftermath()


@pytest.mark.soak
async def test_slow_path(broker: Broker) -> None:
    """Slow, but not broken: nobody is lost, and nobody reconnects."""
    scheme = broker.url.partition(":")[0]
    async with TcpProxy(broker.port) as path, scene(broker, path.url(scheme)) as fleet:
        path.slow(50_000, delay=0.05)
        await asyncio.sleep(TTL)
        fleet.somebody_dies()
        await fleet.check_calls()
        await fleet.check_aftermath()
        assert [each.stats().losses for each in fleet.everybody] == [0] * 4
        path.slow()


async def test_absent_at_the_start(broker: Broker) -> None:
    await asyncio.to_thread(broker.kill)
    refused = Registry(broker.url, connect_timeout=0.3)
    with pytest.raises(TransportError, match=r"127\.0\.0\.1"):
        await refused.start()
    async with (
        Registry(broker.url, connect_timeout=None, ttl=TTL) as provider,
        Registry(broker.url, connect_timeout=None, ttl=TTL) as observer,
    ):
        await provider.register(NAME, "10.0.0.5:1", wait=False)
        patient = asyncio.create_task(provider.register(NAME, "10.0.0.5:2"))
        with pytest.raises(TransportError):
            await observer.get_service(NAME)
        assert not provider.connected
        assert not observer.stats().connected
        assert observer.stats().detail
        await asyncio.to_thread(broker.start)
        await observer.wait_connected(10)
        async with asyncio.timeout(10):
            await patient
        await eventually(lambda: len(observer.cached(NAME)) == 2)
        assert provider.connected
        assert observer.stats().connected
    never = Registry("nats://127.0.0.1:1", connect_timeout=None)
    await never.start()
    async with in_time(LONGEST_CLOSE):
        await never.aclose()
