"""The transport over NATS, with nats-py."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import DEFAULT_CONNECT_TIMEOUT, Client

from aioregistry.errors import TransportError
from aioregistry.limits import check_duration
from aioregistry.transports._nats_delivery import Interest
from aioregistry.transports._nats_driver import MANAGED_OPTIONS, CarefulClient, wants_tls
from aioregistry.transports._nats_link import Link
from aioregistry.transports._nats_servers import UNSENDABLE, Server, learned, parse_servers
from aioregistry.transports._pauses import Pauses
from aioregistry.transports.base import LinkState

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence

    from aioregistry.transports.base import Handler, StateHandler, Subscription

__all__ = ["NatsTransport"]

_logger = logging.getLogger(__name__)

_PROBE_INTERVAL: Final = 1.0
_PROBE_TIMEOUT: Final = 2.0
_CLOSE_TIMEOUT: Final = 1.5

_OWN_OPTIONS: Final = frozenset({"servers", *MANAGED_OPTIONS}) | {
    "error_cb",
    "disconnected_cb",
    "closed_cb",
    "reconnected_cb",
    "discovered_server_cb",
    "lame_duck_mode_cb",
    "reconnect_to_server_handler",
    "skip_subject_validation",
    "flush_timeout",
}
_DRIVER_OPTIONS: Final = frozenset(inspect.signature(Client.connect).parameters) - {"self"}

# A line of the protocol that has more than 4096 bytes makes the server hang up.
_LONGEST_SUBJECT: Final = 480
_NO_WILDCARDS: Final = re.compile(r"[^.*>]+(?:\.[^.*>]+)*")


class NatsTransport:
    """A `Transport` to a NATS server or cluster.

    With `servers`, it makes a connection of its own and keeps it up: whatever happens to
    the connection, it is thrown away and a new one is made. With `client`, it borrows a
    connection that the application made and keeps up; it only watches that one, and never
    closes, drains or reconnects it.

    The NATS user needs the permission to publish and subscribe to its inboxes, `_INBOX.>`
    unless `inbox_prefix` says otherwise: the transport proves the link by messages to itself.
    Patterns that begin with a wildcard do not see messages to inboxes.

    Args:
        servers: one or more URLs with the scheme `nats`, `tls`, `ws` or `wss`, in one string
            with commas or in a sequence; several are servers of one cluster. User and
            password, or a token, may stand before an `@`.
        client: a connected `nats.aio.client.Client` to borrow, instead of `servers`.
        probe_interval: how often a quiet link is tried, in seconds.
        probe_timeout: how long the broker has to answer, in seconds, and five times as long
            while something moves. Twice in a row without an answer, and the link counts as lost,
            unless part of what was sent has been answered.
        **connect_options: further options of `nats.connect`: `user`, `password`, `token`,
            `user_credentials`, `nkeys_seed`, `tls`, `name`, `connect_timeout`...

    Raises:
        ValueError: not exactly one of `servers` and `client`, or one that makes no sense.
        TypeError: an option that `nats.connect` does not have, or that is managed here.
    """

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        client: Client | None = None,
        probe_interval: float = _PROBE_INTERVAL,
        probe_timeout: float = _PROBE_TIMEOUT,
        **connect_options: Any,
    ) -> None:
        if (servers is None) == (client is None):
            raise ValueError("pass either servers= (one or more URLs) or client= to borrow one")
        check_duration("probe_interval", probe_interval)
        check_duration("probe_timeout", probe_timeout)
        _check_options(connect_options, borrowed=client is not None)
        self._servers = () if servers is None else parse_servers(servers)
        self._client = client
        self._probe_interval = probe_interval
        self._probe_timeout = probe_timeout
        self._options = connect_options
        self._discovered: tuple[Server, ...] = ()
        self._interests: dict[Interest, None] = {}
        self._on_state: StateHandler | None = None
        self._link: Link | None = None
        self._life: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pauses = Pauses(time.monotonic)
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "connected" if self._link else "not connected"
        return f"<NatsTransport {self.address} {state}>"

    @property
    def address(self) -> str:
        """The URLs of the servers, without credentials."""
        servers = self._servers
        if self._client is not None:
            servers = tuple(Server(url) for url in self._client.servers)
        return ",".join(str(server) for server in servers) or "nats:// (a borrowed client)"

    @property
    def look_interval(self) -> float | None:
        """See `Transport.look_interval`."""
        return None

    @property
    def ordered(self) -> bool:
        """See `Transport.ordered`: the other servers of a cluster learn of it later."""
        link = self._link
        return len(self._servers) < 2 and (link is None or not link.discovered)

    async def connect(self, on_state: StateHandler) -> None:
        """Try each server once; see `Transport.connect`.

        A borrowed client must be connected. When this is cancelled, nothing is left behind.

        Raises:
            TransportError: no server took us; `permanent` when all that answered refused
                the credentials, or were not trusted. Or connected already, or closed.
        """
        self._check_open()
        if self._life is not None and not self._life.done():
            raise TransportError(f"connect() was called before, for {self.address}", permanent=True)
        self._on_state = on_state
        up = asyncio.get_running_loop().create_future()
        self._life = self._spawn(self._live(up), "link")
        try:
            await up
        except BaseException:
            self._life.cancel()
            self._life = None
            raise

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        """Hand one message to the broker; see `Transport.publish`. It does not wait.

        Raises:
            TransportError: the link is down or congested, or the payload is too large.
            ValueError: a subject that NATS cannot carry.
        """
        link = self._link or self._require_link()
        _check_subject(subject)
        if reply_to is not None:
            _check_subject(reply_to)
        await link.publish(subject, payload, reply_to or "")

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Hand one message to the broker at once; see `PromptTransport.publish_now`.

        Never through a client that is borrowed, which sends by a task of its own.

        Raises:
            ValueError: a subject that NATS cannot carry.
        """
        _check_subject(subject)
        return self._link is not None and self._link.publish_now(subject, payload)

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Deliver what matches `pattern` to `handler`; see `Transport.subscribe`.

        A refusal for lack of permission comes later: it is logged, and the next `flush`
        raises it.

        Raises:
            TransportError: the link is congested, or the transport closed.
            ValueError: a pattern that NATS cannot carry.
        """
        self._check_open()
        _check_pattern(pattern)
        interest = Interest(pattern, handler, self._forget)
        self._interests[interest] = None
        try:
            if self._link is not None:
                await self._link.attach(interest)
        except BaseException:
            interest.active = False
            self._interests.pop(interest, None)
            raise
        return interest

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody subscribes to; see `Transport.unheard`.

        Raises:
            TransportError: as for `publish` and `flush`.
            ValueError: a subject that NATS cannot carry.
        """
        for subject in subjects:
            _check_subject(subject)
        return await self._require_link().unheard(subjects)

    async def flush(self) -> None:
        """Wait until both directions are clear; see `Transport.flush`.

        Raises:
            TransportError: the link is down or got lost, the broker did not answer within
                twice the probe timeout (ten times, while something moves), or it refused, for
                lack of permission or because there are too many subscriptions, something that
                was published or subscribed to since the last flush.
        """
        await self._require_link().flush()

    async def aclose(self) -> None:
        """Close the connection, unless it is borrowed; see `Transport.aclose`.

        What was published and not flushed is sent if the broker takes it at once. When this
        is cancelled, the rest is done without it.
        """
        if not self._closed:
            self._closed = True
            if self._link is not None:
                self._link.lose("the transport was closed")
            self._link = None
            for interest in self._interests:
                interest.active = False
            self._interests.clear()
            if self._life is not None:
                self._life.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def _live(self, up: asyncio.Future[None]) -> None:
        """Own the links, one after the other, for as long as the transport lives."""
        try:
            link = await self._open()
        except asyncio.CancelledError:
            if not up.done():
                up.set_exception(self._closed_error())
            raise
        except Exception as error:  # noqa: BLE001 - it goes to the caller of `connect`
            up.set_exception(error)
            return
        while True:
            if self._closed or up.cancelled():  # the driver swallows some cancellations
                await link.close()
                return
            self._link = link
            try:
                if not up.done():
                    up.set_result(None)
                    await asyncio.sleep(0)  # `connect` returns before anything is reported
                else:
                    self._report(LinkState.CONNECTED, f"connected to {link.server}")
                reason = await self._watch(link)
            except asyncio.CancelledError:
                self._link = None
                await link.close()
                raise
            if self._closed:
                continue
            self._link = None
            self._retire(link)
            self._report(LinkState.DISCONNECTED, reason)
            link = await self._reopen()

    async def _watch(self, link: Link) -> str:
        since = time.monotonic()
        try:
            reason = await link.watch(self._probe_interval)
        except Exception as error:  # whatever it is, the next link may do better
            _logger.exception("the link to %s is given up", self.address)
            reason = f"internal error: {error!r}"
        self._pauses.lost(since)
        return reason

    async def _reopen(self) -> Link:
        """Try until it works: soon at first, then once in half a second to a second."""
        told = ""
        while True:
            await asyncio.sleep(self._pauses.next())
            if self._closed:  # the driver swallows some cancellations
                raise asyncio.CancelledError
            try:
                return await self._open()
            except TransportError as error:
                _logger.debug("not connected yet: %s", error)
                if error.permanent and str(error) != told:
                    told = str(error)
                    self._report(LinkState.DISCONNECTED, told)
            except Exception:  # whatever it is, the transport must not give up for it
                _logger.exception("cannot connect to %s", self.address)

    async def _open(self) -> Link:
        """A link that works and serves every interest.

        There is no wait between the last look at the interests and the return, so whoever
        subscribes meanwhile is either served here or sees the link.
        """
        if self._client is not None:
            return await self._prove(self._new_link(self._client), None)
        failures: list[TransportError] = []
        for server in self._order():
            try:
                encrypt = wants_tls(server.url.scheme, self._options)
                return await self._prove(self._new_link(CarefulClient(encrypt=encrypt)), server)
            except TransportError as error:
                failures.append(error)
        raise TransportError(
            "; ".join(sorted(set(map(str, failures)))),  # the same words, whatever the order
            permanent=all(error.permanent for error in failures),
        )

    async def _prove(self, link: Link, server: Server | None) -> Link:
        try:
            if server is not None:
                options = {**server.login, **server.tls, **self._options}
                limit = float(options.get("connect_timeout", DEFAULT_CONNECT_TIMEOUT))
                await link.dial(server.url.geturl(), options, limit)
            await link.open(list(self._interests))
            await self._attach_new(link)
        except asyncio.CancelledError:
            await link.close()
            raise
        except Exception:
            self._retire(link)
            raise
        return link

    async def _attach_new(self, link: Link) -> None:
        """Serve whatever came while the link was opened, and while that is attached."""
        while new := [interest for interest in self._interests if not link.serves(interest)]:
            for interest in new:
                await link.attach(interest)
            link.check_lost()

    def _new_link(self, client: Client) -> Link:
        return Link(
            client,
            owned=self._client is None,
            patience=self._probe_timeout,
            on_gap=self._resync,
        )

    def _order(self) -> list[Server]:
        """The servers to try: the configured ones, and those that the last one told of."""
        known = {server.url.netloc for server in self._servers}
        others = [server for server in self._discovered if server.url.netloc not in known]
        servers = [*self._servers, *others]
        if not self._options.get("dont_randomize"):
            random.shuffle(servers)
        return servers

    def _retire(self, link: Link) -> None:
        """Close a link in the background: it may take a moment, and nothing depends on it."""
        if self._client is None:
            self._discovered = learned(self._servers, link.discovered) or self._discovered
        self._spawn(link.close(), "close")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"aioregistry nats {name} {self.address}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _resync(self, reason: str) -> None:
        self._report(LinkState.DISCONNECTED, reason)
        self._report(LinkState.CONNECTED, reason)

    def _report(self, state: LinkState, reason: str) -> None:
        if self._closed or self._on_state is None:
            return
        _logger.debug("%s: %s: %s", self.address, state.value, reason)
        try:
            self._on_state(state, reason)
        except (Exception, asyncio.CancelledError):
            _logger.exception("the state handler of %r raised", self)

    async def _forget(self, interest: Interest) -> None:
        self._interests.pop(interest, None)
        if self._link is not None:
            await self._link.detach(interest)

    def _require_link(self) -> Link:
        self._check_open()
        if self._link is None:
            raise TransportError(f"not connected to {self.address}")
        return self._link

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> TransportError:
        return TransportError(f"the transport to {self.address} is closed", permanent=True)


