"""What is observed while the broker refuses some of it, and takes its time to say so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aioregistry import link
from aioregistry.errors import TransportError
from aioregistry.link import Link
from aioregistry.observations import Observations
from aioregistry.transports.base import Handler, Subscription
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from aioregistry.wire import Subjects
from tests.tools import eventually


class Slow:
    """A subscription whose end takes a turn of the event loop."""

    def __init__(self, inner: Subscription) -> None:
        self._inner = inner

    async def unsubscribe(self) -> None:
        await asyncio.sleep(0)
        await self._inner.unsubscribe()


class Refusing(MemoryTransport):
    """Tells with the next flush which of the subscriptions made before it are refused."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.refused: set[str] = set()
        self.at_once = False
        self.answering = asyncio.Event()
        self.answering.set()
        self.taking = asyncio.Event()
        self.taking.set()
        self.asked: list[str] = []
        self._untold: set[str] = set()

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        self.asked.append(pattern)
        await self.taking.wait()
        if self.at_once and pattern in self.refused:
            raise TransportError("refused", subjects=frozenset({pattern}))
        self._untold |= {pattern} & self.refused
        return Slow(await super().subscribe(pattern, handler))

    async def flush(self) -> None:
        await super().flush()
        await self.answering.wait()
        untold, self._untold = self._untold, set()
        if untold:
            raise TransportError("refused", subscriptions=frozenset(untold))


class Stage:
    """Observations over a link to such a transport."""

    def __init__(self) -> None:
        self.transport = Refusing()
        self.link = Link(
            self.transport,
            random.Random(1),
            on_up=lambda: None,
            on_down=lambda: None,
            on_denied=self._deny,
            on_retry=self._retry,
        )
        self.failures = 0
        self.heard: list[str] = []
        self.observations = Observations(self.link, Subjects("registry"), self._hear, self._hear)

    def _hear(self, subject: str, _payload: bytes) -> None:
        self.heard.append(subject)

    async def hears(self, name: str) -> int:
        """How often a message about `name` arrives."""
        self.heard.clear()
        for kind in ("register", "unregister"):
            await self.transport.publish(f"registry.{kind}.{name}", b"")
        await self.link.flush()
        assert self.heard.count(f"registry.register.{name}") * 2 == len(self.heard)
        return len(self.heard) // 2

    def _deny(self, error: TransportError) -> None:
        self.observations.deny(error)

    async def _retry(self, refused: bool) -> None:  # noqa: FBT001 - as the link calls it
        if self.failures:
            self.failures -= 1
            raise TransportError("congested")
        await self.observations.retry(refused=refused)

    @asynccontextmanager
    async def checking(self) -> AsyncGenerator[None]:
        """Let the link check now and then."""
        checking = asyncio.create_task(self.link.check_forever())
        yield
        checking.cancel()
        await asyncio.wait([checking])

    def refuse(self, *patterns: str) -> None:
        self.transport.refused = {f"registry.register.{pattern}" for pattern in patterns}

    def refuse_now(self, pattern: str) -> None:
        """Refuse what was allowed until now."""
        self.refuse(pattern)
        self._deny(TransportError("refused", subscriptions=frozenset(self.transport.refused)))

    async def look_at_refused(self, *names: str) -> None:
        """Look at names whose refusal is known then."""
        self.refuse(*names)
        for name in names:
            await self.observations.look_at(name)
        await self.link.check(self.link.begun)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    await stage.link.open(1)
    yield stage
    await stage.transport.aclose()


async def test_a_pattern_on_trial_is_not_relied_on(stage: Stage) -> None:
    observations = stage.observations
    await observations.add(">")
    stage.refuse_now(">")
    await observations.retry(refused=True)
    await observations.look_at("orders")
    await stage.link.check(stage.link.begun)
    assert not observations.is_deaf("orders")
    assert await observations.retry(refused=False) == ["orders"]
    await stage.link.check(stage.link.begun)
    assert observations.is_proven("orders")


async def test_names_that_go_while_others_are_let_go(stage: Stage) -> None:
    names = [f"n{number}" for number in range(5)]
    await stage.look_at_refused(*names)
    retrying = asyncio.create_task(stage.observations.retry(refused=True))
    await asyncio.sleep(0)
    await stage.observations.remove(names[-1])
    assert await retrying == []
    assert stage.observations.patterns == ()


async def test_a_name_that_is_observed_meanwhile_stays(stage: Stage) -> None:
    await stage.look_at_refused("a", "b")
    retrying = asyncio.create_task(stage.observations.retry(refused=True))
    await asyncio.sleep(0)
    stage.refuse()
    await stage.observations.add("b")
    await retrying
    assert stage.observations.patterns == ("b",)
    assert stage.observations.is_proven("b")


