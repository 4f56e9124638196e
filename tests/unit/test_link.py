"""The link: what it shares, and what it passes on."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest

from aioregistry import TransportError
from aioregistry.link import Link, unsubscribe_all
from aioregistry.transports.base import Handler, Subscription
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
async def link(transport: Counting, denied: list[TransportError]) -> Link:
    return Link(
        transport,
        random.Random(1),
        on_up=lambda: None,
        on_down=lambda: None,
        on_denied=denied.append,
        on_retry=nothing,
    )


async def nothing(_refused: bool) -> None:  # noqa: FBT001 - as the link calls it
    pass


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


class Confirming(MemoryTransport):
    """Returns from `subscribe` when it is let go, and refuses one pattern."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.waiting = 0
        self.go = asyncio.Event()
        self.refused = ""

    @property
    def ordered(self) -> bool:
        return False

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        self.waiting += 1
        if pattern == self.refused:
            await self.go.wait()
            raise TransportError(f"not {pattern}", subjects=frozenset((pattern,)))
        subscription = await super().subscribe(pattern, handler)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            await subscription.unsubscribe()
            raise
        return subscription


@pytest.fixture
async def confirming() -> AsyncIterator[Confirming]:
    transport = Confirming()
    await transport.connect(lambda _state, _detail: None)
    yield transport
    await transport.aclose()


def link_to(transport: MemoryTransport) -> Link:
    return Link(
        transport,
        random.Random(1),
        on_up=lambda: None,
        on_down=lambda: None,
        on_denied=lambda _error: None,
        on_retry=nothing,
    )


def both_to(arrived: list[str]) -> dict[str, Handler]:
    def take(subject: str, _payload: bytes) -> None:
        arrived.append(subject)

    return {"a": take, "b": take}


async def heard(transport: Confirming, heard: list[str]) -> list[str]:
    """What arrives of a message to each of the two."""
    heard.clear()
    for subject in ("a", "b"):
        await transport.publish(subject, b"")
    await transport.flush()
    return heard


async def test_several_subscriptions_wait_together(confirming: Confirming) -> None:
    arrived: list[str] = []
    routes = both_to(arrived)
    subscribing = asyncio.create_task(link_to(confirming).subscribe_all(routes))
    await settle()
    assert confirming.waiting == 2
    assert not subscribing.done()
    confirming.go.set()
    made = await subscribing
    assert len(made) == 2
    assert await heard(confirming, arrived) == ["a", "b"]
    for subscription in made:
        await subscription.unsubscribe()
    assert await heard(confirming, arrived) == []


@pytest.mark.parametrize("refused", ["a", "b"])
async def test_of_several_subscriptions_one_is_refused(
    confirming: Confirming, refused: str
) -> None:
    arrived: list[str] = []
    routes = both_to(arrived)
    confirming.refused = refused
    confirming.go.set()
    with pytest.raises(TransportError, match=f"not {refused}"):
        await link_to(confirming).subscribe_all(routes)
    assert await heard(confirming, arrived) == []


class Lingering:
    """A subscription that ends at once, and whose end takes long to be confirmed."""

    def __init__(self) -> None:
        self.active = True

    async def unsubscribe(self) -> None:
        self.active = False
        await asyncio.Event().wait()


async def test_each_of_several_subscriptions_ends_however_often_that_is_cancelled() -> None:
    made = [Lingering() for _ in range(3)]
    ending = asyncio.create_task(unsubscribe_all(made))
    for _ in made:
        await asyncio.sleep(0)
        ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert not any(each.active for each in made)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 4])
async def test_cancelled_while_several_subscriptions_wait(
    confirming: Confirming, turns: int
) -> None:
    arrived: list[str] = []
    routes = both_to(arrived)
    subscribing = asyncio.create_task(link_to(confirming).subscribe_all(routes))
    await settle()
    confirming.go.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    subscribing.cancel()
    try:
        made = await subscribing
    except asyncio.CancelledError:
        assert await heard(confirming, arrived) == []
    else:
        assert len(made) == 2
