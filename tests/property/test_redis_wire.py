"""However what Redis sends is cut into pieces, each reply arrives once, whole and in its order."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from aioregistry.transports._redis_wire import DirectWire, Push
from tests.property.connections import Connection, cut

Reply = Any

texts = st.binary(max_size=30) | st.sampled_from([b"\r\n", b"*3\r\n", b"$-1\r\n", b"-ERR x\r\n"])
plain = st.text("abc ", max_size=10)

REFUSALS: list[tuple[str, type[RedisError]]] = [
    ("ERR", ResponseError),
    ("NOPERM", NoPermissionError),
    ("NOAUTH", AuthenticationError),
    ("BUSY", RedisConnectionError),
]


class Pushed(list[bytes]):
    """What is no answer to anything, as RESP3 marks it."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and super().__eq__(other)

    __hash__ = None  # as that of any list


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, Reply]:
    """The bytes of a reply, and what it is."""
    kind = draw(
        st.sampled_from(["message", "push", "map", "bulk", "status", "number", "nothing", "error"])
    )
    if kind in ("message", "push"):
        parts = [b"message", draw(texts), draw(texts)]
        start, found = (b"*3\r\n", parts) if kind == "message" else (b">3\r\n", Pushed(parts))
        return start + b"".join(map(bulk, parts)), found
    if kind == "map":
        return b"%1\r\n$5\r\nproto\r\n:3\r\n", {b"proto": 3}
    if kind == "bulk":
        text = draw(texts)
        return bulk(text), text
    if kind == "status":
        word = draw(plain)
        return f"+{word}\r\n".encode(), word.encode()
    if kind == "number":
        number = draw(st.integers(-9, 99999))
        return b":%d\r\n" % number, number
    if kind == "nothing":
        return b"$-1\r\n", None
    reason = draw(plain)
    code, error = draw(st.sampled_from(REFUSALS))
    shown = reason if error in (NoPermissionError, AuthenticationError) else f"{code} {reason}"
    return f"-{code} {reason}\r\n".encode(), (error, shown)


def comparable(reply: Reply) -> Reply:
    if type(reply) is Push:
        return Pushed(reply)
    return (type(reply), str(reply)) if isinstance(reply, Exception) else reply


async def read(pieces: list[bytes]) -> tuple[list[Reply], list[Exception]]:
    """The replies in these pieces, and why there are no more."""
    seen: list[Reply] = []
    ends: list[Exception] = []
    wire = DirectWire(Connection(asyncio.Protocol()), seen.append, ends.append)
    for piece in pieces:
        wire.data_received(piece)
    return seen, ends


@given(st.lists(replies(), max_size=12), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_stream_in_any_pieces(stream: list[tuple[bytes, Reply]], places: list[int]) -> None:
    pieces = cut(b"".join(raw for raw, _ in stream), places)
    seen, ends = asyncio.run(read(pieces))
    assert [comparable(reply) for reply in seen] == [reply for _, reply in stream]
    assert ends == []


async def test_what_is_not_the_protocol_ends_it_once() -> None:
    seen, ends = await read([b"+OK\r\n\x16\x03\x01\r\n", b"+OK\r\n", b"\x16"])
    assert seen == [b"OK"]
    assert len(ends) == 1
    assert isinstance(ends[0], RedisError)


async def test_a_reply_that_nobody_waits_for_ends_it_once() -> None:
    ends: list[Exception] = []

    def refuse(reply: Reply) -> None:
        raise RedisError(f"nobody asked for {reply}")

    wire = DirectWire(Connection(asyncio.Protocol()), refuse, ends.append)
    wire.data_received(b"+a\r\n+b\r\n")
    wire.connection_lost(None)
    assert [str(error) for error in ends] == ["nobody asked for b'a'"]
