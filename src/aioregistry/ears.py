"""What an announcing registry listens to: pings of its names, and questions whether it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from aioregistry.errors import TransportError
from aioregistry.limits import EVERYBODY
from aioregistry.link import Link
from aioregistry.transports.base import Subscription
from aioregistry.wire import Subjects

__all__ = ["Ears"]

_logger = logging.getLogger("aioregistry")


class Ears:
    """The subscriptions of one announcing registry.

    Args:
        link: the way to the broker.
        subjects: the subjects of the tenant.
        node: the random name of this registry.
        on_ping: takes the name that was asked for, and the payload of the ping.

    Attributes:
        node: the name of this registry, if it may be asked after by that name; or empty.
        proven: whether that is known.
    """

    def __init__(
        self, link: Link, subjects: Subjects, node: str, on_ping: Callable[[str, bytes], None]
    ) -> None:
        self._link = link
        self._subjects = subjects
        self.node = node
        self._on_ping = on_ping
        self._alive: Subscription | None = None
        self.proven = False
        self._ears: dict[str, Subscription | None] = {}

    def hears(self, name: str) -> bool:
        """Whether the pings of `name` are listened to."""
        return name in self._ears

    async def listen_for(self, names: Collection[str]) -> list[str]:
        """Listen to the pings of these names, and of no others; return those that are new.

        Raises:
            TransportError: the link failed.
        """
        wanted = {*names, EVERYBODY} if names else set[str]()
        missing = sorted(wanted - self._ears.keys())
        if missing:
            outcomes = await asyncio.gather(*map(self._listen, missing))
            for error in filter(None, outcomes):
                raise error
        for name in sorted(self._ears.keys() - wanted):
            ear = self._ears.pop(name)
            if ear is not None:
                await ear.unsubscribe()
        return [name for name in missing if name != EVERYBODY]

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error."""
        if self.node and self._subjects.alive(self.node) in error.subscriptions:
            # With that name in its announcements it would be taken for dead.
            _logger.warning(
                "a crash of this process will be seen no earlier than its ttl: %s", error
            )
            self.node = ""

    async def prove(self) -> None:
        """See to it, once, that whoever asks for our node hears that we are there.

        Raises:
            TransportError: the link failed.
        """
        if self.proven:
            return
        try:
            if self._alive is None:
                self._alive = await self._link.subscribe(self._subjects.alive(self.node), _overhear)
            await self._link.flush()
        except TransportError as error:
            if not error.subjects:
                raise
        self.proven = True

    async def _listen(self, name: str) -> TransportError | None:
        def on_ping(_subject: str, payload: bytes) -> None:
            self._on_ping(name, payload)

        subject = self._subjects.ping(name)
        try:
            self._ears[name] = await self._link.subscribe(subject, on_ping)
        except TransportError as error:
            if not error.subjects:
                return error
            # Without the right to hear pings it is found by its heartbeats all the same.
            _logger.warning("pings of %r will not be answered: %s", name, error)
            self._ears[name] = None
        return None


def _overhear(_subject: str, _payload: bytes) -> None:
    """Being subscribed is the answer."""
