"""What an observer asks of the fleet: who is there, and whether the silent still live."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterable
from itertools import groupby
from typing import Final

import anyio

from aioregistry import wire
from aioregistry.catalogue import Catalogue, Question
from aioregistry.errors import TransportError
from aioregistry.link import Link
from aioregistry.subjects import is_pattern

__all__ = ["Asker"]

MAX_JITTER: Final = 0.5
"""Every observer misses the same heartbeat: within so many seconds, or less where the ttl is
short, one of them asks first, and the answer serves all."""

_ONE_BY_ONE: Final = 8
"""When more instances of a name than this are silent, the whole name is asked instead."""


class Asker:
    """Sends pings.

    Args:
        link: the way to the broker.
        subjects: the subjects of the tenant.
        catalogue: whose questions these are.
        rng: where the jitter comes from.
        clock: the monotonic clock, in seconds.

    Attributes:
        pings: pings sent.
    """

    def __init__(
        self,
        link: Link,
        subjects: wire.Subjects,
        catalogue: Catalogue,
        *,
        rng: random.Random,
        clock: Callable[[], float],
    ) -> None:
        self.pings = 0
        self._link = link
        self._subjects = subjects
        self._catalogue = catalogue
        self._rng = rng
        self._clock = clock
        self._names: dict[str, None] = {}
        self._questions: frozenset[Question] = frozenset()
        self._work = asyncio.Event()

    def ask_for(self, patterns: Iterable[str]) -> None:
        """Ping what the patterns name, soon."""
        self._names.update(dict.fromkeys(patterns))
        self._work.set()

    def take_up(self) -> None:
        """Take up what the catalogue wants to know, soon."""
        questions = self._catalogue.take_questions()
        if questions:
            self._questions |= questions
            self._work.set()

    async def run_forever(self) -> None:
        """Do the asking."""
        async with anyio.create_task_group() as group:
            while True:
                await self._work.wait()
                self._work.clear()
                names, self._names = self._names, {}
                if names:
                    group.start_soon(self._ping_all, names)
                questions, self._questions = self._questions, frozenset()
                if questions:
                    group.start_soon(self._call, questions)

    async def ping(self, name: str, incarnation: str = "") -> None:
        """Ask the instances of `name`, or only one incarnation, to announce themselves.

        Raises:
            TransportError: the ping could not be sent.
        """
        payload = wire.encode_ping(incarnation) if incarnation else b""
        reply_to = self._subjects.register(name)  # where the Java peer answers
        await self._link.transport.publish(self._subjects.ping(name), payload, reply_to)
        self.pings += 1

    async def _ping_all(self, patterns: Collection[str]) -> None:
        try:
            if any(map(is_pattern, patterns)):
                await self._link.transport.publish(self._subjects.ping_everybody, b"")
                self.pings += 1
            for name in patterns:
                if not is_pattern(name):
                    await self.ping(name)
        except TransportError:
            return  # everything is asked again when the link is back

    async def _call(self, questions: frozenset[Question]) -> None:
        """Ping the silent, shortly before they expire."""
        patience = min(question.patience for question in questions)
        await asyncio.sleep(self._rng.uniform(0, min(patience, MAX_JITTER)))
        now = self._clock()
        still = sorted(q for q in questions if self._catalogue.unanswered(q, now))
        try:
            for name, group in groupby(still, key=lambda question: question.name):
                incarnations = {question.id for question in group}
                if "" in incarnations or len(incarnations) > _ONE_BY_ONE:
                    incarnations = {""}
                for incarnation in sorted(incarnations):
                    await self.ping(name, incarnation)
        except TransportError:
            return
