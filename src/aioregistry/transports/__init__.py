"""The adapters to the brokers; nothing else in the package talks to a third party."""

from __future__ import annotations

import os
from typing import Final

from aioregistry.transports.base import Transport

__all__ = ["DEFAULT_URL", "open_transport"]

DEFAULT_URL: Final = "nats://localhost:4222"

_NATS: Final = ("nats", "tls", "ws", "wss")
_REDIS: Final = ("redis", "rediss", "unix")


def open_transport(url: str | None = None) -> Transport:
    """The transport for a URL, not connected yet; only its own driver is imported.

    Args:
        url: `nats://`, `tls://`, `ws://`, `wss://` (several, comma-separated: a cluster),
            `redis://`, `rediss://`, `unix://`, or `memory://name`. None: the environment
            variable AIOREGISTRY_URL, or else `nats://localhost:4222`.

    Raises:
        ValueError: the URL makes no sense.
    """
    if url is None:
        url = os.environ.get("AIOREGISTRY_URL") or DEFAULT_URL
    named, separator, rest = url.partition("://")
    scheme = named.lower()  # as RFC 3986 wants it
    if separator and scheme in _NATS:
        from aioregistry.transports.nats import NatsTransport  # noqa: PLC0415 - only when used

        return NatsTransport(url)
    if separator and scheme in _REDIS:
        from aioregistry.transports.redis import RedisTransport  # noqa: PLC0415 - only when used

        return RedisTransport(url)
    if separator and scheme == "memory":
        from aioregistry.transports.memory import (  # noqa: PLC0415 - only when used
            MemoryBroker,
            MemoryTransport,
        )

        return MemoryTransport(MemoryBroker.named(rest))
    known = ", ".join(f"{each}://" for each in (*_NATS, *_REDIS, "memory"))
    _, at, place = url.rpartition("@")
    shown = repr(f"***@{place}" if at else url)
    if separator:
        shown = f"{named}://..."  # the rest may hold a password
    raise ValueError(f"no transport for {shown}; a URL begins with one of {known}")
