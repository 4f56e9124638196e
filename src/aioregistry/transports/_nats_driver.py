"""Where nats-py must be handled with care: its options, its errors, its ways to hang.

Whatever is used of it here that is not public has something to fall back on.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

from nats.aio.client import DEFAULT_PENDING_SIZE
from nats.errors import Error

from aioregistry.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

__all__ = [
    "MANAGED_OPTIONS",
    "abort",
    "dial_failure",
    "end",
    "finish",
    "pending_limit",
    "would_wait",
]

_logger = logging.getLogger("aioregistry.transports.nats")

MANAGED_OPTIONS: Final[dict[str, Any]] = {
    "allow_reconnect": False,  # a lost link is replaced: the same way back for every loss
    "max_reconnect_attempts": 1,
    "reconnect_time_wait": 0,
    "no_echo": False,  # messages to ourselves are what the link is judged by
    "pending_size": 0,  # no limit, so a publish never waits: the link has one
    "flusher_queue_size": 0,  # no limit, so a subscribe never waits either
}
"""What the driver is told in any case, since this module relies on it."""

_AUTH_REFUSALS: Final = (
    "authorization violation",
    "authorization failed",
    "authentication expired",
    "authentication revoked",
)


def pending_limit(client: Client) -> int:
    """How many bytes may wait before the driver waits too, and swallows cancellation; 0: any."""
    # Not public; without it, the driver's default is assumed.
    limit: object = getattr(client, "_max_pending_size", None)
    return max(0, limit) if isinstance(limit, int) else DEFAULT_PENDING_SIZE


def would_wait(client: Client) -> bool:
    """Whether so many commands wait to be sent that the driver would wait with the next."""
    # Not public. Without it, the driver may wait where the broker hangs; it still works.
    queue: object = getattr(client, "_flush_queue", None)
    return isinstance(queue, asyncio.Queue) and queue.full()


def dial_failure(url: str, error: Exception, limit: float) -> TransportError:
    """What a failed dial means to the user."""
    text = str(error)
    certificate = getattr(error, "certificate_error", error)  # aiohttp wraps it
    if any(refusal in text.lower() for refusal in _AUTH_REFUSALS):
        return TransportError(
            f"{url} refuses the credentials ({text.removeprefix('nats: ')});"
            " check user, password, token or credentials file",
            permanent=True,
        )
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return TransportError(
            f"the certificate of {url} is not trusted ({certificate.verify_message});"
            " pass tls= with an ssl.SSLContext that knows its authority",
            permanent=True,
        )
    if isinstance(error, (FileNotFoundError, ImportError)):
        return TransportError(f"cannot connect to {url}: {error}", permanent=True)
    if isinstance(error, ConnectionRefusedError):
        return TransportError(f"nothing listens at {url}")
    if isinstance(error, TimeoutError):
        return TransportError(f"no answer from {url} within {limit:g} s")
    return TransportError(f"cannot connect to {url}: {text or type(error).__name__}")


async def end(source: Subscription) -> None:
    """End a subscription, and never raise."""
    try:
        await source.unsubscribe()
    except (Error, OSError):
        # A client that closed itself may have failed half-way, and left the task behind.
        # Not public; without it, the garbage collector finds the task.
        task: object = getattr(source, "_wait_for_msgs_task", None)
        if isinstance(task, asyncio.Task):
            task.cancel()


async def finish(work: Awaitable[object], grace: float) -> None:
    """Give driver work `grace` seconds; then leave it, cancelled, and never raise for it."""
    task = asyncio.ensure_future(work)
    task.add_done_callback(_look_at)
    try:
        await asyncio.wait({task}, timeout=grace)
    finally:
        task.cancel()


def _look_at(task: asyncio.Future[object]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _logger.debug("while a link was closed: %r", error)


def abort(client: Client) -> None:
    """Take the socket down without a wait for whatever is buffered."""
    # The driver keeps its connection to itself, and its own ways to close wait for data that
    # a broker that hangs never reads. Without these attributes a socket that hangs stays
    # until the operating system gives up on it; every other one is closed by then.
    wire: object = getattr(client, "_transport", None)
    stream: object = getattr(wire, "_io_writer", None)  # TCP and TLS
    if stream is None:  # WebSocket
        response: object = getattr(getattr(wire, "_ws", None), "_response", None)
        stream = getattr(response, "connection", None)
    transport: object = getattr(stream, "transport", None)
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()
    # A reader that fails on the way out would be complained about, since nobody awaits it.
    reader: object = getattr(client, "_reading_task", None)
    if isinstance(reader, asyncio.Task):
        cast("asyncio.Task[object]", reader).add_done_callback(_look_at)
