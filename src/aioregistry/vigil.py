"""Sees crashes early: a node that the broker says is gone, and stays gone, is dead.

A killed process loses its connection at once, and the broker knows. Every registry that
announces subscribes to a subject of its own, so "does anybody hear this?" tells whether it
is there. Said once it may be reconnecting, so lookups pass over its instances while there are
others; said again after longer than that takes, it is dead, and its instances need not be kept
for their whole ttl.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Final

from aioregistry.catalogue import Catalogue
from aioregistry.errors import TransportError
from aioregistry.link import Link
from aioregistry.loglimit import LogLimiter
from aioregistry.service import ServiceEvent
from aioregistry.wire import Subjects

__all__ = ["Vigil"]

_logger = logging.getLogger("aioregistry")

RECONNECTED: Final = 2.15
"""How long a node has to be gone, in seconds: a provider whose connection was cut for two
seconds is back by then."""

PROMPT: Final = 0.1
"""What is added to that where looks come all the time: there the first one may see a cut at
its very beginning, so that nothing is left for a busy machine."""

_RETRY: Final = 0.5
_REFUSED_RETRY: Final = 60.0
_LOOK_COST: Final = 0.002
"""What looking at a further node adds to the time between two looks at all, in seconds."""

MAX_REGULAR: Final = 500
"""With more nodes than that, only the late are looked at, however cheap a look is: the time
between two looks at all would be longer than it takes until somebody is late, and the broker
would have as many questions from every observer."""


class Vigil:
    """Looks after the nodes whose instances are in the catalogue.

    Where a look costs one command for all of them (`Transport.look_interval`), it looks
    regularly at up to `MAX_REGULAR`; elsewhere, and at more of them, only at those whose
    heartbeats are late, so peace costs nothing.

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
        self._doubted: set[str] = set()
        self._up_since = float("-inf")
        self._asked: AbstractSet[str] = frozenset()
        self._not_before = float("-inf")
        self._work = asyncio.Event()
        self._log = LogLimiter(_logger)

    @property
    def _interval(self) -> float | None:
        """How often everybody is looked at, in seconds; None: only who is late."""
        interval, nodes = self._link.transport.look_interval, len(self._catalogue.nodes)
        return None if interval is None or nodes > MAX_REGULAR else interval + _LOOK_COST * nodes

    @property
    def _patience(self) -> float:
        """How long a node has to be gone."""
        return RECONNECTED if self._interval is None else RECONNECTED + PROMPT

    def take_up(self) -> None:
        """Take up the nodes whose heartbeats are late, soon."""
        overdue = self._catalogue.take_overdue()
        if overdue:
            self._overdue |= overdue
            self._work.set()

    def resume(self) -> None:
        """The link is up again: what was seen before it was lost counts no longer.

        After an outage a large fleet may take long to be back, so whoever has not spoken since
        is not judged here: its ttl of grace decides.
        """
        self._up_since = self._clock()
        self._gone.clear()
        self._overdue.clear()
        self._doubt()

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error."""
        if not self._asked.isdisjoint(error.messages):
            self._refuse(error)

    async def run_forever(self) -> None:
        """Do the looking."""
        while True:
            await self._link.wait_connected()
            nodes = await self._next_nodes()
            if not nodes or not self._link.connected:
                continue
            try:
                await self._look_at(nodes)
            except TransportError as error:
                if error.permanent and not error.subjects:
                    self._refuse(error)
                self._overdue |= nodes
                self._work.set()
                await asyncio.sleep(_RETRY)
            if self._not_before > self._clock():
                await asyncio.sleep(self._not_before - self._clock())

    def _refuse(self, error: TransportError) -> None:
        """We have no right to ask: an instance dies when its ttl has passed."""
        if self._clock() < self._not_before:
            return  # whoever flushed at the same time has told it already
        _logger.warning("crashes will be seen no earlier than the ttl: %s", error)
        self._not_before = self._clock() + _REFUSED_RETRY

    async def _next_nodes(self) -> set[str]:
        """Wait until it is time to look, and return at whom."""
        interval, patience = self._interval, self._patience
        again = min(self._gone.values(), default=None)
        if interval is not None:
            if again is not None:
                interval = min(interval, again + patience - self._clock())
            await asyncio.sleep(max(0.0, interval))
            if self._interval is None:
                return set()  # they have become too many
            self._overdue.clear()
            return {*self._catalogue.nodes, *self._gone}
        try:
            async with asyncio.timeout_at(None if again is None else again + patience):
                await self._work.wait()
        except TimeoutError:
            pass
        self._work.clear()
        overdue, self._overdue = self._overdue, set()
        now = self._clock()
        return overdue | {node for node, since in self._gone.items() if now >= since + patience}

    async def _look_at(self, nodes: set[str]) -> None:
        asked, losses = self._clock(), self._link.losses
        subjects = {self._subjects.alive(node): node for node in sorted(nodes)}
        self._asked = subjects.keys()
        unheard = await self._link.unheard(subjects)
        answered = self._clock()
        if losses != self._link.losses:
            return  # who lost its own link cannot tell who else did
        gone = {subjects[subject] for subject in unheard}
        for node in nodes - gone:
            self._gone.pop(node, None)
        for node in gone:
            # The answer may come late, and tells of any moment since the question. So what is
            # sure to lie between two of them is from the first answer to the second question.
            self._gone.setdefault(node, answered)
        gone_since = asked - self._patience
        dead = {node: since for node, since in self._gone.items() if since <= gone_since}
        for node in dead:
            del self._gone[node]
        if dead:
            held = self._catalogue.held
            self._publish(self._catalogue.expel(dead, heard_since=self._up_since))
            if self._catalogue.held > held:
                self._log.warning(
                    "vanished",
                    answered,
                    "%d of %d instances vanished from the broker together, so it is more likely"
                    " torn apart than all of them gone: their ttl decides; counted in stats().held",
                    self._catalogue.held - held,
                    len(self._catalogue),
                )
        self._doubt()

    def _doubt(self) -> None:
        if self._gone.keys() != self._doubted:
            self._doubted = set(self._gone)
            self._catalogue.doubt(self._doubted, heard_since=self._up_since)
