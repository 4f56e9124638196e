"""The micro services of nats-py: whoever wants to know asks `$SRV.INFO`; there are no events."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from typing import Any

from benchmarks.bare import nats_client
from benchmarks.peers import side

_micro: Any = importlib.import_module("nats.micro")

_QUIET = 0.2
_POLL = 0.1


class Provider(side.Provider):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None
        self._services: dict[tuple[str, int], Any] = {}

    async def open(self) -> None:
        self._client = await nats_client(self.url)

    async def register(self, name: str, number: int) -> None:
        self._services[name, number] = await _micro.add_service(
            self._client,
            name=name,
            version=side.VERSION,
            metadata={"number": str(number), "host": side.address(number), **side.METADATA},
        )

    async def unregister(self, name: str, number: int) -> None:
        await self._services.pop((name, number)).stop()

    async def close(self) -> None:
        await self._client.close()


class Knower(side.Knower):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None

    async def open(self) -> None:
        self._client = await nats_client(self.url)

    async def know(self, count: int) -> float:
        """Ask until so many answer."""
        async with asyncio.timeout(side.PATIENCE):
            while True:
                self.known = await self._ask(_QUIET, count)
                now = time.monotonic()
                if len(self.known) == count:
                    return now

    async def gone(self, count: int) -> dict[str, float]:
        """Ask every now and then until so many of those known answer no longer."""
        while len(self.gone_at) < count:
            present = await self._ask(_POLL, len(self.known) + 1)
            for number in self.known - present:
                self.disappeared(number)
        return self.gone_at

    async def look_up(self, name: str) -> object:
        return json.loads((await self._client.request(f"$SRV.INFO.{name}", b"")).data)

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, quiet: float, count: int) -> set[int]:
        """Who answers, until so many have or nobody has for a while."""
        found: set[int] = set()
        inbox = self._client.new_inbox()
        answers = await self._client.subscribe(inbox)
        await self._client.publish(f"$SRV.INFO.{side.NAME}", b"", reply=inbox)
        while len(found) < count:
            try:
                message = await answers.next_msg(quiet)
            except TimeoutError:
                break
            if not message.data:  # nobody there
                await asyncio.sleep(quiet)
                break
            found.add(int(json.loads(message.data)["metadata"]["number"]))
        await answers.unsubscribe()
        return found
