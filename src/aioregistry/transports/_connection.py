"""A connection that a driver has opened, read and written without the driver's tasks."""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

__all__ = ["Outbox", "Tap"]

_TOGETHER: Final = 0.001
"""What is sent within so many seconds after a write goes out in one further write."""


class Tap(asyncio.Protocol):
    """Stands between a connection and the stream of the driver, and passes everything on to it.

    Args:
        transport: the connection.
    """

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast("asyncio.Protocol", transport.get_protocol())
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`, here and below."""
        self._stream.data_received(data)

    def eof_received(self) -> bool | None:
        return self._stream.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.connection_lost(exc)

    def pause_writing(self) -> None:
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        self._stream.resume_writing()


class Outbox:
    """Writes to a connection, and never waits for it: a lone message at once, many together.

    Whoever fills it looks at `size`, and stops where that grows.

    Args:
        transport: the connection.
    """

    __slots__ = ("_held", "_loop", "_size", "_transport", "_written")

    def __init__(self, transport: asyncio.WriteTransport) -> None:
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
        if now - self._written < _TOGETHER:
            self.hold(data)
        else:
            self._written = now
            self._held.append(data)
            self.flush()

    def hold(self, data: bytes) -> None:
        """Send data with what comes next, or when the event loop turns."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        self._size += len(data)

    def flush(self) -> None:
        """Send what is held."""
        held, self._held, self._size = self._held, [], 0
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))
