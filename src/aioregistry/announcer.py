"""What this process announces, and when next: a state machine without I/O, clock or task."""

from __future__ import annotations

import heapq
import math
import random
from typing import Final

import msgspec

from aioregistry.changes import Changes
from aioregistry.service import Service

__all__ = ["Announced", "Announcer"]

LATEST: Final = 0.76
JITTER: Final = 0.08
"""Heartbeats come after 0.68 to 0.76 of the interval: apart, so that fleets started together
do not beat together, and early, so that one that has not come after 0.8 of it is a sign."""

ANSWER_WINDOW: Final = 0.02
"""Answers to the pings of one name are so many seconds apart, when pings storm in."""

ANSWER_BURST: Final = 3
"""So many pings of one name in a row are answered at once."""

ANSWER_COST: Final = 0.0001
"""What the window grows by with each instance of the name, in seconds: it bounds the answers
of one process for one name to ten thousand a second, whatever the pings."""

_SLACK: Final = 0.02
"""Heartbeats due within so many seconds go out together."""

_NEVER: Final = float("-inf")


class Announced(msgspec.Struct, gc=False, eq=False):
    """One service of ours on the air.

    A struct that the garbage collector passes over, since nothing in it refers to it.

    Attributes:
        service: what is announced.
        order: the place in the order of registration.
        due: when it is announced next, on the caller's monotonic clock, in seconds.
        seq: the version of its content.
        sent: when it was announced last.
        changes: what calls that are under way ask of it; None: there is none.
    """

    service: Service
    order: int
    due: float
    seq: int = 1
    sent: float = _NEVER
    changes: Changes | None = None

    def __lt__(self, other: Announced) -> bool:
        return self.order < other.order


