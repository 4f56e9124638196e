"""Sending commands and taking in replies on a connection of redis-py, in one of two ways.

`DriverWire` has two tasks that call the driver: it works with any driver. `DirectWire` takes
the connection over once the driver has opened it, and so spares both ways a turn of the event
loop, a task, and most of the driver's code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import hiredis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ._connection import Tap

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DriverConnection", "Push", "Reply", "Wire", "stream_of", "wire_of"]

Reply: TypeAlias = Any
"""What Redis answered (in bytes), or the exception that tells why it did not."""

Push: type[Any] | None = getattr(hiredis, "PushNotification", None)
"""What is no answer in RESP3, such as a message; older versions of hiredis cannot tell."""

_ERRORS: dict[str, type[RedisError]] = {
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "NOPERM": NoPermissionError,
    "WRONGPASS": AuthenticationError,
}
# No reason to give the link up: it would be the same on the next one.
_LASTING = ("ERR", "MISCONF", "NOPROTO")
_BATCH_BYTES = 256 * 2**10


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


class Wire(Protocol):
    """How a link sends, and whence it gets its replies.

    Attributes:
        reads_resp3: whether it can tell answers from what Redis says unasked.
    """

    reads_resp3: bool

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent."""
        ...

    def send(self, data: bytes) -> None:
        """Send a packed command."""
        ...

    def hold(self, data: bytes) -> None:
        """Send a packed command together with all others of this moment."""
        ...

    def cut(self) -> None:
        """Read and write no more."""
        ...

    async def wait_cut(self, within: float) -> None:
        """Wait until that has come into force, for so many seconds at most."""
        ...


def wire_of(
    connection: DriverConnection,
    on_reply: Callable[[Reply], None],
    on_end: Callable[[Exception], None],
) -> Wire:
    """The shortest way that an open connection offers.

    Args:
        connection: the connection.
        on_reply: called with each reply; what it raises ends the wire.
        on_end: called with the reason when there is no more to come.
    """
    stream = stream_of(connection)
    if stream is None or not _is_quiet(connection):
        return DriverWire(connection, on_reply, on_end)
    return DirectWire(stream.transport, on_reply, on_end)


def stream_of(connection: DriverConnection) -> asyncio.StreamWriter | None:
    """The stream that the driver has opened, if it is where it was expected."""
    # Not public. Without it, the driver's way is taken, and closing is gentler: it waits for
    # data that nobody reads.
    stream: object = getattr(connection, "_writer", None)
    return stream if isinstance(stream, asyncio.StreamWriter) else None


def _is_quiet(connection: DriverConnection) -> bool:
    """Whether the driver has handed out all that came; what it still has, only it can read.

    A server that refuses us says so before it is asked anything.
    """
    # Not public. Without these attributes, a refusal may show by the end of the connection only.
    stream: object = getattr(connection, "_reader", None)
    if isinstance(stream, asyncio.StreamReader) and (
        stream.at_eof() or stream.exception() or getattr(stream, "_buffer", None)
    ):
        return False
    parser: object = getattr(getattr(connection, "_parser", None), "_reader", None)
    return not (isinstance(parser, hiredis.Reader) and parser.has_data())


class DirectWire(Tap):
    """Goes to the connection itself; the driver has got through its handshake.

    Args:
        transport: the connection.
        on_reply: as for `wire_of`.
        on_end: as for `wire_of`.
    """

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        on_reply: Callable[[Reply], None],
        on_end: Callable[[Exception], None],
    ) -> None:
        super().__init__(transport)
        self.reads_resp3 = Push is not None
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_error)
        self._on_reply = on_reply
        self._on_end = on_end
        self._ended = False
        self.send = self.outbox.send
        self.hold = self.outbox.hold

    @property
    def unsent(self) -> int:
        """See `Wire.unsent`."""
        return self.outbox.size

    def cut(self) -> None:
        """See `Wire.cut`."""
        self._ended = True

    async def wait_cut(self, within: float) -> None:
        """See `Wire.wait_cut`: there is nothing to wait for."""

    def data_received(self, data: bytes) -> None:
        """Pass on each reply that is complete."""
        next_reply, on_reply = self._reader.gets, self._on_reply
        try:
            self._reader.feed(data)
            # False is no answer to anything that we ask.
            while not self._ended and (reply := next_reply()) is not False:
                on_reply(reply)
        except Exception as error:  # noqa: BLE001 - whatever it is, replies are out of step now
            self._end(error)

    def eof_received(self) -> bool | None:
        self._end(ConnectionError("the server closed the connection"))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionError("the connection was closed"))
        super().connection_lost(exc)

    def _end(self, reason: Exception) -> None:
        if not self._ended:
            self._ended = True
            self._on_end(reason)


class DriverWire:
    """Goes through the driver.

    Args:
        connection: the connection.
        on_reply: as for `wire_of`.
        on_end: as for `wire_of`.
    """

    def __init__(
        self,
        connection: DriverConnection,
        on_reply: Callable[[Reply], None],
        on_end: Callable[[Exception], None],
    ) -> None:
        self.reads_resp3 = False
        self._connection = connection
        self._on_reply = on_reply
        self._on_end = on_end
        self._unsent: deque[bytes] = deque()
        self._size = 0
        self._something_to_send = asyncio.Event()
        self._tasks = (
            asyncio.create_task(self._read(), name="aioregistry redis reader"),
            asyncio.create_task(self._write(), name="aioregistry redis writer"),
        )

    @property
    def unsent(self) -> int:
        """See `Wire.unsent`."""
        return self._size

    def send(self, data: bytes) -> None:
        """See `Wire.send`."""
        self._unsent.append(data)
        self._size += len(data)
        self._something_to_send.set()

    hold = send

    def cut(self) -> None:
        """See `Wire.cut`."""
        for task in self._tasks:
            task.cancel()

    async def wait_cut(self, within: float) -> None:
        """See `Wire.wait_cut`."""
        await asyncio.wait(self._tasks, timeout=within)

    async def _read(self) -> None:
        read, on_reply = self._connection.read_response, self._on_reply
        try:
            while True:
                try:
                    reply = await read(disconnect_on_error=False)
                except ResponseError as error:
                    reply = _judged(error)
                on_reply(reply)
        except Exception as error:  # noqa: BLE001 - a reader that ends unheard is a dead link
            self._on_end(error)

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
            self._on_end(error)

    def _next_batch(self) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while self._unsent and size < _BATCH_BYTES:
            piece = self._unsent.popleft()
            pieces.append(piece)
            size += len(piece)
        self._size -= size
        return b"".join(pieces)


def _error(text: str) -> RedisError:
    """What Redis does not do, as the driver would put it, if it will never do it.

    All other codes (BUSY, MASTERDOWN, READONLY, OOM, ...) are about the state of the server,
    and that passes: no refusal, but the end of a link, which is then made anew.
    """
    code, _, rest = text.partition(" ")
    kind = _ERRORS.get(code)
    if kind is not None:
        return kind(rest)
    return ResponseError(text) if _lasts(code) else RedisConnectionError(text)


def _judged(error: ResponseError) -> RedisError:
    """The same for what the driver has put into its words.

    It has classes for many codes and then leaves the code out, as it does with ERR.
    """
    code, _, _ = str(error).partition(" ")
    if type(error) is ResponseError and _lasts(code):
        return error
    return error if isinstance(error, NoPermissionError) else RedisConnectionError(str(error))


def _lasts(code: str) -> bool:
    """Whether an error with this first word is a refusal; one without a code is that of a proxy."""
    return code in _LASTING or not code.isupper()
