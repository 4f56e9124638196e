"""A broker inside the process: for tests, demos, and programs of a single process.

It behaves as a real broker does where that matters: messages arrive later, never within the
call that published them, in order, and it can go away and come back.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from aioregistry.errors import TransportError
from aioregistry.subjects import is_pattern, matches
from aioregistry.transports.base import LinkState

if TYPE_CHECKING:
    from collections.abc import Collection

    from aioregistry.transports.base import Handler, StateHandler, Subscription

__all__ = ["MemoryBroker", "MemoryTransport"]

_logger = logging.getLogger(__name__)


class MemoryBroker:
    """Routes messages between the `MemoryTransport`s of one event loop.

    It has no background work of its own. Transports that an event loop left open when it was
    closed are dropped as soon as a transport of another loop connects.

    Attributes:
        name: what follows `memory://` in its address.
        max_payload: the largest payload that it takes, in bytes; None: any.
    """

    _named: ClassVar[weakref.WeakValueDictionary[str, MemoryBroker]] = weakref.WeakValueDictionary()

    def __init__(self, name: str = "", *, max_payload: int | None = None) -> None:
        self.name = name
        self.max_payload = max_payload
        self._running = True
        self._links: dict[_Link, asyncio.AbstractEventLoop] = {}
        self._routes = _Routes()
        self._queue: deque[tuple[list[_Interest], str, bytes]] = deque()
        self._delivering_on: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        state = "running" if self._running else "stopped"
        return f"<MemoryBroker {self.address} {state}, {len(self._links)} connected>"

    @classmethod
    def named(cls, name: str = "") -> MemoryBroker:
        """The broker of that name in this process, made if nobody holds one any longer."""
        broker = cls._named.get(name)
        if broker is None:
            broker = cls._named[name] = cls(name)
        return broker

    @property
    def address(self) -> str:
        """The URL of the broker."""
        return f"memory://{self.name}"

    @property
    def running(self) -> bool:
        """Whether it takes connections and messages."""
        return self._running

    def stop(self) -> None:
        """Go away as a crashing broker does: what was not delivered yet is lost.

        Every connected transport has reported DISCONNECTED when this returns.
        """
        if self._running:
            self._running = False
            self._queue.clear()
            self._report(LinkState.DISCONNECTED, "the memory broker was stopped")

    def start(self) -> None:
        """Come back after `stop`: every connected transport has reported CONNECTED on return."""
        if not self._running:
            self._running = True
            self._report(LinkState.CONNECTED, "the memory broker was started")

    def attach(self, link: _Link) -> None:
        """Let a transport of the running event loop in, with the interests that it has.

        Raises:
            TransportError: the broker is stopped, or the transport is attached already.
        """
        self._check_running()
        if link in self._links:
            raise TransportError(f"already connected to {self.address}")
        for left_behind in [each for each, loop in self._links.items() if loop.is_closed()]:
            self.detach(left_behind)
        self._links[link] = asyncio.get_running_loop()
        for interest in link.interests:
            self._routes.add(interest)

    def detach(self, link: _Link) -> None:
        """Forget a transport and its interests."""
        self._links.pop(link, None)
        for interest in link.interests:
            self._routes.remove(interest)

    def check(self, link: _Link) -> None:
        """Make sure that messages flow between the broker and a transport.

        Raises:
            TransportError: the broker is stopped, or the transport is not attached.
        """
        self._check_running()
        if link not in self._links:
            raise TransportError(f"not connected to {self.address}; await connect() first")

    def add(self, interest: _Interest) -> None:
        """Route messages to an interest; that of a transport still to come waits for it."""
        if interest.link in self._links:
            self._routes.add(interest)

    def remove(self, interest: _Interest) -> None:
        """Route no more messages to an interest."""
        self._routes.remove(interest)

    def publish(self, sender: _Link, subject: str, payload: bytes, reply_to: str | None) -> None:
        """Take a message and deliver it soon, in the running event loop.

        Raises:
            TransportError: as for `check`, or the payload is larger than `max_payload`.
        """
        self.check(sender)
        if self.max_payload is not None and len(payload) > self.max_payload:
            raise TransportError(
                f"{self.address} takes at most {self.max_payload} bytes,"
                f" the message for {subject!r} has {len(payload)}",
                subjects=frozenset({subject}),
            )
        receivers = self._routes.receivers(subject)
        if not receivers and reply_to is not None:
            subject, payload = reply_to, b""
            receivers = [each for each in self._routes.receivers(subject) if each.link is sender]
        if receivers:
            self._enqueue(receivers, subject, payload)

    def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that no attached transport subscribes to."""
        return frozenset(each for each in subjects if not self._routes.receivers(each))

    def _check_running(self) -> None:
        if not self._running:
            raise TransportError(f"{self.address} is stopped")

    def _report(self, state: LinkState, reason: str) -> None:
        for link in list(self._links):
            try:
                link.on_state(state, reason)
            except Exception:
                _logger.exception("a state handler of %s raised", self.address)

    def _enqueue(self, receivers: list[_Interest], subject: str, payload: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self._delivering_on is not loop:
            if self._delivering_on is not None:
                self._queue.clear()  # that loop ended before it delivered these
            self._delivering_on = loop
            loop.call_soon(self._deliver)
        self._queue.append((receivers, subject, payload))

    def _deliver(self) -> None:
        self._delivering_on = None
        while self._queue:
            receivers, subject, payload = self._queue.popleft()
            for receiver in receivers:
                receiver.deliver(subject, payload)


class MemoryTransport:
    """A `Transport` to a `MemoryBroker`; all transports to one broker hear each other.

    Args:
        broker: the broker; None: the unnamed one of this process, `MemoryBroker.named()`.

    Raises:
        TypeError: `broker` is something else, such as a URL.
    """

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        if broker is not None and not isinstance(broker, MemoryBroker):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            raise TypeError(
                f"broker must be a MemoryBroker, such as MemoryBroker.named('test'), not"
                f" {broker!r}; a URL goes to Registry('memory://test')"
            )
        self._broker = MemoryBroker.named() if broker is None else broker
        self._link = _Link(self._broker)
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryTransport {self.address}>"

    @property
    def address(self) -> str:
        """The URL of the broker."""
        return self._broker.address

    @property
    def look_interval(self) -> float | None:
        """See `Transport.look_interval`."""
        return None

    @property
    def ordered(self) -> bool:
        """See `Transport.ordered`."""
        return True

    async def connect(self, on_state: StateHandler) -> None:
        """Attach to the broker; see `Transport.connect`.

        Raises:
            TransportError: the broker is stopped, or the transport connected or closed.
        """
        self._check_open()
        self._broker.attach(self._link)
        self._link.on_state = on_state

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        """Hand one message to the broker; see `Transport.publish`.

        Raises:
            TransportError: not connected, or the broker is stopped or refuses the size.
        """
        self._check_open()
        self._broker.publish(self._link, subject, payload, reply_to)

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Hand one message to the broker at once; see `PromptTransport.publish_now`."""
        try:
            self._check_open()
            self._broker.publish(self._link, subject, payload, None)
        except TransportError:
            return False
        return True

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Deliver what matches `pattern` to `handler`; see `Transport.subscribe`.

        Raises:
            TransportError: the transport is closed.
        """
        self._check_open()
        interest = _Interest(self._link, pattern, handler)
        self._link.interests[interest] = None
        self._broker.add(interest)
        return interest

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody subscribes to; see `Transport.unheard`.

        Raises:
            TransportError: not connected, or the broker is stopped.
        """
        self._check_link()
        return self._broker.unheard(subjects)

    async def flush(self) -> None:
        """Wait until everything published before is delivered; see `Transport.flush`.

        Raises:
            TransportError: not connected, or the broker is stopped.
        """
        self._check_link()
        # An event loop runs its callbacks in order, and a delivery due was put there before.
        await asyncio.sleep(0)
        self._check_link()

    async def aclose(self) -> None:
        """Detach from the broker; see `Transport.aclose`."""
        self._closed = True
        self._broker.detach(self._link)
        for interest in self._link.interests:
            interest.active = False
        self._link.interests.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport to {self.address} is closed", permanent=True)

    def _check_link(self) -> None:
        self._check_open()
        self._broker.check(self._link)


class _Link:
    """What the broker knows of a transport; identity is what tells two of them apart."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.interests: dict[_Interest, None] = {}
        self.on_state: StateHandler = _ignore


class _Interest:
    """A `Subscription`: one handler's interest in one pattern."""

    def __init__(self, link: _Link, pattern: str, handler: Handler) -> None:
        self.link = link
        self.pattern = pattern
        self.active = True
        self._handler = handler

    def __repr__(self) -> str:
        return f"<subscription to {self.pattern!r} at {self.link.broker.address}>"

    async def unsubscribe(self) -> None:
        """End the interest; see `Subscription.unsubscribe`."""
        self.active = False
        self.link.interests.pop(self, None)
        self.link.broker.remove(self)

    def deliver(self, subject: str, payload: bytes) -> None:
        """Call the handler, unless the interest ended while the message was on its way."""
        if not self.active:
            return
        try:
            self._handler(subject, payload)
        except (Exception, asyncio.CancelledError):
            _logger.exception("the handler of %r raised", self)


class _Routes:
    """Who is interested in which subject: exact ones at the cost of one look into a dict."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[_Interest, None]] = {}
        self._patterns: dict[str, dict[_Interest, None]] = {}

    def add(self, interest: _Interest) -> None:
        self._table(interest).setdefault(interest.pattern, {})[interest] = None

    def remove(self, interest: _Interest) -> None:
        table = self._table(interest)
        interests = table.get(interest.pattern, {})
        interests.pop(interest, None)
        if not interests:
            table.pop(interest.pattern, None)

    def receivers(self, subject: str) -> list[_Interest]:
        found = list(self._exact.get(subject, ()))
        for pattern, interests in self._patterns.items():
            if matches(pattern, subject):
                found.extend(interests)
        return found

    def _table(self, interest: _Interest) -> dict[str, dict[_Interest, None]]:
        return self._patterns if is_pattern(interest.pattern) else self._exact


def _ignore(_state: LinkState, _reason: str) -> None:
    """The state handler of a transport that nobody connected yet."""
