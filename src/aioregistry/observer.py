"""The observing half of a registry: keeps the catalogue current, and tells who watches."""

from __future__ import annotations

import asyncio
import logging
import random
import weakref
from collections.abc import Callable, Iterable
from typing import Final

from aioregistry import wire
from aioregistry.alarm import Alarm
from aioregistry.asker import Asker
from aioregistry.catalogue import Catalogue
from aioregistry.choosing import Predicate
from aioregistry.errors import TransportError
from aioregistry.inquiry import Inquiries
from aioregistry.link import Link
from aioregistry.loglimit import LogLimiter, printable
from aioregistry.observations import Observations
from aioregistry.service import EventType, Service, ServiceEvent
from aioregistry.settings import Settings
from aioregistry.subjects import is_pattern
from aioregistry.vigil import Vigil
from aioregistry.watch import Watch

__all__ = ["Observer"]

_logger = logging.getLogger("aioregistry")

LATE: Final = 0.25
"""An answer of the broker so many seconds late means that it hung, or that our event loop was
blocked, and that what arrived meanwhile may not have been read yet."""

_CATCH_UPS: Final = 3

RETURN: Final = 0.8
"""After an outage others reconnect later than we do, by so many seconds; their ttl of grace
counts from then."""

MAX_IDLE: Final = 1_000
"""Names that are observed only because somebody looked them up or watched them, and that nobody
provides, are given up beyond this number: names may come from the outside."""

_RETRY: Final = 0.1

_UNREGISTERED: Final = EventType.UNREGISTERED
"""Members of an enumeration are looked up ten times longer than constants."""


