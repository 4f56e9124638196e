"""A small fleet around a broker, to which something happens, and what has to hold then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from aioregistry import EventType, Registry, ServiceNotFound, TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.testing.proxy import TcpProxy
from tests.chaos.witness import Witness, witness
from tests.tools import Pulse, eventually, no_new_tasks, pulse

T = TypeVar("T")

TTL = 1.2
TIMEOUT = 0.2
NAME = "orders"
LIVING = [(NAME, f"10.0.0.5:{port}") for port in range(1, 5)]
DOOMED = (NAME, "10.0.0.6:1")
LEAVING = (NAME, "10.0.0.7:1")

LOOKUP_MARGIN = 0.5
LONGEST_CLOSE = 2.0
NOISE = 1.0
"""What a busy machine may add to a bound of seconds."""


class Scene:
    """Two providers that live, one that will die, one that will leave, and two observers.

    The one that will die, and it alone, goes through a proxy of its own: cut off for ever, it
    is dead to everybody else.
    """

    def __init__(self, url: str, pulse: Pulse, grave: TcpProxy) -> None:
        self.url = url
        self.witnesses: list[Witness] = []
        self.providers: list[Registry] = []
        self.gone: set[tuple[str, str]] = set()
        self.leaver = self.make()
        self._pulse = pulse
        self._grave = grave
        self._sent: list[int] = []

    def make(self, url: str | None = None, connect_timeout: float | None = 5.0) -> Registry:
        """A registry with the bounds of the scene, not started yet."""
        return Registry(
            url or self.url, ttl=TTL, lookup_timeout=TIMEOUT, connect_timeout=connect_timeout
        )

    @property
    def everybody(self) -> list[Registry]:
        """Whoever lives on, whatever happens."""
        return [*self.providers, *(each.registry for each in self.witnesses)]

    async def all_down(self, within: float = 10.0) -> None:
        """Wait until everybody has noticed; from now on announcements count as afresh."""
        await eventually(lambda: not any(each.connected for each in self.everybody), within)
        for registry in self.everybody:
            assert registry.stats().losses >= 1
            assert registry.stats().detail
        self.count_afresh()

    def count_afresh(self) -> None:
        self._sent = [each.stats().announcements_sent for each in self.providers]

    def somebody_dies(self) -> None:
        self._grave.cut()
        self.gone.add(DOOMED)

    async def somebody_leaves(self) -> None:
        """Close a registry while the fault lasts."""
        self.gone.add(LEAVING)
        await self.timed(self.leaver.aclose, LONGEST_CLOSE)

    async def timed(self, call: Callable[[], Awaitable[object]], bound: float) -> None:
        """Await, and fail if that took longer than the bound and what the machine adds."""
        late, started = self._pulse.late, time.monotonic()
        await call()
        took, late = time.monotonic() - started, self._pulse.late - late
        assert took < bound + late, f"{took:.2f} s, {late:.2f} s of them late, bound {bound} s"

    async def check_calls(self) -> None:
        """Every call ends in time, and memory answers."""
        for each in self.witnesses:
            registry = each.registry
            found = {service.key for service in registry.cached(NAME)}
            assert found >= set(LIVING), found
            find, collect = registry.get_service, registry.get_services
            await self.timed(partial(find, NAME), LOOKUP_MARGIN)
            await self.timed(partial(_nothing, find, "unknown"), TIMEOUT + LOOKUP_MARGIN)
            await self.timed(partial(_nothing, collect, "none"), TIMEOUT + LOOKUP_MARGIN)

    async def all_up(self, within: float = 15.0) -> None:
        """Wait until everybody is connected."""
        await eventually(lambda: all(each.connected for each in self.everybody), within)

    async def check_aftermath(self, *, announced: bool = True, malformed: int | None = 0) -> None:
        """What has to hold from the recovery on: the living stay, the dead go, all is told.

        Args:
            announced: whether the providers lost their links, and announce all afresh.
            malformed: how many messages were none; None: any number.
        """
        recovered = time.monotonic()
        await eventually(lambda: not self._remembered(), TTL + NOISE)
        await asyncio.sleep(max(0.0, recovered + TTL + 0.3 - time.monotonic()))
        for each in self.witnesses:
            expired = {seen.key for seen in each.of(EventType.EXPIRED)}
            assert expired <= self.gone, each.seen
            removed = {seen.key for seen in each.of(EventType.UNREGISTERED)}
            assert removed <= {LEAVING}, each.seen
            assert each.instances.keys() == set(self.present), each.instances.keys()
            stats = each.registry.stats()
            assert stats.connected
            assert stats.instances == len(self.present)
            assert stats.expired == len(each.of(EventType.EXPIRED))
            assert malformed is None or stats.malformed <= malformed
        if announced:
            for registry, sent in zip(self.providers, self._sent, strict=True):
                stats = registry.stats()
                assert stats.announcements_sent - sent >= stats.registered
        async with self.make() as stranger:
            await stranger.observe(NAME)
            await eventually(lambda: len(stranger.cached(NAME)) == len(self.present))
            assert {service.key for service in stranger.cached(NAME)} == set(self.present)

    def _remembered(self) -> bool:
        return any(self.gone & each.instances.keys() for each in self.witnesses)

    @property
    def present(self) -> list[tuple[str, str]]:
        return [key for key in (*LIVING, DOOMED, LEAVING) if key not in self.gone]


async def _nothing(look_up: Callable[[str], Awaitable[object]], name: str) -> None:
    with contextlib.suppress(ServiceNotFound, TransportError):
        assert not await look_up(name)


@contextlib.asynccontextmanager
async def serving(manager: AbstractContextManager[T]) -> AsyncGenerator[T]:
    """What starts and stops servers, from within the event loop."""
    served = await asyncio.to_thread(manager.__enter__)
    try:
        yield served
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def sockets() -> int:
    """How many sockets this process has open."""
    names: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(os.readlink(descriptor))  # noqa: PTH115 - no path
    return sum(name.startswith("socket:") for name in names)


@contextlib.asynccontextmanager
async def scene(broker: Broker, url: str | None = None) -> AsyncGenerator[Scene]:
    """A fleet that is announced and seen; closed in time, with nothing left, at the end.

    Args:
        broker: where the one that will die connects.
        url: where everybody else does; None: to the broker itself.
    """
    before = sockets()
    async with no_new_tasks():
        async with AsyncExitStack() as stack:
            yield await _scene(stack, broker, url or broker.url)
        await eventually(lambda: sockets() <= before)


async def _scene(stack: AsyncExitStack, broker: Broker, url: str) -> Scene:
    beats = await stack.enter_async_context(pulse())
    grave = await stack.enter_async_context(TcpProxy(broker.port))
    scene = Scene(url, beats, grave)
    doomed = scene.make(broker.url.replace(f":{broker.port}", f":{grave.port}"))
    registries = [scene.make() for _ in range(4)]
    scene.providers, observers = registries[:2], registries[2:]
    for registry in (*registries, doomed, scene.leaver):
        await registry.start()
        stack.push_async_callback(scene.timed, registry.aclose, LONGEST_CLOSE)
    for number, (name, address) in enumerate(LIVING):
        await scene.providers[number % 2].register(name, address)
    await doomed.register(*DOOMED)
    await scene.leaver.register(*LEAVING)
    for registry, pattern in zip(observers, (">", NAME), strict=True):
        scene.witnesses.append(await stack.enter_async_context(witness(registry, pattern)))
    await eventually(lambda: all(len(each.instances) == 6 for each in scene.witnesses))
    scene.count_afresh()
    return scene
