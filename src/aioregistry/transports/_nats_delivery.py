"""The way of a message from a subscription of nats-py to a handler of the registry."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from aioregistry.subjects import is_pattern, matches
from aioregistry.transports._nats_parser import Receiver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    from aioregistry.loglimit import LogLimiter
    from aioregistry.transports.base import Handler

__all__ = ["Delivery", "Interest", "Routes"]

_logger = logging.getLogger("aioregistry.transports.nats")


class Interest:
    """A `Subscription` of the transport: it outlives the links that serve it."""

    __slots__ = ("_forget", "_handler", "active", "pattern")

    def __init__(
        self, pattern: str, handler: Handler, forget: Callable[[Interest], Awaitable[None]]
    ) -> None:
        self.pattern = pattern
        self.active = True
        self._handler = handler
        self._forget = forget

    def __repr__(self) -> str:
        return f"<subscription to {self.pattern!r}{'' if self.active else ', ended'}>"

    async def unsubscribe(self) -> None:
        """End the interest; see `aioregistry.transports.base.Subscription.unsubscribe`."""
        if self.active:
            self.active = False
            await self._forget(self)

    def take(self, subject: str, payload: bytes) -> None:
        """Call the handler, unless the interest ended while the message was on its way."""
        if not self.active:
            return
        try:
            self._handler(subject, payload)
        except (Exception, asyncio.CancelledError):
            # The driver would end the subscription on the latter.
            _logger.exception("the handler of %r raised", self)


class Delivery(Receiver):
    """What one subscription of the driver hands to one interest.

    On a client without a `BatchParser`, that is, a borrowed one, the driver calls `take`.

    Args:
        interest: whom to hand it to.
        on_refused: called with the subject of a "no responders" message.
        log: where to tell of messages that are none.
        hidden: the beginning of subjects to keep back: the echoes of this and other links.
    """

    __slots__ = ("_dropped", "_hidden", "_log", "_on_refused", "_taken", "interest", "source")

    def __init__(
        self,
        interest: Interest,
        on_refused: Callable[[str], None],
        log: LogLimiter,
        *,
        hidden: str | None = None,
    ) -> None:
        self.interest = interest
        self.source: Subscription | None = None
        self._log = log
        self._on_refused = on_refused
        self._hidden = hidden
        self._taken = 0
        self._dropped = 0

    async def take(self, msg: Msg) -> None:
        """Hand over a message; a coroutine because the driver wants one."""
        self._taken += 1
        if not msg.data and _is_refusal(msg):
            self._on_refused(msg.subject)
        elif self._hidden is None or not msg.subject.startswith(self._hidden):
            self.interest.take(msg.subject, msg.data)

    def take_raw(self, subject: bytes, payload: bytes) -> None:
        """See `Receiver.take_raw`."""
        try:
            text = subject.decode()
        except UnicodeDecodeError:
            self._tell_of(subject)
            return
        if self._hidden is None or not text.startswith(self._hidden):
            self.interest.take(text, payload)

    def take_refusal(self, subject: bytes) -> None:
        """See `Receiver.take_refusal`."""
        try:
            text = subject.decode()
        except UnicodeDecodeError:
            self._tell_of(subject)
            return
        self._on_refused(text)

    def _tell_of(self, subject: bytes) -> None:
        self._log.warning(
            "utf-8", time.monotonic(), "dropped a message on %.200r: that is not UTF-8", subject
        )

    def newly_dropped(self) -> int:
        """How many messages the driver dropped since the last call."""
        if self.source is None:
            return 0
        dropped = self.source.delivered - self.source.pending_msgs - self._taken
        fresh, self._dropped = dropped - self._dropped, dropped
        return fresh


class Routes:
    """Which interests a subject reaches: the exact ones cost one look into a dict."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[Interest, None]] = {}
        self._patterns: dict[Interest, None] = {}

    def add(self, interest: Interest) -> None:
        """Let an interest be reached."""
        if is_pattern(interest.pattern):
            self._patterns[interest] = None
        else:
            self._exact.setdefault(interest.pattern, {})[interest] = None

    def remove(self, interest: Interest) -> None:
        """Let an interest be reached no longer."""
        self._patterns.pop(interest, None)
        if exact := self._exact.get(interest.pattern):
            exact.pop(interest, None)
            if not exact:
                del self._exact[interest.pattern]

    def reached_by(self, subject: str) -> list[Interest]:
        """The interests whose pattern matches `subject`."""
        reached = list(self._exact.get(subject, ()))
        reached += [each for each in self._patterns if matches(each.pattern, subject)]
        return reached


def _is_refusal(msg: Msg) -> bool:
    """Whether a message is the broker's way to say that nobody subscribes."""
    headers = msg.headers
    return headers is not None and headers.get("Status") == "503"