class Observer:
    """Keeps in the catalogue what is observed.

    Args:
        link: the way to the broker.
        settings: the options of the registry.
        rng: where jitter comes from.
        clock: the monotonic clock, in seconds: the event loop's.
        own: what this registry itself announces under a key.
        node: the random name of this registry.

    Attributes:
        catalogue: what is known.
        observations: what is observed.
        inquiries: the pings that lookups wait for.
        complete: the names of which every instance that answers is known.
        asker: sends pings.
        vigil: sees crashes early.
        awaited: the watches that somebody waits for.
        announcements: announcements received.
        withdrawals: withdrawals received.
        malformed: messages that were none.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        *,
        rng: random.Random,
        clock: Callable[[], float],
        own: Callable[[tuple[str, str]], Service | None],
        node: str,
    ) -> None:
        self._own = own
        self._node = node
        self._ignored = self._refused = 0
        self.announcements = self.withdrawals = self.malformed = 0
        self._link = link
        self._clock = clock
        self._subjects = wire.Subjects(settings.prefix)
        accept = settings.accept and self._guarded(settings.accept)
        self.catalogue = Catalogue(accept=accept, max_instances=settings.max_instances)
        self.observations = Observations(
            link, self._subjects, self._on_announcement, self._on_withdrawal
        )
        self.inquiries = Inquiries()
        self.complete: dict[str, None] = {}
        self.asker = Asker(link, self._subjects, self.catalogue, rng=rng, clock=clock)
        self.vigil = Vigil(
            link, self._subjects, self.catalogue, self._publish_removals, clock=clock
        )
        self._alarm = Alarm()
        # In the order in which they came: that of a WeakSet depends on addresses in memory. A
        # WeakKeyDictionary has it too, and costs every event a dozen calls.
        self._watches: dict[weakref.ref[Watch], tuple[str, ...]] = {}
        # An event asks those that watch its name, and those with patterns.
        self._of_name: dict[str, dict[weakref.ref[Watch], None]] = {}
        self._of_patterns: dict[weakref.ref[Watch], None] = {}
        self.awaited: set[Watch] = set()
        self._needed = 0
        self._log = LogLimiter(_logger)
        self._closed = False
        self._failure: BaseException | None = None

    # ---- observing ---------------------------------------------------------------------

    @property
    def observed(self) -> tuple[str, ...]:
        """The names and patterns that are kept in the catalogue."""
        return self.observations.patterns

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    async def observe(self, *patterns: str, standing: bool = False) -> None:
        """Keep in the catalogue what the patterns name, from now on.

        Without a broker this comes into force when there is one.

        Args:
            patterns: names or patterns.
            standing: until they are given up; or else for as long as somebody watches them.

        Raises:
            TransportError: the broker refused.
        """
        fresh = [pattern for pattern in patterns if not self.observations.is_proven(pattern)]
        try:
            await self.observations.add(*patterns, standing=standing)
        finally:  # when it is cancelled, they are observed all the same
            fresh = [pattern for pattern in fresh if pattern in self.observations]
            if fresh and self._link.connected:
                self.asker.ask_for(fresh)
            self._forget_half_observed(*patterns)

    async def look_at(self, name: str) -> None:
        """Observe a name because somebody looks it up.

        Raises:
            TransportError: the broker refused.
        """
        try:
            await self.observations.look_at(name)
        finally:
            self._forget_half_observed(name)
        await self._give_up_idle()

    async def unobserve(self, *patterns: str) -> None:
        """Forget what the patterns name, unless another pattern names it too.

        Watches see what is forgotten as UNREGISTERED, so that they still add up.
        """
        for name in self.inquiries.names():
            self.observations.keep(name)
        try:
            await self.observations.remove(*patterns)
        finally:
            fresh = self.observations.take_fresh()
            if fresh and self._link.connected:
                self.asker.ask_for(fresh)
            self._forget_unobserved(*patterns)

    # ---- the side of the watches -------------------------------------------------------

    def attach(self, watch: Watch) -> Iterable[Service]:
        """Offer every event to `watch` from now on; return what is known now."""
        if self._closed:
            watch.end(self._failure)
            return ()
        self._link.check_loop()
        reference = weakref.ref(watch, self._forget)
        self._watches[reference] = watch.observed
        names: Iterable[str] = dict.fromkeys(watch.observed)
        if any(map(is_pattern, names)):
            self._of_patterns[reference] = None
            names = filter(watch.concerns, self.catalogue.names)
        else:
            for name in names:
                self._of_name.setdefault(name, {})[reference] = None
        return [service for name in names for service in self.catalogue.services(name)]

    def detach(self, watch: Watch) -> None:
        """Offer no more events to `watch`."""
        self._forget(weakref.ref(watch))

    # ---- what the link reports ---------------------------------------------------------

    def resume(self) -> None:
        """The link is up: everybody has a whole ttl to speak, and is asked to."""
        self.complete.clear()  # messages may have been missed
        self.observations.resume()
        self.catalogue.forgive(self._clock(), late=RETURN)
        self.vigil.resume()
        self.asker.ask_for(self.observations.patterns)
        self.inquiries.wake_all()
        self._alarm.wake()

    def suspend(self) -> None:
        """The link is down: what is known stays as it is."""
        self.inquiries.wake_all()
        self._alarm.wake()

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error: tell those who wait for them."""
        self.vigil.deny(error)
        self.observations.deny(error)
        for watch in self._open_watches():
            if any(map(self.observations.is_refused, watch.observed)):
                watch.end(error)
        for name, inquiry in self.inquiries.items():
            if self._subjects.ping(name) in error.messages or self.observations.is_deaf(name):
                inquiry.refusal = error
                inquiry.wake()

    async def retry(self, *, refused: bool) -> None:
        """Subscribe to what is observed and not subscribed to, and give up what is idle.

        Args:
            refused: also to what was refused: perhaps it is allowed by now.

        Raises:
            TransportError: the link failed.
        """
        for name in [name for name, watches in self._of_name.items() if not watches]:
            del self._of_name[name]
        held = self._watched()
        temporary = self.observations.temporary
        # At once, since what they bring in is paid for with every heartbeat.
        idle = [each for each in temporary if is_pattern(each) and each not in held]
        if idle:
            await self.unobserve(*idle)
        await self._give_up_idle()
        self.asker.ask_for(await self.observations.retry(refused=refused, held=self._watched()))

    def close(self, error: BaseException | None) -> None:
        """End every watch and lookup, with an `error` if that is the cause."""
        self.disown(error)
        for watch in self._open_watches():
            watch.end(error)
        self.inquiries.wake_all()

    def disown(self, error: BaseException | None) -> None:
        """Know nothing more; the `error` is why, if it has failed."""
        self._closed, self._failure = True, error
        self.catalogue.clear()

    async def expire_forever(self) -> None:
        """Expire what falls silent, for as long as the link is up."""
        while True:
            await self._link.wait_connected()
            await self._alarm.sleep_until(self.catalogue.next_deadline())
            if not self._link.connected:
                continue
            if self.catalogue.silent(self._clock()):
                self.asker.take_up()
                if not await self._catch_up():
                    continue
                self.catalogue.call_late(self._clock())
            self._publish_removals(self._expired())
            self.vigil.take_up()

    def _expired(self) -> list[ServiceEvent]:
        """What has expired by now."""
        now, held = self._clock(), self.catalogue.held
        events = self.catalogue.expire(now)
        if self.catalogue.held > held:
            self._log.warning(
                "held",
                now,
                "%d of %d instances fell silent together, so the way to them is more likely broken"
                " than all of them: they are kept for one more ttl; counted in stats().held",
                self.catalogue.held - held,
                len(self.catalogue),
            )
        return events

    # ---- messages ----------------------------------------------------------------------

    def _on_announcement(self, subject: str, payload: bytes) -> None:
        name = subject[len(self._subjects.register_prefix) :]
        if not payload:
            self._on_nobody(name)
            return
        message = self._decode(name, subject, payload)
        if message is None:
            return
        self.announcements += 1
        now = self._clock()
        event = self.catalogue.announce(message, now)
        if self.inquiries:
            inquiry = self.inquiries.get(name)
            if inquiry is not None:
                inquiry.heard(now)
        if event is not None or self.catalogue.ignored != self._ignored:  # more than a heartbeat
            self._ignored = self.catalogue.ignored
            self._mind_rival(message, now)
            if self.catalogue.refused != self._refused:
                self._mind_refusal(subject, now)
            if event is not None:
                self._publish(event)
                if event.type is _UNREGISTERED:  # by one that is not let in: is it alive?
                    self.asker.take_up()
        if self.catalogue.sooner:
            self.catalogue.sooner = False
            self._alarm.wake_for(self.catalogue.next_deadline())

    def _on_nobody(self, name: str) -> None:
        """The broker says, with an empty message, that nobody hears the ping."""
        inquiry = self.inquiries.get(name)
        if inquiry is not None:
            inquiry.nobody = True
            inquiry.wake()

    def _mind_rival(self, message: wire.Announcement, now: float) -> None:
        """Tell if another process announces what this one announces: callers see one of them."""
        place = message.address or message.url
        own = self._own((message.name, place))
        if own is None or message.id == own.id:
            return
        if message.node == self._node or (message.id and not message.node):
            return  # an earlier incarnation of our own, or perhaps one
        self._log.warning(
            f"{message.name} {place}",
            now,
            "two processes announce %s at %s: this one, on host %s (id %s), and one on host %s"
            " (id %s); callers see one instance that keeps restarting: stop one, or give each"
            " its own address",
            *(own.name, place, own.host, own.id),
            *(printable(message.host[:200]) or "unknown", printable(message.id[:64]) or "none"),
        )

    def _mind_refusal(self, subject: str, now: float) -> None:
        """Tell why a message was left out."""
        self._refused = self.catalogue.refused
        self._log.warning(
            f"refused {subject}",
            now,
            "left out a message on %.200r: %s; counted in stats().refused",
            subject,
            self.catalogue.refusal,
        )

    def _on_withdrawal(self, subject: str, payload: bytes) -> None:
        name = subject[len(self._subjects.unregister_prefix) :]
        message = self._decode(name, subject, payload)
        if message is None:
            return
        self.withdrawals += 1
        now = self._clock()
        event = self.catalogue.withdraw(message, now)
        if event is not None:
            self._publish_removals([event])
        elif self.catalogue.refused != self._refused:
            self._ignored = self.catalogue.ignored
            self._mind_refusal(subject, now)

    def _decode(self, name: str, subject: str, payload: bytes) -> wire.Announcement | None:
        try:
            message = wire.decode(payload)
            if message.name == name:
                return message
            problem = f"the payload names {message.name[:80]!r}"
        except wire.Malformed as error:
            problem = str(error)
        self.malformed += 1
        self._log.warning(
            subject, self._clock(), "dropped a malformed message on %.200r: %s", subject, problem
        )
        return None

    def _publish_removals(self, events: Iterable[ServiceEvent]) -> None:
        for event in events:
            self._publish(event)
        self.asker.take_up()

    def _publish(self, event: ServiceEvent) -> None:
        name = event.service.name
        for watch in self._watching(name):  # one whose predicate raises detaches itself
            watch.offer(event)
        inquiry = self.inquiries.get(name)
        if inquiry is not None:
            inquiry.wake()

    def _open_watches(self) -> list[Watch]:
        """Those that somebody still refers to."""
        return [watch for reference in list(self._watches) if (watch := reference()) is not None]

    def _watching(self, name: str) -> list[Watch]:
        """Those of them that may watch what provides `name`."""
        references = [*self._of_name.get(name, ()), *self._of_patterns]
        return [watch for reference in references if (watch := reference()) is not None]

    def _forget(self, reference: weakref.ref[Watch]) -> None:
        # Called in whatever thread the garbage collector runs: so it does nothing more, and leaves
        # empty what may be filled again just now.
        self._of_patterns.pop(reference, None)
        for name in self._watches.pop(reference, ()):
            if watches := self._of_name.get(name):
                watches.pop(reference, None)

    def _guarded(self, accept: Predicate) -> Predicate:
        """The user's predicate, which must not take the stream of messages down with it."""

        def guarded(service: Service) -> bool:
            try:
                return accept(service)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the predicate's
                self._log.warning(
                    "accept", self._clock(), "accept=%r raised %r for %r", accept, error, service
                )
                return False

        return guarded

    # ------------------------------------------------------------------------------------

    def _forget_half_observed(self, *patterns: str) -> None:
        """Forget what was heard of these before they were refused or given up, if they were."""
        if not all(map(self.observations.include, patterns)):
            self._forget_unobserved(*patterns)

    def _forget_unobserved(self, *patterns: str) -> None:
        """Forget what these named, unless it is observed all the same."""
        if any(map(is_pattern, patterns)):
            self.complete.clear()
        for name in patterns:
            self.complete.pop(name, None)
        concerned = self.catalogue.names if any(map(is_pattern, patterns)) else patterns
        gone = {name: None for name in concerned if not self.observations.include(name)}
        self._publish_removals(self.catalogue.forget(gone))

    async def _give_up_idle(self) -> None:
        """Let go of the oldest names that nobody needs, when they are too many."""
        temporary = self.observations.temporary
        if len(temporary) <= MAX_IDLE + self._needed:
            return
        needed = self._watched().union(self.catalogue.names, self.inquiries.names())
        idle = [name for name in temporary if name not in needed]
        # A tenth more than has to be, so that not every lookup goes through all of them.
        self._needed = (len(temporary) - len(idle)) * 11 // 10
        if len(idle) > MAX_IDLE:
            await self.unobserve(*idle[: len(idle) - MAX_IDLE * 9 // 10])

    def _watched(self) -> set[str]:
        """What somebody watches."""
        return {pattern for observed in list(self._watches.values()) for pattern in observed}

    async def _catch_up(self) -> bool:
        """Let in what is on its way; False if the link does not answer: then nobody is judged.

        The broker may have hung, or our own event loop. What others said meanwhile may come
        after the answer to us, so after a late answer the broker is asked again.
        """
        for _ in range(_CATCH_UPS):
            asked = self._clock()
            try:
                await self._link.flush()
            except TransportError as error:
                if not error.subjects:
                    await asyncio.sleep(_RETRY)
                    return False
            if self._clock() - asked < LATE:
                break
            await asyncio.sleep(_RETRY)
        return True
