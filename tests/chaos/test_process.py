"""Processes that die, stop, or are too busy to answer; and clocks that jump."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

from aioregistry import EventType, Registry, Status
from aioregistry.testing.brokers import Broker, nats_server, redis_server
from tests.chaos.provider import provider
from tests.chaos.scene import NOISE, serving
from tests.chaos.trials import LONGEST_CUT, crashes, reconnects
from tests.chaos.witness import witness
from tests.tools import eventually

NAME = "orders"
TTL = 1.5
DEFAULT_TTL = 10.0
HEARTBEATS = 1.5 * DEFAULT_TTL / 3
LATE = 0.8 * DEFAULT_TTL / 3
"""When a silent node is looked at on NATS, in seconds."""

LOOK, LOOKS = 0.35, 2.6
"""On Redis there is a look each quarter of a second: the first may pass a node over, and those
that find it gone for 2.25 seconds give it up."""

Check = Callable[[Broker], Awaitable[None]]
REGISTERED, EXPIRED, UPDATED = EventType.REGISTERED, EventType.EXPIRED, EventType.UPDATED


async def on_both(check: Check) -> None:
    """Mostly these wait, so both transports wait at the same time."""
    async with serving(nats_server()) as nats, serving(redis_server()) as redis:
        await asyncio.gather(check(nats), check(redis))


async def test_a_killed_provider_is_given_up_early() -> None:
    """A sample of `make soak-brokers`: default settings, a ttl of ten seconds."""

    async def check(broker: Broker) -> None:
        seen = await crashes(broker, trials=3, at_once=3)
        nats = broker.url.startswith("nats")
        over, gone = (LATE, HEARTBEATS) if nats else (LOOK, LOOKS)
        # Half a second for the machine: what matters is that it is far from the ttl.
        assert all(each.passed_over.within(over + 0.5) for each in seen), seen
        assert all(each.expired.within(gone + 0.5) for each in seen), seen

    await on_both(check)


async def test_a_living_provider_that_is_cut_off_is_not_given_up() -> None:
    """A sample of `make soak-brokers`; not quite two seconds, for the sake of slow machines."""

    async def check(broker: Broker) -> None:
        cuts = await reconnects(broker, 8, at_once=8, cut=lambda: random.uniform(1.0, 1.5))
        assert all(each.back.within(1.0) for each in cuts), cuts
        in_time = [each for each in cuts if each.gone < LONGEST_CUT]
        assert in_time, cuts
        assert not any(each.expired for each in in_time), cuts

    await on_both(check)


async def test_stopped_or_blocked_providers_expire_and_come_back() -> None:
    async def check(broker: Broker) -> None:
        stopped, blocked = (NAME, "10.0.0.5:1"), (NAME, "10.0.0.5:2")
        async with (
            Registry(broker.url, ttl=TTL) as registry,
            witness(registry) as seen,
            provider(broker.url, "registry", *stopped, TTL) as first,
            provider(broker.url, "registry", *blocked, TTL) as second,
        ):
            await eventually(lambda: len(seen.instances) == 2)
            assert second.stdin is not None
            first.send_signal(signal.SIGSTOP)
            second.stdin.write(b"block %f\n" % (2 * TTL))
            await eventually(lambda: not seen.instances, within=TTL + NOISE)
            await asyncio.sleep(TTL / 2)
            first.send_signal(signal.SIGCONT)
            await eventually(lambda: len(seen.instances) == 2, within=TTL + NOISE)
            await asyncio.sleep(TTL)
            for key in (stopped, blocked):
                assert seen.kinds(key) == [REGISTERED, EXPIRED, REGISTERED]
            assert len({each.event.service.id for each in seen.seen}) == 2

    await on_both(check)


async def test_a_blocked_observer_does_not_give_up_the_living() -> None:
    """And sees who died meanwhile."""
    living, dead = (NAME, "10.0.0.5:1"), (NAME, "10.0.0.5:2")

    async def check(broker: Broker) -> None:
        async with (
            Registry(broker.url, ttl=TTL) as registry,
            witness(registry) as seen,
            provider(broker.url, "registry", *living, TTL),
            provider(broker.url, "registry", *dead, TTL) as doomed,
        ):
            await eventually(lambda: len(seen.instances) == 2)
            doomed.kill()
            time.sleep(2 * TTL)  # noqa: ASYNC251 - the very thing
            await eventually(lambda: dead not in seen.instances, within=TTL + NOISE)
            await asyncio.sleep(TTL / 2)
            assert [each.key for each in seen.of(EXPIRED)] == [dead]
            assert seen.instances.keys() == {living}

    async with serving(nats_server()) as nats:
        await check(nats)
    async with serving(redis_server()) as redis:
        await check(redis)


async def test_a_wall_clock_that_jumps() -> None:
    """Nobody's wall clock decides anything."""
    key = (NAME, "10.0.0.5:1")
    ahead = 0.0

    def wall_clock() -> float:
        return time.time() + ahead

    async def check(broker: Broker) -> None:
        nonlocal ahead
        async with (
            Registry(broker.url, ttl=TTL, wall_clock=wall_clock) as registry,
            Registry(broker.url, ttl=TTL, wall_clock=wall_clock) as other,
            witness(other) as seen,
        ):
            await registry.register(*key)
            for jump in (3600.0, -7200.0, 3600.0):
                ahead += jump
                await asyncio.sleep(TTL / 2)
                await registry.set_status(NAME, Status.WARNING)
            await asyncio.sleep(TTL / 2)
            assert seen.kinds(key) == [REGISTERED, UPDATED]

    await on_both(check)
