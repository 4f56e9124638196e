"""What an operator is told: the log lines and texts of errors."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from aioregistry import (
    Balancer,
    Registry,
    RoundRobin,
    ServiceNotFound,
    Status,
    passing,
)
from aioregistry.catalogue import MASS
from aioregistry.testing.virtual_time import run_virtual
from aioregistry.transports.base import LinkState
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


def announcement(number: int, name: str = "orders", **more: object) -> bytes:
    return json.dumps(
        {"name": name, "add": f"10.0.0.{number}:80", "t": {"Duration": 400}, **more}
    ).encode()


def ignore(_state: LinkState, _reason: str) -> None:
    pass


@asynccontextmanager
async def stage(max_instances: int = 1000) -> AsyncGenerator[tuple[MemoryTransport, Registry]]:
    """A peer, and a registry that observes everything."""
    broker = MemoryBroker()
    peer = MemoryTransport(broker)
    await peer.connect(ignore)
    async with Registry(MemoryTransport(broker), max_instances=max_instances) as registry:
        await registry.observe(">")
        yield peer, registry
    await peer.aclose()


def told(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """The warnings with that word."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and word in record.getMessage()
    ]


def test_a_mass_silence_is_told_and_held_however_soon(caplog: pytest.LogCaptureFixture) -> None:
    """Also of those who have just answered the first ping of a link."""

    async def scenario() -> None:
        async with stage() as (peer, registry):
            for number in range(MASS):
                await peer.publish("registry.register.orders", announcement(number))
            await asyncio.sleep(1.5)
            assert registry.stats().held == MASS
            await asyncio.sleep(1)
            assert registry.stats().instances == 0

    run_virtual(scenario())
    (line,) = told(caplog, "silent")
    assert line.startswith(f"{MASS} of {MASS} instances fell silent together")
    assert line.endswith("they are kept for one more ttl; counted in stats().held")


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (
            announcement(1, v="x" * 3000),
            "one of its fields is too long, or holds a control character",
        ),
        (announcement(1, v="1\n2"), "one of its fields is too long, or holds a control character"),
        (announcement(1, kv={"k": "x" * 40_000}), "its metadata is too large"),
        (announcement(1, id="x" * 65), "its id has more than 64 characters"),
    ],
)
def test_what_is_beyond_a_limit_is_told_once(
    payload: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with stage() as (peer, registry):
            for _ in range(3):
                await peer.publish("registry.register.orders", payload)
                await peer.publish("registry.register.innocent", announcement(1, "innocent"))
            await asyncio.sleep(0.1)
            assert (registry.stats().refused, registry.stats().instances) == (3, 1)

    run_virtual(scenario())
    assert told(caplog, "refused") == [
        f"left out a message on 'registry.register.orders': {why}; counted in stats().refused"
    ]


def test_a_full_catalogue_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with stage(max_instances=2) as (peer, registry):
            for number in range(5):
                await peer.publish("registry.register.orders", announcement(number))
            await asyncio.sleep(0.1)
            assert registry.stats().refused == 3

    run_virtual(scenario())
    assert [line.partition(": ")[2] for line in told(caplog, "refused")] == [
        "2 instances are known (max_instances); counted in stats().refused"
    ]


def test_a_refused_withdrawal_is_told_by_its_own_subject(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with stage() as (peer, _):
            await peer.publish("registry.register.orders", announcement(1))
            await peer.publish("registry.unregister.orders", announcement(1, id="x" * 65))
            await peer.publish("registry.register.innocent", announcement(1, "innocent"))
            await asyncio.sleep(0.1)

    run_virtual(scenario())
    assert [line.split()[5] for line in told(caplog, "refused")] == [
        "'registry.unregister.orders':"
    ]


async def test_errors_say_what_was_asked_and_known() -> None:
    async with Registry("memory://", where=passing) as registry:
        with pytest.raises(ServiceNotFound, match="nobody answered at once"):
            await registry.get_service("none", wait=False, timeout=5)
        with pytest.raises(ServiceNotFound, match=r"nobody answered in 0\.01 s"):
            await registry.get_service("none", timeout=0.01)
        await registry.register("orders", "h:1", status=Status.WARNING)
        with pytest.raises(ServiceNotFound, match="1 instance of 'orders' known, none matches p"):
            await registry.get_service("orders", timeout=0.01)
    assert repr(registry).endswith("closed>")


@pytest.mark.parametrize("name", ["orders", "unknown"])
async def test_wrong_arguments_are_told_whatever_is_known(name: str) -> None:
    class NoBalancer:
        def choose(self) -> None:
            """Take no arguments."""

    wrong_where, wrong_balancer = "x", RoundRobin
    odd: Balancer = NoBalancer()  # type: ignore[assignment]
    async with Registry("memory://") as registry:
        await registry.register("orders", "h:1")
        await registry.get_service("orders")
        with pytest.raises(TypeError, match="where='x' is no function"):
            await registry.get_service(name, where=wrong_where)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="where='x' is no function"):
            await registry.get_services(name, where=wrong_where)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="where='x' is no function"):
            registry.cached(name, where=wrong_where)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="minimum must be a number of instances, not 'a'"):
            await registry.get_services(name, minimum="a")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="timeout must be a positive number"):
            await registry.wait_connected("a")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"balancer=<class .*is a class; write RoundRobin\("):
            await registry.get_service("orders", balancer=wrong_balancer)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="balancer='x' has no method choose"):
            await registry.get_service("orders", balancer="x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="positional argument"):  # the balancer's own
            await registry.get_service("orders", balancer=odd)
