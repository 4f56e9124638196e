"""Which handlers get what one SUBSCRIBE or PSUBSCRIBE brings in."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError

from aioregistry.subjects import is_pattern, matches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ._redis_link import Link
    from ._redis_wire import Reply
    from .base import Handler

__all__ = ["MARKS", "Interest", "Route", "Routes"]

MARKS = b"*[*>]*"
"""The glob of all marks (see `Routes`), and of some other channels too."""


_logger = logging.getLogger(__name__)

# What means something to a Redis glob outside of brackets. Nothing else is escaped, since an
# ACL compares the glob with the allowed one letter by letter.
_SPECIAL = re.compile(r"([*?\[\\])")


class Interest:
    """A `Subscription`: one handler's interest in one pattern.

    Attributes:
        number: when it was last asked for; see `Refusals`.
    """

    def __init__(
        self, pattern: str, handler: Handler, on_end: Callable[[Interest], Awaitable[None]]
    ) -> None:
        self.pattern = pattern
        # Where a Redis glob says what the pattern says, its messages need no second look.
        self.exact = not is_pattern(pattern.removesuffix(".>"))
        self.number = 0
        self._handler: Handler | None = handler
        self._on_end = on_end

    def __repr__(self) -> str:
        return f"<subscription to {self.pattern!r}>"

    async def unsubscribe(self) -> None:
        """End the interest; see `Subscription.unsubscribe`."""
        self.end()
        await self._on_end(self)

    def end(self) -> None:
        """Let no message through any longer, not even of those under way."""
        self._handler = None

    def deliver(self, subject: str, payload: bytes) -> None:
        """Call the handler, and survive what it raises."""
        if self._handler is None:
            return
        try:
            self._handler(subject, payload)
        except (Exception, asyncio.CancelledError):
            _logger.exception("the handler of %r raised", self)


class Route:
    """One Redis subscription, and the interests that share it.

    Attributes:
        verb: what is put before SUBSCRIBE and UNSUBSCRIBE: nothing, or a `P`.
        key: the channel or the glob.
        interests: replaced on every change, so that a delivery never sees one.
        confirmed: what Redis said to the subscription; None before it was asked.
    """

    __slots__ = ("confirmed", "interests", "key", "verb")

    def __init__(self, verb: bytes, key: bytes) -> None:
        self.verb = verb
        self.key = key
        self.interests: tuple[Interest, ...] = ()
        self.confirmed: asyncio.Future[Reply] | None = None

    @property
    def refused(self) -> bool:
        """Whether Redis has refused the subscription."""
        confirmed = self.confirmed
        return (
            confirmed is not None
            and confirmed.done()
            and isinstance(confirmed.result(), ResponseError)
        )

    def ask(self, feed: Link) -> asyncio.Future[Reply]:
        """Bring the subscription into force; the result is what Redis says to it."""
        self.confirmed = feed.request(self.verb + b"SUBSCRIBE", self.key, echo=self.key)
        return self.confirmed

    def drop(self, feed: Link) -> asyncio.Future[Reply]:
        """End the subscription."""
        return feed.request(self.verb + b"UNSUBSCRIBE", self.key, echo=self.key)

    def deliver(self, subject: str, payload: bytes) -> None:
        """Call the handlers of the interests that mean this subject."""
        for interest in self.interests:
            if interest.exact or matches(interest.pattern, subject):
                interest.deliver(subject, payload)


class Routes:
    """All routes of a transport, by channel and by glob.

    Redis sends one copy of a message per channel or glob that matches it, and names that
    channel or glob in the copy. So each copy goes to the interests of that route only.

    Redis tells who subscribes to a channel, but not who subscribes to a glob. So a pattern
    has a second route, its mark: the channel that is spelled like the pattern. No subject
    has a wildcard for a token, hence such a channel is nothing but a mark.
    """

    def __init__(self) -> None:
        self._channels: dict[bytes, Route] = {}
        self._globs: dict[bytes, Route] = {}
        self._marks: dict[bytes, Route] = {}
        self._warned = False

    def __iter__(self) -> Iterator[Route]:
        for table in (self._channels, self._globs, self._marks):
            yield from tuple(table.values())

    def add(self, interest: Interest) -> list[Route]:
        """Put an interest on its routes, which are made where there are none."""
        found: list[Route] = []
        for table, verb, key in self._places(interest.pattern):
            route = table.get(key)
            if route is None:
                route = table[key] = Route(verb, key)
            route.interests += (interest,)
            found.append(route)
        return found

    def remove(self, interest: Interest) -> list[Route]:
        """Take an interest away; returns those of its routes that are of no more use."""
        unused: list[Route] = []
        for table, _, key in self._places(interest.pattern):
            route = table.get(key)
            if route is not None and interest in route.interests:
                route.interests = tuple(each for each in route.interests if each is not interest)
                if not route.interests:
                    unused.append(table.pop(key))
        return unused

    def clear(self) -> None:
        """End all interests."""
        for route in self:
            for interest in route.interests:
                interest.end()
        for table in (self._channels, self._globs, self._marks):
            table.clear()

    def deliver(self, message: list[bytes]) -> None:
        """Pass on a message as Redis sends it: kind, glob if any, channel, payload."""
        key, channel, payload = message[1], message[-2], message[-1]
        route = (self._channels if len(message) == 3 else self._globs).get(key)
        if route is None:
            return
        try:
            subject = channel.decode()
        except UnicodeDecodeError:
            self._warn_of(channel)
            return
        route.deliver(subject, payload)

    def deliver_here(self, subject: str, payload: bytes) -> None:
        """Call every handler whose pattern matches, once."""
        route = self._channels.get(subject.encode())
        if route is not None:
            route.deliver(subject, payload)
        for glob in tuple(self._globs.values()):
            for interest in glob.interests:
                if matches(interest.pattern, subject):
                    interest.deliver(subject, payload)

    def _places(self, pattern: str) -> list[tuple[dict[bytes, Route], bytes, bytes]]:
        name = pattern.encode()
        if not is_pattern(pattern):
            return [(self._channels, b"", name)]
        return [(self._globs, b"P", _glob(pattern).encode()), (self._marks, b"", name)]

    def _warn_of(self, channel: bytes) -> None:
        if not self._warned:
            self._warned = True  # once: a peer that does it may do it a thousand times a second
            _logger.warning("a message on channel %r was dropped: that is not UTF-8", channel)


def _glob(pattern: str) -> str:
    """The Redis glob that matches all that `pattern` matches, if not only that."""
    parts = pattern.split(".")
    if parts[-1] == ">":
        parts[-1] = "*"
    return ".".join("*" if part == "*" else _SPECIAL.sub(r"\\\1", part) for part in parts)