async def test_what_a_pattern_brought_in_outlives_it(stage: Stage) -> None:
    await stage.observations.add(">")
    await stage.observations.add("a")
    assert "registry.register.a" not in stage.transport.asked
    await stage.observations.remove(">")
    assert stage.transport.asked.count("registry.register.a") == 1
    await stage.observations.prove("a")
    assert stage.observations.is_proven("a")


async def test_what_a_pattern_brings_in_too_comes_once(stage: Stage) -> None:
    observations = stage.observations
    await observations.add("a", "b.c")
    await observations.add("b.*")
    await observations.add(">")
    for name in ("a", "b.c", "b.d"):
        assert await stage.hears(name) == 1
        assert observations.is_proven(name)
    await observations.remove(">")
    assert all([await stage.hears(name) for name in ("a", "b.c", "b.d")])
    await observations.retry(refused=True)
    assert [await stage.hears(name) for name in ("a", "b.c", "b.d", "x")] == [1, 1, 1, 0]
    await observations.remove("b.*", "a")
    assert [await stage.hears(name) for name in ("a", "b.c", "b.d")] == [0, 1, 0]


async def test_a_pattern_that_is_given_up_stays_until_it_is_replaced(stage: Stage) -> None:
    """Whatever is on its way through it would be lost, also when it is cancelled."""
    await stage.observations.add("a")
    await stage.observations.add(">")
    stage.transport.answering.clear()
    removing = asyncio.create_task(stage.observations.remove(">"))
    for _ in range(5):
        await asyncio.sleep(0)
        removing.cancel()
    await stage.transport.publish("registry.register.b", b"")
    await eventually(lambda: "registry.register.b" in stage.heard)
    assert not removing.done()
    stage.transport.answering.set()
    with pytest.raises(asyncio.CancelledError):
        await removing
    assert [await stage.hears(name) for name in ("a", "b")] == [1, 0]


async def test_only_what_a_pattern_did_not_bring_in_is_asked_for_when_it_goes(
    stage: Stage,
) -> None:
    stage.transport.taking.clear()
    looking = asyncio.create_task(stage.observations.look_at("cut.short"))
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.wait([looking])
    stage.transport.taking.set()
    await stage.observations.add("a.>")
    await stage.observations.add("a.b")
    await stage.observations.remove("a.>")
    assert stage.observations.take_fresh() == ["cut.short"]
    assert await stage.hears("a.b") == 1


async def test_what_a_pattern_brings_in_comes_once_though_it_was_refused(stage: Stage) -> None:
    observations = stage.observations
    await observations.add(">")
    stage.refuse_now(">")
    await observations.retry(refused=True)
    await stage.link.check(stage.link.begun)
    await observations.add("a")
    stage.refuse()
    for _ in range(2):
        await observations.retry(refused=True)
        await stage.link.check(stage.link.begun)
    await observations.retry(refused=True)
    assert await stage.hears("a") == 1


async def test_what_a_pattern_brought_in_is_heard_when_it_is_refused(stage: Stage) -> None:
    observations = stage.observations
    await observations.add("a")
    await observations.add(">")
    stage.refuse_now(">")
    assert await observations.retry(refused=False) == ["a"]
    await stage.link.check(stage.link.begun)
    assert observations.is_proven("a")


async def test_what_was_refused_at_once_is_tried_when_the_link_is_back(stage: Stage) -> None:
    """Nothing is kept by the transport then, so nothing is restored."""
    observations = stage.observations
    await observations.add("a")
    stage.refuse_now("a")
    stage.transport.at_once = True
    await observations.retry(refused=True)
    stage.refuse()
    async with stage.checking():
        observations.resume()
        await eventually(lambda: observations.is_proven("a"))


async def test_a_lookup_that_is_refused_at_once_leaves_what_is_observed(stage: Stage) -> None:
    observations, transport = stage.observations, stage.transport
    await observations.add("orders")
    stage.refuse_now("orders")
    transport.at_once = True
    with pytest.raises(TransportError):
        await observations.look_at("orders")
    assert "orders" in observations
    transport.refused.clear()
    await observations.retry(refused=True)
    assert await stage.hears("orders") == 1


async def test_an_old_refusal_of_what_a_pattern_on_trial_brings_in_is_not_told(
    stage: Stage,
) -> None:
    observations = stage.observations
    await observations.add("orders")
    stage.refuse_now("orders")
    await asyncio.gather(observations.add(">"), observations.add("orders"))
    assert await stage.hears("orders") == 1


async def test_what_fails_for_trouble_with_the_link_is_tried_again_soon(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "_RECHECK", 0.01)
    await stage.observations.add(">")
    await stage.observations.add("a")
    stage.failures = 3
    stage.observations.deny(
        TransportError("refused", subscriptions=frozenset({"registry.register.>"}))
    )
    async with stage.checking():
        await eventually(lambda: stage.observations.is_proven("a"))
    assert stage.failures == 0
