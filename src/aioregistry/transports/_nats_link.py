"""One connection to NATS, from the dial to its loss; it never comes back by itself.

nats-py connects, parses and delivers. What it promises beyond that is not relied on: it may
believe in a link that is dead, wait for ever on one that hangs, or swallow a cancellation
while it waits. So no call that could wait is made on a link that is not flowing, and the
link is believed only as far as messages sent to ourselves come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nats.errors import Error, SlowConsumerError, StaleConnectionError

from aioregistry.errors import TransportError
from aioregistry.loglimit import LogLimiter
from aioregistry.transports._nats_delivery import Delivery, Interest, Routes
from aioregistry.transports._nats_driver import (
    MANAGED_OPTIONS,
    CarefulClient,
    abort,
    cause_of,
    check_credentials,
    dial_failure,
    finish,
)
from aioregistry.transports._nats_wire import DriverWire, Wire, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from urllib.parse import ParseResult

    from nats.aio.client import Client

__all__ = ["Link"]

_logger = logging.getLogger("aioregistry.transports.nats")

_EASE_AT: Final = 2**20
_AT_ONCE: Final = 1000
_BREATHS: Final = 3
_LOOK: Final = 0.25
_MISSES: Final = 2
_MARK_AFTER: Final = 16_384
"""How many bytes go between two marks: a path that takes longer for them than an echo may take
is too slow."""

_STRETCH: Final = 5
"""How many times longer an echo may take while something moves. What moves may be in one direction
only, so there is an end to it, and after two such echoes the link is lost."""

_AUDIT_INTERVAL: Final = 1.0
_FRAME: Final = 16
_CLOSE_GRACE: Final = 0.5
_DENIAL: Final = re.compile(
    r'permissions violation for (publish|subscription).*?"(\S+)"', re.IGNORECASE
)
_ESCAPED: Final = re.compile(r'\\(?:(["\\])|x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))')
_DENIALS: Final = 100_000
_TOO_MANY: Final = "maximum subscriptions exceeded"
_SHOWN: Final = 5

_Refused: TypeAlias = dict[tuple[str, str], str]
"""Why something is refused, by what it is ("publish" or "subscribe") and its subject."""

_Caller: TypeAlias = "asyncio.Future[_Refused]"
"""Somebody who waits for an echo, to learn what was refused before it."""


class Link:
    """A client that serves interests until it is `lost`.

    Every call ends at once, or with the next echo, or when the link is lost. The echo is a
    message to ourselves through the broker. It tells that the broker took all that was sent
    before it, and that all that came before it has been handled: the driver wakes the tasks
    of its subscriptions in the order of arrival, and each hands over all that it has in one
    go, because nothing in here waits.

    Much may be in front of an echo on a slow path, and the buffers of the operating system hide
    how it gets on. So there are marks in what is sent, messages to ourselves like the echo: as
    long as they come back, the link is slow, and not lost.

    Args:
        client: the nats-py client: a fresh one to `dial`, or a connected one.
        owned: whether the client is ours to close.
        patience: how long an echo may take, in seconds.
        on_gap: called with a reason when messages were lost although the link stayed.

    Attributes:
        lost: why the link is of no use any longer, in words; None while it is.
        permanent: whether another link would be lost for the same reason.
    """

    def __init__(
        self, client: Client, *, owned: bool, patience: float, on_gap: Callable[[str], None]
    ) -> None:
        self.lost: str | None = None
        self.permanent = False
        self._client = client
        self._owned = owned
        self._patience = patience
        self._on_gap = on_gap
        self._dialling = False
        self._reconnects = 0
        self._wire: Wire = DriverWire(client, owned=owned)
        self._ease_at = _EASE_AT
        self._inbox = ""
        self._inbox_prefix = ""
        self._inbox_delivery: Delivery | None = None
        self._deliveries: dict[Interest, Delivery] = {}
        self._to_end: dict[Interest, None] = {}
        self._routes = Routes()
        self._numbers = itertools.count(1)
        self._bell = asyncio.Event()
        self._awaited: str | None = None
        self._missed = 0
        self._unmarked = 0
        self._moves = (0, 0)
        self._waiting: list[_Caller] = []
        self._riding: list[_Caller] = []
        self._asked: dict[str, Callable[[], None]] = {}
        self._sent: list[str] = []
        self._sent_before: list[str] = []
        self._denied: _Refused = {}
        self._unproven: list[str | None] = []  # None stands for the end of a subscription
        self._proving = 0
        self._surplus = 0
        self._spellings: dict[str, str] | None = None
        self._last_error: Exception | None = None
        self._log = LogLimiter(_logger)
        self._audited = 0.0
        self._dropping = not owned  # a borrowed client tells its owner about drops, not us

    @property
    def server(self) -> str:
        """The server that the client is connected to, without credentials."""
        url = self._client.connected_url
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}" if url else "no server"

    @property
    def discovered(self) -> list[ParseResult]:
        """The servers of the cluster that nobody configured: the broker told of them."""
        client = self._client
        told = client.discovered_servers
        if not isinstance(client, CarefulClient) or client.members is None:
            return told
        return [url for url in told if url.netloc in client.members]

    async def dial(self, url: str, options: dict[str, Any], limit: float) -> None:
        """Connect the client to one server.

        Raises:
            TransportError: it did not work within `limit` seconds; `permanent` when the
                credentials or the certificate were refused.
        """
        self._dialling = True
        try:
            async with asyncio.timeout(limit):
                await check_credentials(options)
                await self._client.connect(
                    servers=[url],
                    error_cb=self._on_error,
                    disconnected_cb=self._on_closed,
                    closed_cb=self._on_closed,
                    **options | MANAGED_OPTIONS,
                )
            if isinstance(self._client, CarefulClient):
                self._client.check_encrypted()
        # A driver that reads files, calls the user's callbacks and imports optional packages
        # while it connects can raise anything.
        except Exception as error:
            raise dial_failure(url, cause_of(self._client, error), limit) from error
        finally:
            self._dialling = False

    def check_lost(self) -> None:
        """Raise `TransportError` when the link is of no use any longer."""
        if self.lost is not None:
            raise TransportError(f"not connected to NATS: {self.lost}", permanent=self.permanent)

    def serves(self, interest: Interest) -> bool:
        """Whether an interest is attached."""
        return interest in self._deliveries

    async def open(self, interests: Iterable[Interest]) -> None:
        """Subscribe to everything, and see that the link works.

        Raises:
            TransportError: it does not.
        """
        client = self._client
        self._reconnects = client.stats["reconnects"]
        self._last_error = client.last_error
        self._check_client()
        self.check_lost()
        if client.options.get("no_echo"):
            raise TransportError(
                "the NATS client was connected with no_echo=True; the transport needs to hear"
                " its own messages: leave that option out",
                permanent=True,
            )
        self._wire = wire_of(client, owned=self._owned)
        self._ease_at = min(_EASE_AT, self._wire.room // 2)
        if isinstance(client, CarefulClient) and client.parser is not None:
            client.parser.on_error = self._on_server_error
        self._inbox = client.new_inbox()
        self._inbox_prefix = self._inbox.rpartition(".")[0] + "."
        inbox = Interest(f"{self._inbox}.*", self._on_inbox, _forget)
        self._inbox_delivery = Delivery(inbox, self._on_refused, self._log)
        await self._listen(self._inbox_delivery)
        for number, interest in enumerate(interests, 1):
            await self.attach(interest)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # a link that takes them is not congested by them
        answered = await self._echo()
        while not answered and not self._missed:  # marks came back: there is much in front of it
            answered = await self._echo()
        self._check_client()  # what answered may have been told to go since
        self.check_lost()
        if not answered:
            raise TransportError(
                f"{self.server} did not return a message sent to {self._inbox!r} within"
                f" {self._patience:g} s; if it is up, let this user publish and subscribe to"
                f" '{self._inbox_prefix}>'"
            )

    async def attach(self, interest: Interest) -> None:
        """Serve an interest; without effect on a lost link, and when done twice.

        Raises:
            TransportError: the link is congested.
        """
        if interest in self._deliveries or self.lost is not None:
            return
        hidden = self._inbox_prefix if interest.pattern[0] in "*>" else None
        delivery = Delivery(interest, self._on_refused, self._log, hidden=hidden)
        self._deliveries[interest] = delivery
        self._spellings = None
        self._routes.add(interest)
        try:
            await self._listen(delivery)
        except BaseException:
            self._drop(interest)
            raise
        self._unproven.append(interest.pattern)
        self._unmarked += len(interest.pattern) + _FRAME
        if self._unmarked > _MARK_AFTER:
            await self._mark()

    async def detach(self, interest: Interest) -> None:
        """Serve an interest no longer; never raises."""
        self._to_end[interest] = None
        await self._breathe()
        await self._end_what_can_be()

    async def publish(self, subject: str, payload: bytes, reply_to: str = "") -> None:
        """Hand a message to the driver, which sends it soon.

        Raises:
            TransportError: the link is down or congested, or the payload is too large.
        """
        client = self._client
        if self.lost is not None or not client.is_connected:
            raise TransportError(f"not connected to NATS: {self.lost or 'the link is down'}")
        if len(payload) > client.max_payload:
            raise TransportError(
                f"the message for {subject!r} has {len(payload)} bytes, {self.server} takes at"
                f" most {client.max_payload} (max_payload in its configuration)",
                subjects=frozenset({subject}),
            )
        self._sent.append(subject)
        if self._wire.unsent + len(payload) > self._ease_at:
            await self._ease(len(payload))
        try:
            await self._wire.publish(subject, payload, reply_to)
        except (Error, OSError) as error:
            raise TransportError(f"cannot publish to {subject!r}: {error}") from error
        self._unmarked += len(subject) + len(payload) + _FRAME
        if self._unmarked > _MARK_AFTER:
            await self._mark()

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Send a message if that takes no wait, and nothing speaks against it; whether it did."""
        client, size = self._client, len(payload)
        if (
            self.lost is not None
            or not client.is_connected
            or size > client.max_payload
            or self._unmarked > _MARK_AFTER
            or self._wire.unsent + size > self._ease_at
            or not self._wire.publish_now(subject, payload)
        ):
            return False
        self._sent.append(subject)
        self._unmarked += len(subject) + size + _FRAME
        return True

    async def flush(self) -> None:
        """Wait for an echo that is sent from now on; `watch` sends it.

        Raises:
            TransportError: it did not come back in time, the link was lost, or the broker
                refused something that was published or subscribed to before.
        """
        self.check_lost()
        echoed: _Caller = asyncio.get_running_loop().create_future()
        self._waiting.append(echoed)
        self._bell.set()
        refused = await echoed
        if refused:
            for each in refused:  # not before: who is cancelled as it is told tells nobody
                self._denied.pop(each, None)
            raise _refusal(refused)

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that have no subscriber; raises as `publish` and `flush` do."""
        silent: set[str] = set()
        asked: list[str] = []
        try:
            for subject in subjects:
                reply_to = self._next_reply()
                self._asked[reply_to] = functools.partial(silent.add, subject)
                asked.append(reply_to)
                await self.publish(subject, b"", reply_to)
            await self.flush()
        finally:
            for reply_to in asked:
                self._asked.pop(reply_to, None)
        return frozenset(silent)

    async def watch(self, interval: float) -> str:
        """Prove the link at least every `interval` seconds until it is lost; return why.

        The messages that `flush` waits for are sent from here, one at a time, so that any
        number of callers share one.
        """
        look = interval if self._owned else _LOOK
        # While the link was opened, nobody could ask it to end them.
        self._to_end.update({each: None for each in self._deliveries if not each.active})
        while self.lost is None:
            await self._until(lambda: bool(self._waiting), interval, look)
            await self._end_what_can_be()
            self._riding, self._waiting = self._waiting, []
            answered = await self._echo()
            if self.lost is None:
                self._settle(answered)
                self._judge(answered)
        return self.lost

    def lose(self, reason: str, *, permanent: bool = False) -> None:
        """Declare the link lost; the first reason counts."""
        if self.lost is not None:
            return
        self.lost = reason
        self.permanent = permanent
        _fail(self._waiting, reason)
        _fail(self._riding, reason)
        self._bell.set()

    async def close(self) -> None:
        """End the subscriptions, and the client if it is ours, within a second; never raises.

        The socket goes even when this is cancelled.
        """
        grace = _CLOSE_GRACE if self.lost is None else 0.05
        self.lose("the link was closed")
        try:
            await self._end_subscriptions()
            if self._owned:
                await finish(self._client.close(), grace)
        finally:
            if self._owned:
                abort(self._client)
        if self._owned:
            # What the driver still does notices that the socket is gone.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def _end_subscriptions(self) -> None:
        deliveries = [*self._deliveries.values(), self._inbox_delivery]
        self._deliveries.clear()
        self._inbox_delivery = None
        await self._wire.close(list(filter(None, deliveries)))

    async def _end_what_can_be(self) -> None:
        """End the subscriptions that nobody wants, as far as there is room to say so."""
        while self._to_end:
            interest, _ = self._to_end.popitem()
            ended = False
            try:
                delivery = self._deliveries.get(interest)
                ended = delivery is None or await self._wire.end(delivery)
            finally:
                if not ended:
                    self._to_end[interest] = None
            if not ended:
                return
            if self._deliveries.get(interest) is not None:
                self._drop(interest)
                if self._unproven:
                    self._unproven.append(None)

    def _drop(self, interest: Interest) -> None:
        self._deliveries.pop(interest, None)  # a link that was closed meanwhile has none
        self._routes.remove(interest)

    async def _listen(self, delivery: Delivery) -> None:
        pattern = delivery.interest.pattern
        if self._wire.stuck:
            await self._breathe()
            if self.lost is not None:
                return
            if self._wire.stuck:
                raise TransportError(f"cannot subscribe to {pattern!r}: the link is congested")
        try:
            await self._wire.listen(delivery)
        except (Error, OSError) as error:
            self.lose(f"cannot subscribe to {pattern!r}: {error}")

    async def _breathe(self) -> None:
        """Let the driver write if it has much to write because nobody gave it a turn."""
        for _ in range(_BREATHS):
            if self.lost is not None or not self._wire.stuck:
                return
            await asyncio.sleep(0)

    async def _ease(self, size: int) -> None:
        """Let the driver write before more is added, or refuse when it cannot."""
        pending = 0
        for _ in range(_BREATHS):
            await asyncio.sleep(0)
            pending = self._wire.unsent
            if not pending or pending + size <= self._wire.room:
                return
        raise TransportError(
            f"the link to {self.server} is congested: {pending} bytes wait to be sent;"
            " publish more slowly, or wait until the broker is back"
        )

    def _next_reply(self) -> str:
        return f"{self._inbox}.{next(self._numbers)}"

    async def _mark(self) -> None:
        """Send a message to ourselves that nobody waits for."""
        self._unmarked = 0
        if self.lost is None and not self._wire.stuck:
            with contextlib.suppress(Error, OSError):
                await self._wire.publish(f"{self._inbox}.0", b"", "")

    async def _echo(self) -> bool:
        """Send a message to ourselves; whether it came back in time."""
        self._awaited = self._next_reply()
        self._missed += 1
        self._sent_before, self._sent = self._sent, []
        # A congested link does not carry it, and that is an answer too.
        with contextlib.suppress(TransportError):
            await self.publish(self._awaited, b"")
            self._proving = len(self._unproven)
            self._unmarked = 0
        look = min(_LOOK, self._patience / 4)
        self._has_moved()
        return await self._until(
            lambda: self._awaited is None, self._patience, look, self._has_moved
        )

    def _has_moved(self) -> bool:
        """Whether something came in or went out since the last call."""
        (received, unsent), self._moves = self._moves, (self._wire.received, self._wire.unsent)
        return self._moves[0] > received or self._moves[1] < unsent

    async def _until(
        self,
        happened: Callable[[], bool],
        seconds: float,
        look: float,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait until something happened or the link is lost; False after `seconds`.

        The driver is looked at every `look` seconds: a borrowed one does not call us. The time
        begins anew as long as `goes_on`, `_STRETCH` times at most.
        """
        # In slices: an event loop that was blocked for long comes back with the deadline and
        # the message both due; then one slice is gone, not all of them.
        look = min(look, seconds)
        left = slices = round(seconds / look)
        last = _STRETCH * slices
        clock = asyncio.get_running_loop().time
        end = clock() + look
        while left and last and not happened() and self.lost is None:
            self._bell.clear()
            try:
                async with asyncio.timeout_at(end):  # however often the bell rings meanwhile
                    await self._bell.wait()
            except TimeoutError:
                end = clock() + look
                last -= 1
                left = slices if goes_on() else left - 1
                self._check_client()
        return happened()

    def _settle(self, answered: bool) -> None:  # noqa: FBT001 - the outcome, passed on
        callers = [caller for caller in self._riding if not caller.done()]  # some are cancelled
        self._riding = []
        if not self._owned:
            self._look_for_denial()
        if not answered:
            _fail(callers, f"{self.server} did not answer within {self._patience:g} s")
        elif callers:
            refused = self._denied.copy()
            for caller in callers:
                caller.set_result(refused)

    def _judge(self, answered: bool) -> None:  # noqa: FBT001 - the outcome, passed on
        if not answered:
            if self._missed >= _MISSES:
                self.lose(self._dead())
        elif self._dropping and time.monotonic() - self._audited >= _AUDIT_INTERVAL:
            self._audit()

    def _audit(self) -> None:
        """Report what the driver dropped because it waited for handlers too long."""
        self._audited = time.monotonic()
        self._dropping = not self._owned
        for delivery in self._deliveries.values():
            if dropped := delivery.newly_dropped():
                self._on_gap(f"{dropped} messages for {delivery.interest!r} were dropped")

    def _dead(self) -> str:
        silence = f"{self.server} has not answered {_MISSES} times in a row"
        if self._owned:
            return silence
        return f"{silence}; if it is up, the borrowed client is stuck: reconnect it"

    def _check_client(self) -> None:
        """Notice what the driver knows about its connection."""
        client = self._client
        if client.is_closed:
            self.lose(self._ending(), permanent=not self._owned)
        elif client.is_draining:
            self.lose("the NATS client is being drained")
        elif not client.is_connected:
            self.lose(
                "the server hung up" if self._owned else "the borrowed NATS client is not connected"
            )
        elif client.stats["reconnects"] != self._reconnects:
            self.lose("the NATS client lost its connection, and reconnected")

    def _ending(self) -> str:
        error = self._client.last_error
        cause = f": {error}" if error else ""
        if self._owned:
            return f"the connection to NATS was closed{cause}"
        return (
            f"the borrowed NATS client is closed for good{cause};"
            " make a new NatsTransport with a client that is open"
        )

    async def _on_error(self, error: Exception) -> None:
        if self._dialling:
            # Raised out of `Client.connect`, which otherwise tries again and forgets why.
            raise error
        if denial := _DENIAL.search(str(error)):
            self._on_lowered(denial)
        elif isinstance(error, (OSError, StaleConnectionError)):
            self.lose(f"the connection to NATS broke: {error}")
        elif isinstance(error, SlowConsumerError):  # one call for each dropped message
            self._dropping = True
        else:
            _logger.warning("nats-py reports: %s", error)

    def _on_server_error(self, text: str) -> bool:
        """Deal with an error that ends no connection, in the very words of the server."""
        if denial := _DENIAL.search(text):
            self._on_denied(denial[1], _unquoted(denial[2]))
            return True
        if text.lower() != _TOO_MANY:
            return False
        self._surplus += 1
        return True

    def _prove(self) -> None:
        """An echo is back, and before it came all that the server had to say of what it follows."""
        asked, self._unproven = self._unproven[: self._proving], self._unproven[self._proving :]
        surplus, self._surplus, self._proving = self._surplus, 0, 0
        if not surplus:
            return
        asked = [each for each in asked if ("subscribe", each) not in self._denied]
        patterns = [pattern for pattern in asked if pattern is not None]
        if len(patterns) == len(asked):
            patterns = patterns[-surplus:]  # the first ones still found room
        # Otherwise some ended in between, and it may be any: to say too much is mended by the
        # next attempt, and who is told nothing waits for ever.
        for pattern in patterns:
            text = (
                f"cannot subscribe to {pattern!r}: {self.server} takes no more subscriptions of one"
                " connection (max_subscriptions in its configuration)"
            )
            self._deny("subscribe", pattern, text)
        text = f"{self.server} takes no more subscriptions of one connection"
        self._log.warning(_TOO_MANY, time.monotonic(), "%s: %d refused", text, surplus)

    def _look_for_denial(self) -> None:
        """Find the last refusal that a borrowed client has kept; it reports to its owner."""
        error = self._client.last_error
        if error is None or error is self._last_error:
            return
        self._last_error = error
        denial = _DENIAL.search(str(error))
        if denial and self._spelling(denial[2]):
            self._on_lowered(denial)

    def _on_lowered(self, denial: re.Match[str]) -> None:
        """A refusal as the driver tells it; where two subjects differ in case only, it may err."""
        self._on_denied(denial[1], self._spelling(denial[2]) or denial[2])

    def _on_denied(self, what: str, subject: str) -> None:
        verb = "publish" if what.lower() == "publish" else "subscribe"
        text = f"the NATS user has no permission to {verb} to {subject!r}"
        if self._inbox and subject.lower().startswith(self._inbox.lower()):
            # Not this very inbox: each attempt has another one, and would be told anew.
            inboxes = f"to its inboxes; it needs both for '{self._inbox_prefix}>'"
            self.lose(f"the NATS user has no permission to {verb} {inboxes}", permanent=True)
            return
        self._deny(verb, subject, text)
        self._log.warning(text, time.monotonic(), "%s: %s", self.server, text)

    def _deny(self, verb: str, subject: str, text: str) -> None:
        if len(self._denied) < _DENIALS:
            self._denied[verb, subject] = text

    def _spelling(self, lowered: str) -> str | None:
        """The subject of ours that the driver has put in lower case."""
        for subject in (*self._sent_before, *self._sent, f"{self._inbox}.*"):
            if subject.lower() == lowered:
                return subject
        if self._spellings is None:
            patterns = [interest.pattern for interest in self._deliveries]
            self._spellings = {pattern.lower(): pattern for pattern in patterns}
        return self._spellings.get(lowered)

    async def _on_closed(self) -> None:
        self.lose(self._ending())

    def _on_inbox(self, subject: str, _payload: bytes) -> None:
        self._missed = 0
        if subject == self._awaited:
            self._awaited = None
            self._prove()
            self._bell.set()

    def _on_refused(self, subject: str) -> None:
        """Pass on that nobody heard: the broker tells only one of those who wait for it."""
        asked = self._asked.pop(subject, None)
        if asked is not None:
            asked()
            return
        for interest in self._routes.reached_by(subject):
            interest.take(subject, b"")


async def _forget(_interest: Interest) -> None:
    """The inbox goes with the link."""


def _fail(callers: Iterable[_Caller], reason: str) -> None:
    for caller in callers:
        if not caller.done():
            caller.set_exception(TransportError(reason))


def _unquoted(subject: str) -> str:
    r"""The subject that the server wrote as a string of Go: with \" and \\."""
    return _ESCAPED.sub(
        lambda found: found[1] or chr(int(found[2] or found[3] or found[4], 16)), subject
    )


def _refusal(refused: _Refused) -> TransportError:
    more = len(refused) - _SHOWN
    shown = "; ".join(itertools.islice(refused.values(), _SHOWN))
    return TransportError(
        f"{shown}; and {more} more" if more > 0 else shown,
        subjects=frozenset(subject for verb, subject in refused if verb == "publish"),
        subscriptions=frozenset(subject for verb, subject in refused if verb == "subscribe"),
    )
