"""Answers to pings: sent from within the handler where the transport can, and else by the sender."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from aioregistry import MemoryTransport, Registry, Transport
from aioregistry.transports.base import PromptTransport
from aioregistry.transports.memory import MemoryBroker

if TYPE_CHECKING:
    from tests.integration.conftest import MakeRegistry


class Noted(MemoryTransport):
    """Keeps the subjects of what is sent in either way."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.at_once: list[str] = []
        self.by_the_sender: list[str] = []

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        self.by_the_sender.append(subject)
        await super().publish(subject, payload, reply_to)

    def publish_now(self, subject: str, payload: bytes) -> bool:
        self.at_once.append(subject)
        return super().publish_now(subject, payload)


class Hesitant(Noted):
    """Can send nothing at once."""

    def publish_now(self, subject: str, payload: bytes) -> bool:
        self.at_once.append(subject)
        return False


class Plain:
    """Has nothing but what every transport has to have."""

    def __init__(self, inner: MemoryTransport) -> None:
        for name in dir(Transport):
            if not name.startswith("_"):
                setattr(self, name, getattr(inner, name))


@pytest.fixture
async def caller(memory_broker: MemoryBroker) -> AsyncIterator[Registry]:
    async with Registry(MemoryTransport(memory_broker), lookup_timeout=1.0) as registry:
        yield registry


def clear(transport: Noted) -> None:
    transport.at_once.clear()
    transport.by_the_sender.clear()


async def test_a_lone_ping_is_answered_at_once(
    memory_broker: MemoryBroker, caller: Registry
) -> None:
    transport = Noted(memory_broker)
    async with Registry(transport) as provider:
        await provider.register("orders", "10.0.0.1:80")
        sent = provider.stats().announcements_sent
        clear(transport)
        assert (await caller.get_service("orders")).address == "10.0.0.1:80"
        assert (transport.at_once, transport.by_the_sender) == (["registry.register.orders"], [])
        assert provider.stats().announcements_sent == sent + 1


async def test_many_answers_are_left_to_the_sender(
    memory_broker: MemoryBroker, caller: Registry
) -> None:
    """All of them: after the first ones, whoever asked would take a pause for the end."""
    transport = Noted(memory_broker)
    async with Registry(transport) as provider:
        for number in range(50):
            await provider.register("orders", f"10.0.0.1:{number + 1}")
        clear(transport)
        assert len(await caller.get_services("orders", minimum=50)) == 50
        assert len(transport.at_once) == 0
        assert len(transport.by_the_sender) == 50


async def test_what_cannot_be_sent_at_once_is_sent_by_the_sender(
    memory_broker: MemoryBroker, caller: Registry
) -> None:
    transport = Hesitant(memory_broker)
    async with Registry(transport) as provider:
        await provider.register("orders", "10.0.0.1:80")
        sent = provider.stats().announcements_sent
        clear(transport)
        assert (await caller.get_service("orders")).address == "10.0.0.1:80"
        assert len(transport.at_once) == len(transport.by_the_sender) == 1
        assert provider.stats().announcements_sent == sent + 1


async def test_no_transport_has_to_be_able_to(
    memory_broker: MemoryBroker, caller: Registry
) -> None:
    transport: Any = Plain(MemoryTransport(memory_broker))
    assert isinstance(transport, Transport)
    assert not isinstance(transport, PromptTransport)
    async with Registry(transport) as provider:
        await provider.register("orders", "10.0.0.1:80")
        assert (await caller.get_service("orders")).address == "10.0.0.1:80"


async def test_everybody_answers_who_asks_for_all(make: MakeRegistry) -> None:
    async with make() as provider, make() as observer:
        names = {f"n{secrets.token_hex(4)}" for _ in range(30)}
        for name in names:
            await provider.register(name, "10.0.0.1:80")
        seen: set[str] = set()
        async for event in observer.watch():
            seen.add(event.service.name)
            if seen == names:
                break
