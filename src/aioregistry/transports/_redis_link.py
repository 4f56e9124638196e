"""One connection to Redis: commands go out in order, and their replies come back in order.

redis-py opens, authenticates and parses; what its clients and pools add on top is left out.
Their PubSub reconnects and resubscribes without a word, so that nobody learns what was
missed, and costs several times as much per message.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from redis.exceptions import RedisError, ResponseError

from ._connection import abort
from ._redis_wire import Push, Reply, stream_of, wire_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._redis_wire import DriverConnection, Wire

__all__ = ["Link", "OnReply"]

OnReply: TypeAlias = "Callable[[Reply], None]"

_MESSAGES = (b"message", b"pmessage")
# What RESP3 marks as no answer although it is one; everything else so marked is none, and no
# concern of ours.
_CONFIRMATIONS = (b"subscribe", b"unsubscribe", b"psubscribe", b"punsubscribe")
# What tells the role of a server on a link without subscriptions: as long as HELLO is known, every
# user may say it; before, there were no users.
_ROLE_ON_OLD_LINKS = ((b"HELLO", b"2"), (b"ROLE",))
_REPLICA = (b"replica", b"slave")
_BUSY_FROM = 1024
_MAX_WAITING = 131_072
_MAX_UNSENT_BYTES = 64 * 2**20
_CLOSE_TIMEOUT = 0.5
_SLICES = 4
_ONE_WAY = 10


class Link:
    """A connection that either works or is `lost`; it never comes back by itself.

    Every request ends: with its reply, or with the reason why the link was lost. A link
    that hangs is for its owner to find, with `answers`, and to end, with `aclose`.

    Args:
        connection: a connection of the driver, not opened yet.
        on_message: called with each message of a subscription as Redis sends it: a list of
            kind, glob if any, channel, payload. It must not raise. None: no subscriptions.

    Attributes:
        lost: done as soon as the link is unusable; its result is the reason.
        resp3: whether a link with subscriptions serves for everything else too.
    """

    def __init__(
        self,
        connection: DriverConnection,
        on_message: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self.resp3 = False
        self._connection = connection
        self._on_message = on_message or _drop
        # What messages are. In RESP2 answers are lists too, but of a link with subscriptions each
        # begins with a word of its own; in RESP3 that of an answer may be anything.
        self._messages_are: type[Any] | None = None if on_message is None else list
        self._waiting: deque[tuple[OnReply, bytes | None]] = deque()
        self._received = self._answered = 0
        self._tokens = itertools.count()
        self._wire: Wire | None = None
        self._asks_role: tuple[bytes, ...] = ()  # nothing, where that is not to be had

    @property
    def congested(self) -> bool:
        """Whether so much waits for Redis that more would only wait longer."""
        return len(self._waiting) >= _MAX_WAITING or self._unsent >= _MAX_UNSENT_BYTES

    @property
    def busy(self) -> bool:
        """Whether whoever has more to send had better let the event loop turn in between."""
        return len(self._waiting) >= _BUSY_FROM

    @property
    def idle(self) -> bool:
        """Whether Redis has answered everything."""
        return not self._waiting

    @property
    def _unsent(self) -> int:
        return 0 if self._wire is None else self._wire.unsent

    async def open(self) -> None:
        """Connect, authenticate, and see one answer.

        Raises:
            RedisError: as the driver has it.
            OSError: likewise; or the server is a replica.
        """
        await self._connection.connect()
        self._wire = wire_of(self._connection, self._take, self._lose)
        # A server that wants a password lets a client without one in, and refuses only now.
        pong = self.ping()
        if self._messages_are is None:
            await self._learn_role(*_ROLE_ON_OLD_LINKS)
        elif self._wire.reads_resp3:
            # Before Redis 6 nobody knows it, it may be forbidden, and some stay with RESP2 then.
            hello = (b"HELLO", b"3")
            answer = await self.request(*hello)
            if isinstance(answer, dict):
                _check_role(answer)
                self.resp3, self._messages_are, self._asks_role = True, Push, hello
        reply = await pong
        if isinstance(reply, Exception):
            raise reply

    async def _learn_role(self, *commands: tuple[bytes, ...]) -> None:
        """Find the first of these that Redis takes: later, `answers` asks it too."""
        for command in commands:
            reply = await self.request(*command)
            if not isinstance(reply, Exception):
                self._asks_role = command
                _check_role(reply)
                return

    def send(
        self, *command: bytes, on_reply: OnReply, echo: bytes | None = None, hold: bool = False
    ) -> None:
        """Send a command.

        Args:
            *command: the command and its arguments.
            hold: whether to send it together with all others of this moment.
            on_reply: called once, with the reply or the reason why none will come, before
                anything that Redis sent later is looked at. It must not raise.
            echo: what a reply to this very command carries; another one means that
                commands and replies are out of step, and ends the link.
        """
        if self._wire is None or self.lost.done():
            on_reply(self.lost.result() if self.lost.done() else ConnectionError("not open yet"))
            return
        self._waiting.append((on_reply, echo))
        send = self._wire.hold if hold else self._wire.send
        send(_packed(command))

    def request(self, *command: bytes, echo: bytes | None = None) -> asyncio.Future[Reply]:
        """Send a command, together with all others of this moment.

        Returns:
            The reply to come. An exception is its result, so it may be left unread; its
            cancellation concerns nobody else.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()

        def resolve(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(*command, on_reply=resolve, echo=echo, hold=True)
        return future

    def ping(self) -> asyncio.Future[Reply]:
        """Ask for an echo; everything that Redis sent before has been handled by then."""
        token = b"aioregistry-%d" % next(self._tokens)
        return self.request(b"PING", token, echo=token)

    async def answers(self, within: float) -> bool:
        """Ask for a sign of life, and whether the server is still a primary; else the link is lost.

        False after `within` seconds of silence, and where `comes` gives up.
        """
        if self._asks_role:
            self.send(*self._asks_role, on_reply=_check_role, hold=True)
        return await self.comes(self.ping(), within)

    async def comes(self, reply: asyncio.Future[Reply], within: float) -> bool:
        """Wait for a reply as long as the link gets on towards it.

        False after `within` seconds of silence; and after ten times as long in which messages
        came, and nothing that we sent was answered or left: they come to the unheard, too.
        """
        rounds = 0
        while rounds < _ONE_WAY:
            received, answered, unsent = self._received, self._answered, self._unsent
            for _ in range(_SLICES):
                # In slices, since an event loop that was blocked for long comes back with
                # the deadline and the answer both due: one slice is gone then, not all.
                await asyncio.wait((reply,), timeout=within / _SLICES)
                if reply.done():
                    return True
            if received == self._received:
                return False
            heard = answered != self._answered or unsent > self._unsent
            rounds = 0 if heard else rounds + 1
        return False

    def cut(self, reason: str = "the link was closed") -> None:
        """End everything at once; `aclose` waits until it has ended."""
        self._lose(ConnectionError(reason))
        if self._wire is not None:
            self._wire.cut()
        stream = stream_of(self._connection)
        if stream is not None:
            # A graceful close waits until a frozen server has read what is buffered.
            abort(stream.transport)

    async def aclose(self) -> None:
        """Cut the connection, in at most a second; may be called again if it was cancelled."""
        self.cut()
        if self._wire is not None:
            await self._wire.wait_cut(_CLOSE_TIMEOUT)
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # the event loop closes an aborted socket in its next round

    def _take(self, reply: Reply) -> None:
        self._received += 1
        if type(reply) is self._messages_are and reply[0] in _MESSAGES:
            self._on_message(reply)
        elif type(reply) is not Push or reply[0] in _CONFIRMATIONS:
            self._settle(reply)

    def _settle(self, reply: Reply) -> None:
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
            raise reply
        if not self._waiting:
            raise RedisError(f"Redis sent a reply that nothing was asked for: {reply!r:.200}")
        on_reply, echo = self._waiting[0]
        if isinstance(reply, ResponseError) and str(reply).startswith("MISCONF"):
            # Of all that we ask, PING alone is answered so, by a server that cannot save its
            # data. It passes messages on all the same.
            reply = echo
        if echo is not None and not _echoes(reply, echo):
            raise RedisError(f"Redis sent a reply to something else: {reply!r:.200}")
        self._waiting.popleft()
        self._answered += 1
        on_reply(reply)

    def _lose(self, reason: Exception) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        while self._waiting:
            on_reply, _ = self._waiting.popleft()
            on_reply(reason)


def _drop(_message: list[bytes]) -> None:
    """A link without subscriptions gets no messages."""


def _check_role(reply: Reply) -> None:
    """End the link to a server that says to be a replica.

    What is published there stays there, and it does not know who is subscribed elsewhere: the
    living would be heard by some only, and be taken for dead.
    """
    # A map in RESP3; in RESP2 names and values in turn, or, from ROLE, the role and its details.
    words = cast("dict[bytes, Reply]", reply).values() if isinstance(reply, dict) else reply
    if not isinstance(words, Exception) and any(word in _REPLICA for word in words):
        raise ConnectionError("it is a replica, whose messages stay there; connect to the primary")


def _packed(command: tuple[bytes, ...]) -> bytes:
    """The command as Redis reads it: an array of strings, each with its length."""
    return b"*%d\r\n" % len(command) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command]
    )


def _echoes(reply: Reply, echo: bytes) -> bool:
    if isinstance(reply, Exception):
        return True
    # [kind, channel, count] or [b"pong", token]; a bare token from a link without channels.
    if reply is None or isinstance(reply, bytes | int | dict):
        return bool(reply == echo)
    return bool(reply[1:2] == [echo])
