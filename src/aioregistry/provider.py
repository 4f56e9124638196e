"""The announcing half of a registry: puts its own services on the air, and takes them off.

Whoever changes something sends it at once, and the sender task sends what is due later; one
lock for both keeps messages of one service from overtaking each other. A confirming task
waits for the broker, so that nobody else has to.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from aioregistry import wire
from aioregistry.alarm import Alarm
from aioregistry.announcer import Announced, Announcer
from aioregistry.changes import Changes
from aioregistry.deliveries import Deliveries, Delivery
from aioregistry.ears import Ears
from aioregistry.errors import InvalidService, NotRegistered, RegistryError, TransportError
from aioregistry.limits import EVERYBODY, MAX_PAYLOAD_BYTES
from aioregistry.link import Link
from aioregistry.loglimit import LogLimiter
from aioregistry.service import Service
from aioregistry.settings import Settings
from aioregistry.transports.base import PromptTransport
from aioregistry.withdrawals import Withdrawal, Withdrawals

__all__ = ["Provider"]

_logger = logging.getLogger("aioregistry")

_Key = tuple[str, str]

_SPREAD: Final = 0.1
"""After a reconnect the announcements go out within so many seconds: every other process
has just reconnected too."""

_RETRY: Final = 0.1
_CHUNK: Final = 500
_SHOWN: Final = 10

_FEW: Final = 20
"""So many instances of a name answer a ping from within the handler. More would hold up the event
loop, and must not be divided: who hears the first of them takes a pause for the end."""


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
        self._prompt = link.transport if isinstance(link.transport, PromptTransport) else None
        self._settings = settings
        self._subjects = wire.Subjects(settings.prefix)
        self._clock = clock
        self._announcer = Announcer(settings.interval, rng)
        self._alarm = Alarm()
        self._confirm = asyncio.Event()
        self._withdrawals = Withdrawals()
        self._deliveries = Deliveries()
        self._ears = Ears(link, self._subjects, node, self._on_ping)
        self._sending = asyncio.Lock()
        self._log = LogLimiter(_logger)
        self._said = node
        self._end: RegistryError | None = None

    # ---- what callers ask for ----------------------------------------------------------

    @property
    def services(self) -> tuple[Service, ...]:
        """What is registered, in the order of registration."""
        return self._announcer.services

    def current(self, key: _Key) -> Service | None:
        """The registered service under `key`."""
        announced = self._announcer.get(key)
        return announced.service if announced and self._end is None else None

    def find(self, service: Service | str, place: str = "") -> Service:
        """The registered service that is meant.

        Args:
            service: the service, or its name.
            place: its address or URL; not needed where the name is registered once.

        Raises:
            NotRegistered: there is none, or there are several.
            RegistryError: the registry is closed.
        """
        self._check()
        if isinstance(service, Service):
            name, place = service.key
            found = self.current(service.key)
            if found is not None:
                return found
        else:
            name = service
            matches = [s for s in self._announcer.named(name) if place in ("", s.key[1])]
            if len(matches) == 1:
                return matches[0]
        services = self.services
        known = ", ".join(
            f"{s.name} at {s.key[1] or 'no address'}" for s in itertools.islice(services, _SHOWN)
        )
        more = len(services) - _SHOWN
        if more > 0:
            known += f" and {more} more"
        what = f"{name!r} at {place!r}" if place else f"{name!r}"
        raise NotRegistered(
            f"{what} does not name one service registered here; registered: {known or 'nothing'}"
        )

    async def announce(
        self, service: Service, fields: Iterable[str], *, wait: bool, patient: bool
    ) -> None:
        """Announce a service, or its change, and go on announcing it.

        Args:
            service: the service, valid and complete.
            fields: those of its fields that the caller asks for.
            wait: whether to return only when the broker has taken the announcement.
            patient: whether that waiting goes on while there is no broker.

        Raises:
            InvalidService: the announcement is larger than anybody takes.
            TransportError: the broker refuses it. A service that is new is then not
                registered; neither is it when the call is cancelled.
            RegistryError: the registry is closed.
        """
        self._check()
        if not wire.is_small(service):
            self._check_size(service)
        before = self.current(service.key)
        announced = self._announcer.announce(service, self._clock())
        changes = announced.changes
        if changes is None:
            changes = announced.changes = Changes(before or service, kept=before is not None)
        change = changes.ask(service, fields)
        self._ears.open(service.name)
        delivery: Delivery | None = None
        if wait and (patient or self._link.connected):
            delivery = self._deliveries.expect(announced, patient=patient)
        try:
            if self._link.connected and self._ears.proven and not self._sending.locked():
                await self._announce_at_once(announced)
            self._alarm.wake_for(announced.due)
            if delivery is not None:
                await delivery.done
        except BaseException:
            if delivery is not None:
                delivery.abandon()
            changes.drop(change)
            self._take_back(announced, changes)
            raise
        else:
            changes.confirm(change)
        finally:
            if not changes.asked:
                announced.changes = None

    async def withdraw(self, *keys: _Key) -> None:
        """Withdraw services, and wait until the broker has taken it, if there is one.

        Without a broker the withdrawals go out as soon as there is one again. Cancelling the
        call cancels the waiting, not the withdrawals.
        """
        self._check()
        deliveries: list[Delivery] = []
        for key in keys:
            announced = self._withdraw(key)
            if announced is not None and self._link.connected:
                deliveries.append(self._deliveries.expect(announced, patient=False))
        try:
            if deliveries and not self._sending.locked():
                async with self._sending:
                    with contextlib.suppress(TransportError):  # the sender tries again
                        await self._send_withdrawals()
            for delivery in deliveries:
                await delivery.done
        finally:
            for delivery in deliveries:
                delivery.abandon()

    async def farewell(self) -> None:
        """Withdraw everything and wait until the broker has taken it."""
        for service in self.services:
            self._withdraw(service.key)
        if self._withdrawals and self._link.connected:
            async with self._sending:
                self._withdrawals.hurry(self._clock())
                await self._send_withdrawals()
            await self._link.flush()

    def close(self, error: RegistryError) -> None:
        """Tell whoever still waits for the broker why nothing more will come of it."""
        self.disown(error)
        self._deliveries.give_up(error)

    def disown(self, error: RegistryError) -> None:
        """Announce nothing more, and tell whoever asks for it why."""
        self._end = error

    # ---- what the link reports ---------------------------------------------------------

    def resume(self) -> None:
        """The link is up: announce everything afresh."""
        self._announcer.announce_all(self._clock(), _SPREAD)
        for announced in self._deliveries.unsent:
            self._announcer.postpone(announced, self._clock())
        self._alarm.wake()

    def suspend(self) -> None:
        """The link is down: whoever need not wait for the broker goes on."""
        self._deliveries.suspend()
        self._withdrawals.doubt(self._clock())
        self._alarm.wake()

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error: tell those who wait for them."""
        self._deliveries.deny(error)
        self._ears.deny(error)
        self._say_who()

    async def retry(self) -> None:
        """Listen again to what was refused: perhaps it is allowed by now.

        Raises:
            TransportError: the link failed.
        """
        async with self._sending:
            await self._ears.retry()
            self._say_who()
            await self._listen()

    # ---- the two tasks -----------------------------------------------------------------

    async def send_forever(self) -> None:
        """Send what is due, when it is due, for as long as there is a broker."""
        while True:
            await self._alarm.sleep_until(self._next_due())
            await self._link.wait_connected()
            try:
                await self._send_due()
            except TransportError as error:
                _logger.debug("announcing again soon: %s", error)
                await asyncio.sleep(_RETRY)

    async def confirm_forever(self) -> None:
        """Listen to the pings of what was announced, and tell when the broker has taken it."""
        while True:
            await self._confirm.wait()
            self._confirm.clear()
            await self._link.wait_connected()
            batch = self._deliveries.take_sent()
            withdrawals = self._withdrawals.take_unconfirmed()
            try:
                await self._listen()
                await self._link.flush()
            except TransportError as error:
                self._sort_out(batch, withdrawals, error)
            else:
                for delivery in batch:
                    delivery.succeed()

    # ------------------------------------------------------------------------------------

    def _withdraw(self, key: _Key) -> Announced | None:
        announced = self._announcer.withdraw(key)
        if announced is not None:
            if not self._announcer.provides(announced.service.name):
                self._ears.close(announced.service.name)
            self._withdrawals.add(announced, self._clock(), safe=self._link.connected)
            self._alarm.wake()
        return announced

    def _next_due(self) -> float | None:
        heartbeat = self._announcer.next_deadline()
        if not self._withdrawals:
            return heartbeat
        withdrawal = self._withdrawals.next_deadline()
        return min((due for due in (heartbeat, withdrawal) if due is not None), default=None)

    def _say_who(self) -> None:
        """If another node is announced than before: under the same numbers nobody would look."""
        if self._said != self._ears.node:
            self._said = self._ears.node
            self._announcer.renew(self._clock())
            self._alarm.wake()

    def _check(self) -> None:
        if self._end is not None:
            raise self._end.again()
        self._link.check_loop()

    def _take_back(self, announced: Announced, changes: Changes) -> None:
        """Undo what a caller does not know to have succeeded.

        What others have asked for stays, and so does the service if one of them goes on.
        """
        key = announced.service.key
        if self._announcer.get(key) is not announced:
            return
        if not (changes.kept or changes.asked):
            self._withdraw(key)
        else:
            self._announcer.announce(changes.content, self._clock())
            self._alarm.wake()

    async def _announce_at_once(self, announced: Announced) -> None:
        """Announce without the way round by the sender, which must not be at work.

        The pings of a new name are listened to first, where that takes no wait. Elsewhere it is
        announced at once, and again when they are; but where many are new, the others are
        listened to first, so that not all of them are said twice.
        """
        async with self._sending:
            with contextlib.suppress(TransportError):  # the sender tries again
                if self._withdrawals:
                    await self._send_withdrawals()
                if not self._ears.hears(announced.service.name) and (
                    self._link.transport.ordered or self._confirm.is_set()
                ):
                    await self._listen()
                if self._announcer.get(announced.service.key) is not announced:
                    return  # withdrawn meanwhile: the lock may have been waited for
                # Before it is sent: a change that comes while that takes its time is due at once.
                self._announcer.sent(announced, self._clock())
                try:
                    await self._publish_announcement(announced)
                except BaseException:
                    self._announcer.postpone(announced, self._clock())
                    self._alarm.wake()
                    raise

    async def _send_due(self) -> None:
        async with self._sending:
            if self._withdrawals:
                await self._send_withdrawals()
            if len(self._announcer):
                await self._ears.prove()
                await self._listen()
            await self._send_announcements()

    async def _listen(self) -> None:
        """Listen to the pings of what is announced, and to no others."""
        for name in await self._ears.settle():
            # Announced before it was listened for: who asked in between has had no answer.
            if self._announcer.repeat(name, self._clock()):
                self._alarm.wake_for(self._announcer.next_deadline())

    async def _send_announcements(self) -> None:
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
        now = self._clock()
        for withdrawal in self._withdrawals.due(now):
            # Said again, it must not hit a successor: peers without ids remove by address.
            if withdrawal.said and self._announcer.get(withdrawal.announced.service.key):
                self._withdrawals.drop(withdrawal)
                self._deliveries.settle(withdrawal.announced)
            else:
                await self._publish_withdrawal(withdrawal.announced)
                self._withdrawals.said(withdrawal, now)
                self._confirm.set()

    async def _publish_withdrawal(self, announced: Announced) -> None:
        subject = self._subjects.unregister(announced.service.name)
        payload = wire.encode_withdrawal(announced.service, seq=announced.seq, node=self._ears.node)
        if await self._publish(announced, subject, payload):
            self.withdrawn += 1

    async def _publish_announcement(self, announced: Announced) -> None:
        service = announced.service
        subject = self._subjects.register(service.name)
        payload = self._encode(service, announced.seq)
        if await self._publish(announced, subject, payload):
            self.announced += 1

    async def _publish(self, announced: Announced, subject: str, payload: bytes) -> bool:
        """Send a message; whether the transport took it."""
        seq = announced.seq
        try:
            await self._link.transport.publish(subject, payload)
        except TransportError as error:
            if not error.subjects:
                raise
            # The broker does not take this message; the link as such is sound.
            if not self._deliveries.refused(announced, seq, error):
                self._log.warning(
                    subject, self._clock(), "the broker refuses %s: %s", subject, error
                )
            return False
        self._note_sent(announced, seq, subject)
        return True

    def _note_sent(self, announced: Announced, seq: int, subject: str) -> None:
        hears = self._ears.hears(announced.service.name)
        if self._deliveries.sent(announced, seq, subject) or not hears:
            self._confirm.set()

    def _check_size(self, service: Service) -> None:
        size = len(self._encode(service, seq=2**31))
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidService(
                f"the announcement of {service.name!r} has {size} bytes; at most"
                f" {MAX_PAYLOAD_BYTES} are allowed: shorten its metadata"
            )

    def _encode(self, service: Service, seq: int) -> bytes:
        settings = self._settings
        return wire.encode_announcement(
            service,
            ttl=settings.ttl,
            registered=settings.wall_clock(),
            seq=seq,
            node=self._ears.node,
        )

    def _sort_out(
        self, batch: list[Delivery], withdrawals: list[Withdrawal], error: TransportError
    ) -> None:
        """The broker did not confirm what was sent, or not all of it."""
        if error.subjects:  # those that were refused know it already
            for delivery in batch:
                delivery.succeed()
            return
        self._deliveries.unsure(batch)
        # What was said since the flush began is as doubtful.
        doubtful = [*withdrawals, *self._withdrawals.take_unconfirmed()]
        self._withdrawals.say_again(doubtful, self._clock())
        self._alarm.wake()
        if self._link.connected:
            self._announcer.announce_all(self._clock() + _RETRY, _SPREAD)
        else:
            self._deliveries.suspend()

    # ---- what others ask ---------------------------------------------------------------

    def _on_ping(self, name: str, payload: bytes) -> None:
        self.pinged += 1
        now = self._clock()
        if name == EVERYBODY:
            for each in self._announcer.names():
                self._announcer.answer(each, "", now)
        else:
            self._announcer.answer(name, wire.decode_ping(payload), now)
            self._answer_at_once(name, now)
        self._alarm.wake_for(self._announcer.next_deadline())

    def _answer_at_once(self, name: str, now: float) -> None:
        """Answer a ping without the way round by the sender.

        Who asked waits for it, and waking a task takes a turn of the event loop.
        """
        prompt = self._prompt
        if prompt is None or self._withdrawals or self._sending.locked():
            return
        if not (self._link.connected and self._ears.proven):
            return
        subject = self._subjects.register(name)
        for announced in self._announcer.take_answer(name, now, most=_FEW):
            seq = announced.seq
            if prompt.publish_now(subject, self._encode(announced.service, seq)):
                self.announced += 1
                self._note_sent(announced, seq, subject)
            else:
                self._announcer.postpone(announced, now)
