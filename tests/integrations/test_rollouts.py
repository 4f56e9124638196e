"""Real servers in processes of their own, a real broker, and constant load: nothing fails."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aioregistry import Registry
from aioregistry.integrations._leavers import LEAVING
from aioregistry.testing.brokers import Broker, nats_server, unused_port
from tests.integrations.instance import KINDS, Client
from tests.tools import eventually

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
URL = "http://orders/items"
PATIENCE = 60.0
TASKS = 8

PAIRS = [("httpx", "uvicorn"), ("httpx2", "aiohttp"), ("aiohttp", "uvicorn")]


class Fleet:
    """Three processes that serve `orders`, at addresses that stay the same."""

    def __init__(self, framework: str, broker: Broker) -> None:
        self._framework = framework
        self._broker = broker
        self.ports = {tag: unused_port() for tag in "abc"}  # that stay free during a restart
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, tag: str) -> None:
        where = (self._framework, self._broker.url, str(self.ports[tag]), tag)
        self._processes[tag] = subprocess.Popen(
            [sys.executable, "-m", "tests.integrations.server", *where], cwd=ROOT
        )

    def tell(self, tag: str) -> None:
        """Tell one to end."""
        self._processes[tag].send_signal(signal.SIGTERM)

    async def says_that_it_leaves(self, tag: str) -> None:
        """Ask one until it says so."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            url = f"http://127.0.0.1:{self.ports[tag]}/"
            while LEAVING not in (await client.get(url)).headers:
                pass

    async def end(self, tag: str) -> None:
        """Tell one to end, and wait until it has."""
        self.tell(tag)
        await self.ended(tag)

    async def ended(self, tag: str) -> None:
        """Wait until one has ended."""
        process = self._processes[tag]
        await eventually(lambda: process.poll() is not None, PATIENCE)
        assert process.wait() in (0, -signal.SIGTERM)  # uvicorn says what it was ended by

    def kill(self, tag: str) -> None:
        self._processes[tag].kill()
        self._processes[tag].wait()

    def dispose(self) -> None:
        for tag in self._processes:
            self.kill(tag)


class Load:
    """Requests all the time, from several tasks; what became of them."""

    def __init__(self, client: Client, method: str) -> None:
        self._client = client
        self._method = method
        self.answers: Counter[str] = Counter()
        self.failures: list[Exception] = []

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        work = [asyncio.create_task(self._repeat()) for _ in range(TASKS)]
        try:
            yield
        finally:
            self._over = True
            await asyncio.gather(*work)

    _over = False

    async def _repeat(self) -> None:
        while not self._over:
            try:
                answer = await self._client.request(self._method, URL)
                self.answers[answer.tag] += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, none is allowed
                self.failures.append(error)
                await asyncio.sleep(0.01)  # else a fault would be a million failures

    async def more(self, count: int) -> Counter[str]:
        """Wait for so many further answers, and return whose they were."""
        before = self.answers.copy()
        await eventually(lambda: self.answers.total() >= before.total() + count, PATIENCE)
        return self.answers - before


@pytest.fixture
def broker() -> Iterator[Broker]:
    with nats_server() as broker:
        yield broker


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


@asynccontextmanager
async def loaded(
    pair: tuple[str, str], broker: Broker, method: str
) -> AsyncGenerator[tuple[Fleet, Load, Registry]]:
    fleet = Fleet(pair[1], broker)
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.dispose)
        for tag in fleet.ports:
            fleet.start(tag)
        async with Registry(broker.url) as registry:
            await registry.observe("orders")
            await eventually(lambda: len(registry.cached("orders")) == 3, PATIENCE)
            async with KINDS[pair[0]].connect(registry) as client:
                load = Load(client, method)
                async with load.running():
                    yield fleet, load, registry
    assert load.failures == []


async def test_a_rolling_restart(pair: tuple[str, str], broker: Broker) -> None:
    """Of requests that may not even be repeated, none fails."""
    async with loaded(pair, broker, "POST") as (fleet, load, registry):
        await load.more(60)
        for tag, port in fleet.ports.items():
            [before] = [each for each in registry.cached("orders") if each.port == port]
            await fleet.end(tag)
            await load.more(60)
            fleet.start(tag)

            def is_back(port: int = port, old: str = before.id) -> bool:
                known = registry.cached("orders")
                return any(each.port == port and each.id != old for each in known)

            await eventually(is_back, PATIENCE)
        # All three are in use again, and evenly.
        shares = (await load.more(450)).values()
        assert len(shares) == 3
        assert max(shares) <= 1.1 * min(shares)


async def test_an_instance_is_killed(pair: tuple[str, str], broker: Broker) -> None:
    async with loaded(pair, broker, "GET") as (fleet, load, _):
        await load.more(60)
        fleet.kill("b")
        await load.more(150)
        assert set(await load.more(150)) == {"a", "c"}


async def test_one_ends_while_the_broker_is_away(pair: tuple[str, str], broker: Broker) -> None:
    """Nobody hears of its withdrawal; its own answers tell."""
    async with loaded(pair, broker, "POST") as (fleet, load, registry):
        await load.more(60)
        await asyncio.to_thread(broker.kill)
        await eventually(lambda: not registry.connected, PATIENCE)
        fleet.tell("b")
        await fleet.says_that_it_leaves("b")
        before = load.answers.copy()
        await fleet.ended("b")
        assert len(registry.cached("orders")) == 3
        meanwhile = load.answers - before
        assert meanwhile["b"] <= 2 * TASKS, "it served on for two seconds"
        assert set(await load.more(150)) <= {"a", "c"}


async def test_the_broker_is_killed(pair: tuple[str, str], broker: Broker) -> None:
    async with loaded(pair, broker, "POST") as (_, load, registry):
        await load.more(60)
        await asyncio.to_thread(broker.kill)
        await eventually(lambda: not registry.connected, PATIENCE)
        await load.more(150)
        await asyncio.to_thread(broker.start)
        await registry.wait_connected(PATIENCE)
        shares = (await load.more(450)).values()
        assert len(shares) == 3
        assert max(shares) <= 1.1 * min(shares)
