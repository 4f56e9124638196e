"""Keeps the connection of a transport up, or the two: opens, watches, and rebuilds them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import anyio
from redis.asyncio.sentinel import MasterNotFoundError

from aioregistry.errors import TransportError

from ._pauses import Pauses
from ._redis_driver import explained, new_connection, try_another_sentinel
from ._redis_link import Link
from ._redis_wire import Reply
from .base import LinkState

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._redis_routes import Route, Routes
    from .base import StateHandler

__all__ = ["Keeper"]

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 3.0
_CLOSE_TIMEOUT = 1.5
_GRACE = 0.25


class Keeper:
    """One link for commands and messages; before Redis 6, one for each: both are up, or neither is.

    All of it lives in one task of its own, so it does not matter which task connects, which
    one closes, and what scopes they are in.

    Args:
        pool: the redis-py pool that holds the configuration.
        address: where the server is, for messages to people.
        routes: what has to be subscribed whenever the links come up.
        ask: brings one of these into force.
        probe_interval: the time between two looks at the links, in seconds.
        probe_timeout: the silence after which a link is given up, in seconds.

    Attributes:
        feed: the link for messages, as soon as it takes subscriptions.
        ordered: whether it is the link for commands too, as far as is known.
        closed: whether `aclose` was called.
    """

    def __init__(
        self,
        pool: Any,
        address: str,
        routes: Routes,
        ask: Callable[[Route, Link], asyncio.Future[Reply]],
        *,
        probe_interval: float,
        probe_timeout: float,
    ) -> None:
        self.feed: Link | None = None
        self.ordered = True
        self.closed = False
        self._pool = pool
        self._address = address
        self._routes = routes
        self._ask = ask
        self._probe_interval = probe_interval
        self._probe_timeout = probe_timeout
        self._on_state: StateHandler | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._links: tuple[Link, ...] = ()
        self._commands: Link | None = None
        self._why_down = "await connect() first"
        self._pauses = Pauses(time.monotonic)

    @property
    def commands(self) -> Link:
        """The link for commands.

        Raises:
            TransportError: there is none now, or the transport is closed.
        """
        self.check_open()
        if self._commands is None or self._commands.lost.done():
            reason = self._why_down.removeprefix(f"no link to {self._address}: ")
            raise TransportError(f"not connected to {self._address}: {reason}")
        return self._commands

    def check_open(self) -> None:
        """Raise `TransportError` once `aclose` was called."""
        if self.closed:
            raise TransportError(f"the transport to {self._address} is closed", permanent=True)

    def checked(self, reply: Reply, what: str, subjects: frozenset[str] = frozenset()) -> Any:
        """The reply, if it is one.

        Args:
            reply: what Redis said.
            what: what it was asked for, in words.
            subjects: what that is about, if the link as such does not depend on it.

        Raises:
            TransportError: Redis refused, or the link was lost.
        """
        if isinstance(reply, Exception):
            self.check_open()
            raise explained(self._address, reply, what, subjects=subjects) from reply
        return reply

    async def start(self, on_state: StateHandler) -> None:
        """Make one attempt to connect, and keep the links up if it succeeds.

        Raises:
            TransportError: the attempt failed, or is not the first.
        """
        self.check_open()
        if self._supervisor is not None and not self._supervisor.done():
            raise TransportError(f"connect() to {self._address} was called already", permanent=True)
        self._on_state = on_state
        attempt: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._supervisor = supervisor = asyncio.create_task(
            self._supervise(attempt), name=f"aioregistry {self._address}"
        )
        try:
            await attempt
        except BaseException:
            await _end(supervisor)
            raise

    async def aclose(self) -> None:
        """Close the links; what was just published is sent if Redis takes it at once.

        A cancellation does not stop the closing, only the waiting for it.
        """
        self.closed = True
        commands = self._commands
        self._mark_down("the transport is closed")
        try:
            if commands is not None and not commands.idle:
                with anyio.move_on_after(_GRACE, shield=True):
                    await asyncio.wait((commands.ping(),))
        finally:
            if self._supervisor is not None:
                await _end(self._supervisor)

    async def _supervise(self, attempt: asyncio.Future[None]) -> None:
        """Open the links, and open them again whenever one is lost, until cancelled."""
        try:
            await self._open()
            if not attempt.done():
                attempt.set_result(None)
            while True:
                since = time.monotonic()
                reason = await self._until_lost()
                self._pauses.lost(since)
                self._mark_down(reason)
                _logger.debug("lost the link to %s: %s", self._address, reason)
                self._report(LinkState.DISCONNECTED, reason)
                await self._close_links(reason)
                await self._reopen()
                _logger.debug("the link to %s is up again", self._address)
                self._report(LinkState.CONNECTED, f"connected to {self._address} again")
        except TransportError as error:
            if not attempt.done():
                attempt.set_exception(error)
        finally:
            if not attempt.done():
                attempt.set_exception(
                    TransportError(f"the transport to {self._address} was closed meanwhile")
                )
            self._mark_down(self._why_down)
            await self._close_links()

    async def _open(self) -> None:
        """Open the links and bring the subscriptions into force, or leave nothing open.

        Raises:
            TransportError: it did not work.
        """
        deadline = asyncio.timeout(_CONNECT_TIMEOUT)
        try:
            async with deadline:
                commands = feed = Link(new_connection(self._pool), self._routes.deliver)
                self._links = (feed,)
                await feed.open()
                self.ordered = feed.resp3
                if not feed.resp3:
                    commands = Link(new_connection(self._pool))
                    self._links = (commands, feed)
                    await commands.open()
            # From here on `subscribe` sees to its own; what was there before is restored.
            self.feed = feed
            await self._restore(feed)
        except Exception as error:
            late = TransportError(self._no_answer(_CONNECT_TIMEOUT))
            failure = late if deadline.expired() else explained(self._address, error)
            self._mark_down(str(failure))
            await self._close_links()
            if deadline.expired():
                try_another_sentinel(self._pool)
            if isinstance(error, MasterNotFoundError):
                raise failure from None  # whose text may have a password
            raise failure from error
        self._commands = commands

    async def _restore(self, feed: Link) -> None:
        """Subscribe to everything, for as long as that gets on: many on a slow path take long."""
        asked = [self._ask(route, feed) for route in self._routes]
        # Redis answers in order, so the last answer comes after all others.
        if asked and not await feed.comes(asked[-1], _CONNECT_TIMEOUT):
            raise TransportError(self._no_answer(_CONNECT_TIMEOUT))
        if feed.lost.done():
            raise feed.lost.result()

    async def _reopen(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(self._pauses.next())
            try:
                await self._open()
            except TransportError as error:
                _logger.debug("%s; trying again", error)
                if error.permanent and str(error) != told:
                    told = str(error)
                    self._report(LinkState.DISCONNECTED, told)
            else:
                return

    async def _until_lost(self) -> str:
        """Watch the links until one is lost; returns the reason in words."""
        while True:
            signs = [link.lost for link in self._links]
            await asyncio.wait(
                signs, timeout=self._probe_interval, return_when=asyncio.FIRST_COMPLETED
            )
            answered = True
            for link in self._links:  # one after the other, so it takes no tasks
                if answered and not any(sign.done() for sign in signs):
                    answered = await link.answers(self._probe_timeout)
            for sign in signs:
                if sign.done():
                    return str(explained(self._address, sign.result()))
            if not answered:
                return self._no_answer(self._probe_timeout)

    def _mark_down(self, reason: str) -> None:
        self._commands = self.feed = None
        self._why_down = reason

    async def _close_links(self, reason: str = "the link was closed") -> None:
        for link in self._links:
            link.cut(reason)
        for link in self._links:
            await link.aclose()
        self._links = ()  # only now: after a cancellation, the end of the task closes the rest

    def _report(self, state: LinkState, reason: str) -> None:
        if self._on_state is None or self.closed:
            return
        try:
            self._on_state(state, reason)
        except Exception:
            _logger.exception("the state handler of %s raised", self._address)

    def _no_answer(self, seconds: float) -> str:
        return f"no answer from {self._address} within {seconds:g} s"


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait until it has ended, also inside a cancelled anyio scope."""
    if not task.cancelling():  # a second time would interrupt what it does about the first
        task.cancel()
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await asyncio.wait((task,))
