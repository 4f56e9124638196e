"""ZooKeeper with kazoo: ephemeral nodes, and a watch of their parent. Kazoo has threads."""

from __future__ import annotations

import importlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers import side

_kazoo: Any = importlib.import_module("kazoo.client")
_cache: Any = importlib.import_module("kazoo.recipe.cache")

_TTL = 10.0
_VALUE = json.dumps({"version": side.VERSION, **side.METADATA}).encode()


def _path(name: str, number: int | None = None) -> str:
    return f"/services/{name}" if number is None else f"/services/{name}/{number}"


def _client(url: str) -> Any:
    client = _kazoo.KazooClient(url.partition("//")[2], timeout=_TTL)
    client.start()
    return client


class Provider(side.Provider):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None

    async def open(self) -> None:
        self._client = _client(self.url)
        self._client.ensure_path(_path(side.NAME))

    async def register(self, name: str, number: int) -> None:
        self._client.create(_path(name, number), _VALUE, ephemeral=True, makepath=True)

    async def register_many(self, name: str, numbers: range) -> None:
        create = self._client.create_async
        created = [create(_path(name, number), _VALUE, ephemeral=True) for number in numbers]
        for each in created:
            each.get()

    async def unregister(self, name: str, number: int) -> None:
        self._client.delete(_path(name, number))

    async def withdraw(self) -> None:
        deleted = [self._client.delete_async(_path(*each)) for each in self._registered]
        for each in deleted:
            each.get()
        self._registered.clear()

    async def close(self) -> None:
        self._client.stop()


class Knower(side.Knower):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._client: Any = None
        self._cache: Any = None

    async def open(self) -> None:
        self._client = _client(self.url)
        self._client.ensure_path(_path(side.NAME))
        self._client.ChildrenWatch(_path(side.NAME), self._changed)

    def _changed(self, children: list[str]) -> None:
        """Called in a thread of kazoo, with everybody who is there."""
        numbers = set(map(int, children))
        for number in numbers - self.known:
            self.appeared(number)
        for number in self.known - numbers:
            self.disappeared(number)

    async def look_up(self, name: str) -> object:
        children = self._client.get_children(_path(name))
        return json.loads(self._client.get(_path(name, int(children[0])))[0])

    def cached(self) -> Callable[[], object]:
        cache = self._cache
        if cache is None:
            cache = self._cache = _cache.TreeCache(self._client, _path(side.NAME))
            cache.start()
            while not all(cache.get_data(_path(side.NAME, each)) for each in self.known):
                time.sleep(0.01)
        paths = itertools.cycle([_path(side.NAME, number) for number in sorted(self.known)])
        return lambda: cache.get_data(next(paths))

    async def close(self) -> None:
        self._client.stop()
