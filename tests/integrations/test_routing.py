"""Choosing, retrying and setting aside, with a registry, over hours of virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from aioregistry import Registry, RoundRobin, Service, ServiceNotFound, Weighted, all_of
from aioregistry.integrations._routing import Router
from aioregistry.integrations.resilience import Policy
from aioregistry.testing.virtual_time import run_virtual
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


class World:
    """Instances that work or do not, and a client that calls them."""

    def __init__(self, registry: Registry, router: Router) -> None:
        self.registry = registry
        self.router = router
        self.broken: set[str] = set()  # answers with a reset
        self.dead: set[str] = set()  # refuses connections
        self.leaving: set[str] = set()  # says so in its answers
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    async def request(self, *, repeatable: bool = True) -> str:
        """The address that answered; empty: the request failed."""
        call = self.router.call("orders", repeatable=repeatable)
        while True:
            service = await call.choose()
            if service is None:
                return ""
            await asyncio.sleep(0.001)
            if service.address in self.dead:
                if not call.not_sent(service, ConnectionRefusedError()):
                    return ""
                continue
            self.sent[service.address] += 1
            if service.address not in self.broken:
                if service.address in self.leaving:
                    call.leaving(service, f"another, {service.id}")
                call.answered(service, 200)
                self.answers[service.address] += 1
                return service.address
            if not call.sent(service, ConnectionResetError(), intact=True):
                return ""

    async def load(self, requests: int, every: float) -> int:
        """Make requests at a rate; return how many failed."""
        self.sent.clear()
        self.answers.clear()
        failed = 0
        for _ in range(requests):
            failed += not await self.request()
            await asyncio.sleep(every)
        return failed


def in_virtual_time(
    scenario: Callable[[World], Awaitable[None]], *, instances: int = 4, **policy: float
) -> None:
    async def main() -> None:
        broker = MemoryBroker()
        async with (
            Registry(MemoryTransport(broker)) as provider,
            Registry(MemoryTransport(broker)) as caller,
        ):
            for number in range(instances):
                await provider.register("orders", f"10.0.0.{number}:80")
            await caller.get_services("orders", minimum=instances)
            router = Router(
                caller,
                where=None,
                balancer=RoundRobin(),
                timeout=None,
                policy=Policy(**policy),  # type: ignore[arg-type]  # the numbers of the test
            )
            await scenario(World(provider, router))

    run_virtual(main())


@pytest.mark.parametrize("kind", ["dead", "broken"])
def test_an_instance_that_fails_costs_nobody_anything(kind: str) -> None:
    async def scenario(world: World) -> None:
        getattr(world, kind).add("10.0.0.0:80")
        assert await world.load(10_000, 0.1) == 0  # for a thousand seconds
        assert world.sent["10.0.0.0:80"] < 25  # five at first, and one for each new chance
        assert world.answers["10.0.0.0:80"] == 0
        counts = [world.answers[f"10.0.0.{n}:80"] for n in (1, 2, 3)]
        assert max(counts) < 1.1 * min(counts)

        getattr(world, kind).clear()
        assert await world.load(4_000, 0.1) == 0
        assert world.answers["10.0.0.0:80"] > 100  # it has been tried again, and is back

    in_virtual_time(scenario)


def test_when_all_fail_they_are_not_hammered() -> None:
    async def scenario(world: World) -> None:
        world.broken.update(f"10.0.0.{n}:80" for n in range(4))
        failed = await world.load(2_000, 0.01)
        assert failed == 2_000
        seconds = 2_000 * 0.011
        free = 2.0 * (seconds + 10)
        assert sum(world.sent.values()) <= 2_000 * 1.1 + free * 1.2
        assert sorted(world.sent.values())[2] > 100  # half were in use at any time

    in_virtual_time(scenario, retry_ratio=0.1, retries_per_second=2.0)


def test_a_request_that_must_not_be_repeated_is_sent_once() -> None:
    async def scenario(world: World) -> None:
        world.broken.update(f"10.0.0.{n}:80" for n in range(4))
        assert await world.request(repeatable=False) == ""
        assert sum(world.sent.values()) == 1

    in_virtual_time(scenario)


def test_that_an_instance_is_set_aside_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aioregistry")

    async def scenario(world: World) -> None:
        world.dead.add("10.0.0.0:80")
        assert await world.load(1_000, 0.025) == 0
        world.dead.clear()
        assert await world.load(1_000, 0.025) == 0

    in_virtual_time(scenario, instances=3)
    aside = "orders at 10.0.0.0:80 is set aside for"
    back = "orders at 10.0.0.0:80 is used again"
    told = [(each.levelname, each.getMessage()) for each in caplog.records]
    assert [each for each in told if "orders" in each[1]] == [
        ("WARNING", f"{aside} 10 s: 5 failures in a row; 2 of 3 are left"),
        ("INFO", back),
        ("WARNING", f"{aside} 20 s: 6 failures in a row; 2 of 3 are left"),
        ("INFO", back),
    ]


def test_an_address_cannot_make_up_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """We announce no such address, but others may."""

    async def scenario(world: World) -> None:
        call = world.router.call("orders", repeatable=True)
        for _ in range(10):
            call.failed(Service("orders", "10.0.0.9:80\nall is well"))

    in_virtual_time(scenario)
    [line] = caplog.messages
    assert line.startswith("orders at '10.0.0.9:80\\nall is well' is set aside for 10 s")


def test_the_only_instance_is_never_set_aside() -> None:
    async def scenario(world: World) -> None:
        world.broken.add("10.0.0.0:80")
        await world.load(100, 0.1)
        world.broken.clear()
        assert await world.load(100, 0.1) == 0

    in_virtual_time(scenario, instances=1)


def test_a_restarted_instance_is_used_at_once() -> None:
    async def scenario(world: World) -> None:
        world.dead.add("10.0.0.0:80")
        await world.load(100, 0.1)
        world.dead.clear()
        await world.registry.unregister("orders", "10.0.0.0:80")
        await world.registry.register("orders", "10.0.0.0:80")
        await world.load(40, 0.01)
        assert world.answers["10.0.0.0:80"] == 10

    in_virtual_time(scenario)


def test_who_says_that_it_leaves_is_left_alone() -> None:
    """Whether or not the withdrawal is ever heard of."""

    async def scenario(world: World) -> None:
        world.leaving.update({"10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80"})
        assert await world.load(100, 0.01) == 0
        assert [world.sent[f"10.0.0.{n}:80"] for n in range(4)] == [1, 1, 1, 97]

        world.leaving.add("10.0.0.3:80")  # all do: then anybody is better than nobody
        assert await world.load(400, 0.01) == 0
        assert min(world.sent.values()) > 90

        world.leaving.clear()
        await world.registry.unregister("orders", "10.0.0.0:80")
        await world.registry.register("orders", "10.0.0.0:80")  # another life of it
        assert await world.load(100, 0.01) == 0
        assert world.sent == {"10.0.0.0:80": 100}

    in_virtual_time(scenario)


def test_the_shares_are_even_and_the_registrys_balancer_is_honoured() -> None:
    async def scenario(world: World) -> None:
        await world.load(400, 0.01)
        assert set(world.answers.values()) == {100}

        heavy = await world.registry.register("orders", "10.0.0.9:80", metadata={"weight": "96"})
        world.router.balancer = Weighted()
        await world.load(1_000, 0.01)
        assert world.answers["10.0.0.9:80"] > 900
        # Among those that are left, the same balancer chooses.
        world.dead.add(heavy.service.address)
        assert await world.load(100, 0.01) == 0

    in_virtual_time(scenario)


def test_nobody_is_registered() -> None:
    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        world.router.timeout = 3.0
        began = loop.time()
        with pytest.raises(ServiceNotFound):
            await world.router.call("nobody", repeatable=True).choose()
        assert loop.time() - began == pytest.approx(3.0, abs=0.01)

    in_virtual_time(scenario)


def test_somebody_comes_while_the_request_waits() -> None:
    async def scenario(world: World) -> None:
        world.router.timeout = 3.0
        world.router.where = all_of()
        call = world.router.call("late", repeatable=True)
        waiting = asyncio.create_task(call.choose())
        await asyncio.sleep(1)
        await world.registry.register("late", "10.0.1.1:80")
        service = await waiting
        assert service is not None
        assert service.address == "10.0.1.1:80"

    in_virtual_time(scenario)


def test_those_just_heard_of_share_the_time_to_connect() -> None:
    async def scenario(world: World) -> None:
        for number in range(3):
            await world.registry.register("new", f"10.0.1.{number}:80")
        call = world.router.call("new", repeatable=True)
        assert await call.choose() is not None
        assert call.patience(3.0) == 1.0

    in_virtual_time(scenario)


def test_the_only_instance_is_waited_for_while_it_restarts() -> None:
    async def scenario(world: World) -> None:
        world.router.timeout = 3.0
        world.dead.add("10.0.0.0:80")
        request = asyncio.create_task(world.request(repeatable=False))
        await asyncio.sleep(1)
        world.dead.clear()
        await world.registry.unregister("orders", "10.0.0.0:80")
        await world.registry.register("orders", "10.0.0.0:80")
        assert await request == "10.0.0.0:80"

        world.dead.add("10.0.0.0:80")
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await world.request() == ""
        assert loop.time() - began == pytest.approx(3.0, abs=0.01)

    in_virtual_time(scenario, instances=1)


def test_many_names_are_not_remembered_for_ever() -> None:
    async def scenario(world: World) -> None:
        for number in range(5_000):
            world.router.call(f"name-{number}", repeatable=True)
        assert len(vars(world.router)["_names"]) == 4096

    in_virtual_time(scenario)


def test_a_name_in_use_is_remembered_however_many_others_there_are() -> None:
    async def scenario(world: World) -> None:
        world.broken.add("10.0.0.0:80")
        await world.load(40, 0.01)
        for number in range(10_000):
            world.router.call(f"name-{number}", repeatable=True)
            if not number % 1_000:
                await world.load(4, 0.001)
                assert world.sent["10.0.0.0:80"] == 0  # it is still set aside

    in_virtual_time(scenario)
