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
from tests.tools import eventually

NAME = "tried"
LONGEST_CUT = 2.0
_SETTLED = 2.5
"""So long after a cut the observer has had its second look at whoever was gone, in seconds."""


@dataclass(frozen=True)
class Reconnects:
    """The outcome of forced reconnects.

    Attributes:
        cuts: how often a living provider was cut off.
        expired: how often one was declared dead for that: never, if all is well.
        back: after the end of each cut, the time until it was heard again, in seconds.
    """

    cuts: int
    expired: int
    back: list[float]


async def crashes(broker: Broker, trials: int, at_once: int, ttl: float = 10.0) -> list[float]:
    """Kill providers with SIGKILL at random moments; how long each is still believed in."""
    found: list[float] = []
    async with AsyncExitStack() as stack:
        seen = await _observer(stack, broker, "crashes", at_once)
        while len(found) < trials:
            number = min(at_once, trials - len(found))
            ports = range(len(found), len(found) + number)
            providers = [
                await provider.start(broker.url, "crashes", NAME, f"10.0.0.5:{1000 + port}", ttl)
                for port in ports
            ]
            found += await asyncio.gather(
                *(
                    _crash(seen, process, (NAME, f"10.0.0.5:{1000 + port}"), ttl)
                    for process, port in zip(providers, ports, strict=True)
                )
            )
    return found


async def _crash(
    seen: Witness, process: provider.Process, key: tuple[str, str], ttl: float
) -> float:
    await eventually(lambda: key in seen.instances)
    await asyncio.sleep(random.uniform(0, ttl / 6))
    assert key in seen.instances
    process.kill()
    killed = asyncio.get_running_loop().time()
    await eventually(lambda: key not in seen.instances, within=3 * ttl)
    await process.wait()
    assert seen.kinds(key) == [EventType.REGISTERED, EventType.EXPIRED]
    return seen.of(EventType.EXPIRED, key)[0].at - killed


async def reconnects(
    broker: Broker,
    trials: int,
    at_once: int,
    ttl: float = 10.0,
    cut: Callable[[], float] = lambda: random.uniform(0, LONGEST_CUT),
) -> Reconnects:
    """Cut the links of living providers at random moments, and only theirs."""
    back: list[float] = []
    async with AsyncExitStack() as stack:
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

        async def trouble(number: int) -> list[float]:
            return [await _reconnect(*links[number], ttl, cut()) for _ in range(rounds[number])]

        for some in await asyncio.gather(*map(trouble, range(at_once))):
            back += some
        assert seen.registry.stats().held == 0
        return Reconnects(trials, len(seen.of(EventType.EXPIRED)), back)


async def _reconnect(proxy: TcpProxy, registry: Registry, ttl: float, cut: float) -> float:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(random.uniform(0, ttl / 4))
    losses, sent = registry.stats().losses, registry.stats().announcements_sent
    proxy.cut()
    await asyncio.sleep(cut)
    proxy.restore()
    restored = clock()
    await eventually(lambda: registry.stats().losses > losses)
    await eventually(lambda: registry.stats().announcements_sent > sent)
    back = clock() - restored
    await asyncio.sleep(_SETTLED)
    return back


async def _observer(stack: AsyncExitStack, broker: Broker, prefix: str, others: int) -> Witness:
    """An observer that also sees enough others for no failure to look like one of the path."""
    fleet = await stack.enter_async_context(Registry(broker.url, prefix=prefix))
    for port in range(others + 10):
        await fleet.register("others", f"10.0.0.6:{1000 + port}", wait=False)
    observer = await stack.enter_async_context(Registry(broker.url, prefix=prefix))
    seen = await stack.enter_async_context(witness(observer))
    await eventually(lambda: len(seen.instances) == others + 10)
    return seen
