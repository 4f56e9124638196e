"""What a large catalogue costs while nothing happens: memory of the process, and CPU.

The floor of memory keeps the messages as they came, in a dict. The instances arrive a
thousand at a time, so that buffers stay out of the account.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.bare import nats_client, redis_client
from benchmarks.figures import Budget, Figure
from benchmarks.fleet import Fleet
from benchmarks.ingest import Observer
from benchmarks.plan import Plan
from benchmarks.polling import until
from benchmarks.processes import Part

_PORTION = 1_000


def resident() -> int:
    """The memory of this process, in bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Knower(Observer):
    """A registry that fills up."""

    async def wait_for(self, messages: int) -> int:
        """Wait for so many announcements, all of new instances; the memory of the process then."""
        await until(lambda: self.count() >= messages)
        self.check(messages)
        return resident()

    async def idle(self, seconds: float) -> float:
        """The CPU seconds that pass in so many seconds."""
        before = time.process_time()
        await asyncio.sleep(seconds)
        return time.process_time() - before


class Keeper:
    """A bare subscription that keeps every message in a dict."""

    def __init__(self, url: str, pattern: str) -> None:
        self._url = url
        self._pattern = f"floor.register.{pattern}"
        self._kept: dict[int, bytes] = {}
        self._listener: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._url.startswith("nats"):
            client: Any = await nats_client(self._url)
            await client.subscribe(self._pattern, cb=self._keep)
            await client.flush()
            return
        pubsub: Any = redis_client(self._url).pubsub()
        await pubsub.psubscribe(self._pattern)
        self._listener = asyncio.create_task(self._listen(pubsub))

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listener

    async def _listen(self, pubsub: Any) -> None:
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                self._kept[len(self._kept)] = message["data"]

    async def _keep(self, message: Any) -> None:
        self._kept[len(self._kept)] = message.data

    async def wait_for(self, messages: int) -> int:
        """Wait for so many messages; the memory of the process then."""
        await until(lambda: len(self._kept) >= messages)
        return resident()

    async def idle(self, seconds: float) -> float:
        """The CPU seconds that pass in so many seconds."""
        before = time.process_time()
        await asyncio.sleep(seconds)
        return time.process_time() - before


def memory(plan: Plan) -> Iterator[Figure]:
    """Bytes for each instance, and CPU when all is quiet."""
    size = 10_000 if plan.quick else 100_000
    quiet_for = 2.0 if plan.quick else 20.0
    for kind, alike in (("nats", True), ("redis", True), ("nats", False)):
        filled: list[list[float]] = []
        quiet: list[list[float]] = []
        for _ in range(1 if plan.quick else 2):
            with contextlib.ExitStack() as stack:
                options = {"url": plan.brokers[kind], "pattern": "*"}
                fleet = stack.enter_context(
                    Part(Fleet, url=options["url"], count=size, names=size // 10, alike=alike)
                )
                ours = stack.enter_context(Part(Knower, **options))
                floor = stack.enter_context(Part(Keeper, **options))
                pair = ((ours, "ours"), (floor, "floor"))
                filled.append([_fill(fleet, part, prefix, size) for part, prefix in pair])
                if alike:
                    seconds = [part.call("idle", seconds=quiet_for) for part, _ in pair]
                    quiet.append([each / quiet_for * 100 for each in seconds])
        if kind == "nats":
            mine, bare = zip(*filled, strict=True)
            yield Figure(
                f"memory per instance, {size:,} with {'alike' if alike else 'unique'} metadata",
                "bytes",
                mine,
                bare,
                "raw messages in a dict",
                Budget(700, "figure"),
            )
        if quiet:
            mine, bare = zip(*quiet, strict=True)
            yield Figure(
                f"{kind}: idle CPU with {size:,} instances",
                "% of a core",
                mine,
                bare,
                f"bare {kind} driver",
                Budget(0.1, "figure"),
            )


def _fill(fleet: Part, receiver: Part, prefix: str, size: int) -> float:
    receiver.call("open")
    # The first thousand pay for what is needed once: modules, buffers, arenas.
    after = before = 0
    for first in range(0, size, _PORTION):
        fleet.call("announce", prefix=prefix, first=first, last=first + _PORTION)
        after = receiver.call("wait_for", messages=first + _PORTION)
        before = before or after
    return (after - before) / (size - _PORTION)
