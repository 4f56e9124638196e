"""Each fault for itself, and those that need a setting of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest

from aioregistry import EventType, Registry, ServiceEvent
from aioregistry.testing import (
    Faults,
    Message,
    NetworkMonitor,
    Plan,
    SimulatedNetwork,
    SimulatedProcess,
    Simulation,
    run_virtual,
)
from aioregistry.testing.simulation import FAULTS


@pytest.mark.parametrize("fault", FAULTS)
def test_single_fault(fault: str) -> None:
    for seed in range(3):
        plan = Plan.drawn(seed, faults=(fault,), churn=("register", "lookup"), every=2.0)
        report = Simulation(seed, plan).run()
        report.check()
        assert report.seconds > plan.duration


def test_peace_is_quiet() -> None:
    report = Simulation(1, Plan(faults=(), churn=(), duration=600.0, ttl=10.0)).run()
    report.check()
    assert report.expired == report.held == report.messages["loss"] == 0
    beats = 12 * 600 / (0.68 * 10 / 3)
    assert report.messages["announcement"] < 1.1 * beats
    assert report.messages["ping"] < 20  # of the observers that start


_collectors: list[asyncio.Task[None]] = []


async def events_of(registry: Registry, name: str) -> list[tuple[float, ServiceEvent]]:
    """A list that fills with the events of a name, and when they came."""
    loop, events = asyncio.get_running_loop(), list[tuple[float, ServiceEvent]]()

    async def collect() -> None:
        async for event in registry.watch(name):
            events.append((loop.time(), event))

    _collectors.append(asyncio.create_task(collect()))
    await asyncio.sleep(0.5)
    return events


class MissesBeats:
    """Drops so many announcements in a row on their way to one process, after the first."""

    def __init__(self, process: SimulatedProcess, missed: int) -> None:
        self.process = process
        self.numbers: Iterator[int] = count()
        self.missed = missed

    def __call__(self, message: Message, process: SimulatedProcess) -> bool:
        if process is not self.process or ".register." not in message.subject:
            return False
        return 1 <= next(self.numbers) <= self.missed


@pytest.mark.parametrize("ttl", [0.6, 3.0, 10.0, 60.0])
def test_a_rescue_ping_saves_who_beats_rarely(ttl: float) -> None:
    async def main() -> list[EventType]:
        network = SimulatedNetwork()
        shop, till = network.process("shop"), network.process("till")
        beat = ttl / 2
        async with (
            till.registry() as observer,
            shop.registry(ttl=ttl, heartbeat_interval=beat) as provider,
        ):
            events = await events_of(observer, "orders")
            network.drop = MissesBeats(till, 2)
            await provider.register("orders", "10.0.0.1:80")
            await asyncio.sleep(10 * ttl)
            return [event.type for _, event in events]

    assert run_virtual(main()) == [EventType.REGISTERED]


@pytest.mark.parametrize("look_interval", [None, 0.25])
def test_a_crash_is_seen_early(look_interval: float | None) -> None:
    """Within 1.5 intervals where looking costs, within 3 s where it is cheap; default ttl."""

    async def main(after: float) -> float:
        network = SimulatedNetwork(seed=int(after * 100), look_interval=look_interval)
        shop, till = network.process("shop"), network.process("till")
        async with till.registry() as observer:
            events = await events_of(observer, "orders")
            async with shop.registry() as provider:
                await provider.register("orders", "10.0.0.1:80")
                await asyncio.sleep(30 + after)
                shop.crash()
                crashed = asyncio.get_running_loop().time()
            await asyncio.sleep(10)
            (_, _), (gone, event) = events
            assert event.type is EventType.EXPIRED
            return gone - crashed

    longest = max(run_virtual(main(tenth / 10)) for tenth in range(40))
    assert longest <= (5.0 if look_interval is None else 3.0)


@pytest.mark.parametrize("look_interval", [None, 0.25])
@pytest.mark.parametrize("crash", [True, False])
def test_lookups_pass_over_who_is_off_the_broker(
    look_interval: float | None, *, crash: bool
) -> None:
    """A crash long before it is certain; a process that reconnects only until it is back."""

    async def main() -> None:
        network = SimulatedNetwork(look_interval=look_interval)
        shops, till = [network.process("shop1"), network.process("shop2")], network.process("till")
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            observer = await stack.enter_async_context(till.registry())
            for number, shop in enumerate(shops):
                provider = await stack.enter_async_context(shop.registry())
                await provider.register("orders", f"10.0.0.{number}:80")
            events = await events_of(observer, "orders")

            async def chosen() -> set[str]:
                return {(await observer.get_service("orders")).address for _ in range(2)}

            async def becomes(wanted: set[str]) -> float:
                start = loop.time()
                while await chosen() != wanted:
                    assert loop.time() < start + 10.0
                    await asyncio.sleep(0.01)
                return loop.time() - start

            both = {"10.0.0.0:80", "10.0.0.1:80"}
            assert await chosen() == both
            if crash:
                shops[0].crash()
            else:
                shops[0].partition(noticed=True)
            took = await becomes({"10.0.0.1:80"})
            assert took < (3.0 if look_interval is None else 0.5)
            assert {service.address for service in observer.cached("orders")} == both
            assert observer.stats().doubted == 1
            if not crash:
                shops[0].heal()
                assert await becomes(both) < 3.0
            await asyncio.sleep(10.0)
            kinds = [event.type for _, event in events[2:]]
            assert kinds == ([EventType.EXPIRED] if crash else [])
            assert observer.stats().doubted == 0

    run_virtual(main())


def test_a_blocked_observer_does_not_expire_the_living() -> None:
    async def main() -> list[EventType]:
        network = SimulatedNetwork()
        shop, till = network.process("shop"), network.process("till")
        async with shop.registry() as provider, till.registry() as observer:
            await provider.register("orders", "10.0.0.1:80")
            events = await events_of(observer, "orders")
            till.freeze()
            await asyncio.sleep(25)
            till.thaw()
            await asyncio.sleep(25)
            return [event.type for _, event in events]

    assert run_virtual(main()) == [EventType.REGISTERED]


@pytest.mark.parametrize(
    ("ttl", "later", "blocked"),
    [
        pytest.param(3.0, 1.0, 0.0, id="last call while the broker is slow"),
        pytest.param(10.0, 1.95, 10.1, id="last call just before that"),
    ],
)
def test_who_is_silent_is_asked_while_the_broker_is_slow_to_tell_of_another(
    ttl: float, later: float, blocked: float
) -> None:
    """The broker answers late, so others fall silent before it is certain that the first is."""

    async def main() -> list[EventType]:
        network = SimulatedNetwork()
        dead, shop, till = (network.process(name) for name in ("dead", "shop", "till"))
        till.faults = Faults(latency=0.3)
        asked = False

        def drop(message: Message, process: SimulatedProcess) -> bool:
            """Everything that the shop says unless it is asked."""
            nonlocal asked
            asked = asked or (process is shop and living.service.id.encode() in message.payload)
            return message.sender is shop and process is till and not asked

        async with (
            dead.registry(ttl=ttl) as silent,
            shop.registry(ttl=ttl) as provider,
            till.registry() as observer,
        ):
            events = await events_of(observer, "orders")
            await silent.register("orders", "10.0.0.1:80")
            dead.freeze()
            await asyncio.sleep(later)
            living = await provider.register("orders", "10.0.0.2:80")
            await asyncio.sleep(0.5)
            network.drop = drop
            if blocked:  # both are noticed at once
                await asyncio.sleep(blocked - later - 0.5)
                till.freeze()
                await asyncio.sleep(0.3)
                till.thaw()
            await asyncio.sleep(20)
            dead.thaw()
            return [event.type for _, event in events if event.service.id == living.service.id]

    assert run_virtual(main()) == [EventType.REGISTERED]


def test_nothing_expires_while_the_broker_is_away() -> None:
    async def main() -> list[EventType]:
        network = SimulatedNetwork()
        shop, till = network.process("shop"), network.process("till")
        async with shop.registry() as provider, till.registry() as observer:
            await provider.register("orders", "10.0.0.1:80")
            events = await events_of(observer, "orders")
            network.stop()
            await asyncio.sleep(3600)
            assert observer.cached("orders")
            network.start()
            await asyncio.sleep(60)
            return [event.type for _, event in events]

    assert run_virtual(main()) == [EventType.REGISTERED]


def test_wall_clocks_do_not_matter() -> None:
    async def main() -> list[EventType]:
        network = SimulatedNetwork(faults=Faults(latency=0.05))
        shop, till = network.process("shop"), network.process("till")
        async with shop.registry() as provider, till.registry() as observer:
            events = await events_of(observer, "orders")
            await provider.register("orders", "10.0.0.1:80")
            for skew in (3600.0, -3600.0, 0.0):
                shop.skew, till.skew = skew, -skew
                await asyncio.sleep(30)
            return [event.type for _, event in events]

    assert run_virtual(main()) == [EventType.REGISTERED]


def test_a_mass_crash_is_held_for_one_ttl_at_most() -> None:
    plan = Plan(instances=40, per_process=40, duration=20.0, faults=("crash",), churn=(), every=8)
    held = 0
    for seed in range(4):
        report = Simulation(seed, plan).run()
        report.check()
        held += report.held
    assert held


@pytest.mark.parametrize("observers", [2, 20, 60])
def test_no_ping_storm(observers: int) -> None:
    """The answers to many who ask at once are as many as the instances, not times the askers."""
    instances = 20

    async def main() -> int:
        network = SimulatedNetwork()
        shops = [network.process(f"shop-{number}") for number in range(4)]
        tills = [network.process(f"till-{number}") for number in range(observers)]
        async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
            providers = [await stack.enter_async_context(shop.registry(ttl=60.0)) for shop in shops]
            askers = [await stack.enter_async_context(till.registry()) for till in tills]
            for number in range(instances):
                await providers[number % 4].register("orders", f"10.0.0.1:{number + 1}")
            await asyncio.sleep(1)
            before = sum(each.stats().announcements_sent for each in providers)
            lookups = [
                group.create_task(each.get_services("orders", timeout=1.0)) for each in askers
            ]
            found = [await lookup for lookup in lookups]
            assert {len(services) for services in found} == {instances}
            return sum(each.stats().announcements_sent for each in providers) - before

    answers = run_virtual(main())
    assert instances <= answers <= 4 * instances


@pytest.mark.parametrize("look_interval", [None, 0.25])
def test_a_late_word_of_the_old_incarnation_does_not_bury_the_new_for_long(
    look_interval: float | None,
) -> None:
    """Whoever hears the new one first takes the late message of the old one for a restart."""

    class Beat(NetworkMonitor):
        def __init__(self) -> None:
            self.seen = asyncio.Event()

        def sent(self, message: Message) -> None:
            if message.sender.name == "old" and message.at > 5:
                self.seen.set()

    async def main() -> tuple[float, float]:
        beat = Beat()
        network = SimulatedNetwork(monitor=beat, look_interval=look_interval)
        old, new, till = (network.process(name) for name in ("old", "new", "till"))
        async with till.registry(ttl=10.0) as observer:
            async with old.registry(ttl=10.0) as provider:
                await provider.register("orders", "10.0.0.1:80")
                await asyncio.sleep(4)
                old.faults = Faults(latency=0.5)
                await beat.seen.wait()
                old.crash()
            await observer.observe("orders")
            async with new.registry(ttl=10.0) as successor:
                await successor.register("orders", "10.0.0.1:80")
                healthy = restarted = network.now
                missing = 0.0
                while network.now < restarted + 60:
                    await asyncio.sleep(0.1)
                    hosts = [service.host for service in observer.cached("orders")]
                    healthy = healthy if hosts == ["new"] else network.now
                    missing += 0.0 if hosts else 0.1
                return healthy - restarted, missing

    wrong, missing = run_virtual(main())
    assert 0.5 <= wrong <= 6.0
    assert missing <= 0.5
