"""The short way of a message from the socket to its handler, past the queues of nats-py.

The driver makes an object of every message, puts it into a queue and wakes a task that awaits
a coroutine: more than half of what a heartbeat costs. Here the messages for our own
subscriptions are taken out of the stream where they stand, if possible before the driver's
reader is woken, and everything else is left to the driver's parser, one whole command at a
time, so that it never holds half of one.

A peer's message cannot harm it: a subject that is no UTF-8, or a header that is none, makes
the driver's reader end without a word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

__all__ = ["BatchParser", "Receiver"]

_MESSAGE: Final = re.compile(rb"MSG (\S+) (\S+) (?:\S+ )?(\d+)\r\n")
_MESSAGE_WITH_HEADERS: Final = re.compile(rb"HMSG (\S+) (\S+) (?:\S+ )?(\d+) (\d+)\r\n")
_ERROR: Final = re.compile(rb"-ERR\s+'(.*)'\s*\r\n")
_NO_RESPONDERS: Final = b"NATS/1.0 503"
_END: Final = b"\r\n"

_LONGEST_LINE: Final = 2**20
_LARGEST_MESSAGE: Final = 2**26 + 2**20
"""No server can be configured to take more than 64 MiB."""

_SIDS: Final = 10_000


class Receiver:
    """Who takes the messages of one subscription; it must not raise."""

    __slots__ = ()

    def take_raw(self, subject: bytes, payload: bytes) -> None:
        """Take a message as it came."""
        raise NotImplementedError

    def take_refusal(self, subject: bytes) -> None:
        """Take the news that nobody subscribes to what was sent with this reply subject."""
        raise NotImplementedError


class BatchParser(Parser):
    """A parser of the driver that hands messages to their `Receiver` itself.

    Args:
        client: the client that it reads for; a subscription of the driver whose callback is a
            method of a `Receiver` gets its messages from here.

    Attributes:
        receivers: who takes the messages of a subscription that the driver does not know.
        idle: whether it has taken in all that was read for it.
        received: grows with what comes in.
        on_error: called with the text of each error of the server; whether it has dealt with it.
            The driver does with the others, which ends the connection in most cases.
    """

    def __init__(self, client: Client) -> None:
        self.receivers: dict[bytes, Receiver] = {}
        self.idle = False
        self.received = 0
        self.on_error: Callable[[str], bool] | None = None
        self._client = client
        self._rest = bytearray()
        self._needed = 0
        self._drivers: dict[bytes, Receiver] = {}
        driver: Any = super()  # untyped
        driver.__init__(client)

    def reset(self) -> None:
        """Begin anew, on another connection."""
        super().reset()
        self._rest.clear()
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Take in what the server sent.

        Raises:
            ProtocolError: it is not the NATS protocol.
        """
        self.idle = False
        data, position = self._joined(data), 0
        while (command := self._deliver(data, position)) is not None:
            begin, position = command
            if not self._is_done_with(data[begin:position]):
                await super().parse(data[begin:position])
        self.idle = True

    def take(self, data: bytes) -> bytes:
        """Take in what the server sent without the driver's reader, as far as it goes.

        Only for a parser that is `idle`. Returns what that reader has to pass on to `parse`.
        """
        data = self._joined(data)
        try:
            command = self._deliver(data, 0)
        except ProtocolError:
            return data  # the reader gets to see it, and ends the connection
        return b"" if command is None else data[command[0] :]

    def _joined(self, data: bytes) -> bytes:
        """The data with what was kept before it; nothing as long as that is not enough."""
        self.received += len(data)
        if not self._rest:
            return data
        self._rest += data
        if len(self._rest) < self._needed:
            return b""
        data = bytes(self._rest)
        self._rest.clear()
        return data

    def _deliver(self, data: bytes, position: int) -> tuple[int, int] | None:
        """Deliver messages until a command is for the driver; return where it begins and ends.

        None when all is done; what is not complete is kept.
        """
        size, receivers = len(data), self.receivers
        while position < size:
            message = _MESSAGE.match(data, position)
            if message is not None:
                subject, sid, length = message.groups()
                begin = body = message.end()
            else:
                message = _MESSAGE_WITH_HEADERS.match(data, position)
                if message is None:
                    return self._line(data, position)
                subject, sid, length_of_headers, length = message.groups()
                begin = message.end()
                body = begin + int(length_of_headers)
            end = begin + int(length)
            if size < end + 2:
                self._keep(data, position, end + 2)
                return None
            receiver = receivers.get(sid) or self._drivers.get(sid) or self._receiver(sid)
            if receiver is None:
                return position, end + 2
            if body == end and data.startswith(_NO_RESPONDERS, begin):
                receiver.take_refusal(subject)
            else:
                receiver.take_raw(subject, data[body:end])
            position = end + 2
        return None

    def _line(self, data: bytes, position: int) -> tuple[int, int] | None:
        """Where the command that begins here ends; None when that has not come yet."""
        end = data.find(_END, position)
        if end < 0:
            self._keep(data, position, 0)
            return None
        return position, end + 2

    def _is_done_with(self, command: bytes) -> bool:
        """Whether a command is an error that the driver need not see."""
        error = _ERROR.fullmatch(command)
        if error is None or self.on_error is None:
            return False
        return self.on_error(error[1].decode(errors="replace"))

    def _keep(self, data: bytes, position: int, end: int) -> None:
        """Keep the beginning of a command until `end` has come; 0: it is not known yet."""
        rest = data[position:]
        if end - position > _LARGEST_MESSAGE or (not end and len(rest) > _LONGEST_LINE):
            raise ProtocolError(f"nats: no command begins with {rest[:80]!r}")
        self._rest += rest
        self._needed = max(0, end - position)

    def _receiver(self, sid: bytes) -> Receiver | None:
        """Whose subscription it is; None: one that the driver serves."""
        # Not public: without these attributes the driver serves all of them.
        subscriptions: Any = getattr(self._client, "_subs", {})
        callback: object = getattr(subscriptions.get(int(sid)), "_cb", None)
        receiver: object = getattr(callback, "__self__", None)
        if not isinstance(receiver, Receiver):
            return None
        if len(self._drivers) >= _SIDS:  # subscriptions come and go
            self._drivers.clear()
        self._drivers[sid] = receiver
        return receiver
