"""A fleet that announces itself as fast as a socket takes it, from a process of its own.

It speaks the protocols of the brokers itself, with everything prepared beforehand: so it is
the receiver, and not the sender, that is measured.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Generator
from urllib.parse import urlsplit

from aioregistry import Service
from aioregistry.wire import encode_announcement

TTL = 3600.0
"""Long enough for nothing to expire while it is measured, in seconds."""

_PATIENCE = 120.0


def instance(number: int, names: int, *, alike: bool = True) -> Service:
    """An instance as services have them: three metadata pairs, a host for every ten.

    Args:
        number: which one.
        names: over how many names the fleet is spread.
        alike: whether metadata repeats, as zones and builds do; else one pair is unique.
    """
    return Service(
        name=service_name(number % names, names),
        address=f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:8080",
        version="1.4.2",
        host=f"host-{number // 10:05d}.example.net",
        metadata={
            "zone": f"eu-west-{number % 3}",
            "tier": "gold" if number % 5 else "silver",
            "build": "2024-11-05T10:00" if alike else f"build-{number:06d}",
        },
        id=f"{number:015x}",
    )


def service_name(number: int, names: int) -> str:
    """The name of a service: `orders` when there is only one."""
    return "orders" if names == 1 else f"service-{number:05d}"


def announcements(
    prefix: str, count: int, names: int, *, alike: bool = True
) -> list[tuple[str, bytes]]:
    """Subject and payload of one announcement of each instance; every one has its own node."""
    now = time.time()
    found: list[tuple[str, bytes]] = []
    for number in range(count):
        service = instance(number, names, alike=alike)
        payload = encode_announcement(
            service, ttl=TTL, registered=now, seq=1, node=f"{number + 2**40:015x}"
        )
        found.append((f"{prefix}.register.{service.name}", payload))
    return found


class Fleet:
    """The sending process."""

    def __init__(self, url: str, count: int, names: int, *, alike: bool = True) -> None:
        self._address = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self._nats = url.startswith("nats")
        pack = _nats_command if self._nats else redis_command
        self._commands = {
            prefix: [pack(*each) for each in announcements(prefix, count, names, alike=alike)]
            for prefix in ("ours", "floor")
        }

    async def announce(self, prefix: str, first: int = 0, last: int | None = None) -> int:
        """Send one announcement of each instance of a range; return how many bytes."""
        everything = b"".join(self._commands[prefix][first:last])
        with self.connected() as connection:
            connection.sendall(everything)
        return len(everything)

    @contextlib.contextmanager
    def connected(self) -> Generator[socket.socket]:
        """A connection for commands; the broker has taken them all when the block is left."""
        with socket.create_connection(self._address, timeout=_PATIENCE) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._nats:
                _until(connection, b"\r\n")
                connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
                _until(connection, b"PONG\r\n")
                yield connection
                connection.sendall(b"PING\r\n")
                _until(connection, b"PONG\r\n")
            else:
                connection.sendall(b"CLIENT REPLY OFF\r\n")
                yield connection
                connection.sendall(b"CLIENT REPLY ON\r\n")
                _until(connection, b"+OK\r\n")


def _nats_command(subject: str, payload: bytes) -> bytes:
    return b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)


def redis_command(subject: str, payload: bytes) -> bytes:
    """What publishes it; a subscriber gets as many bytes."""
    channel = subject.encode()
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
        len(channel),
        channel,
        len(payload),
        payload,
    )


def _until(connection: socket.socket, end: bytes) -> None:
    received = b""
    while end not in received:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError(f"hung up after {received[-200:]!r}")
        received += piece
