"""Sees crashes early: a node that the broker says is gone, and stays gone, is dead.

A killed process loses its connection at once, and the broker knows. Every registry that
announces subscribes to a subject of its own, so "does anybody hear this?" tells whether it
is there. Said once it may be reconnecting; said again after longer than that takes, it is
dead, and its instances need not be kept for their whole ttl.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from aioregistry.catalogue import Catalogue
from aioregistry.errors import TransportError
from aioregistry.link import Link
from aioregistry.service import ServiceEvent
from aioregistry.wire import Subjects

__all__ = ["Vigil"]

RECONNECTED: Final = 2.15
"""How long a node has to be gone, in seconds: a provider whose connection was cut for two
seconds is back by then."""

_RETRY: Final = 0.5
_LOOK_COST: Final = 0.0005
"""What looking at a further node adds to the time between two looks at all, in seconds."""


class Vigil:
    """Looks after the nodes whose instances are in the catalogue.

    Where a look costs one command for all of them (`Transport.look_interval`), it looks
    regularly; elsewhere only at those whose heartbeats are late, so peace costs nothing.

    Args:
        link: the way to the broker.
        subjects: the subjects of the tenant.
        catalogue: whose instances these are.
        publish: takes the events of instances found dead.
        clock: the monotonic clock, in seconds.
    """

    def __init__(
        self,
        link: Link,
        subjects: Subjects,
        catalogue: Catalogue,
        publish: Callable[[Iterable[ServiceEvent]], None],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._subjects = subjects
        self._catalogue = catalogue
        self._publish = publish
        self._clock = clock
        self._overdue: set[str] = set()
        self._gone: dict[str, float] = {}
        self._work = asyncio.Event()

    def take_up(self) -> None:
        """Take up the nodes whose heartbeats are late, soon."""
        overdue = self._catalogue.take_overdue()
        if overdue and self._link.transport.look_interval is None:
            self._overdue |= overdue
            self._work.set()

    def resume(self) -> None:
        """The link is up again: what was seen before it was lost counts no longer."""
        self._gone.clear()
        self._overdue.clear()

    async def run_forever(self) -> None:
        """Do the looking."""
        while True:
            await self._link.wait_connected()
            nodes = await self._next_nodes()
            if not nodes or not self._link.connected:
                continue
            try:
                await self._look_at(nodes)
            except TransportError:
                self._overdue |= nodes
                self._work.set()
                await asyncio.sleep(_RETRY)

    async def _next_nodes(self) -> set[str]:
        """Wait until it is time to look, and return at whom."""
        interval = self._link.transport.look_interval
        if interval is not None:
            await asyncio.sleep(interval + _LOOK_COST * len(self._catalogue.nodes))
            return set(self._catalogue.nodes)
        again = min(self._gone.values(), default=None)
        try:
            async with asyncio.timeout_at(None if again is None else again + RECONNECTED):
                await self._work.wait()
        except TimeoutError:
            pass
        self._work.clear()
        overdue, self._overdue = self._overdue, set()
        now = self._clock()
        return overdue | {node for node, since in self._gone.items() if now >= since + RECONNECTED}

    async def _look_at(self, nodes: set[str]) -> None:
        asked, losses = self._clock(), self._link.losses
        subjects = {self._subjects.alive(node): node for node in sorted(nodes)}
        unheard = await self._link.transport.unheard(subjects)
        if losses != self._link.losses:
            return  # who lost its own link cannot tell who else did
        gone = {subjects[subject] for subject in unheard}
        for node in nodes - gone:
            self._gone.pop(node, None)
        for node in gone:
            self._gone.setdefault(node, asked)
        dead = {node: since for node, since in self._gone.items() if asked - since >= RECONNECTED}
        for node in dead:
            del self._gone[node]
        if dead:
            self._publish(self._catalogue.expel(dead))
