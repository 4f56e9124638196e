"""What an announcing registry listens to: pings of its names, and questions whether it lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aioregistry.errors import TransportError
from aioregistry.limits import EVERYBODY
from aioregistry.link import Link
from aioregistry.loglimit import listed
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
        self.node = self._name = node
        self._on_ping = on_ping
        self._alive: Subscription | None = None
        self.proven = False
        self._ears: dict[str, Subscription | None] = {}
        self._wanted: dict[str, None] = {}
        self._unsettled: dict[str, None] = {}
        self._mute = False
        self._deaf: dict[str, None] = {}
        self._warned: dict[str, None] = {}
        self._settling = asyncio.Lock()

    def hears(self, name: str) -> bool:
        """Whether the pings of `name` are listened to."""
        return name in self._ears

    def open(self, name: str) -> None:
        """Listen to the pings of `name`, from the next `settle` on."""
        for each in (name, EVERYBODY):
            self._wanted[each] = None
            if each not in self._ears:
                self._unsettled[each] = None

    def close(self, name: str) -> None:
        """Listen to the pings of `name` no longer, from the next `settle` on."""
        del self._wanted[name]
        self._deaf.pop(name, None)
        self._warned.pop(name, None)
        self._unsettled[name] = None
        if self._wanted.keys() == {EVERYBODY}:
            self.close(EVERYBODY)

    async def settle(self) -> list[str]:
        """See to it that exactly what should be is listened to; return the names that are new.

        Those that were refused before are tried again, and are not new.

        Raises:
            TransportError: the link failed.
        """
        if not self._unsettled:
            return []
        async with self._settling:
            names = list(self._unsettled)
            missing = [name for name in names if name in self._wanted and name not in self._ears]
            if len(missing) == 1 or self._link.transport.ordered:
                # Without tasks: where subscribing does not wait, nor does this.
                outcomes = [await self._listen(name) for name in missing]
            else:
                outcomes = await asyncio.gather(*map(self._listen, missing))
            for error in filter(None, outcomes):
                raise error
            for name in names:
                if name in self._wanted and name not in self._ears:
                    continue  # wanted again while the others were seen to
                del self._unsettled[name]
                if name not in self._wanted:
                    ear = self._ears.pop(name, None)
                    if ear is not None:
                        await ear.unsubscribe()
        return [name for name in missing if name != EVERYBODY and name not in self._warned]

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error."""
        if self._subjects.alive(self._name) in error.subscriptions:
            if not self._mute:
                _logger.warning(
                    "a crash of this process will be seen no earlier than its ttl: %s", error
                )
            # With its name in its announcements it would be taken for dead.
            self._mute, self.node = True, ""
        deaf = [name for name in self._wanted if self._subjects.ping(name) in error.subscriptions]
        news = [name for name in deaf if name not in self._warned]
        self._deaf.update(dict.fromkeys(deaf))
        self._warned.update(dict.fromkeys(news))
        if news:
            # It is found by its heartbeats all the same.
            _logger.warning("lookups cannot find %s by asking: %s", listed(news), error)

    async def retry(self) -> None:
        """Give what was refused another try, with the next `settle`.

        Raises:
            TransportError: the link failed.
        """
        if self._mute:
            alive, self._alive = self._alive, None
            if alive is not None:
                await alive.unsubscribe()
            self.proven = False
            await self.prove()
        deaf, self._deaf = self._deaf, {}
        for name in deaf:
            self._unsettled[name] = None
            ear = self._ears.pop(name, None)
            if ear is not None:
                await ear.unsubscribe()

    async def prove(self) -> None:
        """See to it, once, that whoever asks for our node hears that we are there.

        Raises:
            TransportError: the link failed.
        """
        if self.proven:
            return
        self.node = self._name
        try:
            if self._alive is None:
                self._alive = await self._link.subscribe(self._subjects.alive(self.node), _overhear)
            await self._link.flush()
        except TransportError as error:
            if not error.subjects:
                raise
        self.proven, self._mute = True, not self.node

    async def _listen(self, name: str) -> TransportError | None:
        def on_ping(_subject: str, payload: bytes) -> None:
            self._on_ping(name, payload)

        subject = self._subjects.ping(name)
        try:
            self._ears[name] = await self._link.subscribe(subject, on_ping)
        except TransportError as error:
            if not error.subjects:
                return error
            self._ears[name] = None
        return None


def _overhear(_subject: str, _payload: bytes) -> None:
    """Being subscribed is the answer."""
