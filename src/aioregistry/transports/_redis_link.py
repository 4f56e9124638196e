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
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from redis.exceptions import RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DriverConnection", "Link", "OnReply", "Reply"]

Reply: TypeAlias = Any
"""What Redis answered (RESP2, in bytes), or the exception that tells why it did not."""

OnReply: TypeAlias = "Callable[[Reply], None]"

_MESSAGES = (b"message", b"pmessage")
_BUSY_FROM = 1024
_MAX_WAITING = 131_072
_MAX_UNSENT_BYTES = 64 * 2**20
_BATCH_BYTES = 256 * 2**10
_CLOSE_TIMEOUT = 0.5
_SLICES = 4


class DriverConnection(Protocol):
    """What is used of `redis.asyncio.Connection`: public methods only."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a socket."""
        ...

    async def connect(self) -> None:
        """Open the socket and authenticate."""
        ...

    async def disconnect(self, *, nowait: bool = ...) -> None:
        """Close the socket."""
        ...

    async def send_packed_command(self, command: bytes, *, check_health: bool = ...) -> None:
        """Write bytes to the socket."""
        ...

    async def read_response(self, *, disconnect_on_error: bool = ...) -> Any:
        """Read one reply."""
        ...


class Link:
    """A connection that either works or is `lost`; it never comes back by itself.

    Every request ends: with its reply, or with the reason why the link was lost. A link
    that hangs is for its owner to find, with `answers`, and to end, with `aclose`.

    Args:
        connection: a connection of the driver, not opened yet.
        on_message: called with each message of a subscription as Redis sends it: a list of
            kind, glob if any, channel, payload. It must not raise.

    Attributes:
        lost: done as soon as the link is unusable; its result is the reason.
    """

    def __init__(
        self,
        connection: DriverConnection,
        on_message: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        self._connection = connection
        self._on_message = on_message
        self._waiting: deque[tuple[OnReply, bytes | None]] = deque()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._something_to_send = asyncio.Event()
        self._received = 0
        self._tokens = itertools.count()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._stream: asyncio.StreamWriter | None = None

    @property
    def congested(self) -> bool:
        """Whether so much waits for Redis that more would only wait longer."""
        return len(self._waiting) >= _MAX_WAITING or self._unsent_bytes >= _MAX_UNSENT_BYTES

    @property
    def busy(self) -> bool:
        """Whether whoever has more to send had better let the event loop turn in between."""
        return len(self._waiting) >= _BUSY_FROM

    @property
    def idle(self) -> bool:
        """Whether Redis has answered everything."""
        return not self._waiting

    async def open(self) -> None:
        """Connect, authenticate, and see one answer.

        Raises:
            RedisError: as the driver has it.
            OSError: likewise.
        """
        await self._connection.connect()
        self._stream = _stream_of(self._connection)
        self._tasks = (
            self._loop.create_task(self._read(), name="aioregistry redis reader"),
            self._loop.create_task(self._write(), name="aioregistry redis writer"),
        )
        # A server that wants a password lets a client without one in, and refuses only now.
        reply = await self.ping()
        if isinstance(reply, Exception):
            raise reply

    def send(self, *command: bytes, on_reply: OnReply, echo: bytes | None = None) -> None:
        """Send a command soon, together with all others of this moment.

        Args:
            *command: the command and its arguments.
            on_reply: called once, with the reply or the reason why none will come, before
                anything that Redis sent later is looked at. It must not raise.
            echo: what a reply to this very command carries; another one means that
                commands and replies are out of step, and ends the link.
        """
        if self.lost.done():
            on_reply(self.lost.result())
            return
        packed = _packed(command)
        self._waiting.append((on_reply, echo))
        self._unsent.append(packed)
        self._unsent_bytes += len(packed)
        self._something_to_send.set()

    def request(self, *command: bytes, echo: bytes | None = None) -> asyncio.Future[Reply]:
        """Send a command as `send` does.

        Returns:
            The reply to come. An exception is its result, so it may be left unread; its
            cancellation concerns nobody else.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()

        def resolve(reply: Reply) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(*command, on_reply=resolve, echo=echo)
        return future

    def ping(self) -> asyncio.Future[Reply]:
        """Ask for an echo; everything that Redis sent before has been handled by then."""
        token = b"aioregistry-%d" % next(self._tokens)
        return self.request(b"PING", token, echo=token)

    async def answers(self, within: float) -> bool:
        """Ask for a sign of life; False after `within` seconds of silence."""
        pong = self.ping()
        while True:
            received = self._received
            for _ in range(_SLICES):
                # In slices, since an event loop that was blocked for long comes back with
                # the deadline and the answer both due: one slice is gone then, not all.
                await asyncio.wait((pong,), timeout=within / _SLICES)
                if pong.done():
                    return True
            if received == self._received:
                return False

    def cut(self) -> None:
        """End everything at once; `aclose` waits until it has ended."""
        self._lose(ConnectionError("the link was closed"))
        for task in self._tasks:
            task.cancel()
        if self._stream is not None:
            # A graceful close waits until a frozen server has read what is buffered.
            self._stream.transport.abort()

    async def aclose(self) -> None:
        """Cut the connection, in at most a second; may be called again if it was cancelled."""
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT)
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._connection.disconnect(nowait=True)
        await asyncio.sleep(0)  # the event loop closes an aborted socket in its next round

    async def _read(self) -> None:
        read = self._connection.read_response
        on_message = self._on_message
        try:
            while True:
                try:
                    reply = await read(disconnect_on_error=False)
                except ResponseError as refusal:
                    self._received += 1
                    self._settle(refusal)
                    continue
                self._received += 1
                if on_message is not None and reply[0] in _MESSAGES:
                    on_message(reply)
                else:
                    self._settle(reply)
        except Exception as error:  # noqa: BLE001 - a reader that ends unheard is a dead link
            self._lose(error)

    def _settle(self, reply: Reply) -> None:
        if not self._waiting:
            raise RedisError(f"Redis sent a reply that nothing was asked for: {reply!r:.200}")
        on_reply, echo = self._waiting[0]
        if echo is not None and not _echoes(reply, echo):
            raise RedisError(f"Redis sent a reply to something else: {reply!r:.200}")
        self._waiting.popleft()
        on_reply(reply)

    async def _write(self) -> None:
        try:
            while True:
                await self._something_to_send.wait()
                self._something_to_send.clear()
                while self._unsent:
                    # The driver would reconnect in silence, with no subscription.
                    if not self._connection.is_connected:
                        raise ConnectionError("the connection was closed")  # noqa: TRY301 - as the driver would
                    batch = self._next_batch()
                    await self._connection.send_packed_command(batch, check_health=False)
        except Exception as error:  # noqa: BLE001 - as for the reader
            self._lose(error)

    def _next_batch(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._unsent and size < _BATCH_BYTES:
            piece = self._unsent.popleft()
            pieces.append(piece)
            size += len(piece)
        self._unsent_bytes -= size
        return b"".join(pieces)

    def _lose(self, reason: Exception) -> None:
        if self.lost.done():
            return
        self.lost.set_result(reason)
        while self._waiting:
            on_reply, _ = self._waiting.popleft()
            on_reply(reason)
        self._unsent.clear()


def _packed(command: tuple[bytes, ...]) -> bytes:
    """The command as Redis reads it: an array of strings, each with its length."""
    return b"*%d\r\n" % len(command) + b"".join(
        [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in command]
    )


def _echoes(reply: Reply, echo: bytes) -> bool:
    if isinstance(reply, Exception):
        return True
    # [kind, channel, count] or [b"pong", token]; a bare token from a link without channels.
    answer: Reply = reply if isinstance(reply, bytes) else reply[1]
    return bool(answer == echo)


def _stream_of(connection: DriverConnection) -> asyncio.StreamWriter | None:
    # redis-py keeps the stream to itself, and only the stream can be aborted. Should the
    # attribute go away, closing is merely gentler: it waits for data that nobody reads.
    stream = getattr(connection, "_writer", None)
    return stream if isinstance(stream, asyncio.StreamWriter) else None