def _check_options(options: dict[str, Any], *, borrowed: bool) -> None:
    if borrowed and options:
        names = ", ".join(options)
        raise ValueError(f"{names}: a borrowed client is connected already; set it there")
    for name in options:
        if name in _OWN_OPTIONS:
            raise TypeError(f"{name} is managed by NatsTransport; leave it out")
        if name not in _DRIVER_OPTIONS:
            raise TypeError(f"nats.connect has no option {name}")


def _check_subject(subject: str) -> None:
    if not subject or len(subject) > _LONGEST_SUBJECT or UNSENDABLE.search(subject):
        raise ValueError(
            f"NATS cannot carry the subject {subject[:_LONGEST_SUBJECT]!r}: it must have 1 to"
            f" {_LONGEST_SUBJECT} characters, with no white space or control characters"
        )


def _check_pattern(pattern: str) -> None:
    _check_subject(pattern)
    if _NO_WILDCARDS.fullmatch(pattern):
        return
    *parents, last = pattern.split(".")
    literal = [part for part in parents if part != "*"]
    if last not in ("*", ">"):
        literal.append(last)
    if not all(literal) or any("*" in part or ">" in part for part in literal):
        raise ValueError(
            f"NATS takes no pattern {pattern!r}: '*' and a final '>' stand for whole tokens,"
            " and no token is empty"
        )
