"""An observing process of a simulation: two watchers, and what they have been told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Final

from aioregistry.choosing import all_of
from aioregistry.errors import RegistryError
from aioregistry.registry import Registry
from aioregistry.service import EventType, Service, ServiceEvent
from aioregistry.testing.process import ProcessCrashed, SimulatedProcess
from aioregistry.testing.simulation.invariants import check_event, check_removal, note_mistake
from aioregistry.testing.simulation.ledger import Inbox, Ledger
from aioregistry.testing.simulation.plan import Plan
from aioregistry.testing.simulation.trace import Trace
from aioregistry.watch import Watch

__all__ = ["View"]

_EVERY = all_of()
_REMOVALS: Final = (EventType.UNREGISTERED, EventType.EXPIRED)

LOOKUP_SLACK: Final = 0.5
"""A lookup may take so many seconds more than its timeout."""

_AGREE: Final = 3
_MOMENT: Final = 0.001

Fold = dict[tuple[str, str], Service]


class View:
    """One observer: a quick watcher, a slow one, and lookups, all checked.

    Args:
        process: where it lives.
        ledger: the truth.
        plan: the plan of the simulation.
        trace: where its events are noted.

    Attributes:
        process: as given.
        inbox: what has reached it.
        folded: what the events of the quick watcher add up to.
        mistaken: by key, until when an older incarnation may have hidden the living one.
        draining: whether the slow watcher is at work.
        expired: how many expiries it saw.
        held_at: when its guard against mass silence last held instances.
    """

    def __init__(self, process: SimulatedProcess, ledger: Ledger, plan: Plan, trace: Trace) -> None:
        self.process = process
        self.ledger = ledger
        self.inbox = ledger.inboxes[process] = Inbox()
        self.folded: Fold = {}
        self.mistaken: dict[tuple[str, str], float] = {}
        self.held_at = float("-inf")
        self.draining = False
        self.expired = 0
        self._held = 0
        self._folded_slowly: Fold = {}
        self._plan = plan
        self._trace = trace
        self._slow: Watch | None = None
        self.registry: Registry = process.new_registry(
            ttl=plan.ttl, heartbeat_interval=plan.heartbeat_interval, connect_timeout=None
        )

    async def run(self, patterns: tuple[str, ...]) -> None:
        """Start, and watch for ever."""
        try:
            await self.process.run(self._watch(patterns))
        except ProcessCrashed:
            return

    async def close(self) -> None:
        """Close the registry."""
        await self.process.run(self.registry.aclose())

    @property
    def linked(self) -> bool:
        """Whether messages reach it, even if it does not read them now."""
        transports = self.process.transports
        return self.process.reachable and all(
            each.connected and each.session for each in transports
        )

    @property
    def settled(self) -> bool:
        """Whether it is online, and so knows all that one can know."""
        return self.process.online

    def held(self) -> bool:
        """Whether its guard against mass silence has held instances within a ttl and a bit."""
        return self.process.network.now - self.held_at < self._plan.ttl * 1.5

    def mismatch(self) -> str:
        """How the catalogue differs from what the watcher has been told; empty: not at all."""
        known = dict(self._catalogue())
        if known == self.folded:
            return ""
        return f"{self.process.name}: the catalogue {_difference(known, self.folded)} the events"

    def difference(self, truth: Fold) -> str:
        """How what it was told differs from the truth; empty: not at all."""
        return "" if self.folded == truth else _difference(self.folded, truth)

    def look_at_stats(self) -> None:
        """Note what the counters say, and check what they bound."""
        stats = self.registry.stats()
        if stats.held > self._held:
            self._held, self.held_at = stats.held, self.process.network.now
            self.ledger.times_held += 1
        ever = len(self.ledger.lives)
        if stats.instances > ever or stats.tombstones > ever:
            self.ledger.violated(
                "bounded",
                f"{self.process.name} has {stats.instances} instances and {stats.tombstones}"
                f" tombstones of {ever} that ever were",
            )

    async def drain(self) -> None:
        """Let the slow watcher take in what waits for it."""
        self.draining = True
        try:
            await self.process.run(self._drain())
        except ProcessCrashed:
            return
        finally:
            self.draining = False

    async def look_up(self, name: str, rng: random.Random) -> None:
        """Look a name up, and check how long that takes."""
        uptime, started = self.ledger.uptime(self.process), self.process.network.now
        timeout = rng.choice((0.1, 0.5))
        try:
            found = await self.process.run(self.registry.get_services(name, timeout=timeout))
            self._trace.add(self.process.name, "found", len(found), "of", name)
        except RegistryError as error:
            self._trace.add(self.process.name, "found no", name, type(error).__name__)
        except ProcessCrashed:
            return
        now = self.process.network.now
        if now - started > timeout + LOOKUP_SLACK and uptime.offline(started, now) == 0:
            self.ledger.violated(
                "bounded", f"{self.process.name} looked {now - started:.3f} s for {name}"
            )

    # ------------------------------------------------------------------------------------

    async def _watch(self, patterns: tuple[str, ...]) -> None:
        await self.registry.start()
        self._slow = self.registry.watch(*patterns)
        async with self._slow, self.registry.watch(*patterns) as quick:
            async for event in quick:
                self._trace.add(
                    self.process.name, event.type.value, event.service.id, event.service.key
                )
                check_event(self, event)
                note_mistake(self, event, self._plan)
                self.expired += event.type is EventType.EXPIRED
                if event.type in _REMOVALS:
                    check_removal(self, event, self._plan)
                self._fold(event, self.folded, "quick")

    async def _drain(self) -> None:
        slow = self._slow
        if slow is None:
            return
        for _ in range(_AGREE):
            await self._take_all(slow)
            if self._folded_slowly == self.folded:
                return
        text = _difference(self._folded_slowly, self.folded)
        self.ledger.violated(
            "consistent", f"{self.process.name}: the slow watcher {text} the quick one"
        )

    async def _take_all(self, slow: Watch) -> None:
        taken: dict[tuple[str, str], None] = {}
        begun = self.process.network.now
        while True:
            try:
                event = await asyncio.wait_for(anext(slow), _MOMENT)
            except TimeoutError:
                return
            # One that came while this waited for more did not wait together with the others.
            if event.service.key in taken and self.process.network.now == begun:
                self.ledger.violated("bounded", f"two events waited for {event.service.key}")
            taken[event.service.key] = None
            self._fold(event, self._folded_slowly, "slow")

    def _fold(self, event: ServiceEvent, into: Fold, which: str) -> None:
        """Take an event in; check that it fits what was known."""
        known, key = into.get(event.service.key), event.service.key
        fits = known is None if event.type is EventType.REGISTERED else known is not None
        if not fits or (event.previous is not None and event.previous != known):
            self.ledger.violated(
                "consistent",
                f"{self.process.name}, {which} watcher: {event.type.value} of"
                f" {event.service.id} {key} when {known.id if known else 'nothing'} was known",
            )
        if event.type in _REMOVALS:
            into.pop(key, None)
        else:
            into[key] = event.service

    def _catalogue(self) -> Iterator[tuple[tuple[str, str], Service]]:
        for name in self.registry.service_names:
            for service in self.registry.cached(name, _EVERY):
                yield service.key, service


def _difference(left: Fold, right: Fold) -> str:
    """How `left` differs from `right`, in words that go between their names."""
    extra = [f"{service.id} {key}" for key, service in left.items() if key not in right]
    less = [f"{service.id} {key}" for key, service in right.items() if key not in left]
    other = [f"{key}" for key in left if key in right and left[key] != right[key]]
    return f"has {extra[:3]} beyond, lacks {less[:3]} and differs in {other[:3]} of"
