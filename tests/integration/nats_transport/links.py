"""What the tests of the NATS transport need: links, what they report, and brokers for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker, nats_server
from aioregistry.transports.base import Handler, LinkState
from aioregistry.transports.nats import NatsTransport

UP, DOWN = LinkState.CONNECTED, LinkState.DISCONNECTED
PATIENCE = 10.0
SLOW = 400_000  # bytes per second, so that a piece of the proxy takes a sixth of a second
Message = tuple[str, bytes]


class Reports:
    """A state handler that keeps what it is told, and lets one wait for it."""

    def __init__(self) -> None:
        self.all: list[tuple[LinkState, str]] = []
        self._news = asyncio.Event()

    def __call__(self, state: LinkState, reason: str) -> None:
        self.all.append((state, reason))
        self._news.set()

    @property
    def states(self) -> list[LinkState]:
        return [state for state, _ in self.all]

    async def until(self, *states: LinkState) -> str:
        """Wait until exactly these were reported; the reason of the last one."""
        async with asyncio.timeout(PATIENCE):
            while len(self.all) < len(states):
                self._news.clear()
                await self._news.wait()
        assert self.states == list(states), self.all
        return self.all[-1][1]


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for what nobody tells of: the state of the broker, or of the driver."""
    async with asyncio.timeout(PATIENCE):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def connected(
    *args: Any, **kwargs: Any
) -> AsyncGenerator[tuple[NatsTransport, Reports], None]:
    """A transport with its reports, which is closed in the end."""
    transport, reports = NatsTransport(*args, **kwargs), Reports()
    await transport.connect(reports)
    try:
        yield transport, reports
    finally:
        started = time.monotonic()
        await transport.aclose()
        assert time.monotonic() - started < 2


@contextlib.asynccontextmanager
async def borrowing(url: str, **options: Any) -> AsyncGenerator[Client, None]:
    driver: Any = nats  # partly untyped
    client: Client = await driver.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.02, error_cb=_ignore, **options
    )
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def served(config: Path, *options: str, **kwargs: Any) -> AsyncGenerator[Broker, None]:
    """A broker that is started and stopped from within the event loop."""
    manager = nats_server("--config", str(config), *options, **kwargs)
    broker = await asyncio.to_thread(manager.__enter__)
    try:
        yield broker
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def _ignore(_error: Exception) -> None:
    pass


def collector() -> tuple[list[Message], Handler]:
    messages: list[Message] = []
    return messages, lambda subject, payload: messages.append((subject, payload))


def driver_of(transport: Any) -> Any:
    return transport._link._client


def ignore(_subject: str, _payload: bytes) -> None:
    pass


def must_not_arrive(subject: str, _payload: bytes) -> None:
    pytest.fail(f"{subject} arrived")


def freeze(broker: Broker) -> None:
    """Stop the broker's process, and wait until it has stopped."""
    broker.freeze()
    os.waitid(os.P_PID, broker.pid, os.WSTOPPED)


async def check_delivery(transport: NatsTransport) -> None:
    messages, handler = collector()
    subscription = await transport.subscribe("check.delivery", handler)
    await transport.publish("check.delivery", b"1")
    await transport.flush()
    assert messages == [("check.delivery", b"1")]
    await subscription.unsubscribe()


async def flushed(transport: NatsTransport) -> bool:
    with contextlib.suppress(TransportError):
        await transport.flush()
        return True
    return False


async def fill(transport: NatsTransport) -> None:
    """Publish to a broker that does not read until the transport refuses."""
    chunk = b"x" * 500_000
    with pytest.raises(TransportError, match="is congested"):
        await publish_for_ever(transport, chunk)


async def publish_for_ever(transport: NatsTransport, payload: bytes) -> None:
    while True:
        async with asyncio.timeout(1):
            await transport.publish("full", payload)
