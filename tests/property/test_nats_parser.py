"""However a stream is cut into pieces, each message arrives once, whole and in its order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ProtocolError

from aioregistry.transports._nats_driver import CarefulClient
from aioregistry.transports._nats_parser import Receiver
from aioregistry.transports._nats_wire import Inlet
from tests.property.connections import Connection, cut

OURS, THEIRS, ENDED = 1, 22, 333

Seen = list[tuple[bytes, bytes | None]]


class Recorder(Receiver):
    """A receiver; a refusal is a message with no payload at all."""

    def __init__(self) -> None:
        self.seen: Seen = []

    async def take(self, _msg: Msg) -> None:
        pytest.fail("the driver took a message of ours")

    def take_raw(self, subject: bytes, payload: bytes) -> None:
        self.seen.append((subject, payload))

    def take_refusal(self, subject: bytes) -> None:
        self.seen.append((subject, None))


async def ignore(_msg: Msg) -> None:
    pass


def message(sid: int, subject: bytes, reply: bytes, payload: bytes) -> bytes:
    head = b" ".join(filter(None, (b"MSG", subject, b"%d" % sid, reply, b"%d" % len(payload))))
    return head + b"\r\n" + payload + b"\r\n"


def headed(sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    sizes = (b"%d" % len(headers), b"%d" % len(headers + payload))
    head = b" ".join(filter(None, (b"HMSG", subject, b"%d" % sid, reply, *sizes)))
    return head + b"\r\n" + headers + payload + b"\r\n"


subjects = st.text("abc.é*>$_", min_size=1, max_size=8).map(str.encode) | st.just(b"a.\xff\xfe")
replies = st.just(b"") | st.just(b"_INBOX.7.1")
payloads = st.binary(max_size=30) | st.sampled_from(
    [b"\r\n", b"MSG a 1 2\r\nhi\r\n", b"PING\r\n", b"HMSG"]
)
headers = st.sampled_from(
    [b"NATS/1.0\r\nA: b\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0 \xff\r\n\r\n"]
)


@st.composite
def commands(draw: st.DrawFn) -> tuple[bytes, int, Any]:
    """The bytes of a command, whose it is, and what that one is to see."""
    subject, reply, payload = draw(subjects), draw(replies), draw(payloads)
    kind = draw(st.sampled_from(["plain", "headed", "driver", "ended", "ok"]))
    if kind == "plain":
        return message(OURS, subject, reply, payload), OURS, (subject, payload)
    if kind == "headed":
        extra = draw(headers)
        refused = not payload and b" 503" in extra
        raw = headed(OURS, subject, reply, extra, payload)
        return raw, OURS, (subject, None if refused else payload)
    if kind == "driver":
        return message(THEIRS, b"theirs", reply, payload), THEIRS, payload
    if kind == "ended":
        return message(ENDED, b"ended", reply, payload), 0, None
    return b"+OK\r\n", 0, None


async def read(pieces: list[bytes]) -> tuple[Seen, list[bytes]]:
    """What our receiver and a subscription of the driver get of a stream."""
    client: Any = CarefulClient()
    ours = Recorder()
    theirs: Any = Subscription(client, THEIRS, "theirs", cb=ignore)
    client._subs = {OURS: Subscription(client, OURS, "ours", cb=ours.take), THEIRS: theirs}
    for piece in pieces:
        await client._ps.parse(piece)
    waiting = theirs._pending_queue
    return ours.seen, [waiting.get_nowait().data for _ in range(waiting.qsize())]


class Reader(asyncio.Protocol):
    """The reader of the driver: what it is given, it parses when it gets its turn."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data

    async def turn(self) -> None:
        data, self._data = self._data, b""
        if data:
            await self._parser.parse(data)


async def read_directly(pieces: list[tuple[bytes, bool]]) -> tuple[Seen, list[bytes]]:
    """The same past the reader of the driver, which gets a turn after some of the pieces."""
    client: Any = CarefulClient()
    parser = client.parser
    ours = parser.receivers[b"%d" % OURS] = Recorder()
    theirs: Any = Subscription(client, THEIRS, "theirs", cb=ignore)
    client._subs = {THEIRS: theirs}
    reader = Reader(parser)
    inlet = Inlet(Connection(reader), parser)
    for piece, turn in [*pieces, (b"", True)]:
        inlet.data_received(piece)
        if turn:
            await reader.turn()
    waiting = theirs._pending_queue
    return ours.seen, [waiting.get_nowait().data for _ in range(waiting.qsize())]


streams = st.lists(commands(), max_size=12)
pieces_of = st.lists(st.integers(0, 10_000), max_size=12)


@given(streams, pieces_of)
def test_any_stream_in_any_pieces(stream: list[tuple[bytes, int, Any]], places: list[int]) -> None:
    pieces = cut(b"".join(raw for raw, _, _ in stream), places)
    ours, theirs = asyncio.run(read(pieces))
    assert ours == [what for _, whose, what in stream if whose == OURS]
    assert theirs == [what for _, whose, what in stream if whose == THEIRS]


@given(streams, pieces_of, st.lists(st.booleans(), min_size=13, max_size=13))
def test_any_stream_past_the_reader(
    stream: list[tuple[bytes, int, Any]], places: list[int], turns: list[bool]
) -> None:
    pieces = cut(b"".join(raw for raw, _, _ in stream), places)
    ours, theirs = asyncio.run(read_directly(list(zip(pieces, turns, strict=False))))
    assert ours == [what for _, whose, what in stream if whose == OURS]
    assert theirs == [what for _, whose, what in stream if whose == THEIRS]


async def test_thousands_of_refusals_in_one_piece() -> None:
    refusal = headed(OURS, b"a", b"", b"NATS/1.0 503\r\n\r\n", b"")
    ours, _ = await read([refusal * 5000])
    assert len(ours) == 5000


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\r\n", b"MSG a 1 99999999999\r\n", b"x" * 2**21],
    ids=["no command", "no size", "no end"],
)
async def test_what_is_not_the_protocol_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        await read([b"+OK\r\n", garbage])
    with pytest.raises(ProtocolError):
        await read_directly([(b"+OK\r\n", True), (garbage, True)])
