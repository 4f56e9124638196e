"""An observer that remembers everything that it was told, and when."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aioregistry import EventType, Registry, Service, ServiceEvent


@dataclass(frozen=True)
class Seen:
    """An event, and when it came on the event loop's clock."""

    at: float
    event: ServiceEvent

    @property
    def key(self) -> tuple[str, str]:
        return self.event.service.key


class Witness:
    """Watches everything that a registry observes.

    Attributes:
        registry: whose eyes these are.
        seen: every event, in order.
        instances: what the events add up to.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.seen: list[Seen] = []
        self.instances: dict[tuple[str, str], Service] = {}

    def of(self, kind: EventType, key: tuple[str, str] | None = None) -> list[Seen]:
        """The events of one kind, and of one instance if it is named."""
        return [each for each in self.seen if each.event.type is kind and key in (None, each.key)]

    def kinds(self, key: tuple[str, str]) -> list[EventType]:
        """What happened to one instance, in order."""
        return [each.event.type for each in self.seen if each.key == key]

    async def watch(self, patterns: tuple[str, ...]) -> None:
        """Take the notes; runs until it is cancelled."""
        clock = asyncio.get_running_loop().time
        async for event in self.registry.watch(*patterns):
            self.seen.append(Seen(clock(), event))
            key = event.service.key
            if event.type in (EventType.REGISTERED, EventType.UPDATED):
                added = event.type is EventType.REGISTERED
                assert added is (key not in self.instances), f"out of order: {event}"
                self.instances[key] = event.service
            else:
                del self.instances[key]  # never a removal of what is not there


@contextlib.asynccontextmanager
async def witness(registry: Registry, *patterns: str) -> AsyncGenerator[Witness]:
    """Watch with a registry that has started, until the block ends."""
    witness = Witness(registry)
    watching = asyncio.create_task(witness.watch(patterns))
    try:
        yield witness
    finally:
        if watching.done():
            watching.result()
        watching.cancel()
        await asyncio.wait([watching])
