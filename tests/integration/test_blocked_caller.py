"""Lookups of a caller whose event loop is blocked while the answers come in."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import nats
import pytest

from aioregistry import NatsTransport, Registry, ServiceNotFound
from aioregistry.testing.brokers import Broker

BLOCKED = 0.2
"""For so many seconds: longer than a lookup waits."""

NAMES = [f"s{number}" for number in range(4)]


@contextmanager
def provided(url: str, prefix: str) -> Generator[None]:
    """Three instances of each name, in a thread, so that they answer meanwhile."""
    ready, end = threading.Event(), threading.Event()

    async def provide() -> None:
        async with Registry(url, prefix=prefix, ttl=600.0) as registry:
            for name in NAMES:
                for port in (1, 2, 3):
                    await registry.register(name, f"10.0.0.5:{port}")
            ready.set()
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=asyncio.run, args=(provide(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        end.set()
        thread.join()


@pytest.fixture(params=["nats", "borrowed", "redis", "old_redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """Whose connection it is; "borrowed": that of an application."""
    return str(request.param)


@pytest.fixture
def url(request: pytest.FixtureRequest, kind: str) -> str:
    broker: Broker = request.getfixturevalue(
        "nats_broker" if kind == "borrowed" else f"{kind}_broker"
    )
    return broker.url


@pytest.fixture
def prefix(url: str) -> Iterator[str]:
    """A tenant where all `NAMES` are provided."""
    prefix = f"t{secrets.token_hex(6)}"
    with provided(url, prefix):
        yield prefix


@pytest.fixture
async def caller(kind: str, url: str, prefix: str) -> AsyncIterator[Registry]:
    async with (
        target_for(kind, url) as target,
        Registry(target, prefix=prefix, lookup_timeout=0.1) as registry,
    ):
        yield registry


@asynccontextmanager
async def target_for(kind: str, url: str) -> AsyncGenerator[str | NatsTransport]:
    if kind != "borrowed":
        yield url
        return
    driver: Any = nats  # partly untyped
    client = await driver.connect(url)
    try:
        yield NatsTransport(client=client)
    finally:
        await client.close()


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_an_answer_that_came_meanwhile_counts(caller: Registry) -> None:
    for number, name in enumerate(NAMES):
        lookup = asyncio.create_task(caller.get_service(name))
        await turns(number)
        time.sleep(BLOCKED)  # noqa: ASYNC251 - the very thing
        assert (await lookup).name == name


async def test_so_do_all_answers_that_came_meanwhile(caller: Registry) -> None:
    for number, name in enumerate(NAMES):
        lookup = asyncio.create_task(caller.get_services(name))
        await turns(number)
        time.sleep(BLOCKED)  # noqa: ASYNC251
        assert len(await lookup) == 3
        assert len(await caller.get_services(name)) == 3


async def test_a_blocked_loop_does_not_make_a_lookup_last(caller: Registry) -> None:
    lookup = asyncio.create_task(caller.get_service("nobody"))
    await turns(3)
    time.sleep(BLOCKED)  # noqa: ASYNC251
    blocking = True

    async def block() -> None:
        while blocking:
            await asyncio.sleep(0)
            time.sleep(0.03)  # noqa: ASYNC251

    busy = asyncio.create_task(block())
    started = time.monotonic()
    with pytest.raises(ServiceNotFound):
        await asyncio.wait_for(lookup, 10)
    blocking = False
    await busy
    assert time.monotonic() - started < 5
