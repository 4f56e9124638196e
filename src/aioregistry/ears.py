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
    """

    def __init__(
        self, link: Link, subjects: Subjects, node: str, on_ping: Callable[[str, bytes], None]
    ) -> None:
        self._link = link
        self._subjects = subjects
        self._node = node
        self._on_ping = on_ping
        self._alive = False
        self._ears: dict[str, Subscription | None] = {}

    async def listen_for(self, names: Collection[str]) -> None:
        """Listen to the pings of these names, and of no others.

        Raises:
            TransportError: the link failed.
        """
        wanted = {*names, EVERYBODY} if names else set[str]()
        missing = wanted - self._ears.keys()
        if missing and not self._alive:
            await self._link.transport.subscribe(self._subjects.alive(self._node), _overhear)
            self._alive = True
        if missing:
            outcomes = await asyncio.gather(*map(self._listen, sorted(missing)))
            for error in filter(None, outcomes):
                raise error
        for name in sorted(self._ears.keys() - wanted):
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


def _overhear(_subject: str, _payload: bytes) -> None:
    """Being subscribed is the answer."""
