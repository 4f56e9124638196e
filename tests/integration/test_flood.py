"""A peer that floods: everything stays within its bounds, and the living keep their place."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.tools import eventually, no_new_tasks

from aioregistry import Registry, Watch, all_of, sharing, tombstones
from aioregistry.announcer import ANSWER_BURST, ANSWER_WINDOW
from aioregistry.loglimit import MAX_LINES, PERIOD
from aioregistry.tombstones import MAX_TOMBSTONES
from aioregistry.transports.memory import MemoryBroker, MemoryTransport

FLOOD = 200_000
MAX_INSTANCES = 1_000
CHUNK = 2_000

pytestmark = pytest.mark.timeout(300)  # it is the processor that these take, and others may too


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def victim(broker: MemoryBroker) -> AsyncIterator[Registry]:
    """Observes everything, and provides one service."""
    async with no_new_tasks():
        registry = Registry(MemoryTransport(broker), max_instances=MAX_INSTANCES)
        async with registry:
            await registry.observe(">")
            await registry.register("living", "10.0.0.5:1")
            await eventually(lambda: registry.cached("living"))
            yield registry


class Peer:
    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = MemoryTransport(broker)

    async def flood(self, number: int, message: Callable[[int], tuple[str, bytes]]) -> None:
        await self.transport.connect(lambda _state, _reason: None)
        for each in range(number):
            subject, payload = message(each)
            await self.transport.publish(f"registry.{subject}", payload)
            if not each % CHUNK:
                await self.transport.flush()
        await self.transport.flush()
        await self.transport.aclose()


def announcement(each: int, name: str = "flood") -> tuple[str, bytes]:
    text = (
        f'{{"name":"{name}","add":"h{each}:1","id":"i{each}","seq":1,"node":"n{each}","v":"v{each}",'
        f'"h":"host{each}","kv":{{"k{each}":"v"}},"t":{{"Duration":600000}}}}'
    )
    return f"register.{name}", text.encode()


def inside(registry: Any) -> Any:
    """The parts of a registry, for a look at what nobody else needs to see."""
    return registry._session


def pending(watch: Any) -> int:
    return len(watch._pending)


def check_bounds(victim: Registry) -> None:
    session = inside(victim)
    known = session.observer.catalogue
    assert len(known) <= MAX_INSTANCES
    assert known.tombstones <= MAX_TOMBSTONES
    assert len(known._heap) <= 2 * MAX_INSTANCES + 1001
    assert len(known.nodes) <= MAX_INSTANCES
    assert [service.address for service in victim.cached("living")] == ["10.0.0.5:1"]


async def test_announcements(broker: MemoryBroker, victim: Registry) -> None:
    async with watching(victim) as watch:
        await Peer(broker).flood(FLOOD, announcement)
        check_bounds(victim)
        assert victim.stats().refused == FLOOD - MAX_INSTANCES + 1
        known = victim.cached("flood", where=all_of())
        assert [service.address for service in known] == [
            f"h{each}:1" for each in range(MAX_INSTANCES - 1)
        ]
        assert pending(watch) <= MAX_INSTANCES


async def test_announcements_of_ever_new_names(broker: MemoryBroker, victim: Registry) -> None:
    await Peer(broker).flood(FLOOD // 4, lambda each: announcement(each, f"name{each}"))
    check_bounds(victim)
    assert victim.stats().names == MAX_INSTANCES


async def test_restarts(broker: MemoryBroker, victim: Registry) -> None:
    """Ever new incarnations under one address."""

    def restart(each: int) -> tuple[str, bytes]:
        subject, payload = announcement(each)
        return subject, payload.replace(b'"add":"h%d:1"' % each, b'"add":"h:1"')

    async with watching(victim) as watch:
        await Peer(broker).flood(FLOOD // 4, restart)
        check_bounds(victim)
        assert victim.stats().instances == 2
        assert victim.stats().tombstones == MAX_TOMBSTONES
        assert pending(watch) <= 2


async def test_withdrawals(broker: MemoryBroker, victim: Registry) -> None:
    await Peer(broker).flood(
        FLOOD,
        lambda each: ("unregister.flood", b'{"name":"flood","add":"h:1","id":"i%d"}' % each),
    )
    check_bounds(victim)
    assert victim.stats().withdrawals_received == FLOOD
    assert victim.stats().tombstones == MAX_TOMBSTONES


async def test_pings(broker: MemoryBroker, victim: Registry) -> None:
    loop = asyncio.get_running_loop()
    before, started = victim.stats().announcements_sent, loop.time()
    names = ("living", "_all", "flood")
    await Peer(broker).flood(FLOOD, lambda each: (f"ping.{names[each % 3]}", b'{"id":"%d"}' % each))
    await Peer(broker).flood(FLOOD // 10, lambda _: ("ping.living", b""))
    await asyncio.sleep(0.2)
    answers = victim.stats().announcements_sent - before
    assert answers <= 2 + ANSWER_BURST + (loop.time() - started) / ANSWER_WINDOW
    assert answers < FLOOD / 100
    check_bounds(victim)
    session = inside(victim)
    assert len(session.provider._announcer._heap) <= 2 + 100 + 1


async def test_rubbish(
    broker: MemoryBroker, victim: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """From ever new sources: one line for each of the first thirty in a minute."""
    started = time.monotonic()
    with caplog.at_level(logging.DEBUG):
        await Peer(broker).flood(FLOOD, lambda each: (f"register.x{each}", b"rubbish\r\n%d" % each))
    assert victim.stats().malformed == FLOOD
    minutes = 1 + (time.monotonic() - started) // PERIOD
    assert 0 < len(caplog.records) <= minutes * (MAX_LINES + 5)
    assert all(len(record.getMessage()) < 600 for record in caplog.records)
    assert not any("\r" in record.getMessage() for record in caplog.records)
    session = inside(victim)
    assert len(session.observer._log._seen) <= MAX_LINES
    check_bounds(victim)


async def test_memory_does_not_grow(broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever different messages leave nothing behind (as interned strings may: sys.intern)."""
    monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 100)
    for bound in ("SHARED_TEXTS", "SHARED_METADATA"):
        monkeypatch.setattr(sharing, bound, 100)

    def message(each: int) -> tuple[str, bytes]:
        subject, payload = announcement(each // 2)
        return (f"un{subject}" if each % 2 else subject), payload

    async with Registry(MemoryTransport(broker)) as victim:
        await victim.observe(">")
        tracemalloc.start()
        try:
            await Peer(broker).flood(4_000, message)
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            await Peer(broker).flood(20_000, lambda each: message(each + 4_000))
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert victim.stats().announcements_received == 12_000
        assert victim.stats().instances == 0
        assert after - before < 200_000


def watching(victim: Registry) -> Watch:
    """A watch whose receiver never takes an event."""
    return victim.watch(">")