class Announcer:
    """The services of this process, and the times of their announcements.

    Args:
        interval: the longest time between two announcements of a service, in seconds.
        rng: where the jitter comes from.
    """

    def __init__(self, interval: float, rng: random.Random) -> None:
        self._interval = interval
        self._rng = rng
        self._order = 0
        self._announced: dict[tuple[str, str], Announced] = {}
        self._by_name: dict[str, dict[tuple[str, str], Announced]] = {}
        self._heap: list[tuple[float, Announced]] = []
        self._answered: dict[str, float] = {}
        self._answering: dict[str, float] = {}
        self._answers: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._announced)

    @property
    def services(self) -> tuple[Service, ...]:
        """What is announced, in the order of registration."""
        return tuple(announced.service for announced in self._announced.values())

    def names(self) -> tuple[str, ...]:
        """The names that are announced."""
        return tuple(self._by_name)

    def named(self, name: str) -> tuple[Service, ...]:
        """What is announced under `name`, in the order of registration."""
        return tuple(announced.service for announced in self._by_name.get(name, {}).values())

    def provides(self, name: str) -> bool:
        """Whether an instance of `name` is announced."""
        return name in self._by_name

    def get(self, key: tuple[str, str]) -> Announced | None:
        """What is announced under `key`, a service's `key`."""
        return self._announced.get(key)

    def announce(self, service: Service, now: float) -> Announced:
        """Announce `service` at once, and from then on; again for the same key: a change.

        A change keeps the incarnation and gets the next number.
        """
        key = service.key
        announced = self._announced.get(key)
        if announced is None:
            self._order += 1
            announced = Announced(service, self._order, now)
            self._announced[key] = announced
            self._by_name.setdefault(service.name, {})[key] = announced
        elif announced.service != service:
            announced.service = service
            announced.seq += 1
        self._queue(announced, now)
        return announced

    def withdraw(self, key: tuple[str, str]) -> Announced | None:
        """Announce `key` no longer; returns what was announced."""
        announced = self._announced.pop(key, None)
        if announced is not None:
            announced.due = float("nan")
            announced.seq += 1  # who waits for the withdrawal waits for no message before it
            siblings = self._by_name[announced.service.name]
            del siblings[key]
            if not siblings:
                del self._by_name[announced.service.name]
                self._answered.pop(announced.service.name, None)
                self._answering.pop(announced.service.name, None)
        return announced

    def answer(self, name: str, incarnation: str, now: float) -> None:
        """A ping arrived for `name`, or for one incarnation of it (not empty).

        A token bucket (as the generic cell rate algorithm of ITU-T I.371) per name lets a
        lone ping be answered at once, and merges a storm of them into one answer a window.
        """
        siblings = self._by_name.get(name)
        if siblings is None:
            return
        window = ANSWER_WINDOW + ANSWER_COST * len(siblings)
        if incarnation:
            for announced in siblings.values():
                if announced.service.id == incarnation:
                    self._queue_earlier(announced, max(now, announced.sent + window))
            return
        if name in self._answering:
            return  # an answer to those before is under way, and answers this one too
        full = max(self._answered.get(name, _NEVER), now) + window
        self._answered[name] = full
        due = self._answering[name] = max(now, full - ANSWER_BURST * window)
        if len(self._answers) > 2 * len(self._answering) + 100:  # withdrawals left dead ones
            self._answers = sorted((due, name) for name, due in self._answering.items())
        else:
            heapq.heappush(self._answers, (due, name))

    def take_answer(self, name: str, now: float, *, most: int) -> list[Announced]:
        """What the answer to a ping for `name` has to say, if it is due and is not said by `due`.

        Args:
            name: what was asked for.
            now: the time, in seconds.
            most: more instances than that are left to `due`, all of them.
        """
        siblings = self._by_name.get(name, {})
        if len(siblings) > most or self._answering.get(name, math.inf) > now:
            return []
        del self._answering[name]
        answer = list(siblings.values())
        for announced in answer:
            self.sent(announced, now)
        return answer

    def repeat(self, name: str, now: float) -> bool:
        """Announce again whatever of `name` was announced before; whether there is any."""
        said = [each for each in self._by_name.get(name, {}).values() if each.sent > _NEVER]
        for announced in said:
            self._queue_earlier(announced, now)
        return bool(said)

    def renew(self, now: float) -> None:
        """Announce everything again, each as another version of itself."""
        for announced in self._announced.values():
            announced.seq += 1
            self._queue(announced, now)

    def announce_all(self, now: float, spread: float = 0.0) -> None:
        """Announce everything again, within `spread` seconds."""
        for announced in self._announced.values():
            self._queue(announced, now + self._rng.uniform(0.0, spread))

    def postpone(self, announced: Announced, due: float) -> None:
        """Try again at `due` to announce what could not be sent."""
        if self._announced.get(announced.service.key) is announced:
            self._queue(announced, due)

    def next_deadline(self) -> float | None:
        """When `due` has something next; None when nothing is announced."""
        heap, answers = self._heap, self._answers
        while heap and heap[0][1].due != heap[0][0]:
            heapq.heappop(heap)
        while answers and self._answering.get(answers[0][1]) != answers[0][0]:
            heapq.heappop(answers)
        return min((queue[0][0] for queue in (heap, answers) if queue), default=None)

    def due(self, now: float) -> list[Announced]:
        """What has to be announced now; each is queued for its next heartbeat."""
        found: dict[Announced, None] = {}  # the heap may hold one twice for the same time
        answers = self._answers
        while answers and answers[0][0] <= now:
            due, name = heapq.heappop(answers)
            if self._answering.get(name) == due:
                del self._answering[name]
                found.update(dict.fromkeys(self._by_name[name].values()))
        heap = self._heap
        while heap and heap[0][0] <= now + _SLACK:
            due, announced = heap[0]
            if announced.due == due:
                if due > now and not found:
                    break
                found[announced] = None
            heapq.heappop(heap)
        for announced in found:
            self.sent(announced, now)
        return list(found)

    def sent(self, announced: Announced, now: float) -> None:
        """It was or is being announced at `now`: queue it for its next heartbeat."""
        announced.sent = now
        if self._announced.get(announced.service.key) is announced:
            beat = LATEST - self._rng.uniform(0, JITTER)
            self._queue(announced, now + self._interval * beat)

    def _queue_earlier(self, announced: Announced, due: float) -> None:
        if due < announced.due:
            self._queue(announced, due)

    def _queue(self, announced: Announced, due: float) -> None:
        announced.due = due
        if len(self._heap) > 2 * len(self._announced) + 100:  # changes left more dead than living
            self._heap = [(a.due, a) for a in self._announced.values() if a is not announced]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (due, announced))
