"""The announcing half of a registry: puts its own services on the air, and takes them off.

One sender task does all the publishing, so messages of one service never overtake each
other; a confirming task waits for the broker, so that nobody else has to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from aioregistry import wire
from aioregistry.alarm import Alarm
from aioregistry.announcer import Announced, Announcer
from aioregistry.errors import InvalidService, NotRegistered, TransportError
from aioregistry.limits import EVERYBODY, MAX_PAYLOAD_BYTES
from aioregistry.link import Link
from aioregistry.service import Service
from aioregistry.settings import Settings
from aioregistry.transports.base import Subscription

__all__ = ["Provider"]

_logger = logging.getLogger("aioregistry")

_Key = tuple[str, str]

_SPREAD: Final = 0.1
"""After a reconnect the announcements go out within so many seconds: every other process
has just reconnected too."""

_RETRY: Final = 0.1
_CHUNK: Final = 500


class _Delivery:
    """Somebody waits until the broker has taken a message.

    Attributes:
        patient: whether to go on waiting while there is no broker.
    """

    __slots__ = ("announced", "done", "patient", "subject")

    def __init__(self, announced: Announced, *, patient: bool) -> None:
        self.announced = announced
        self.patient = patient
        self.subject = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: TransportError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Provider:
    """Announces the services of this process for as long as they are registered.

    Args:
        link: the way to the broker.
        settings: the options of the registry.
        node: the random name of this registry.
        rng: where jitter comes from.
        clock: the monotonic clock, in seconds.

    Attributes:
        announced: announcements sent.
        withdrawn: withdrawals sent.
        pinged: pings received.
    """

    def __init__(
        self,
        link: Link,
        settings: Settings,
        *,
        node: str,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.announced = self.withdrawn = self.pinged = 0
        self._link = link
        self._settings = settings
        self._subjects = wire.Subjects(settings.prefix)
        self._node = node
        self._clock = clock
        self._announcer = Announcer(settings.interval, rng)
        self._alarm = Alarm()
        self._confirm = asyncio.Event()
        self._withdrawals: deque[Announced] = deque()
        self._awaiting: dict[Announced, list[_Delivery]] = {}
        self._unconfirmed: list[_Delivery] = []
        self._hears_alive = False
        self._ears: dict[str, Subscription | None] = {}

    # ---- what callers ask for ----------------------------------------------------------

    @property
    def services(self) -> tuple[Service, ...]:
        """What is registered, in the order of registration."""
        return self._announcer.services

    def current(self, key: _Key) -> Service | None:
        """The registered service under `key`."""
        announced = self._announcer.get(key)
        return announced.service if announced else None

    def find(self, service: Service | str, place: str = "") -> Service:
        """The registered service that is meant.

        Args:
            service: the service, or its name.
            place: its address or URL; not needed where the name is registered once.

        Raises:
            NotRegistered: there is none, or there are several.
        """
        if isinstance(service, Service):
            name, place = service.key
            found = self.current(service.key)
            if found is not None:
                return found
        else:
            name = service
            matches = [s for s in self.services if s.name == name and place in ("", s.key[1])]
            if len(matches) == 1:
                return matches[0]
        known = ", ".join(f"{s.name} at {s.key[1] or 'no address'}" for s in self.services)
        what = f"{name!r} at {place!r}" if place else f"{name!r}"
        raise NotRegistered(
            f"{what} does not name one service registered here; registered: {known or 'nothing'}"
        )

    async def announce(self, service: Service, *, wait: bool, patient: bool) -> None:
        """Announce a service, or its change, and go on announcing it.

        Args:
            service: the service, valid and complete.
            wait: whether to return only when the broker has taken the announcement.
            patient: whether that waiting goes on while there is no broker.

        Raises:
            InvalidService: the announcement is larger than anybody takes.
            TransportError: the broker refuses it. A service that is new is then not
                registered; neither is it when the call is cancelled.
        """
        size = len(self._encode(service, seq=2**31))
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidService(
                f"the announcement of {service.name!r} has {size} bytes; at most"
                f" {MAX_PAYLOAD_BYTES} are allowed: shorten its metadata"
            )
        before = self._announcer.get(service.key)
        old = before.service if before else None
        announced = self._announcer.announce(service, self._clock())
        self._alarm.wake()
        if not wait or not (patient or self._link.connected):
            return
        delivery = self._expect(announced, patient=patient)
        try:
            await delivery.done
        except BaseException:
            if announced.service is service:  # and nobody has changed it again meanwhile
                self._take_back(announced, old)
            raise

    async def withdraw(self, *keys: _Key) -> None:
        """Withdraw services, and wait until the broker has taken it, if there is one.

        Without a broker the withdrawals go out as soon as there is one again. Cancelling the
        call cancels the waiting, not the withdrawals.
        """
        deliveries: list[_Delivery] = []
        for key in keys:
            announced = self._withdraw(key)
            if announced is not None and self._link.connected:
                deliveries.append(self._expect(announced, patient=False))
        for delivery in deliveries:
            await delivery.done

    async def farewell(self) -> None:
        """Withdraw everything and wait until the broker has taken it.

        For the end: no other task may be sending any longer.
        """
        for service in self.services:
            self._withdraw(service.key)
        if self._withdrawals and self._link.connected:
            await self._send_withdrawals()
            await self._link.transport.flush()
        self._give_up(self._link.error())

    # ---- what the link reports ---------------------------------------------------------

    def resume(self) -> None:
        """The link is up: announce everything afresh."""
        self._announcer.announce_all(self._clock(), _SPREAD)
        for announced in self._awaiting:  # somebody waits for these
            self._announcer.postpone(announced, self._clock())
        self._alarm.wake()

    def suspend(self) -> None:
        """The link is down: whoever need not wait for the broker goes on."""
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        for delivery in unconfirmed:
            self._awaiting.setdefault(delivery.announced, []).append(delivery)
        for announced, deliveries in list(self._awaiting.items()):
            for delivery in deliveries:
                if not delivery.patient:
                    delivery.succeed()
            patient = [delivery for delivery in deliveries if delivery.patient]
            if patient:
                self._awaiting[announced] = patient
            else:
                del self._awaiting[announced]

    # ---- the two tasks -----------------------------------------------------------------

    async def send_forever(self) -> None:
        """Send what is due, when it is due, for as long as there is a broker."""
        while True:
            due = self._clock() if self._withdrawals else self._announcer.next_deadline()
            await self._alarm.sleep_until(due)
            await self._link.wait_connected()
            try:
                await self._send_due()
            except TransportError as error:
                _logger.debug("announcing again soon: %s", error)
                await asyncio.sleep(_RETRY)

    async def confirm_forever(self) -> None:
        """Tell those who wait when the broker has taken what was sent."""
        while True:
            await self._confirm.wait()
            self._confirm.clear()
            await self._link.wait_connected()
            batch, self._unconfirmed = self._unconfirmed, []
            try:
                await self._link.transport.flush()
            except TransportError as error:
                self._sort_out(batch, error)
            else:
                for delivery in batch:
                    delivery.succeed()

    # ------------------------------------------------------------------------------------

    def _expect(self, announced: Announced, *, patient: bool) -> _Delivery:
        delivery = _Delivery(announced, patient=patient)
        self._awaiting.setdefault(announced, []).append(delivery)
        return delivery

    def _withdraw(self, key: _Key) -> Announced | None:
        announced = self._announcer.withdraw(key)
        if announced is not None:
            self._withdrawals.append(announced)
            self._alarm.wake()
        return announced

    def _take_back(self, announced: Announced, old: Service | None) -> None:
        """Undo an announcement that its caller does not know to have succeeded."""
        if self._announcer.get(announced.service.key) is not announced:
            return
        if old is None:
            self._withdraw(announced.service.key)
        else:
            self._announcer.announce(old, self._clock())
            self._alarm.wake()

    async def _send_due(self) -> None:
        await self._send_withdrawals()
        await self._tend_ears()
        batch = self._announcer.due(self._clock())
        for sent, announced in enumerate(batch):
            if self._announcer.get(announced.service.key) is not announced:
                continue  # withdrawn while those before it were on their way
            try:
                await self._publish_announcement(announced)
            except TransportError:
                for later in batch[sent:]:
                    self._announcer.postpone(later, self._clock() + _RETRY)
                raise
            if sent % _CHUNK == _CHUNK - 1:
                await asyncio.sleep(0)  # thousands of them must not hold up the event loop

    async def _send_withdrawals(self) -> None:
        while self._withdrawals:
            announced = self._withdrawals[0]
            service = announced.service
            subject = self._subjects.unregister(service.name)
            payload = wire.encode_withdrawal(service, seq=announced.seq, node=self._node)
            await self._publish(announced, subject, payload)
            self._withdrawals.popleft()
            self.withdrawn += 1

    async def _publish_announcement(self, announced: Announced) -> None:
        service = announced.service
        subject = self._subjects.register(service.name)
        await self._publish(announced, subject, self._encode(service, announced.seq))
        self.announced += 1

    async def _publish(self, announced: Announced, subject: str, payload: bytes) -> None:
        deliveries = self._awaiting.pop(announced, [])
        try:
            await self._link.transport.publish(subject, payload)
        except TransportError as error:
            if not error.subjects:
                if deliveries:
                    self._awaiting.setdefault(announced, []).extend(deliveries)
                raise
            self._refuse(deliveries, subject, error)
            return
        if deliveries:
            for delivery in deliveries:
                delivery.subject = subject
            self._unconfirmed += deliveries
            self._confirm.set()

    def _encode(self, service: Service, seq: int) -> bytes:
        settings = self._settings
        return wire.encode_announcement(
            service, ttl=settings.ttl, registered=settings.wall_clock(), seq=seq, node=self._node
        )

    def _refuse(self, deliveries: Iterable[_Delivery], subject: str, error: TransportError) -> None:
        """The broker does not take this message; the link as such is sound."""
        if not deliveries:
            _logger.error("the broker refuses %s: %s", subject, error)
        for delivery in deliveries:
            delivery.fail(error)

    def _sort_out(self, batch: list[_Delivery], error: TransportError) -> None:
        for delivery in batch:
            if delivery.subject in error.subjects:
                delivery.fail(error)
            elif error.subjects:
                delivery.succeed()
            else:  # not known whether it arrived: announce it again
                self._awaiting.setdefault(delivery.announced, []).append(delivery)
        if not self._link.connected:
            self.suspend()
        elif not error.subjects:
            self._announcer.announce_all(self._clock() + _RETRY, _SPREAD)
            self._alarm.wake()

    def _give_up(self, error: TransportError) -> None:
        """The end: whoever still waits learns that nothing more will come."""
        for deliveries in (*self._awaiting.values(), self._unconfirmed):
            for delivery in deliveries:
                delivery.fail(error)

    # ---- what others ask ---------------------------------------------------------------

    async def _tend_ears(self) -> None:
        """Subscribe to the pings of what is announced, and no longer to those of the rest."""
        names = self._announcer.names()
        wanted = {*names, EVERYBODY} if names else set[str]()
        missing = wanted - self._ears.keys()
        if missing and not self._hears_alive:
            subject = self._subjects.alive(self._node)
            await self._link.transport.subscribe(subject, _overhear)
            self._hears_alive = True
        if missing:
            outcomes = await asyncio.gather(*map(self._listen, sorted(missing)))
            for error in filter(None, outcomes):
                raise error
        for name in self._ears.keys() - wanted:
            ear = self._ears.pop(name)
            if ear is not None:
                await ear.unsubscribe()

    async def _listen(self, name: str) -> TransportError | None:
        def on_ping(_subject: str, payload: bytes) -> None:
            self._on_ping(name, payload)

        subject = self._subjects.ping(name)
        try:
            self._ears[name] = await self._link.transport.subscribe(subject, on_ping)
        except TransportError as error:
            if not error.subjects:
                return error
            # Without the right to hear pings it is found by its heartbeats all the same.
            _logger.warning("pings of %r will not be answered: %s", name, error)
            self._ears[name] = None
        return None

    def _on_ping(self, name: str, payload: bytes) -> None:
        self.pinged += 1
        now = self._clock()
        if name == EVERYBODY:
            for each in self._announcer.names():
                self._announcer.answer(each, "", now)
        else:
            self._announcer.answer(name, wire.decode_ping(payload), now)
        self._alarm.wake_for(self._announcer.next_deadline())


def _overhear(_subject: str, _payload: bytes) -> None:
    """Being subscribed is the answer."""
