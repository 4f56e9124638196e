"""The catalogue against a model that knows nothing of heaps, views or laziness."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aioregistry.catalogue import MASS, Catalogue
from aioregistry.choosing import Predicate, all_of, metadata, not_critical
from aioregistry.service import EventType, Service, ServiceEvent, Status
from aioregistry.tombstones import LATE, TOMBSTONE_TTL
from aioregistry.wire import Announcement, Times

Key = tuple[str, str]

REMOVALS = (EventType.UNREGISTERED, EventType.EXPIRED)


def in_europe(service: Service) -> bool:
    return service.metadata.get("zone") == "eu"


PREDICATES: list[Predicate] = [all_of(), not_critical, in_europe, metadata(zone="us")]


@dataclass(frozen=True)
class Record:
    """What the model notes of one instance."""

    service: Service
    seq: int
    ttl: float
    heard: float
    node: str
    predecessor: str = ""


class Model:
    """The rules once more, in the plainest way: every question looks at every record."""

    def __init__(self, accept: Predicate, max_instances: int) -> None:
        self.accept = accept
        self.max_instances = max_instances
        self.records: dict[Key, Record] = {}
        self.dead_until: dict[str, float] = {}
        self.forgiven = float("-inf")

    def is_dead(self, incarnation: str, now: float) -> bool:
        return bool(incarnation) and self.dead_until.get(incarnation, now) > now

    def kill(self, incarnation: str, now: float) -> None:
        if incarnation:
            self.dead_until[incarnation] = now + TOMBSTONE_TTL

    def announce(self, message: Announcement, now: float) -> None:
        if self.is_dead(message.id, now):
            return
        service = message.service()
        key = (message.name, message.address or message.url)
        fresh = Record(service, message.seq, message.ttl, now, message.node)
        known = self.records.get(key)
        if known is None:
            if self.accept(service) and len(self.records) < self.max_instances:
                self.records[key] = fresh
        elif known.service.id != service.id:
            predecessor = known.predecessor
            if service.id and known.service.id:
                self.kill(known.service.id, now)
                predecessor = known.service.id
            self.put(key, replace(fresh, predecessor=predecessor))
        elif 0 < message.seq < known.seq:
            self.records[key] = replace(known, heard=now)
        elif message.seq == known.seq > 0:
            self.records[key] = replace(known, heard=now, ttl=message.ttl)
        else:
            self.put(key, replace(fresh, predecessor=known.predecessor))

    def put(self, key: Key, record: Record) -> None:
        if self.accept(record.service):
            self.records[key] = record
        else:
            self.release(record)
            del self.records[key]

    def withdraw(self, message: Announcement, now: float) -> None:
        self.kill(message.id, now)
        key = (message.name, message.address or message.url)
        known = self.records.get(key)
        if known is None:
            return
        if message.id in ("", known.service.id):
            self.release(known)
            del self.records[key]
        elif message.id == known.predecessor:
            self.records[key] = replace(known, predecessor="")

    def release(self, record: Record) -> None:
        """Whom it replaced may speak again, soon after it was replaced."""
        if record.predecessor in self.dead_until:
            self.dead_until[record.predecessor] -= TOMBSTONE_TTL - LATE

    def expiry(self, record: Record) -> float:
        return max(record.heard, self.forgiven) + record.ttl

    def first_expiry(self) -> float | None:
        return min(map(self.expiry, self.records.values()), default=None)

    def expire(self, now: float) -> None:
        gone = {key for key, record in self.records.items() if self.expiry(record) <= now}
        fell_silent = [
            record
            for record in self.records.values()
            if record.heard >= self.forgiven and record.heard + record.ttl * (1 - 1 / 3) <= now
        ]
        if gone and self.is_mass(len(fell_silent)):
            self.forgiven = now
        else:
            for key in gone:
                self.release(self.records[key])
            self.remove(gone)

    def expel(self, nodes: dict[str, float]) -> None:
        gone = {
            key
            for key, record in self.records.items()
            if record.node in nodes and record.heard <= nodes[record.node]
        }
        if not self.is_mass(len(gone)):
            for key in gone:
                self.release(self.records[key])
            self.remove(gone)

    def is_mass(self, number: int) -> bool:
        return number >= MASS and number > len(self.records) / 2

    def remove(self, keys: set[Key]) -> None:
        self.records = {key: self.records[key] for key in self.records if key not in keys}


def fold(known: dict[Key, Service], event: ServiceEvent) -> None:
    """What somebody who only sees the events knows; it has to make sense to them."""
    key = event.service.key
    if event.type is EventType.REGISTERED:
        assert key not in known
        assert event.previous is None
        known[key] = event.service
    elif event.type is EventType.UPDATED:
        assert known[key] == event.previous
        assert event.service != event.previous
        known[key] = event.service
    else:
        assert known.pop(key) == event.service == event.previous


class CatalogueMachine(RuleBasedStateMachine):
    """Fewer than ten instances: no silence is ever a mass silence."""

    names: tuple[str, ...] = ("orders", "billing.orders", "mail")
    places: tuple[str, ...] = ("a:1", "b:1", "c:1")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.known: dict[Key, Service] = {}
        self.catalogue = Catalogue()
        self.model = Model(all_of(), 100_000)
        self.messages: list[Announcement] = []
        self.incarnations = 0

    @initialize(max_instances=st.sampled_from([5, 100_000]), choosy=st.booleans())
    def set_up(self, max_instances: int, *, choosy: bool) -> None:
        accept = not_critical if choosy else all_of()
        self.catalogue = Catalogue(accept=accept, max_instances=max_instances)
        self.model = Model(accept, max_instances)

    # ---- what comes in -----------------------------------------------------------------

    @rule(data=st.data())
    def someone_announces(self, data: st.DataObject) -> None:
        """A new incarnation, or a peer that has none."""
        incarnation = ""
        if data.draw(st.booleans(), label="ours"):
            self.incarnations += 1
            incarnation = f"i{self.incarnations}"
        message = self.draw_message(data, incarnation, seq=1 if incarnation else 0)
        self.messages.append(message)
        self.announce(message)

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def someone_changes(self, data: st.DataObject) -> None:
        """A later message of an incarnation that was heard before, with any content or its own."""
        earlier = data.draw(st.sampled_from(self.messages), label="earlier")
        seq = earlier.seq + data.draw(st.integers(0, 2), label="step") if earlier.seq else 0
        message = msgspec.structs.replace(earlier, seq=seq)
        if data.draw(st.booleans(), label="differs"):
            message = self.draw_message(data, earlier.id, seq=seq)
        message.name, message.address, message.url = earlier.name, earlier.address, earlier.url
        message.node = earlier.node
        self.messages.append(message)
        self.announce(message)

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def a_message_comes_again(self, data: st.DataObject) -> None:
        """A heartbeat, if it was the latest; late or twice, if it was not."""
        self.announce(data.draw(st.sampled_from(self.messages), label="again"))

    @precondition(lambda self: self.messages)
    @rule()
    def everybody_beats(self) -> None:
        for message in list(self.messages[-20:]):
            self.announce(message)

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), by_key=st.booleans())
    def someone_withdraws(self, data: st.DataObject, *, by_key: bool) -> None:
        """The incarnation that is known, an older one, or whoever has that key."""
        earlier = data.draw(st.sampled_from(self.messages), label="withdrawn")
        message = Announcement(
            name=earlier.name,
            address=earlier.address,
            url=earlier.url,
            id="" if by_key else earlier.id,
        )
        self.model.withdraw(message, self.now)
        event = self.catalogue.withdraw(message, self.now)
        self.see([] if event is None else [event])

    # ---- time --------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 2.5, 7.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def expire(self) -> None:
        self.model.expire(self.now)
        self.see(self.catalogue.expire(self.now))
        first = self.catalogue.next_deadline()
        assert first is None or first > self.now

    @rule()
    def ask_whether_anything_is_silent(self) -> None:
        first = self.model.first_expiry()
        assert self.catalogue.silent(self.now) == (first is not None and first <= self.now)

    @rule(times=st.integers(1, 5))
    def wake_at_the_deadline(self, times: int) -> None:
        for _ in range(times):
            due = self.catalogue.next_deadline()
            if due is not None:
                self.now = max(self.now, due)
                self.expire()

    @rule()
    def forgive(self) -> None:
        self.model.forgiven = self.now
        self.catalogue.forgive(self.now)

    @rule(name=st.sampled_from(names))
    def forget(self, name: str) -> None:
        self.model.remove({key for key in self.model.records if key[0] == name})
        self.see(self.catalogue.forget([name]))

    @rule(nodes=st.dictionaries(st.sampled_from(["n1", "n2"]), st.sampled_from([0.0, 0.5, 2.0])))
    def expel(self, nodes: dict[str, float]) -> None:
        since = {node: self.now - ago for node, ago in nodes.items()}
        self.model.expel(since)
        self.see(self.catalogue.expel(since))

    # ---- what always holds -------------------------------------------------------------

    @invariant()
    def knows_the_same(self) -> None:
        expected = {key: record.service for key, record in self.model.records.items()}
        assert {service.key: service for service in self.catalogue} == expected
        assert self.known == expected
        assert len(self.catalogue) == len(expected)
        assert set(self.catalogue.names) == {name for name, _ in expected}
        nodes = {record.node for record in self.model.records.values()} - {""}
        assert set(self.catalogue.nodes) == nodes

    @invariant()
    def selects_the_same(self) -> None:
        for name in (*self.names, "unknown"):
            for predicate in PREDICATES:
                expected = {
                    service
                    for service in self.known.values()
                    if service.name == name and predicate(service)
                }
                selected = self.catalogue.select(name, predicate).services
                assert len(selected) == len(expected)
                assert set(selected) == expected

    @invariant()
    def wakes_in_time(self) -> None:
        first, due = self.model.first_expiry(), self.catalogue.next_deadline()
        assert (first is None) == (due is None)
        if first is not None and due is not None:
            assert due <= first

    def teardown(self) -> None:
        """Left alone, everything expires, within a bounded number of looks."""
        for _ in range(20 * len(self.known) + 20):
            due = self.catalogue.next_deadline()
            if due is None:
                break
            self.now = max(self.now, due)
            self.expire()
        assert len(self.catalogue) == 0

    # ------------------------------------------------------------------------------------

    def draw_message(self, data: st.DataObject, incarnation: str, *, seq: int) -> Announcement:
        draw: Any = data.draw
        place = draw(st.sampled_from(self.places), label="place")
        by_url = draw(st.booleans(), label="by url")
        return Announcement(
            name=draw(st.sampled_from(self.names), label="name"),
            address="" if by_url else place,
            url=place if by_url else draw(st.sampled_from(["", "http://a/"]), label="url"),
            id=incarnation,
            seq=seq,
            node=draw(st.sampled_from(["", "n1", "n2"]), label="node") if incarnation else "",
            status=draw(st.sampled_from([status.value for status in Status]), label="status"),
            metadata=draw(st.sampled_from([{}, {"zone": "eu"}, {"zone": "us"}]), label="metadata"),
            times=Times(
                registered=draw(st.integers(-(2**40), 2**40), label="their clock"),
                duration=draw(st.sampled_from([-1, 700, 1100, 2300]), label="duration"),
            ),
        )

    def announce(self, message: Announcement) -> None:
        self.model.announce(message, self.now)
        event = self.catalogue.announce(message, self.now)
        self.see([] if event is None else [event])

    def see(self, events: list[ServiceEvent]) -> None:
        for event in events:
            fold(self.known, event)


class CrowdMachine(CatalogueMachine):
    """Enough instances for mass silences, and fleets that come at once."""

    places = tuple(f"{letter}:1" for letter in "abcdefghij")

    @rule(
        ttl=st.sampled_from([1100, 2300]),
        count=st.integers(8, 12),
        name=st.sampled_from(CatalogueMachine.names),
    )
    def a_fleet_comes(self, ttl: int, count: int, name: str) -> None:
        for place in self.places[:count]:
            self.incarnations += 1
            message = Announcement(
                name=name,
                address=place,
                id=f"i{self.incarnations}",
                seq=1,
                node="n1",
                times=Times(duration=ttl),
            )
            self.messages.append(message)
            self.announce(message)


TestCatalogue = CatalogueMachine.TestCase
TestCatalogue.settings = settings(deadline=None, max_examples=250, stateful_step_count=40)
TestCrowd = CrowdMachine.TestCase
TestCrowd.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
