"""The tests of the tests: bugs planted into the library are caught by the invariants.

Each is planted where the promise is kept today; the simulation has to notice within a few
seeds, and by an invariant that has to do with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from aioregistry import catalogue as catalogue_module
from aioregistry.announcer import Announcer
from aioregistry.asker import Asker
from aioregistry.catalogue import Catalogue
from aioregistry.observer import Observer
from aioregistry.testing import Plan, SimulatedNetwork, SimulatedTransport, Simulation
from aioregistry.testing.process import EPOCH
from aioregistry.tombstones import Tombstones
from aioregistry.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioregistry.service import ServiceEvent
    from aioregistry.wire import Announcement

Patch = pytest.MonkeyPatch

SMALL = {"instances": 8, "per_process": 2, "duration": 40.0}
LATE = {**SMALL, "faults": ("reordering", "duplication", "latency"), "every": 0.5}


def nothing(*_: object, **__: object) -> None:
    pass


def no_events(*_: object, **__: object) -> list[ServiceEvent]:
    return []


def drop_the_tombstone(patch: Patch) -> None:
    patch.setattr(Tombstones, "bury", nothing)


def expire_by_the_wall_clock_of_the_peer(patch: Patch) -> None:
    announce = Catalogue.announce

    def by_wall_clock(self: Catalogue, message: Announcement, now: float) -> ServiceEvent | None:
        times = message.times
        return announce(self, message, times.registered / 1000 - EPOCH if times else now)

    patch.setattr(Catalogue, "announce", by_wall_clock)


def skip_the_resync_after_a_reconnect(patch: Patch) -> None:
    patch.setattr(Observer, "resume", nothing)


def give_no_grace_after_a_reconnect(patch: Patch) -> None:
    patch.setattr(Catalogue, "forgive", nothing)
    patch.setattr(Catalogue, "call_late", nothing)  # being asked would save them, too


def forget_to_hear_a_withdrawal(patch: Patch) -> None:
    patch.setattr(Catalogue, "withdraw", nothing)


def forget_to_send_a_withdrawal(patch: Patch) -> None:
    publish = SimulatedTransport.publish

    async def forgetful(
        self: SimulatedTransport, subject: str, payload: bytes, reply_to: str | None = None
    ) -> None:
        if ".unregister." not in subject:
            await publish(self, subject, payload, reply_to)

    patch.setattr(SimulatedTransport, "publish", forgetful)


def never_expire(patch: Patch) -> None:
    patch.setattr(Catalogue, "expire", no_events)
    patch.setattr(Catalogue, "expel", no_events)


def never_look_for_the_dead(patch: Patch) -> None:
    patch.setattr(Catalogue, "expel", no_events)


def take_the_absent_for_dead_at_once(patch: Patch) -> None:
    expel = Catalogue.expel

    def hasty(self: Catalogue, nodes: Mapping[str, float], **_: float) -> list[ServiceEvent]:
        return expel(self, nodes)

    patch.setattr("aioregistry.vigil.RECONNECTED", 0.0)
    patch.setattr("aioregistry.vigil.PROMPT", 0.0)
    patch.setattr(Catalogue, "expel", hasty)


def send_no_rescue_ping(patch: Patch) -> None:
    async def silent(*_: object) -> None:
        pass

    patch.setattr(Asker, "_call", silent)


def expire_before_reading_what_waits(patch: Patch) -> None:
    async def blind(_: Observer) -> bool:
        return True

    patch.setattr(Observer, "_catch_up", blind)
    patch.setattr(Catalogue, "call_late", nothing)  # that would give what waits time to be read


def take_old_content_for_new(patch: Patch) -> None:
    def gullible(self: Any, view: Any, entry: Any, message: Announcement, now: float) -> Any:
        if message.describes(entry.service):
            entry.heard = now
            return None
        service = self._read(message)
        return None if service is None else self._replace(view, entry, service, message, now)

    patch.setattr(Catalogue, "_refresh", gullible)


def let_an_old_withdrawal_remove_the_new(patch: Patch) -> None:
    withdraw = Catalogue.withdraw

    def by_key(self: Catalogue, message: Announcement, now: float) -> ServiceEvent | None:
        message.id = ""
        return withdraw(self, message, now)

    patch.setattr(Catalogue, "withdraw", by_key)


def hold_mass_silence_for_ever(patch: Patch) -> None:
    def always(self: Catalogue, _: float) -> bool:
        return len(self) >= catalogue_module.MASS

    patch.setattr(Catalogue, "_mass_silence", always)


def send_everything_twice(patch: Patch) -> None:
    due = Announcer.due

    def verbose(self: Announcer, now: float) -> list[Any]:
        return due(self, now) * 2

    patch.setattr(Announcer, "due", verbose)


def lose_an_event(patch: Patch) -> None:
    offer, numbers = Watch.offer, iter(range(10**9))

    def forgetful(self: Watch, event: ServiceEvent) -> None:
        if next(numbers) % 20 != 19:
            offer(self, event)

    patch.setattr(Watch, "offer", forgetful)


def tell_every_change_by_itself(patch: Patch) -> None:
    offer, numbers = Watch.offer, iter(range(10**9))

    def piecemeal(self: Any, event: ServiceEvent) -> None:
        waiting: dict[Any, Any] = self._pending
        alone: dict[Any, Any] = {}
        self._pending = alone
        offer(self, event)
        self._pending = waiting | {next(numbers): change for change in alone.values()}

    patch.setattr(Watch, "offer", piecemeal)


def forget_to_subscribe_again(patch: Patch) -> None:
    attach, known = SimulatedNetwork.attach, set[SimulatedTransport]()

    def forgetful(self: SimulatedNetwork, transport: SimulatedTransport) -> None:
        if transport in known:
            transport.interests.clear()
        known.add(transport)
        attach(self, transport)

    patch.setattr(SimulatedNetwork, "attach", forgetful)


def stop_beating_after_a_while(patch: Patch) -> None:
    due = Announcer.due

    def lazy(self: Announcer, now: float) -> list[Any]:
        found = due(self, now)
        for announced in found:
            if now > 20:
                announced.due = math.inf
        return found

    patch.setattr(Announcer, "due", lazy)


BUGS: list[tuple[Callable[[Patch], None], str, dict[str, Any]]] = [
    (drop_the_tombstone, "consistent", LATE),
    (expire_by_the_wall_clock_of_the_peer, "sound", {**SMALL, "faults": ("skew",)}),
    (
        skip_the_resync_after_a_reconnect,
        "sound complete",
        {**SMALL, "faults": ("broker", "observer")},
    ),
    (give_no_grace_after_a_reconnect, "sound", {**SMALL, "faults": ("broker",), "every": 4.0}),
    (forget_to_hear_a_withdrawal, "complete", {**SMALL, "faults": ()}),
    (forget_to_send_a_withdrawal, "complete", {**SMALL, "faults": ()}),
    (never_expire, "complete", {**SMALL, "faults": ("crash",)}),
    (never_look_for_the_dead, "complete", {**SMALL, "faults": ("crash",), "ttl": 60.0}),
    (take_the_absent_for_dead_at_once, "sound", {**SMALL, "faults": ("cut",), "ttl": 10.0}),
    (
        send_no_rescue_ping,
        "sound",
        {**SMALL, "faults": ("beats",), "ttl": 6.0, "heartbeat_interval": 3.0, "every": 0.3},
    ),
    (expire_before_reading_what_waits, "sound", {**SMALL, "faults": ("freeze",), "ttl": 3.0}),
    (take_old_content_for_new, "consistent", {**LATE, "churn": ("update",)}),
    (
        let_an_old_withdrawal_remove_the_new,
        "sound consistent",
        {**LATE, "churn": ("close",), "faults": ("reordering", "broker")},
    ),
    (
        hold_mass_silence_for_ever,
        "complete",
        {"instances": 40, "per_process": 40, "faults": ("crash",), "churn": (), "every": 8.0},
    ),
    (send_everything_twice, "bounded", {**SMALL, "faults": ("observer",)}),
    (lose_an_event, "consistent", SMALL),
    (tell_every_change_by_itself, "bounded", SMALL),
    (forget_to_subscribe_again, "sound complete convergent", {**SMALL, "faults": ("broker",)}),
    (stop_beating_after_a_while, "sound", {**SMALL, "faults": ("loss",)}),
]


@pytest.mark.parametrize(
    ("plant", "invariants", "plan"), BUGS, ids=[bug[0].__name__ for bug in BUGS]
)
def test_is_caught(
    plant: Callable[[Patch], None],
    invariants: str,
    plan: dict[str, Any],
    monkeypatch: Patch,
) -> None:
    for seed in range(2):
        Simulation(seed, Plan.drawn(seed, **plan)).run().check()  # without the bug all is well
    plant(monkeypatch)
    for seed in range(60):
        violations = Simulation(seed, Plan.drawn(seed, **plan)).run().violations
        if violations:
            assert violations[0].invariant in invariants.split(), violations[0]
            return
    pytest.fail("the planted bug was not noticed")


def test_a_failure_prints_the_line_that_reproduces_it(monkeypatch: Patch) -> None:
    forget_to_hear_a_withdrawal(monkeypatch)
    seed, report = next(
        (seed, report)
        for seed, report in ((seed, Simulation(seed).run()) for seed in range(60))
        if report.violations
    )
    with pytest.raises(
        AssertionError, match=rf"python -m aioregistry\.testing\.simulation --seed {seed} "
    ):
        report.check()
