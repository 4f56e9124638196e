"""Where nats-py must be handled with care: its options, its errors, its ways to hang.

Whatever is used of it here that is not public has something to fall back on.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import ssl
from collections import UserString
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from nats.aio.client import DEFAULT_PENDING_SIZE, Client
from nats.errors import Error
from nats.protocol.parser import Parser

from aioregistry.errors import TransportError
from aioregistry.transports._connection import abort as take_down
from aioregistry.transports._nats_parser import BatchParser
from aioregistry.transports._tls import is_tls_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from nats.aio.subscription import Subscription

__all__ = [
    "MANAGED_OPTIONS",
    "CarefulClient",
    "abort",
    "cause_of",
    "check_credentials",
    "dial_failure",
    "end",
    "finish",
    "pending_limit",
    "stream_of",
    "unsent",
    "wants_tls",
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


_PARTS_OF_CREDENTIALS: Final = ("BEGIN NATS USER JWT", "BEGIN USER NKEY SEED")


class CarefulClient(Client):
    """A client that reads in batches, and never goes on in plain text where it is to encrypt.

    The driver does what the server asks for: one that does not ask for TLS, or somebody who
    stands in front of it and does not pass that on, would get the credentials in plain text.

    Args:
        encrypt: whether TLS is wanted, whatever the server says.

    Attributes:
        parser: what it reads with, if that is ours.
        members: the servers of the cluster, as host and port, by the last word of the broker; None:
            that is not known. The driver never forgets one.
    """

    def __init__(self, *, encrypt: bool = False) -> None:
        super().__init__()
        self._encrypt = encrypt
        self.members: frozenset[str] | None = None
        self.parser: BatchParser | None = None
        # Not public: a driver that keeps its parser elsewhere goes on with its own.
        if type(getattr(self, "_ps", None)) is Parser:
            self._ps = self.parser = BatchParser(self)

    def check_encrypted(self) -> None:
        """Raise a permanent `TransportError` if TLS is wanted and there is none."""
        stream = stream_of(self)
        encrypted = stream is not None and stream.get_extra_info("ssl_object") is not None
        if self._encrypt and not encrypted:
            raise TransportError(
                "the server does not ask for TLS, so nothing was sent to it; use a URL with"
                " nats:// and no tls= if plain text is meant, or pass tls_handshake_first=True"
                " if the server is configured so",
                permanent=True,
            )

    async def _process_info(self, info: dict[str, Any], *details: Any, **more: Any) -> None:
        # Not public: what the driver calls with each INFO.
        if urls := info.get("connect_urls"):
            self.members = frozenset(urls)
        await super()._process_info(info, *details, **more)

    def _connect_command(self) -> bytes:
        # Not public: what the driver calls when it is about to send the credentials. Should it
        # call something else one day, `check_encrypted` still refuses, if only after that.
        self.check_encrypted()
        return super()._connect_command()


async def check_credentials(options: Mapping[str, Any]) -> None:
    """Look into a credentials file, since one that lacks a part makes the driver loop for ever.

    Raises:
        TransportError: it is none; permanent.
        OSError: it cannot be read.
    """
    credentials: object = options.get("user_credentials")
    if isinstance(credentials, UserString):
        what, text = "the credentials", credentials.data
    elif isinstance(credentials, str | Path):
        what = f"the credentials file {credentials}"
        text = await asyncio.to_thread(Path(credentials).read_text, "utf-8", "replace")
    else:
        return
    for part in _PARTS_OF_CREDENTIALS:
        if part not in text:
            raise TransportError(f"there is no line {part!r} in {what}", permanent=True)


def wants_tls(scheme: str, options: Mapping[str, Any]) -> bool:
    """Whether a URL with that scheme and these options ask for TLS, and the driver may not."""
    if scheme == "wss":
        return False  # there the HTTP client begins with it, and nothing can go wrong
    return scheme == "tls" or bool(options.get("tls") or options.get("tls_handshake_first"))


def stream_of(client: Client) -> asyncio.StreamWriter | None:
    """The connection of a client, unless it is a WebSocket."""
    # The driver keeps it to itself. Without it, there is no telling that TLS is used, so a
    # client that wants it is refused.
    wire: object = getattr(client, "_transport", None)
    stream: object = getattr(wire, "_io_writer", None)
    return stream if isinstance(stream, asyncio.StreamWriter) else None


def cause_of(client: Client, error: Exception) -> Exception:
    """What was wrong when a dial failed: the refusal of TLS, if a lost connection hides one."""
    # Not public. Without it, a refusal may take a few attempts to show.
    reader: object = getattr(getattr(client, "_transport", None), "_io_reader", None)
    hidden = reader.exception() if isinstance(reader, asyncio.StreamReader) else None
    return hidden if isinstance(hidden, Exception) and is_tls_refusal(hidden) else error


def pending_limit(client: Client) -> int:
    """How many bytes may wait before the driver waits too, and swallows cancellation; 0: any."""
    # Not public; without it, the driver's default is assumed.
    limit: object = getattr(client, "_max_pending_size", None)
    return max(0, limit) if isinstance(limit, int) else DEFAULT_PENDING_SIZE


def unsent(client: Client) -> int:
    """How many bytes wait to be sent, in the driver and in the event loop's transport.

    The driver waits for its transport, so its own count should do. But `writelines` of asyncio
    in 3.12.0 to 3.12.8 and in 3.13.0 and 3.13.1 takes any amount without making it wait
    (CVE-2024-12254), so that a broker that hangs would fill the memory.
    """
    stream = stream_of(client)
    waiting = 0 if stream is None else stream.transport.get_write_buffer_size()
    return client.pending_data_size + waiting


def would_wait(client: Client) -> bool:
    """Whether so many commands wait to be sent that the driver would wait with the next."""
    # Not public. Without it, the driver may wait where the broker hangs; it still works.
    queue: object = getattr(client, "_flush_queue", None)
    return isinstance(queue, asyncio.Queue) and queue.full()


def dial_failure(url: str, error: Exception, limit: float) -> TransportError:
    """What a failed dial means to the user."""
    text = str(error)
    refusal = _refusal(url, error)
    if refusal:
        return TransportError(refusal, permanent=True)
    if _is_hopeless(error):
        return TransportError(f"cannot connect to {url}: {text}", permanent=True)
    if isinstance(error, ConnectionRefusedError):
        return TransportError(f"nothing listens at {url}")
    if isinstance(error, TimeoutError):
        return TransportError(f"no answer from {url} within {limit:g} s")
    return TransportError(f"cannot connect to {url}: {text or type(error).__name__}")


def _refusal(url: str, error: Exception) -> str | None:
    """What to do about credentials or certificates that one side does not take."""
    text = str(error)
    certificate = getattr(error, "certificate_error", error)  # aiohttp wraps it
    if any(refusal in text.lower() for refusal in _AUTH_REFUSALS):
        return (
            f"{url} refuses the credentials ({text.removeprefix('nats: ')});"
            " check user, password, token or credentials file"
        )
    if isinstance(certificate, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} is not trusted ({certificate.verify_message});"
            " pass tls= with an ssl.SSLContext that knows its authority"
        )
    if is_tls_refusal(error):
        return (
            f"no TLS with {url}: {text}; check tls=, and that its ssl.SSLContext has the client"
            " certificate if the server asks for one"
        )
    return None


_HOPELESS: Final = (FileNotFoundError, IsADirectoryError, PermissionError, ImportError)


def _is_hopeless(error: Exception) -> bool:
    """Whether it would be the same the next time: a matter of files, keys or packages."""
    if isinstance(error, TransportError):
        return error.permanent
    about_keys = isinstance(error, binascii.Error) or type(error).__module__ == "nkeys"
    return about_keys or isinstance(error, _HOPELESS)


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
    stream: object = stream_of(client)
    if stream is None:  # WebSocket
        response: object = getattr(getattr(wire, "_ws", None), "_response", None)
        stream = getattr(response, "connection", None)
    take_down(getattr(stream, "transport", None))
    # A reader that fails on the way out would be complained about, since nobody awaits it.
    reader: object = getattr(client, "_reading_task", None)
    if isinstance(reader, asyncio.Task):
        cast("asyncio.Task[object]", reader).add_done_callback(_look_at)
