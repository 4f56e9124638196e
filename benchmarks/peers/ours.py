"""aioregistry, as its defaults have it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aioregistry import EventType, Registry, Service
from benchmarks.peers import side


def _number(service: Service) -> int:
    _, high, middle, low = service.hostname_port[0].split(".")
    return int(high) << 16 | int(middle) << 8 | int(low)


class Provider(side.Provider):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._registry = Registry(url, prefix="peers")

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.register("bystander", "10.0.0.1:80")

    async def register(self, name: str, number: int) -> None:
        await self._registry.register(
            name,
            f"{side.address(number)}:8080",
            version=side.VERSION,
            metadata=side.METADATA,
        )

    async def unregister(self, name: str, number: int) -> None:
        await self._registry.unregister(name, f"{side.address(number)}:8080")

    async def close(self) -> None:
        await self._registry.aclose()


class Knower(side.Knower):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._registry = Registry(url, prefix="peers", lookup_timeout=5.0)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._registry.start()
        await self._registry.observe(side.NAME)
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        async for event in self._registry.watch(side.NAME):
            if event.type in (EventType.EXPIRED, EventType.UNREGISTERED):
                self.disappeared(_number(event.service))
            else:
                self.appeared(_number(event.service))

    async def look_up(self, name: str) -> object:
        return await self._registry.get_service(name)

    def cached(self) -> Callable[[], Awaitable[object]]:
        return lambda: self._registry.get_service(side.NAME)

    async def close(self) -> None:
        await self._registry.aclose()
