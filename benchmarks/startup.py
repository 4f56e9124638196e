"""How long it takes until a process can begin, and how much there is to install."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import aioregistry
from aioregistry import Registry
from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Figure
from benchmarks.plan import Plan
from benchmarks.processes import Part

_NEEDED = ("anyio", "hiredis", "idna", "msgspec", "nats-py", "redis", "typing_extensions")
"""What pip installs with the package, and with that."""

_TIMED_IMPORT = """
import asyncio, time
started = time.perf_counter()
import {}
print((time.perf_counter() - started) * 1000)
"""


class Starter:
    """A process that connects."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def enter(self) -> float:
        """Milliseconds from `async with` to a registry that is ready."""
        started = time.perf_counter()
        async with Registry(self._url, prefix="ours"):
            return (time.perf_counter() - started) * 1000

    async def bare(self) -> float:
        """Milliseconds to a client that has had an answer."""
        started = time.perf_counter()
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            await client.flush()
            took = (time.perf_counter() - started) * 1000
            await client.close()
            return took
        async with redis_client(self._url) as connection:
            pubsub = connection.pubsub()
            await pubsub.subscribe("floor")
            return (time.perf_counter() - started) * 1000


def start_up(plan: Plan) -> Iterator[Figure]:
    """Imports, and entering."""
    modules = {
        "aioregistry": "anyio, msgspec",
        "aioregistry.transports.nats": "nats.aio.client",
        "aioregistry.transports.redis": "redis.asyncio",
    }
    for module, floor in modules.items():
        _import(module)  # which may compile it
        times = [(_import(module), _import(floor)) for _ in range(plan.rounds)]
        ours, bare = zip(*times, strict=True)
        yield Figure(f"import {module}", "ms", ours, bare, f"import {floor}")
    for kind, url in plan.brokers.items():
        with Part(Starter, url=url) as part:
            part.call("enter")
            part.call("bare")
            pairs = [(part.call("enter"), part.call("bare")) for _ in range(3 * plan.rounds)]
        ours, bare = zip(*pairs, strict=True)
        yield Figure(f"{kind}: async with to ready", "ms", ours, bare, "bare client to answer")


def installed_size(_plan: Plan) -> Iterator[Figure]:
    """Kilobytes on disk, without byte code: the package, and all that comes with it."""
    ours = _kilobytes(Path(aioregistry.__file__).parent.rglob("*"))
    needed = [_kilobytes(_files_of(name)) for name in _NEEDED]
    driver = needed[_NEEDED.index("nats-py")]
    yield Figure("installed package", "kB", [ours], [driver], "nats-py")
    title = f"installed package with the {len(needed)} others that it needs"
    yield Figure(title, "kB", [ours + sum(needed)], [driver], "nats-py, which needs none")


def _kilobytes(files: Iterable[Path]) -> float:
    sources = (file for file in files if file.suffix != ".pyc" and file.is_file())
    return sum(file.stat().st_size for file in sources) / 1000


def _files_of(distribution: str) -> list[Path]:
    files = importlib.metadata.distribution(distribution).files or []
    return [Path(str(file.locate())) for file in files]


def _import(what: str) -> float:
    command = [sys.executable, "-c", _TIMED_IMPORT.format(what)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
