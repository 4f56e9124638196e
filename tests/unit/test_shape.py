"""How the cost of things grows: counted, never timed, so it is the same on every machine."""

from __future__ import annotations

import asyncio
import gc
import heapq
import inspect
import random
import socket
import sys
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import aioregistry
from aioregistry import (
    Balancer,
    LeastPending,
    MemoryTransport,
    Random,
    Registry,
    RoundRobin,
    Service,
    Status,
    Weighted,
    all_of,
    not_critical,
)
from aioregistry.announcer import Announcer
from aioregistry.catalogue import Catalogue
from aioregistry.testing.brokers import Broker
from aioregistry.transports.memory import MemoryBroker
from aioregistry.wire import Announcement, decode, encode_announcement
from tests.tools import eventually

PACKAGE = str(Path(aioregistry.__file__).parent)
TRANSPORTS = str(Path(PACKAGE) / "transports")

TENFOLD = 13
"""What ten times as many may cost: a little more than ten times as much. A cost that grew with
the square would be a hundred times as much."""


A_COPY = 10_000
"""Bytes: a list or tuple of ten thousand has eight times as many; what a call needs anyway, a
tenth of it."""


class Count:
    """What was counted in a block."""

    def __init__(self) -> None:
        self.calls = 0
        self.lines = 0
        self.coroutines = 0
        self.tasks = 0


@contextmanager
def counted(*, transports: bool = False) -> Generator[Count]:
    """Count calls of functions of the package, and lines run in them.

    Args:
        transports: whether those of the transports count, too.
    """
    count = Count()

    def local(_frame: FrameType, event: str, _arg: object) -> Any:
        if event == "line":
            count.lines += 1
        return local

    def trace(frame: FrameType, _event: str, _arg: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or (file.startswith(TRANSPORTS) and not transports):
            return None
        count.calls += 1
        count.coroutines += bool(frame.f_code.co_flags & inspect.CO_COROUTINE)
        return local

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)


