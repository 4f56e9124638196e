"""Subscribing and publishing on a client of nats-py, in one of two ways.

`DriverWire` does it as every application does. That costs a queue and a task for each
subscription, and each message in either direction waits until some task of the driver gets its
turn. `DirectWire` takes the connection over once the driver has opened it: what concerns our
subscriptions and messages it reads and writes itself, and everything else stays with the driver.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any, Final, Protocol

from aioregistry.transports._connection import Tap
from aioregistry.transports._nats_driver import (
    CarefulClient,
    end,
    finish,
    pending_limit,
    stream_of,
    unsent,
    would_wait,
)
from aioregistry.transports._nats_parser import BatchParser

if TYPE_CHECKING:
    from collections.abc import Collection

    from nats.aio.client import Client

    from aioregistry.transports._nats_delivery import Delivery

__all__ = ["DirectWire", "DriverWire", "Inlet", "Wire", "wire_of"]

_ROOM: Final = 8 * 2**20
_PENDING_MESSAGES: Final = 2**20
_PENDING_BYTES: Final = 256 * 2**20
_GRACE: Final = 0.25


class Wire(Protocol):
    """How a link subscribes and publishes.

    Attributes:
        room: how many bytes may wait to be sent.
    """

    room: int

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent."""
        ...

    @property
    def received(self) -> int:
        """Grows whenever something comes in, whatever it is."""
        ...

    @property
    def stuck(self) -> bool:
        """Whether so much waits to be sent that `listen` would wait, maybe for ever."""
        ...

    async def listen(self, delivery: Delivery) -> None:
        """Subscribe to what the interest of the delivery names; raises as the driver does."""
        ...

    async def end(self, delivery: Delivery) -> bool:
        """End a subscription; never raises. False where it would wait, and leaves it to `close`."""
        ...

    async def publish(self, subject: str, payload: bytes, reply_to: str) -> None:
        """Send a message soon; raises as the driver does."""
        ...

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Send a message if it can be done without a wait; whether it was."""
        ...

    async def close(self, deliveries: Collection[Delivery]) -> None:
        """Send what waits, and end the subscriptions; never raises."""
        ...


def wire_of(client: Client, *, owned: bool) -> Wire:
    """The shortest way that a connected client offers.

    Args:
        client: the client.
        owned: whether nobody else uses it.
    """
    if owned and isinstance(client, CarefulClient):
        stream, parser = stream_of(client), client.parser
        if stream is not None and parser is not None:
            return DirectWire(stream.transport, parser)
    return DriverWire(client, owned=owned)


class DriverWire:
    """Goes through the driver: for borrowed clients, WebSockets, and drivers of another build."""

    def __init__(self, client: Client, *, owned: bool) -> None:
        self.room = _ROOM if owned else min(_ROOM, pending_limit(client) or _ROOM)
        self._client = client
        self._owned = owned
        self._parser = client.parser if isinstance(client, CarefulClient) else None

    @property
    def unsent(self) -> int:
        """See `Wire.unsent`."""
        return unsent(self._client)

    @property
    def received(self) -> int:
        """See `Wire.received`."""
        parser = self._parser
        return self._client.stats["in_msgs"] if parser is None else parser.received

    @property
    def stuck(self) -> bool:
        """See `Wire.stuck`."""
        return would_wait(self._client) or self.unsent > self.room

    async def listen(self, delivery: Delivery) -> None:
        """See `Wire.listen`."""
        client: Any = self._client  # this method of it is partly untyped
        delivery.source = await client.subscribe(
            delivery.interest.pattern,
            cb=delivery.take,
            pending_msgs_limit=_PENDING_MESSAGES,
            pending_bytes_limit=_PENDING_BYTES,
        )

    async def end(self, delivery: Delivery) -> bool:
        """See `Wire.end`."""
        if self.stuck:
            return False
        if delivery.source is not None:
            await end(delivery.source)
        return True

    async def publish(self, subject: str, payload: bytes, reply_to: str) -> None:
        """See `Wire.publish`."""
        await self._client.publish(subject, payload, reply_to)

    def publish_now(self, subject: str, payload: bytes) -> bool:  # noqa: ARG002 - the protocol's
        """See `Wire.publish_now`: the driver has no such way."""
        return False

    async def close(self, deliveries: Collection[Delivery]) -> None:
        """See `Wire.close`."""
        endings = [end(delivery.source) for delivery in deliveries if delivery.source is not None]
        if self._owned:
            for ending in endings:
                await ending
        elif endings:
            # Each forgets its subscription first, and may then wait to tell the server.
            await finish(asyncio.gather(*endings), _GRACE)


class DirectWire:
    """Goes to the connection itself.

    Args:
        transport: the connection; the driver has got through its handshake.
        parser: what the driver reads with.
    """

    def __init__(self, transport: asyncio.WriteTransport, parser: BatchParser) -> None:
        self.room = _ROOM
        self._parser = parser
        self._receivers = parser.receivers
        self._sids: dict[Delivery, bytes] = {}
        self._numbers = itertools.count(1)  # the driver has no subscriptions, so none clashes
        self._outbox = Inlet(transport, parser).outbox

    @property
    def unsent(self) -> int:
        """See `Wire.unsent`."""
        return self._outbox.size

    @property
    def received(self) -> int:
        """See `Wire.received`."""
        return self._parser.received

    @property
    def stuck(self) -> bool:
        """See `Wire.stuck`."""
        return self.unsent > self.room

    async def listen(self, delivery: Delivery) -> None:
        """See `Wire.listen`: it does not wait."""
        sid = self._sids[delivery] = b"%d" % next(self._numbers)
        self._receivers[sid] = delivery
        self._outbox.hold(b"SUB %b  %b\r\n" % (delivery.interest.pattern.encode(), sid))

    async def end(self, delivery: Delivery) -> bool:
        """See `Wire.end`: it does not wait."""
        sid = self._sids.pop(delivery, b"")
        if self._receivers.pop(sid, None) is not None:
            self._outbox.hold(b"UNSUB %b\r\n" % sid)
        return True

    async def publish(self, subject: str, payload: bytes, reply_to: str) -> None:
        """See `Wire.publish`: it does not wait."""
        head = f"PUB {subject} {reply_to} {len(payload)}\r\n".encode()
        self._outbox.send(head + payload + b"\r\n")

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """See `Wire.publish_now`."""
        self._outbox.send(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload))
        return True

    async def close(self, deliveries: Collection[Delivery]) -> None:
        """See `Wire.close`: the subscriptions end with the connection."""
        for delivery in deliveries:
            self._receivers.pop(self._sids.pop(delivery, b""), None)
        self._outbox.flush()


class Inlet(Tap):
    """Gives what comes in to our parser, or else to the driver's reader."""

    def __init__(self, transport: asyncio.WriteTransport, parser: BatchParser) -> None:
        super().__init__(transport)
        self._parser = parser

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser.idle:
            data = parser.take(data)
            if not data:
                return
            parser.idle = False
        self._stream.data_received(data)
