"""How the cost of things grows: counted, never timed, so it is the same on every machine."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aioregistry
from aioregistry import MemoryTransport, Registry, Service, all_of
from aioregistry.announcer import Announcer
from aioregistry.catalogue import Catalogue
from aioregistry.transports.memory import MemoryBroker
from aioregistry.wire import Announcement, decode, encode_announcement
from tests.tools import eventually

PACKAGE = str(Path(aioregistry.__file__).parent)
TRANSPORTS = str(Path(PACKAGE) / "transports")

TENFOLD = 13
"""What ten times as many may cost: a little more than ten times as much. A cost that grew with
the square would be a hundred times as much."""


class Count:
    """What was counted in a block."""

    def __init__(self) -> None:
        self.calls = 0
        self.lines = 0


@contextmanager
def counted() -> Generator[Count]:
    """Count calls of functions of the package, and lines run in them; transports apart."""
    count = Count()

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            count.lines += 1
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or file.startswith(TRANSPORTS):
            return None
        count.calls += 1
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


def payload(number: int, name: str = "orders", *, seq: int = 1) -> bytes:
    service = Service(
        name,
        f"10.0.0.5:{number}",
        version="1.4.2",
        host="host-1",
        metadata={"zone": "eu-1", "tier": "gold", "build": "7"},
        id=f"{number:016x}",
    )
    return encode_announcement(service, ttl=3600.0, registered=1.0, seq=seq, node=f"{number:x}")


def fleet(size: int, names: int = 1) -> list[Announcement]:
    name = "orders" if names == 1 else "orders-{}"
    return [decode(payload(number, name.format(number % names))) for number in range(size)]


def learned(size: int) -> Catalogue:
    catalogue = Catalogue()
    for message in fleet(size):
        catalogue.announce(message, 0.0)
    return catalogue


@pytest.fixture
async def broker() -> AsyncGenerator[MemoryTransport]:
    """A transport to tell what a fleet would, and what an observer hears."""
    transport = MemoryTransport(MemoryBroker.named("shape"))
    await transport.connect(lambda _state, _detail: None)
    yield transport
    await transport.aclose()


async def tell(transport: MemoryTransport, registry: Registry, *payloads: bytes) -> None:
    target = registry.stats().announcements_received + len(payloads)
    for each in payloads:
        await transport.publish("registry.register.orders", each)
    await eventually(lambda: registry.stats().announcements_received == target)


class TestAHeartbeat:
    async def test_takes_a_handful_of_calls(self, broker: MemoryTransport) -> None:
        beats = [payload(number) for number in range(100)]
        async with Registry("memory://shape") as registry:
            await registry.observe("orders")
            await tell(broker, registry, *beats)
            for each in beats:
                await broker.publish("registry.register.orders", each)
            with counted() as count:
                await asyncio.sleep(0)
            assert registry.stats().announcements_received == 2 * len(beats)
        assert count.calls / len(beats) <= 8
        assert count.lines / len(beats) <= 50

    def test_pushes_nothing_onto_the_heap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        catalogue, beats = learned(100), fleet(100)
        pushes: list[object] = []
        push: Callable[..., None] = heapq.heappush

        def counting(heap: list[Any], item: Any) -> None:
            pushes.append(item)
            push(heap, item)

        monkeypatch.setattr("heapq.heappush", counting)
        for message in beats:
            catalogue.announce(message, 1.0)
        assert pushes == []
        catalogue.announce(decode(payload(1000)), 1.0)
        assert len(pushes) == 1  # so it does count

    def test_leaves_nothing_behind(self) -> None:
        catalogue, beats = learned(100), fleet(100)

        def beat(now: float) -> None:
            for message in beats:
                catalogue.announce(message, now)

        for warmup in range(10):
            beat(float(warmup))
        gc.collect()
        tracemalloc.start()
        try:
            beat(10.0)
            before, _ = tracemalloc.get_traced_memory()
            for later in range(11, 111):
                beat(float(later))
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 1_000  # ten thousand heartbeats: not even a byte for each

    @pytest.mark.parametrize("size", [10, 10_000])
    def test_costs_the_same_whatever_is_known(self, size: int) -> None:
        catalogue, message = learned(size), decode(payload(0))
        with counted() as count:
            catalogue.announce(message, 1.0)
        assert count.lines <= 10


class TestALookup:
    @pytest.mark.parametrize("size", [1, 10_000])
    async def test_takes_three_calls_whatever_is_known(
        self, size: int, broker: MemoryTransport
    ) -> None:
        async with Registry("memory://shape") as registry:
            await registry.observe("orders")
            await tell(broker, registry, *map(payload, range(size)))
            await registry.get_service("orders")
            with counted() as count:
                for _ in range(100):
                    await registry.get_service("orders")
            assert len(registry.cached("orders", all_of())) == size
        assert count.calls / 100 <= 3
        assert count.lines / 100 <= 30


def growth(cost: Callable[[int], Count]) -> float:
    """What ten thousand cost, beside what a thousand cost."""
    return cost(10_000).lines / cost(1_000).lines


@pytest.mark.parametrize("spread", [1, 10], ids=["of one name", "of many names"])
class TestTenTimesAsMany:
    def test_are_learned_at_ten_times_the_cost(self, spread: int) -> None:
        def cost(size: int) -> Count:
            messages = fleet(size, 1 if spread == 1 else size // spread)
            catalogue = Catalogue()
            with counted() as count:
                for message in messages:
                    catalogue.announce(message, 0.0)
                    catalogue.next_deadline()
            assert len(catalogue) == size
            return count

        assert growth(cost) <= TENFOLD

    def test_expire_at_ten_times_the_cost(self, spread: int) -> None:
        def cost(size: int) -> Count:
            catalogue = Catalogue()
            for number, message in enumerate(fleet(size, 1 if spread == 1 else size // spread)):
                catalogue.announce(message, number / 10)
            gone = 0
            with counted() as count:
                while (due := catalogue.next_deadline()) is not None:
                    gone += len(catalogue.expire(due))
            assert gone == size
            return count

        assert growth(cost) <= TENFOLD

    def test_are_withdrawn_at_ten_times_the_cost(self, spread: int) -> None:
        def cost(size: int) -> Count:
            catalogue = Catalogue()
            messages = fleet(size, 1 if spread == 1 else size // spread)
            for message in messages:
                catalogue.announce(message, 0.0)
            with counted() as count:
                for message in messages:
                    catalogue.withdraw(message, 1.0)
            assert not catalogue
            return count

        assert growth(cost) <= TENFOLD

    def test_are_announced_at_ten_times_the_cost(self, spread: int) -> None:
        def cost(size: int) -> Count:
            announcer = Announcer(3.0, random.Random(1))
            services = [
                Service(f"s{number % (1 if spread == 1 else size // spread)}", f"a:{number}")
                for number in range(size)
            ]
            sent = 0
            with counted() as count:
                for service in services:
                    announcer.announce(service, 0.0)
                    announcer.next_deadline()
                while (due := announcer.next_deadline()) is not None and due <= 3.0:
                    sent += len(announcer.due(due))
            assert sent >= 2 * size
            return count

        assert growth(cost) <= TENFOLD
