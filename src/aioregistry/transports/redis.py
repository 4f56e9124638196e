"""The transport to Redis, Valkey, and whatever else speaks their protocol."""

from __future__ import annotations

import asyncio
import functools
import itertools
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from aioregistry.errors import TransportError
from aioregistry.limits import check_duration
from aioregistry.subjects import matches

from ._redis_driver import address_of, pool_of
from ._redis_keeper import Keeper
from ._redis_refusals import Refusals
from ._redis_routes import MARKS, Interest, Routes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import redis.asyncio

    from ._redis_link import Link
    from ._redis_routes import Route
    from ._redis_wire import Reply
    from .base import Handler, StateHandler, Subscription

__all__ = ["RedisTransport"]

_FLUSH_TIMEOUT = 5.0
# Longer, and a Redis may be set up to cut the connection: `proto-max-bulk-len` is at least this.
_MAX_PAYLOAD = 2**20
_SUBJECTS_PER_LOOK = 1000


class RedisTransport:
    """A `Transport` over the pub/sub of one Redis (or Valkey) server.

    Subjects are channels, the same strings. A pattern becomes PSUBSCRIBE with the glob that
    covers it, and what Redis delivers beyond the pattern (its `*` spans dots) is dropped.

    It opens one connection, also when it is given a client: of that, it shares the
    configuration (address, credentials, TLS), and it neither uses nor closes its connections.
    So it does not matter how the client decodes, retries or times out, and two transports on
    one client get their own copy of every message. Servers before Redis 6, and versions of
    hiredis before 3.2, take two connections, one for commands and one for messages.

    A connection is asked for a sign of life every `probe_interval` seconds, and the server
    whether it is still a primary: a replica, whose messages stay there, is a link that is lost
    (before Redis 6 only where ROLE is allowed). When a connection is lost, all are rebuilt, for
    ever, with pauses that grow to a second.

    With an ACL, the user needs `+publish +subscribe +unsubscribe +psubscribe +punsubscribe
    +ping +pubsub|numsub +pubsub|channels`, and its channels must name every glob letter by
    letter: `&registry.*` lets it subscribe to `registry.ping.orders`, but only
    `&registry.register.*` to the pattern `registry.register.>`.

    Redis Cluster is not supported: its PUBLISH and PUBSUB NUMSUB count the subscribers of
    one node only. A client of Sentinel is: each connection asks for the current primary.

    Args:
        url: where the server is: `redis://`, `rediss://` (TLS) or `unix://`.
        client: a client to take the configuration from, instead of `url`.
        probe_interval: the time between two looks at a connection, in seconds.
        probe_timeout: the silence after which a connection is given up, in seconds.
        **connection_options: as for `redis.asyncio.Redis.from_url`, with `url` only. Options
            for decoding, retries, health checks, the protocol version and `socket_timeout`
            have no effect.

    Raises:
        ValueError: not exactly one of `url` and `client`, or one that makes no sense.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        client: redis.asyncio.Redis | None = None,
        probe_interval: float = 1.0,
        probe_timeout: float = 1.5,
        **connection_options: Any,
    ) -> None:
        check_duration("probe_interval", probe_interval)
        check_duration("probe_timeout", probe_timeout)
        pool = pool_of(url, client, connection_options)
        self._address = address_of(pool)
        self._routes = Routes()
        self._keeper = Keeper(
            pool,
            self._address,
            self._routes,
            self._ask,
            probe_interval=probe_interval,
            probe_timeout=probe_timeout,
        )
        self._refusals = Refusals(self._address)
        self._losses = self._losses_told = 0

    def __repr__(self) -> str:
        return f"<RedisTransport {self._address}>"

    @property
    def address(self) -> str:
        """The URL of the server, without credentials."""
        return self._address

    @property
    def look_interval(self) -> float | None:
        """See `Transport.look_interval`: PUBSUB NUMSUB asks for all in one command."""
        return 0.25

    @property
    def ordered(self) -> bool:
        """See `Transport.ordered`: over two connections they are not."""
        return self._keeper.ordered

    async def connect(self, on_state: StateHandler) -> None:
        """Make one attempt to connect, of at most 3 seconds; see `Transport.connect`.

        What was subscribed to before comes on top of that, for as long as Redis goes on
        confirming it: three seconds of silence end the attempt.

        A cancellation leaves nothing open; it may be called again then.

        Raises:
            TransportError: the attempt failed (`permanent`: wrong credentials, missing
                rights, an untrusted certificate), or the transport is connected or closed.
        """
        await self._keeper.start(on_state)

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        """Send one message off, with all others of this moment; see `Transport.publish`.

        Whoever sends thousands at once is made to let the event loop turn in between. A
        cancellation comes too late to hold the message back.

        Raises:
            TransportError: the link is down or congested, or the payload has more than
                1 MiB.
        """
        commands = self._keeper.commands
        if len(payload) > _MAX_PAYLOAD:
            raise TransportError(
                f"the message for {subject!r} has {len(payload)} bytes;"
                f" at most {_MAX_PAYLOAD} are certain to pass every Redis",
                subjects=frozenset((subject,)),
            )
        if commands.congested:
            raise TransportError(
                f"the link to {self._address} is congested: the message for {subject!r} was"
                " not sent; publish less at once, and flush in between"
            )
        self._publish(commands, subject, payload, reply_to)
        if commands.busy:
            await asyncio.sleep(0)

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Send one message off at once; see `PromptTransport.publish_now`."""
        try:
            commands = self._keeper.commands
        except TransportError:
            return False
        if len(payload) > _MAX_PAYLOAD or commands.congested or commands.busy:
            return False
        self._publish(commands, subject, payload, None)
        return True

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Deliver what matches `pattern` to `handler`; see `Transport.subscribe`.

        A refusal comes later: it is logged, and the next `flush` raises it. Over two
        connections, it waits until Redis has confirmed. Whoever subscribes to thousands at
        once is made to let the event loop turn in between. A cancellation takes the
        subscription back.

        Raises:
            TransportError: Redis refused, the link is congested, or the transport is closed.
        """
        self._keeper.check_open()
        feed = self._keeper.feed
        if feed is not None and feed.congested:
            raise TransportError(
                f"the link to {self._address} is congested: it takes no subscription to"
                f" {pattern!r} now; try again soon"
            )
        interest = Interest(pattern, handler, self._ended)
        interest.number = self._refusals.number()
        routes = self._routes.add(interest)
        if feed is None:
            return interest
        asked = [
            self._ask(route, feed) if route.confirmed is None or route.refused else route.confirmed
            for route in routes
        ]
        try:
            if not self.ordered:
                await self._confirm(pattern, routes, asked)
            elif feed.busy:
                await asyncio.sleep(0)
        except BaseException:
            self._forget(interest)
            raise
        return interest

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody subscribes to; see `Transport.unheard`.

        One command asks for up to a thousand of them, and, if any has no subscriber of its
        own, one more for the patterns that transports of this kind subscribe to. Other
        clients that use patterns do not count: somebody who watches all of Redis shall not
        make everything seem heard.

        Raises:
            TransportError: the link is down, or the user may not run PUBSUB NUMSUB or
                PUBSUB CHANNELS.
        """
        commands = self._keeper.commands
        looks = [
            (some, commands.request(b"PUBSUB", b"NUMSUB", *map(str.encode, some)))
            for some in _chunks(subjects)
        ]
        silent: list[str] = []
        for some, look in looks:
            counts = self._keeper.checked(await look, "PUBSUB NUMSUB")[1::2]
            silent += [subject for subject, n in zip(some, counts, strict=True) if not n]
        if not silent:
            return frozenset()
        marks = self._keeper.checked(
            await commands.request(b"PUBSUB", b"CHANNELS", MARKS), "PUBSUB CHANNELS"
        )
        patterns = [mark.decode(errors="replace") for mark in marks]
        return frozenset(
            subject
            for subject in silent
            if not any(matches(pattern, subject) for pattern in patterns)
        )

    async def flush(self) -> None:
        """Wait, at most 5 seconds, until both directions are clear; see `Transport.flush`.

        Raises:
            TransportError: the link is down, Redis did not answer in time, or messages were
                lost since the last flush together with a link that is up again by now; or,
                with `subjects` set, it has refused what was published or subscribed to since.
        """
        commands, feed = self._keeper.commands, self._keeper.feed
        lost_before = self._losses_told
        with self._refusals.telling() as tell:
            try:
                async with asyncio.timeout(_FLUSH_TIMEOUT):
                    if commands is not feed and not commands.idle:
                        self._keeper.checked(await commands.ping(), "PING")
                    # Only now: what it took by then is ahead of this echo on the other connection.
                    if feed is not None:
                        self._keeper.checked(await feed.ping(), "PING")
            except TimeoutError:
                raise TransportError(
                    f"no answer from {self._address} within {_FLUSH_TIMEOUT:g} s"
                ) from None
            if lost_before < self._losses:  # what was refused is for the next flush to tell
                self._losses_told = self._losses
                raise TransportError(
                    f"the link to {self._address} was lost for a moment, and messages with it"
                )
            refusal = tell()
        if refusal is not None:
            raise refusal

    async def aclose(self) -> None:
        """Close every connection; see `Transport.aclose`.

        What was published and not flushed is sent if Redis takes it at once. A cancellation
        does not stop the closing, only the waiting for it.
        """
        self._routes.clear()
        await self._keeper.aclose()

    def _publish(self, link: Link, subject: str, payload: bytes, reply_to: str | None) -> None:
        on_reply = functools.partial(self._published, self._refusals.number(), subject, reply_to)
        link.send(b"PUBLISH", subject.encode(), payload, on_reply=on_reply)

    def _published(self, number: int, subject: str, reply_to: str | None, reply: Reply) -> None:
        """What Redis said to a message: how many received it, or why it does not take it."""
        if reply == 0:
            if reply_to is not None:
                self._routes.deliver_here(reply_to, b"")
        elif isinstance(reply, ResponseError):
            self._refusals.message(number, subject, reply)
        elif isinstance(reply, Exception):
            self._losses += 1

    def _ask(self, route: Route, feed: Link) -> asyncio.Future[Reply]:
        """Bring a subscription into force; the result is what Redis says to it."""
        confirmed = route.ask(feed)
        for interest in route.interests:
            interest.number = self._refusals.number()
        confirmed.add_done_callback(functools.partial(self._subscribed, route))
        return confirmed

    def _subscribed(self, route: Route, confirmed: asyncio.Future[Reply]) -> None:
        reply = confirmed.result()
        if isinstance(reply, ResponseError):
            self._refusals.subscription(route, reply)
        elif not isinstance(reply, Exception):
            self._refusals.allowed(route)

    async def _confirm(
        self, pattern: str, routes: list[Route], asked: list[asyncio.Future[Reply]]
    ) -> None:
        """Wait for what Redis says; a lost link is no refusal."""
        await asyncio.wait(asked)
        self._keeper.check_open()
        for route, confirmed in zip(routes, asked, strict=True):
            reply = confirmed.result()
            if isinstance(reply, ResponseError):
                what = f"the subscription to {route.key.decode()!r}"
                self._keeper.checked(reply, what, frozenset((pattern,)))

    def _forget(self, interest: Interest) -> list[asyncio.Future[Reply]]:
        interest.end()
        self._refusals.forget(interest)
        unused, feed = self._routes.remove(interest), self._keeper.feed
        return [] if feed is None else [route.drop(feed) for route in unused]

    async def _ended(self, interest: Interest) -> None:
        confirmed = self._forget(interest)
        if confirmed and not self.ordered:
            await asyncio.wait(confirmed)


def _chunks(subjects: Collection[str]) -> Iterator[tuple[str, ...]]:
    left = iter(subjects)
    while some := tuple(itertools.islice(left, _SUBJECTS_PER_LOOK)):
        yield some
