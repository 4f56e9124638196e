"""Watches on a real catalogue: whatever happens and however slowly they read, it adds up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aioregistry.catalogue import Catalogue
from aioregistry.choosing import Predicate, metadata, not_critical, passing
from aioregistry.service import EventType, Service, ServiceEvent, Status
from aioregistry.subjects import matches
from aioregistry.watch import Watch
from aioregistry.wire import Announcement, Times

Key = tuple[str, str]

NAMES = ("orders", "billing.orders", "billing.mail")


class Source:
    """A catalogue whose events every attached watch is offered."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.watches: list[Watch] = []
        self.awaited: set[Watch] = set()

    def attach(self, watch: Watch) -> Iterable[Service]:
        self.watches.append(watch)
        return list(self.catalogue)

    def detach(self, watch: Watch) -> None:
        self.watches.remove(watch)

    async def observe(self, *patterns: str) -> None:
        pass

    def publish(self, events: Iterable[ServiceEvent]) -> None:
        for event in events:
            for watch in self.watches:
                watch.offer(event)


class Receiver:
    """Reads a watch at a pace of its own, and knows only what the events say."""

    def __init__(self, source: Source, patterns: tuple[str, ...], where: Predicate | None) -> None:
        self.catalogue = source.catalogue
        self.patterns = patterns
        self.where = where
        self.watch = Watch(source, patterns, where=where)
        self.known: dict[Key, Service] = {}

    def expected(self) -> dict[Key, Service]:
        return {
            service.key: service
            for service in self.catalogue
            if any(matches(pattern, service.name) for pattern in self.patterns)
            and (self.where is None or self.where(service))
        }

    def read(self, most: int) -> int:
        """Take up to so many events, as far as they are there without waiting."""
        for number in range(most):
            event = self.next_event()
            if event is None:
                return number
            self.take(event)
        return most

    def next_event(self) -> ServiceEvent | None:
        """Run the coroutine by hand: it either returns or begins to wait."""
        coroutine = self.watch.__anext__()
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        coroutine.close()
        return None

    def take(self, event: ServiceEvent) -> None:
        key = event.service.key
        if event.type is EventType.REGISTERED:
            assert key not in self.known
            assert event.previous is None
            self.known[key] = event.service
        elif event.type is EventType.UPDATED:
            assert event.previous == self.known[key] != event.service
            self.known[key] = event.service
        else:
            assert event.previous == self.known.pop(key)


class WatchMachine(RuleBasedStateMachine):
    """Things happen to a few instances; receivers come, and read now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio._set_running_loop(self.loop)
        self.source = Source()
        self.catalogue = self.source.catalogue
        self.receivers: list[Receiver] = []
        self.now = 0.0
        self.incarnations = 0
        self.ever: set[Key] = set()

    def teardown(self) -> None:
        for receiver in self.receivers:
            receiver.read(1000)
            assert receiver.known == receiver.expected()
            assert receiver.next_event() is None
        asyncio._set_running_loop(None)
        self.loop.close()

    @precondition(lambda self: len(self.receivers) < 4)
    @rule(
        patterns=st.sampled_from(
            [(">",), ("orders",), ("billing.*",), ("*", "orders"), ("billing.>", "orders")]
        ),
        where=st.sampled_from([None, passing, not_critical, metadata(zone="eu")]),
    )
    def someone_watches(self, patterns: tuple[str, ...], where: Predicate | None) -> None:
        receiver = Receiver(self.source, patterns, where)
        self.receivers.append(receiver)
        receiver.read(0)

    @rule(
        name=st.sampled_from(NAMES),
        place=st.sampled_from(["a:1", "b:1"]),
        restarts=st.booleans(),
        status=st.sampled_from(Status),
        zone=st.sampled_from(["", "eu"]),
    )
    def someone_announces(
        self, name: str, place: str, status: Status, zone: str, *, restarts: bool
    ) -> None:
        self.incarnations += restarts
        message = Announcement(
            name=name,
            address=place,
            id=f"i{self.incarnations}" if restarts else "",
            status=status.value,
            metadata={"zone": zone} if zone else {},
            times=Times(duration=2000),
        )
        self.ever.add((name, place))
        event = self.catalogue.announce(message, self.now)
        self.source.publish([event] if event else [])

    @rule(name=st.sampled_from(NAMES), place=st.sampled_from(["a:1", "b:1"]))
    def someone_withdraws(self, name: str, place: str) -> None:
        event = self.catalogue.withdraw(Announcement(name=name, address=place), self.now)
        self.source.publish([event] if event else [])

    @rule(seconds=st.sampled_from([0.5, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.source.publish(self.catalogue.expire(self.now))

    @rule(name=st.sampled_from(NAMES))
    def a_name_is_forgotten(self, name: str) -> None:
        self.source.publish(self.catalogue.forget([name]))

    @precondition(lambda self: self.receivers)
    @rule(data=st.data(), most=st.integers(1, 4))
    def someone_reads(self, data: st.DataObject, most: int) -> None:
        data.draw(st.sampled_from(self.receivers)).read(most)

    @precondition(lambda self: self.receivers)
    @rule(data=st.data())
    def someone_catches_up(self, data: st.DataObject) -> None:
        receiver = data.draw(st.sampled_from(self.receivers))
        # at most one event for each instance that there ever was
        assert receiver.read(1000) <= len(self.ever)
        assert receiver.known == receiver.expected()

    @invariant()
    def nobody_knows_what_never_was(self) -> None:
        for receiver in self.receivers:
            assert receiver.known.keys() <= self.ever


TestWatches = WatchMachine.TestCase
TestWatches.settings = settings(deadline=None, max_examples=200, stateful_step_count=40)
