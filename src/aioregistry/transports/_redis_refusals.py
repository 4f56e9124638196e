"""What Redis does not take of us, and which flush tells it."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aioregistry.loglimit import LogLimiter, listed

from ._redis_driver import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from redis.exceptions import ResponseError

    from aioregistry.errors import TransportError

    from ._redis_routes import Interest, Route

__all__ = ["Refusals"]

_logger = logging.getLogger("aioregistry.transports.redis")

_MAX_MESSAGES = 10_000


class _Message(NamedTuple):
    """A message that was refused."""

    number: int
    subject: str
    reason: ResponseError


class _Deafness(NamedTuple):
    """Why an interest is not served, and by which of its routes."""

    route: Route
    reason: ResponseError


class Refusals:
    """The refusals that somebody has still to be told of.

    Messages, subscriptions and flushes are numbered alike: a refusal is told by every flush
    that began after what was refused, until one of them has ended, and by no later one.

    Args:
        address: where the server is, for messages to people.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._numbers = itertools.count()
        self._messages: deque[_Message] = deque(maxlen=_MAX_MESSAGES)
        self._deaf: dict[Interest, _Deafness] = {}
        self._told = -1
        self._flushes = 0
        self._log = LogLimiter(_logger)

    def number(self) -> int:
        """The next number."""
        return next(self._numbers)

    def message(self, number: int, subject: str, reason: ResponseError) -> None:
        """A message was refused."""
        self._messages.append(_Message(number, subject, reason))
        self._warn(subject, self._error(reason, messages=frozenset((subject,))))

    def subscription(self, route: Route, reason: ResponseError) -> None:
        """The subscription that some interests share was refused."""
        for interest in route.interests:
            self._deaf[interest] = _Deafness(route, reason)
            pattern = interest.pattern
            self._warn(pattern, self._error(reason, subscriptions=frozenset((pattern,))))

    def allowed(self, route: Route) -> None:
        """A subscription is in force, so that no earlier refusal of it is news."""
        if self._deaf:
            for interest in route.interests:
                deafness = self._deaf.get(interest)
                if deafness is not None and deafness.route is route:
                    del self._deaf[interest]

    def forget(self, interest: Interest) -> None:
        """Nobody is interested any longer."""
        self._deaf.pop(interest, None)

    @contextlib.contextmanager
    def telling(self) -> Generator[Callable[[], TransportError | None]]:
        """For a flush: gives what tells, once it is through, what was refused before it began."""
        since, until = self._told, self.number()
        self._flushes += 1

        def tell() -> TransportError | None:
            self._told = max(self._told, until)
            messages = [each for each in self._messages if since < each.number < until]
            deaf = {i: d for i, d in self._deaf.items() if since < i.number < until}
            reasons = [message.reason for message in messages]
            reasons += [deafness.reason for deafness in deaf.values()]
            if not reasons:
                return None
            return self._error(
                reasons[0],
                messages=frozenset(message.subject for message in messages),
                subscriptions=frozenset(interest.pattern for interest in deaf),
            )

        try:
            yield tell
        finally:
            self._flushes -= 1
            if not self._flushes:
                self._forget_what_was_told()

    def _forget_what_was_told(self) -> None:
        while self._messages and self._messages[0].number < self._told:
            self._messages.popleft()
        for interest in [each for each in self._deaf if each.number < self._told]:
            del self._deaf[interest]

    def _error(
        self,
        reason: ResponseError,
        *,
        messages: frozenset[str] = frozenset(),
        subscriptions: frozenset[str] = frozenset(),
    ) -> TransportError:
        kinds = (("messages to", messages), ("the subscription to", subscriptions))
        what = " and ".join(f"{kind} {listed(sorted(some))}" for kind, some in kinds if some)
        return explained(
            self._address, reason, what, subjects=messages, subscriptions=subscriptions
        )

    def _warn(self, subject: str, error: TransportError) -> None:
        self._log.warning(subject, time.monotonic(), "%s", error)
