"""When a node is looked at, and when it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from aioregistry.catalogue import MASS, OVERDUE, TOGETHER, Catalogue
from aioregistry.errors import TransportError
from aioregistry.service import ServiceEvent
from aioregistry.testing import run_virtual
from aioregistry.vigil import PROMPT, RECONNECTED, Vigil
from aioregistry.wire import Announcement, Subjects, Times

TTL = 10.0
ROUND = 0.01


class Link:
    """One that is up, to a broker that knows which nodes are gone."""

    def __init__(self, look_interval: float | None) -> None:
        self.transport = self
        self.look_interval = look_interval
        self.connected = True
        self.losses = 0
        self.gone: set[str] = set()
        self.looks: list[float] = []
        self.delay = 0.0

    async def wait_connected(self) -> None:
        pass

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        self.looks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.delay)
        return frozenset(each for each in subjects if each.rpartition(".")[2] in self.gone)


class Scene:
    """A vigil over two nodes, `n1` and `n2`, each with an instance heard at the start."""

    def __init__(self, look_interval: float | None) -> None:
        self.clock = asyncio.get_running_loop().time
        self.link = Link(look_interval)
        self.catalogue = Catalogue()
        self.dead: dict[str, float] = {}
        for number in (1, 2):
            self.hear(number)
        link: Any = self.link
        subjects = Subjects("registry")
        self.vigil = Vigil(link, subjects, self.catalogue, self.publish, clock=self.clock)
        self.work = asyncio.create_task(self.vigil.run_forever())

    def hear(self, number: int) -> None:
        times = Times(registered=1, duration=round(TTL / 1.5 * 1000))
        self.catalogue.announce(
            Announcement(
                name="x", address=f"a:{number}", id=f"i{number}", seq=1, node=f"n{number}",
                times=times,
            ),
            self.clock(),
        )  # fmt: skip

    def publish(self, events: Iterable[ServiceEvent]) -> None:
        for event in events:
            self.dead[event.service.id] = self.clock()

    async def pass_time(self, seconds: float) -> None:
        """As the observer does it: what the catalogue finds late goes to the vigil."""
        end = self.clock() + seconds
        while self.clock() < end:
            self.catalogue.expire(self.clock())
            self.vigil.take_up()
            await asyncio.sleep(ROUND)


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_an_answer_that_comes_late_says_nothing_of_the_time_before(
    look_interval: float | None,
) -> None:
    """The broker hung, or this process did: the question was old when it was answered."""

    async def main() -> None:
        scene = Scene(look_interval)
        scene.link.delay = RECONNECTED + 1
        while not scene.link.looks:
            await scene.pass_time(ROUND)
        scene.link.delay = 0.0  # of the next looks: this one is under way
        await scene.pass_time(RECONNECTED)
        scene.link.gone.add("n1")
        cut = scene.clock()
        await scene.pass_time(RECONNECTED)
        assert not scene.dead
        await scene.pass_time(2.0)
        assert scene.dead["i1"] > cut + RECONNECTED
        scene.work.cancel()

    run_virtual(main())


def test_where_looks_are_cheap_the_second_comes_as_early_as_it_may() -> None:
    async def main() -> None:
        scene = Scene(look_interval=0.25)
        await scene.pass_time(1)
        scene.link.gone.add("n1")
        gone = scene.clock()
        await scene.pass_time(3)
        seen = next(each for each in scene.link.looks if each >= gone)
        assert list(scene.dead) == ["i1"]
        assert scene.dead["i1"] == pytest.approx(seen + RECONNECTED + PROMPT, abs=ROUND)
        scene.work.cancel()

    run_virtual(main())


def test_where_looks_cost_messages_they_come_with_the_first_late_heartbeat() -> None:
    async def main() -> None:
        scene = Scene(look_interval=None)
        scene.link.gone.add("n1")
        start = scene.clock()
        await scene.pass_time(5)
        assert 0 <= scene.link.looks[0] - start - TTL * OVERDUE <= TTL * TOGETHER + 3 * ROUND
        assert scene.dead["i1"] - start < 1.5 * TTL / 3
        assert list(scene.dead) == ["i1"]
        scene.work.cancel()

    run_virtual(main())


def test_a_crash_after_a_late_heartbeat_is_seen_as_early() -> None:
    async def main() -> None:
        scene = Scene(look_interval=None)
        await scene.pass_time(TTL * OVERDUE + 0.2)
        scene.hear(1)  # late, but there; and then it crashes
        scene.hear(2)
        crashed = scene.clock()
        scene.link.gone.add("n1")
        await scene.pass_time(6)
        assert list(scene.dead) == ["i1"]
        assert scene.dead["i1"] - crashed < 1.5 * TTL / 3
        scene.work.cancel()

    run_virtual(main())


def test_of_very_many_only_the_late_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr("aioregistry.vigil.MAX_REGULAR", 1)
        scene = Scene(look_interval=0.25)
        scene.link.gone.add("n1")
        start = scene.clock()
        await scene.pass_time(2)
        assert scene.link.looks == []
        await scene.pass_time(3)
        assert list(scene.dead) == ["i1"]
        assert scene.dead["i1"] - start < 1.5 * TTL / 3
        scene.hear(2)
        looks = len(scene.link.looks)
        await scene.pass_time(0.5)  # one is left: few enough to look at regularly
        await scene.pass_time(TTL * OVERDUE)
        assert len(scene.link.looks) > looks
        scene.work.cancel()

    run_virtual(main())


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_a_node_that_is_back_in_time_stays(look_interval: float | None) -> None:
    async def main() -> None:
        scene = Scene(look_interval)
        for _ in range(3):
            await scene.pass_time(TTL * OVERDUE - ROUND)
            scene.link.gone.add("n1")
            await scene.pass_time(2.1)
            scene.link.gone.clear()
            for number in (1, 2):
                scene.hear(number)
        assert not scene.dead
        scene.work.cancel()

    run_virtual(main())


def test_a_node_without_instances_is_looked_at_no_longer() -> None:
    async def main() -> None:
        scene = Scene(look_interval=0.25)
        scene.link.gone.add("n1")
        await scene.pass_time(1)
        withdrawal = Announcement(name="x", address="a:1", id="i1")
        assert scene.catalogue.withdraw(withdrawal, scene.clock())
        await scene.pass_time(5)
        looks = len(scene.link.looks)
        await scene.pass_time(10)
        assert len(scene.link.looks) - looks <= 10 / 0.25 + 1
        scene.work.cancel()

    run_virtual(main())


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_who_is_gone_is_in_doubt_until_it_is_back_or_certain(look_interval: float | None) -> None:
    async def main() -> None:
        scene = Scene(look_interval)
        await scene.pass_time(TTL * OVERDUE - ROUND)
        scene.link.gone.add("n1")
        await scene.pass_time(0.5)
        assert scene.catalogue.doubted == {"n1"}
        scene.link.gone.clear()
        scene.hear(1)
        scene.hear(2)
        await scene.pass_time(RECONNECTED)
        assert scene.catalogue.doubted == set()
        if look_interval is None:
            await scene.pass_time(TTL * OVERDUE - RECONNECTED)
        scene.link.gone.add("n1")
        await scene.pass_time(0.5)
        assert scene.catalogue.doubted == {"n1"}
        scene.vigil.resume()
        assert scene.catalogue.doubted == set()
        scene.work.cancel()

    run_virtual(main())


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_who_has_not_spoken_since_the_outage_has_a_whole_ttl(look_interval: float | None) -> None:
    """In a large fleet some need longer than others to reconnect."""

    async def main() -> None:
        scene = Scene(look_interval)
        scene.link.gone.update(("n1", "n2"))
        scene.catalogue.forgive(scene.clock())
        await asyncio.sleep(ROUND)
        scene.vigil.resume()
        await asyncio.sleep(ROUND)
        scene.hear(2)  # it is back, and then crashes
        start = scene.clock()
        await scene.pass_time(0.9 * TTL)
        assert list(scene.dead) == ["i2"]
        assert scene.dead["i2"] - start < 1.5 * TTL / 3
        scene.work.cancel()

    run_virtual(main())


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_that_nobody_may_be_asked_is_told_once(
    look_interval: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Two that flush at the same time both learn of it."""

    async def main() -> None:
        scene = Scene(look_interval)
        while not scene.link.looks:
            await scene.pass_time(ROUND)
        asked = frozenset(("registry.alive.n1", "registry.alive.n2"))
        for _ in range(2):
            scene.vigil.deny(TransportError("not allowed", subjects=asked))
        assert caplog.text.count("crashes will be seen no earlier") == 1
        await asyncio.sleep(120)
        scene.vigil.deny(TransportError("not allowed", subjects=asked))
        assert caplog.text.count("crashes will be seen no earlier") == 2
        scene.work.cancel()

    run_virtual(main())


@pytest.mark.parametrize("look_interval", [0.25, None])
def test_that_most_have_vanished_is_told_once_and_their_ttl_decides(
    look_interval: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        scene = Scene(look_interval)
        for number in range(3, MASS + 3):
            scene.hear(number)
        scene.link.gone.update(f"n{number}" for number in range(3, MASS + 3))
        for _ in range(20):
            scene.hear(1)
            scene.hear(2)
            await scene.pass_time(TTL * 0.9 / 20)
        assert not scene.dead
        assert scene.catalogue.held == MASS
        assert caplog.text.count(f"{MASS} of {MASS + 2} instances vanished") == 1
        scene.work.cancel()

    run_virtual(main())
