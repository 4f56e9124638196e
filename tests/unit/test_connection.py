"""A connection that is read and written past its driver."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aioregistry.transports._connection import Tap, abort


class Wire(asyncio.Transport):
    """Remembers what was written, and when it was in which piece."""

    def __init__(self, **extra: object) -> None:
        super().__init__(extra)
        self.protocol: asyncio.BaseProtocol = Stream()
        self.written: list[bytes] = []
        self.closing = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 7

    def is_closing(self) -> bool:
        return self.closing


class Stream(asyncio.Protocol):
    """The driver's side."""

    paused = False

    def eof_received(self) -> bool:
        return True

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False


async def test_a_lone_message_leaves_at_once_and_many_together() -> None:
    wire = Wire()
    outbox = Tap(wire).outbox
    outbox.send(b"a")
    assert wire.written == [b"a"]
    outbox.send(b"b")
    outbox.hold(b"c")
    assert wire.written == [b"a"]
    assert outbox.size == 2 + 7
    await asyncio.sleep(0)
    assert wire.written == [b"a", b"bc"]
    assert outbox.size == 7


async def test_what_is_held_leaves_with_the_next_message() -> None:
    wire = Wire()
    outbox = Tap(wire).outbox
    outbox.hold(b"a")
    outbox.hold(b"b")
    assert wire.written == []
    outbox.send(b"c")
    assert wire.written == [b"abc"]
    await asyncio.sleep(0)
    assert wire.written == [b"abc"]


async def test_a_connection_that_takes_nothing_gets_nothing() -> None:
    """Piece by piece, each would cost the more the more there are."""
    wire = Wire()
    tap = Tap(wire)
    tap.outbox.hold(b"a")
    tap.pause_writing()
    for _ in range(3):
        tap.outbox.send(b"b")
        tap.outbox.hold(b"c")
        await asyncio.sleep(0)
    assert wire.written == []
    assert tap.outbox.size == 7 + 7
    tap.resume_writing()
    assert wire.written == [b"abcbcbc"]


async def test_a_connection_that_takes_a_little() -> None:
    class Narrow(Wire):
        def write(self, data: Any) -> None:
            super().write(data)
            tap.pause_writing()

    wire = Narrow()
    tap = Tap(wire)
    for piece in (b"a", b"b", b"c"):
        tap.outbox.send(piece)
        tap.outbox.hold(piece)
    for _ in range(3):
        tap.resume_writing()
        tap.outbox.send(b"d")
    assert wire.written == [b"a", b"abbcc", b"d", b"d"]


async def test_what_is_held_leaves_before_a_connection_closes() -> None:
    wire = Wire()
    tap = Tap(wire)
    tap.pause_writing()
    tap.outbox.send(b"a")
    tap.outbox.flush()
    assert wire.written == [b"a"]
    wire.closing = True
    tap.outbox.hold(b"b")
    await asyncio.sleep(0)
    assert wire.written == [b"a"]


@pytest.mark.parametrize("extra", [{}, {"sslcontext": object()}], ids=["plain", "TLS"])
async def test_only_without_tls_is_a_connection_half_open(extra: dict[str, object]) -> None:
    """Else asyncio complains of each end."""
    assert Tap(Wire(**extra)).eof_received() is (not extra)


async def test_a_connection_that_is_gone_is_taken_down_once_more() -> None:
    async with await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1") as s:
        reader, writer = await asyncio.open_connection(*s.sockets[0].getsockname())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        abort(writer.transport)
    abort(None)
