"""What is tried many times: crashes that have to be seen early, and cuts that have not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from aioregistry import EventType, Registry
from aioregistry.testing.brokers import Broker
from aioregistry.testing.proxy import TcpProxy
from tests.chaos import provider
from tests.chaos.witness import Witness, witness
from tests.tools import POLL, Pulse, eventually, pulse

NAME = "tried"
LONGEST_CUT = 2.0
_SETTLED = 2.5
"""So long after a cut the observer has had its second look at whoever was gone, in seconds."""


@dataclass(frozen=True, order=True)
class Took:
    """How long something took, in seconds.

    Attributes:
        seconds: by the clock.
        late: so many of these the machine held this process up.
    """

    seconds: float
    late: float

    def within(self, bound: float) -> bool:
        """Whether it kept to a bound, apart from what the machine added."""
        return self.seconds <= bound + self.late


@dataclass(frozen=True)
class Crash:
    """What came of killing a provider once.

    Attributes:
        passed_over: from the kill until lookups gave another instance only.
        expired: from the kill until it was declared dead.
    """

    passed_over: Took
    expired: Took


@dataclass(frozen=True)
class Cut:
    """What came of cutting off a living provider once.

    Attributes:
        gone: from the cut until it was heard again, in seconds. On a busy machine that may be
            longer than was meant, and then it is rightly taken for dead.
        back: the part of that which it took once the link was restored.
        expired: whether it was declared dead.
    """

    gone: float
    back: Took
    expired: bool


async def crashes(broker: Broker, trials: int, at_once: int, ttl: float = 10.0) -> list[Crash]:
    """Kill providers with SIGKILL at random moments; how long each is still believed in.

    Each is one of two instances of its service.
    """
    found: list[Crash] = []
    async with AsyncExitStack() as stack:
        beats = await stack.enter_async_context(pulse())
        seen = await _observer(stack, broker, "crashes", at_once)
        spare = await stack.enter_async_context(Registry(broker.url, prefix="crashes"))
        while len(found) < trials:
            number = min(at_once, trials - len(found))
            keys = [
                (f"{NAME}-{port}", f"10.0.0.5:{1000 + port}")
                for port in range(len(found), len(found) + number)
            ]
            for name, _ in keys:
                await spare.register(name, "10.0.0.6:1", wait=False)
            providers = [
                await provider.start(broker.url, "crashes", name, address, ttl)
                for name, address in keys
            ]
            found += await asyncio.gather(
                *(
                    _crash(seen, process, key, ttl, beats)
                    for process, key in zip(providers, keys, strict=True)
                )
            )
    return found


async def _crash(
    seen: Witness, process: provider.Process, key: tuple[str, str], ttl: float, beats: Pulse
) -> Crash:
    clock = asyncio.get_running_loop().time
    await eventually(lambda: key in seen.instances)
    await asyncio.sleep(random.uniform(0, ttl / 6))
    assert key in seen.instances
    process.kill()
    killed, late = clock(), beats.late
    while key[1] in {  # noqa: ASYNC110 - nothing tells what lookups would give
        (await seen.registry.get_service(key[0])).address for _ in range(2)
    }:
        await asyncio.sleep(POLL)
    passed_over = Took(clock() - killed, beats.late - late)
    await eventually(lambda: key not in seen.instances, within=3 * ttl)
    late = beats.late - late
    await process.wait()
    assert seen.kinds(key) == [EventType.REGISTERED, EventType.EXPIRED]
    return Crash(passed_over, Took(seen.of(EventType.EXPIRED, key)[0].at - killed, late))


async def reconnects(
    broker: Broker,
    trials: int,
    at_once: int,
    ttl: float = 10.0,
    cut: Callable[[], float] = lambda: random.uniform(0, LONGEST_CUT),
) -> list[Cut]:
    """Cut the links of living providers at random moments, and only theirs."""
    async with AsyncExitStack() as stack:
        beats = await stack.enter_async_context(pulse())
        seen = await _observer(stack, broker, "reconnects", at_once)
        scheme = broker.url.partition(":")[0]
        links: list[tuple[TcpProxy, Registry]] = []
        for port in range(at_once):
            proxy = await stack.enter_async_context(TcpProxy(broker.port))
            registry = Registry(proxy.url(scheme), prefix="reconnects", ttl=ttl)
            await stack.enter_async_context(registry)
            await registry.register(NAME, f"10.0.0.5:{1000 + port}")
            links.append((proxy, registry))
        rounds = [trials // at_once + (number < trials % at_once) for number in range(at_once)]

        async def trouble(number: int) -> list[Cut]:
            key, link = (NAME, f"10.0.0.5:{1000 + number}"), links[number]
            return [
                await _reconnect(seen, key, *link, ttl, cut(), beats) for _ in range(rounds[number])
            ]

        outcomes = await asyncio.gather(*map(trouble, range(at_once)))
        assert seen.registry.stats().held == 0
        cuts = [each for some in outcomes for each in some]
        assert len(seen.of(EventType.EXPIRED)) == sum(each.expired for each in cuts)
        return cuts


async def _reconnect(
    seen: Witness,
    key: tuple[str, str],
    proxy: TcpProxy,
    registry: Registry,
    ttl: float,
    cut: float,
    beats: Pulse,
) -> Cut:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(random.uniform(0, ttl / 4))
    losses, sent = registry.stats().losses, registry.stats().announcements_sent
    expired = len(seen.of(EventType.EXPIRED, key))
    proxy.cut()
    started = clock()
    await asyncio.sleep(cut)
    proxy.restore()
    restored, late = clock(), beats.late
    await eventually(lambda: registry.stats().losses > losses)
    await eventually(lambda: registry.stats().announcements_sent > sent)
    heard = clock()
    back = Took(heard - restored, beats.late - late)
    await asyncio.sleep(_SETTLED)
    return Cut(heard - started, back, len(seen.of(EventType.EXPIRED, key)) > expired)


async def _observer(stack: AsyncExitStack, broker: Broker, prefix: str, others: int) -> Witness:
    """An observer that also sees enough others for no failure to look like one of the path."""
    fleet = await stack.enter_async_context(Registry(broker.url, prefix=prefix))
    for port in range(others + 10):
        await fleet.register("others", f"10.0.0.6:{1000 + port}", wait=False)
    observer = await stack.enter_async_context(Registry(broker.url, prefix=prefix))
    seen = await stack.enter_async_context(witness(observer))
    await eventually(lambda: len(seen.instances) == others + 10)
    return seen