@contextmanager
def counted_tasks(count: Count) -> Generator[None]:
    """Count the tasks that are made, by whomever."""
    loop = asyncio.get_running_loop()

    def make(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        count.tasks += 1
        return asyncio.Task(work, loop=loop, **options)

    loop.set_task_factory(make)  # type: ignore[arg-type]
    try:
        yield
    finally:
        loop.set_task_factory(None)


class Bytes:
    """The memory that a block took."""

    def __init__(self) -> None:
        self.kept = 0
        self.peak = 0


@contextmanager
def traced() -> Generator[Bytes]:
    """Measure what a block allocates: at most at a time, and what is left when it is over."""
    taken = Bytes()
    gc.collect()
    gc.disable()  # when it runs depends on all that ran before
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        yield taken
        after, peak = tracemalloc.get_traced_memory()
        taken.kept, taken.peak = after - before, peak - before
    finally:
        tracemalloc.stop()
        gc.enable()


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


def shout(broker: Broker, subject: str, payloads: list[bytes]) -> None:
    """Publish without a driver: what is counted is then the work of the receiver."""
    if broker.url.startswith("nats"):
        form = b"PUB %b %d\r\n%b\r\n"
        frames = [form % (subject.encode(), len(each), each) for each in payloads]
        greeting, goodbye, last = b'CONNECT {"verbose":false}\r\n', b"PING\r\n", b"PONG\r\n"
    else:
        form = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        frames = [form % (len(subject), subject.encode(), len(each), each) for each in payloads]
        greeting, goodbye, last = b"CLIENT REPLY OFF\r\n", b"CLIENT REPLY ON\r\n", b"+OK\r\n"
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as connection:
        connection.sendall(b"".join((greeting, *frames, goodbye)))
        answers = b""
        while not answers.endswith(last):  # hanging up earlier would take back what is unread
            answers += connection.recv(65536)


async def tell(transport: MemoryTransport, registry: Registry, *payloads: bytes) -> None:
    target = registry.stats().announcements_received + len(payloads)
    for each in payloads:
        await transport.publish("registry.register.orders", each)
    await eventually(lambda: registry.stats().announcements_received == target)


def type_name(value: object) -> str:
    return type(value).__name__


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
        with traced() as taken:
            catalogue.announce(message, 2.0)
        assert taken.peak < A_COPY

    async def test_leaves_nothing_behind_on_its_whole_way(self, broker: MemoryTransport) -> None:
        beats = [payload(number) for number in range(100)]
        async with Registry("memory://shape") as registry:
            await registry.observe("orders")
            async with registry.watch("orders"):
                for _ in range(3):
                    await tell(broker, registry, *beats)
                with traced() as taken:
                    for _ in range(100):
                        for each in beats:
                            await broker.publish("registry.register.orders", each)
                        await asyncio.sleep(0)
                assert registry.stats().announcements_received == 103 * len(beats)
        assert taken.kept < 20_000  # ten thousand heartbeats: not even a pointer for each

    @pytest.mark.parametrize("kind", ["nats", "redis"])
    async def test_makes_neither_tasks_nor_coroutines(
        self, kind: str, nats_broker: Broker, redis_broker: Broker
    ) -> None:
        running = {"nats": nats_broker, "redis": redis_broker}[kind]
        beats = [payload(number) for number in range(100)]
        async with Registry(running.url, prefix=f"shape-{kind}") as registry:
            await registry.observe("orders")
            shout(running, f"shape-{kind}.register.orders", beats)
            await eventually(lambda: registry.stats().announcements_received == len(beats))
            with counted(transports=True) as count, counted_tasks(count):
                shout(running, f"shape-{kind}.register.orders", 10 * beats)
                await eventually(lambda: registry.stats().announcements_received == 11 * len(beats))
        # Besides the thousand heartbeats there are a few probes of the link.
        assert count.tasks < 500
        assert count.coroutines < 500
        assert count.calls / (10 * len(beats)) <= 13


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

    @pytest.mark.parametrize(
        "balancer", [RoundRobin(), Random(), LeastPending(), Weighted()], ids=type_name
    )
    async def test_copies_nothing(self, balancer: Balancer, broker: MemoryTransport) -> None:
        async with Registry("memory://shape", balancer=balancer) as registry:
            await registry.observe("orders")
            await tell(broker, registry, *map(payload, range(10_000)))
            await registry.get_service("orders")
            every = registry.cached("orders")

            async def look_up() -> None:
                await registry.get_service("orders")
                await registry.get_service("orders", where=not_critical, balancer=balancer)
                assert await registry.get_services("orders") is every
                assert registry.cached("orders") is every

            await look_up()
            with traced() as taken:
                await look_up()
            with counted() as count:
                await look_up()
        assert taken.peak < A_COPY
        assert count.lines / 4 <= 30

    async def test_leaves_nothing_behind(self, broker: MemoryTransport) -> None:
        async with Registry("memory://shape") as registry:
            await registry.observe("orders")
            await tell(broker, registry, *map(payload, range(10)))
            for _ in range(100):
                await registry.get_service("orders")
            with traced() as taken:
                for _ in range(10_000):
                    await registry.get_service("orders")
        assert taken.kept < 20_000  # not even a pointer for each


class TestLettingGo:
    async def test_of_one_name_does_not_look_at_the_others(self) -> None:
        """Names may come from outside: each one too many lets one go."""
        lines: list[int] = []
        for others in (10, 1000):
            async with Registry("memory://shape") as registry:
                await registry.observe("orders", *(f"other-{number}" for number in range(others)))
                with counted() as count:
                    await registry.unobserve("orders")
                lines.append(count.lines)
        assert lines[1] <= lines[0] + 100


class TestOneMore:
    """Copies and sorting are one line, whatever their size: they show in memory."""

    async def test_is_learned_without_a_copy_of_the_others(self, broker: MemoryTransport) -> None:
        async with Registry("memory://shape") as registry, registry.watch("orders"):
            await tell(broker, registry, *map(payload, range(10_000)))
            peaks: list[int] = []
            for number in range(10_000, 10_003):
                await broker.publish("registry.register.orders", payload(number))
                with traced() as taken:
                    await asyncio.sleep(0)
                peaks.append(taken.peak)
            assert registry.stats().instances == 10_003
        assert min(peaks) < A_COPY  # now and then a table grows

    async def test_is_registered_and_changed_without_a_copy_of_the_others(self) -> None:
        async with Registry("memory://shape", ttl=3600.0) as registry:
            every = [registry.register("orders", f"10.0.0.5:{port}") for port in range(1, 10_001)]
            await asyncio.gather(*every)
            peaks: list[int] = []
            for port in range(1, 4):
                with traced() as taken:
                    registration = await registry.register("orders", f"10.0.0.6:{port}")
                    await registration.set_status(Status.WARNING)
                    await registration.unregister()
                peaks.append(taken.peak)
        assert min(peaks) < A_COPY  # now and then a table grows


def growth(cost: Callable[[int], Count]) -> float:
    """What ten thousand cost, beside what a thousand cost."""
    return cost(10_000).lines / cost(1_000).lines


class TestTenTimesAsManyByTheWholeWay:
    async def test_are_learned_and_watched_at_ten_times_the_cost(
        self, broker: MemoryTransport
    ) -> None:
        async def cost(size: int) -> int:
            async with Registry("memory://shape") as registry, registry.watch("orders"):
                for number in range(size):
                    await broker.publish("registry.register.orders", payload(number))
                with counted() as count:
                    await asyncio.sleep(0)
                assert registry.stats().instances == size
            return count.lines

        assert await cost(3_000) / await cost(300) <= TENFOLD

    @pytest.mark.parametrize("names", ["one name", "many names"])
    async def test_are_registered_at_ten_times_the_cost(self, names: str) -> None:
        async def cost(size: int) -> int:
            async with Registry("memory://shape", ttl=3600.0) as registry:
                with counted() as count:
                    await asyncio.gather(
                        *(
                            registry.register(
                                "orders" if names == "one name" else f"orders-{number}",
                                f"10.0.0.5:{number}",
                            )
                            for number in range(1, size + 1)
                        )
                    )
                assert registry.stats().announcements_sent >= size
            return count.lines

        assert await cost(3_000) / await cost(300) <= TENFOLD

    async def test_are_looked_up_at_ten_times_the_cost(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beyond the number of names that are kept for nobody, too."""
        monkeypatch.setattr("aioregistry.observer.MAX_IDLE", 50)

        async def cost(size: int) -> int:
            names = [f"orders-{number}" for number in range(size)]
            async with (
                Registry("memory://shape", ttl=3600.0) as provider,
                Registry("memory://shape") as caller,
            ):
                await asyncio.gather(*(provider.register(name, "10.0.0.5:1") for name in names))
                with counted() as count:
                    for name in names:
                        await caller.get_service(name, timeout=60)
            return count.lines

        assert await cost(2_000) / await cost(200) <= TENFOLD

    async def test_watchers_are_told_at_ten_times_the_cost(self, broker: MemoryTransport) -> None:
        async def cost(size: int) -> int:
            async with Registry("memory://shape") as registry:
                watches = [registry.watch("orders") for _ in range(size)]
                for watch in watches:
                    await watch.__aenter__()
                for number in range(20):
                    await broker.publish("registry.register.orders", payload(number))
                with counted() as count:
                    await asyncio.sleep(0)
                assert registry.stats().instances == 20
            return count.lines

        assert await cost(1_000) / await cost(100) <= TENFOLD

    async def test_a_stuck_watcher_costs_the_same_whatever_waits_for_it(
        self, broker: MemoryTransport
    ) -> None:
        async with Registry("memory://shape") as registry, registry.watch("orders"):
            lines: list[int] = []
            for first in (0, 5_000):
                await tell(broker, registry, *map(payload, range(first, first + 100)))
                for number in range(first, first + 100):
                    await broker.publish("registry.register.orders", payload(number, seq=2))
                with counted() as count:
                    await asyncio.sleep(0)
                lines.append(count.lines)
                await tell(broker, registry, *map(payload, range(first + 100, first + 5_000)))
        assert lines[1] <= 1.2 * lines[0]


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
