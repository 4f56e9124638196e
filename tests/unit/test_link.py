"""The link: what it shares, and what it passes on."""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from aioregistry import TransportError
from aioregistry.link import Link
from aioregistry.transports.memory import MemoryBroker, MemoryTransport


class Counting(MemoryTransport):
    """Counts the flushes; each takes until it is let go, and may fail."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.flushes = 0
        self.go = asyncio.Semaphore(0)
        self.error: TransportError | None = None

    async def flush(self) -> None:
        self.flushes += 1
        await self.go.acquire()
        if self.error is not None:
            raise self.error


@pytest.fixture
def transport() -> Counting:
    return Counting()


@pytest.fixture
def denied() -> list[TransportError]:
    return []


@pytest.fixture
def link(transport: Counting, denied: list[TransportError]) -> Link:
    return Link(
        transport,
        random.Random(1),
        on_up=lambda: None,
        on_down=lambda: None,
        on_denied=denied.append,
    )


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_those_who_come_during_a_flush_share_the_next(
    link: Link, transport: Counting
) -> None:
    first = asyncio.create_task(link.flush())
    await settle()
    later = [asyncio.create_task(link.flush()) for _ in range(50)]
    await settle()
    transport.go.release()
    await first
    await settle()
    assert not any(task.done() for task in later)  # what they sent may have come after it
    transport.go.release()
    await asyncio.gather(*later)
    assert transport.flushes == 2


async def test_a_refusal_is_counted_once_and_told_to_all_who_share(
    link: Link, transport: Counting, denied: list[TransportError]
) -> None:
    first = asyncio.create_task(link.flush())
    await settle()
    later = [asyncio.create_task(link.flush()) for _ in range(3)]
    await settle()
    transport.go.release()
    await first
    transport.error = TransportError("refused", subjects=frozenset({"a.b"}))
    transport.go.release()
    outcomes = await asyncio.gather(*later, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["refused"] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert (link.denied, len(denied)) == (1, 1)


async def test_the_same_reason_is_told_once(
    link: Link, transport: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reasons = iter(["nobody there", "nobody there", "not for you", "not for you"])

    async def connect(_on_state: object) -> None:
        for reason in reasons:
            raise TransportError(reason)

    transport.connect = connect  # type: ignore[assignment,method-assign]
    await link.open(None)
    assert [record.getMessage() for record in caplog.records] == [
        "no broker at memory:// yet: nobody there",
        "no broker at memory:// yet: not for you",
        "broker memory://: connected",
    ]


async def test_a_cancelled_flush_leaves_the_next_one_to_the_others(
    link: Link, transport: Counting
) -> None:
    first = asyncio.create_task(link.flush())
    await settle()
    second = asyncio.create_task(link.flush())
    third = asyncio.create_task(link.flush())
    await settle()
    transport.go.release()
    await first
    await settle()
    second.cancel()
    await settle()
    transport.go.release()
    await third
    assert second.cancelled()
    assert transport.flushes == 3
