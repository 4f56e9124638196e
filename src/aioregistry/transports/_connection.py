"""A connection that a driver has opened, read and written without the driver's tasks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final, cast

__all__ = ["Outbox", "Tap", "abort"]

_TOGETHER: Final = 0.001
"""What is sent within so many seconds after a write goes out in one further write."""


class Outbox:
    """Writes to a connection, and never waits for it: a lone message at once, many together.

    Whoever fills it looks at `size`, and stops where that grows.

    Args:
        transport: the connection.

    Attributes:
        paused: whether the connection takes nothing for now; then everything is kept here.
    """

    __slots__ = ("_held", "_loop", "_size", "_transport", "_written", "paused")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.paused = False
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._held: list[bytes] = []
        self._size = 0
        self._written = 0.0

    @property
    def size(self) -> int:
        """How many bytes wait to be sent."""
        return self._size + self._transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        """Send data at once, after what is held; right after another write hold it."""
        now = time.monotonic()
        if self.paused or now - self._written < _TOGETHER:
            self.hold(data)
        else:
            self._written = now
            self._held.append(data)
            self.flush()

    def hold(self, data: bytes) -> None:
        """Send data with what comes next, or when the event loop turns."""
        if not self._held:
            self._loop.call_soon(self._turn)
        self._held.append(data)
        self._size += len(data)

    def flush(self) -> None:
        """Hand what is held to the connection."""
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def _turn(self) -> None:
        if not self.paused:
            self.flush()


class Tap(asyncio.Protocol):
    """Stands between a connection and the stream of the driver, and passes everything on to it.

    Args:
        transport: the connection.

    Attributes:
        outbox: what writes to it.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self.outbox = Outbox(transport)
        self._stream = cast("asyncio.Protocol", transport.get_protocol())
        self._over_tls = transport.get_extra_info("sslcontext") is not None
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`, here and below."""
        self._stream.data_received(data)

    def eof_received(self) -> bool | None:
        half_open = self._stream.eof_received()
        return half_open and not self._over_tls  # TLS knows no such thing

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self.outbox.paused = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()
        self.outbox.paused = False
        self.outbox.flush()  # which may pause it again


def abort(transport: object) -> None:
    """Take a connection down without a wait for what is buffered; harmless when it is gone.

    Args:
        transport: the connection; that of an event loop may be of no class of asyncio's.
    """
    take_down = getattr(transport, "abort", None)
    if take_down is not None:
        # What asyncio raises where the connection has ended by itself, just after `close`.
        with contextlib.suppress(AttributeError):
            take_down()
