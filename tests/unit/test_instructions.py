"""What the hot paths cost, in byte codes of the package: counted, so the same on every machine.

A loop that creeps in, an object for each message, one more look at an attribute: all of it shows
here, in numbers. What they were the last time is the most that they may be. Whoever makes a path
cheaper lowers them; whoever has to make one dearer says why in the commit that raises them.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aioregistry
from aioregistry import MemoryTransport, Registry, Service
from aioregistry.transports.memory import MemoryBroker
from aioregistry.wire import encode_announcement

PACKAGE = str(Path(aioregistry.__file__).parent)
TRANSPORTS = str(Path(PACKAGE) / "transports")
VERSION = sys.version_info[:2]

MOST: dict[str, dict[tuple[int, int], int]] = {
    "heartbeat": {(3, 11): 154, (3, 12): 145, (3, 13): 151},
    "new instance": {(3, 11): 767, (3, 12): 700, (3, 13): 697},
    "event to a watcher": {(3, 11): 895, (3, 12): 822, (3, 13): 812},
    "get_service": {(3, 11): 80, (3, 12): 75, (3, 13): 73},
    "cached": {(3, 11): 52, (3, 12): 49, (3, 13): 50},
}
"""Each compiler has its own byte codes."""

pytestmark = pytest.mark.skipif(
    VERSION not in MOST["heartbeat"], reason="what this Python compiles to was not counted yet"
)


class Count:
    """How many byte codes were run."""

    def __init__(self) -> None:
        self.run = 0


@contextmanager
def counted() -> Generator[Count]:
    """Count the byte codes of the package that a block runs, without those of the transports."""
    count = Count()

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        count.run += event == "opcode"
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.startswith(TRANSPORTS):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def message(number: int, *, seq: int = 1) -> bytes:
    service = Service(
        "orders",
        f"10.0.0.5:{number}",
        version=f"1.4.{seq}",
        host="host-1",
        metadata={"zone": "eu-1", "tier": "gold", "build": "7"},
        id=f"{number:016x}",
    )
    return encode_announcement(service, ttl=3600.0, registered=1.0, seq=seq, node=f"{number:x}")


TIMES = 50


@pytest.fixture
async def fleet() -> AsyncGenerator[MemoryTransport]:
    """What tells of instances."""
    transport = MemoryTransport(MemoryBroker.named("instructions"))
    await transport.connect(lambda _state, _detail: None)
    yield transport
    await transport.aclose()


@pytest.fixture
async def registry(fleet: MemoryTransport) -> AsyncGenerator[Registry]:
    """An observer that knows some instances."""
    async with Registry("memory://instructions") as registry:
        await registry.observe("orders")
        await tell(fleet, registry, range(1, TIMES + 1))
        yield registry


async def tell(
    fleet: MemoryTransport, registry: Registry, numbers: range, *, seq: int = 1
) -> Count:
    """Let the registry hear of instances, and count what that costs it."""
    target = registry.stats().announcements_received + len(numbers)
    for number in numbers:
        await fleet.publish("registry.register.orders", message(number, seq=seq))
    with counted() as count:
        await asyncio.sleep(0)  # all are read in one turn of the event loop
    assert registry.stats().announcements_received == target
    return count


def check(path: str, count: Count) -> None:
    most, each = MOST[path][VERSION], count.run / TIMES
    assert each <= most, f"{path}: {each:g} byte codes, which were {most}"
    assert each > most * 0.8, f"{path}: only {each:g} byte codes: lower the {most} to that"


async def test_a_heartbeat(fleet: MemoryTransport, registry: Registry) -> None:
    check("heartbeat", await tell(fleet, registry, range(1, TIMES + 1)))


async def test_a_new_instance(fleet: MemoryTransport, registry: Registry) -> None:
    check("new instance", await tell(fleet, registry, range(1001, TIMES + 1001)))


async def test_an_event(fleet: MemoryTransport, registry: Registry) -> None:
    """An update, from its arrival to a watcher who has to be woken up for the first one."""
    async with registry.watch("orders", include_current=False) as watch:
        count = await tell(fleet, registry, range(1, TIMES + 1), seq=2)
        with counted() as taking:
            for _ in range(TIMES):
                await anext(watch)
    count.run += taking.run
    check("event to a watcher", count)


async def test_get_service(registry: Registry) -> None:
    await registry.get_service("orders")
    with counted() as count:
        for _ in range(TIMES):
            await registry.get_service("orders")
    check("get_service", count)


async def test_cached(registry: Registry) -> None:
    registry.cached("orders")
    with counted() as count:
        for _ in range(TIMES):
            registry.cached("orders")
    check("cached", count)
