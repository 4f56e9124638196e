"""The simulated network keeps the transport contract, and does to messages what it is told."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from aioregistry import ServiceNotFound, Status, TransportError
from aioregistry.testing import (
    Faults,
    ProcessCrashed,
    SimulatedNetwork,
    SimulatedTransport,
    StandstillError,
    TransportCheck,
    run_virtual,
    transport_checks,
)
from aioregistry.transports.base import LinkState, Transport


@pytest.mark.parametrize("check", transport_checks, ids=str)
def test_contract(check: TransportCheck) -> None:
    async def main() -> None:
        network = SimulatedNetwork(seed=1)
        await check(lambda: network.process().transport())

    run_virtual(main())


def test_is_a_transport() -> None:
    async def main() -> SimulatedTransport:
        return SimulatedNetwork().process().transport()

    assert isinstance(run_virtual(main()), Transport)


async def exchange(faults: Faults, count: int = 500) -> list[bytes]:
    """What one process hears of numbers that another publishes, a millisecond apart."""
    network, heard = SimulatedNetwork(seed=5, faults=faults), list[bytes]()
    sender, receiver = network.process("a").transport(), network.process("b").transport()
    for transport in (sender, receiver):
        await transport.connect(lambda state, reason: None)
    await receiver.subscribe("numbers", lambda _, payload: heard.append(payload))
    for number in range(count):
        await sender.publish("numbers", b"%d" % number)
        await asyncio.sleep(0.001)
    await asyncio.sleep(10)
    return heard


def test_without_faults_all_arrive_in_order() -> None:
    assert run_virtual(exchange(Faults())) == [b"%d" % number for number in range(500)]


def test_loss() -> None:
    heard = run_virtual(exchange(Faults(loss=0.2)))
    assert 0.5 * 500 < len(heard) < 0.78 * 500  # it may be lost on either side of the broker


def test_duplication() -> None:
    times = Counter(run_virtual(exchange(Faults(duplication=0.2))))
    assert len(times) == 500
    assert 100 < sum(times.values()) - 500 < 350


def test_reordering_loses_nothing() -> None:
    heard = run_virtual(exchange(Faults(reordering=0.2, delay=0.1)))
    assert sorted(heard, key=int) == [b"%d" % number for number in range(500)] != heard


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_bad_shares_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="loss"):
        Faults(loss=value)


def test_a_single_message_can_be_dropped() -> None:
    async def main() -> list[bytes]:
        network, heard = SimulatedNetwork(), list[bytes]()
        network.drop = lambda message, _: message.payload == b"2"
        transport = network.process().transport()
        await transport.connect(lambda state, reason: None)
        await transport.subscribe("n", lambda _, payload: heard.append(payload))
        for number in range(4):
            await transport.publish("n", b"%d" % number)
        await transport.flush()
        return heard

    assert run_virtual(main()) == [b"0", b"1", b"3"]


def test_a_partition_is_noticed_and_healed() -> None:
    async def main() -> list[LinkState]:
        network, states = SimulatedNetwork(), list[LinkState]()
        process = network.process()
        transport = process.transport()
        await transport.connect(lambda state, reason: states.append(state))
        process.partition()
        await transport.publish("a", b"")  # it does not know yet
        with pytest.raises(TransportError):
            await transport.flush()
        await asyncio.sleep(5)
        with pytest.raises(TransportError):
            await transport.publish("a", b"")
        process.heal()
        await asyncio.sleep(1)
        await transport.flush()
        return states

    assert run_virtual(main()) == [LinkState.DISCONNECTED, LinkState.CONNECTED]


def test_a_request_ends_with_its_link() -> None:
    async def main() -> float:
        network = SimulatedNetwork()
        transport = network.process().transport()
        await transport.connect(lambda state, reason: None)
        flushing = asyncio.create_task(transport.flush())
        await asyncio.sleep(0)
        network.stop()
        with pytest.raises(TransportError):
            await flushing
        return network.now

    assert run_virtual(main()) < 0.2


def test_a_request_that_nobody_answers_ends_when_the_transport_is_closed() -> None:
    async def main() -> float:
        network = SimulatedNetwork()
        process = network.process()
        transport = process.transport()
        await transport.connect(lambda state, reason: None)
        process.partition()
        flushing = asyncio.create_task(transport.flush())
        await asyncio.sleep(0.1)
        await transport.aclose()
        with pytest.raises(TransportError, match="closed"):
            await flushing
        return network.now

    assert run_virtual(main()) < 0.2


def test_a_frozen_process_sends_and_handles_nothing_until_it_thaws() -> None:
    async def main() -> None:
        network, heard = SimulatedNetwork(), list[bytes]()
        process, other = network.process("frozen"), network.process("other").transport()
        transport = process.transport()
        for each in (transport, other):
            await each.connect(lambda state, reason: None)
        await transport.subscribe("a", lambda _, payload: heard.append(payload))
        process.freeze()
        await other.publish("a", b"1")
        sending = asyncio.create_task(transport.publish("a", b"2"))
        await asyncio.sleep(60)
        assert heard == []
        assert not sending.done()
        process.thaw()
        await sending
        await transport.flush()
        assert heard == [b"1", b"2"]

    run_virtual(main())


def test_the_broker_knows_of_a_crash_at_once_or_later() -> None:
    async def main() -> None:
        network = SimulatedNetwork()
        asker = network.process().transport()
        await asker.connect(lambda state, reason: None)
        for noticed in (True, False):
            process = network.process("doomed")
            transport = process.transport()
            await transport.connect(lambda state, reason: None)
            await transport.subscribe("here", lambda _, payload: None)
            assert await asker.unheard(["here"]) == set()
            process.crash(noticed=noticed)
            assert (await asker.unheard(["here"]) == {"here"}) is noticed
            await asyncio.sleep(10)
            assert await asker.unheard(["here"]) == {"here"}

    run_virtual(main())


def test_registries_find_each_other() -> None:
    async def main() -> None:
        network = SimulatedNetwork(seed=1)
        shop, till = network.process("shop"), network.process("till")
        async with shop.registry() as provider, till.registry() as observer:
            registration = await provider.register("orders", "10.0.0.5:8080")
            assert (await observer.get_service("orders")).host == "shop"
            await registration.set_status(Status.CRITICAL)
            await asyncio.sleep(0.1)
            with pytest.raises(ServiceNotFound):
                await observer.get_service("orders")
            await registration.set_status(Status.PASSING)
            shop.freeze()
            await asyncio.sleep(5)
            shop.thaw()
            await asyncio.sleep(60)
            assert observer.cached("orders")
            shop.crash()
            await asyncio.sleep(7)
            assert observer.cached("orders") == ()
            with pytest.raises(ProcessCrashed):
                await shop.run(provider.register("orders", "10.0.0.5:8081"))

    run_virtual(main())


def test_closing_a_frozen_process_is_a_deadlock_that_names_it() -> None:
    async def main() -> None:
        process = SimulatedNetwork().process("winter")
        async with process.registry():
            process.freeze()

    with pytest.raises(StandstillError, match="stopped: winter"):
        run_virtual(main())


def test_wall_clocks_are_skewed_one_by_one() -> None:
    async def main() -> float:
        network = SimulatedNetwork()
        right, wrong = network.process(), network.process()
        wrong.skew = 3600.0
        return wrong.wall_clock() - right.wall_clock()

    assert run_virtual(main()) == 3600.0
