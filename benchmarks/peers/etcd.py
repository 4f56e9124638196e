"""etcd with aetcd: keys with a lease, and a watch of their prefix."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks.peers import side

_aetcd: Any = importlib.import_module("aetcd")

_TTL = 10
_ATTEMPTS = 5
_IN_FLIGHT = 200
"""Of several thousand requests at a time etcd says that they are too many, or it times out."""

_VALUE = json.dumps({"version": side.VERSION, **side.METADATA}).encode()


def _key(name: str, number: int) -> bytes:
    return f"/services/{name}/{number}".encode()


async def _patiently(request: Callable[[], Awaitable[object]]) -> None:
    """Try a request again that etcd did not get done in its own time."""
    for attempt in range(_ATTEMPTS):
        try:
            await request()
        except _aetcd.ClientError:
            if attempt == _ATTEMPTS - 1:
                raise
            await asyncio.sleep(1.0)
        else:
            return


def _client(url: str) -> Any:
    parts = urlsplit(url)
    return _aetcd.Client(parts.hostname, parts.port)


class Provider(side.Provider):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None
        self._lease: Any = None
        self._task: asyncio.Task[None] | None = None
        self._in_flight = asyncio.Semaphore(_IN_FLIGHT)

    async def open(self) -> None:
        self._client = _client(self.url)
        await self._client.connect()
        self._lease = await self._client.lease(_TTL)
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_TTL / 3)
            await _patiently(self._lease.refresh)

    async def register(self, name: str, number: int) -> None:
        async with self._in_flight:
            key = _key(name, number)
            await _patiently(lambda: self._client.put(key, _VALUE, lease=self._lease))

    async def unregister(self, name: str, number: int) -> None:
        async with self._in_flight:
            await self._client.delete(_key(name, number))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._lease.revoke()
        await self._client.close()


class Knower(side.Knower):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._client = _client(self.url)
        await self._client.connect()
        watch = await self._client.watch_prefix(f"/services/{side.NAME}/".encode())
        self._task = asyncio.create_task(self._watch(watch))

    async def _watch(self, watch: Any) -> None:
        async for event in watch:
            number = int(event.kv.key.rpartition(b"/")[2])
            if event.kind == _aetcd.rtypes.EventKind.PUT:
                self.appeared(number)
            else:
                self.disappeared(number)

    async def look_up(self, name: str) -> object:
        found = await self._client.get_prefix(f"/services/{name}/".encode())
        return json.loads(found[0].value)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._client.close()
