"""Who waits until the broker has taken a message, and how far that message has come."""

from __future__ import annotations

import asyncio

from aioregistry.announcer import Announced
from aioregistry.errors import RegistryError, TransportError

__all__ = ["Deliveries", "Delivery"]


class Delivery:
    """Somebody waits until the broker has taken the next message about a service.

    Attributes:
        announced: the service.
        seq: the version of its content that the message has to have, or a later one.
        patient: whether to go on waiting while there is no broker.
        subject: where the message went, once it was sent.
        done: succeeds when the broker has taken it.
    """

    __slots__ = ("announced", "done", "patient", "seq", "subject")

    def __init__(self, announced: Announced, *, patient: bool) -> None:
        self.announced = announced
        self.seq = announced.seq
        self.patient = patient
        self.subject = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def succeed(self) -> None:
        """Let the one who waits go on."""
        if not self.done.done():
            self.done.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any longer, nor hears of what went wrong."""
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()

    def fail(self, error: RegistryError) -> None:
        """Tell the one who waits why it will not be."""
        if not self.done.done():
            self.done.set_exception(error)


class Deliveries:
    """All that is waited for: first to be sent, then to be confirmed."""

    def __init__(self) -> None:
        self._unsent: dict[Announced, list[Delivery]] = {}
        self._unconfirmed: list[Delivery] = []
        self._confirming: list[Delivery] = []

    @property
    def unsent(self) -> tuple[Announced, ...]:
        """The services about which somebody waits for a message to be sent."""
        return tuple(self._unsent)

    def expect(self, announced: Announced, *, patient: bool) -> Delivery:
        """Somebody begins to wait for the next message about a service."""
        delivery = Delivery(announced, patient=patient)
        self._unsent.setdefault(announced, []).append(delivery)
        return delivery

    def sent(self, announced: Announced, seq: int, subject: str) -> bool:
        """A message about a service was sent; returns whether anybody waits for it.

        Args:
            announced: the service.
            seq: the version that was sent: who asked for a later one meanwhile goes on waiting.
            subject: where it went.
        """
        deliveries = self._take(announced, seq)
        for delivery in deliveries:
            delivery.subject = subject
        self._unconfirmed += deliveries
        return bool(deliveries)

    def settle(self, announced: Announced) -> None:
        """No message about a service is needed any more."""
        for delivery in self._unsent.pop(announced, []):
            delivery.succeed()

    def refused(self, announced: Announced, seq: int, error: TransportError) -> bool:
        """A message about a service is not taken; returns whether anybody learns of it."""
        deliveries = self._take(announced, seq)
        for delivery in deliveries:
            delivery.fail(error)
        return bool(deliveries)

    def take_sent(self) -> list[Delivery]:
        """Those that were sent and wait to be confirmed, once."""
        self._confirming, self._unconfirmed = self._unconfirmed, []
        return self._confirming

    def deny(self, error: TransportError) -> None:
        """The broker has refused what was sent to the subjects of the error."""
        for delivery in (*self._confirming, *self._unconfirmed):
            if delivery.subject in error.messages:
                delivery.fail(error)

    def unsure(self, batch: list[Delivery]) -> None:
        """It is not known whether these messages arrived: they count as not sent."""
        for delivery in batch:
            if not delivery.done.done():
                self._unsent.setdefault(delivery.announced, []).append(delivery)

    def suspend(self) -> None:
        """There is no broker: nothing sent can be confirmed, and the impatient go on.

        What is being confirmed just now stays with whoever does that.
        """
        unconfirmed, self._unconfirmed = self._unconfirmed, []
        self.unsure(unconfirmed)
        for announced, deliveries in list(self._unsent.items()):
            for delivery in deliveries:
                if not delivery.patient:
                    delivery.succeed()
            self._unsent[announced] = [each for each in deliveries if each.patient]
            if not self._unsent[announced]:
                del self._unsent[announced]

    def give_up(self, error: RegistryError) -> None:
        """Nothing more will be sent."""
        for deliveries in (*self._unsent.values(), self._unconfirmed, self._confirming):
            for delivery in deliveries:
                delivery.fail(error)

    def _take(self, announced: Announced, seq: int) -> list[Delivery]:
        """Those who wait for a message about a service with this version, or an earlier one."""
        waiting = self._unsent.pop(announced, [])
        later = [delivery for delivery in waiting if delivery.seq > seq]
        if later:
            self._unsent[announced] = later
        return [delivery for delivery in waiting if delivery.seq <= seq] if later else waiting
