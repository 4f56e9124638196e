"""A transport to a simulated broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from aioregistry.errors import TransportError
from aioregistry.testing.faults import Message
from aioregistry.transports.base import LinkState

if TYPE_CHECKING:
    from collections.abc import Collection

    from aioregistry.testing.process import SimulatedProcess
    from aioregistry.transports.base import Handler, StateHandler, Subscription

__all__ = ["Interest", "SimulatedTransport"]

_logger = logging.getLogger(__name__)

_ANSWER_LIMIT: Final = 1.0
"""For how long a request waits for a broker that does not answer, in seconds."""

_MOMENT: Final = 0.005
"""Half a bucket: what is due in a bucket is done so many seconds after it."""


class SimulatedTransport:
    """A `Transport` of a simulated process; `SimulatedProcess.transport` makes it.

    Attributes:
        process: whose transport it is.
        connected: whether it takes its link to be up, rightly or wrongly.
        session: whether the broker takes the link to be up.
        interests: its subscriptions.
        sent_until: when everything sent so far has reached the broker.
        due_until: when everything on its way here has arrived.
    """

    def __init__(self, process: SimulatedProcess) -> None:
        self.process = process
        self.connected = self.session = False
        self.interests: dict[Interest, None] = {}
        self.sent_until = self.due_until = 0.0
        self._network = process.network
        self._on_state: StateHandler = _ignore
        self._losses = 0
        self._lost = asyncio.Event()
        self._closed = False
        self._backlog: deque[tuple[Interest, Message]] = deque()
        self._all_read = asyncio.Event()
        self._all_read.set()
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<SimulatedTransport of {self.process.name}>"

    @property
    def address(self) -> str:
        """The address of the broker."""
        return self._network.address

    @property
    def look_interval(self) -> float | None:
        """See `Transport.look_interval`: as the network says."""
        return self._network.look_interval

    @property
    def ordered(self) -> bool:
        """See `Transport.ordered`: as with the brokers that the network stands for."""
        return self._network.look_interval is None

    # ---- what the registry asks for ----------------------------------------------------

    async def connect(self, on_state: StateHandler) -> None:
        """Connect to the broker; see `Transport.connect`.

        Raises:
            TransportError: the broker is stopped or out of reach, or the transport closed.
        """
        await self._ready()
        if self.connected:
            raise TransportError(f"already connected to {self.address}")
        if self.process.partitioned:
            await asyncio.sleep(_ANSWER_LIMIT)
        await asyncio.sleep(2 * self._network.lag(self.process))
        self._check_open()
        if not self.process.reachable:
            raise TransportError(f"{self.address} cannot be reached")
        self._on_state = on_state
        self._connect()

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        """Send a message off; see `Transport.publish`.

        Raises:
            TransportError: the link is down.
        """
        await self._ready()
        if not self.process.crashed:
            self._check_link()
            self._network.publish(self, subject, payload, reply_to)

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Send a message off at once; see `PromptTransport.publish_now`."""
        if self.process.frozen or self.process.crashed or not self.connected:
            return False
        self._network.publish(self, subject, payload, None)
        return True

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Deliver what matches `pattern` to `handler`; see `Transport.subscribe`.

        Raises:
            TransportError: the transport is closed.
        """
        await self._ready()
        interest = Interest(self, pattern, handler)
        self.interests[interest] = None
        if self.session and self.process.reachable:
            self._network.add(interest)
        return interest

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody subscribes to; see `Transport.unheard`.

        Raises:
            TransportError: the link is down, or the broker does not answer.
        """
        if self.process.crashed:
            return frozenset()
        losses = await self._reach_broker()
        unheard = self._network.unheard(subjects)
        await asyncio.sleep(self._network.lag(self.process))
        self._check_link(losses)
        return unheard

    async def flush(self) -> None:
        """Wait until both directions are clear; see `Transport.flush`.

        Raises:
            TransportError: the link is down, or the broker does not answer.
        """
        if self.process.crashed:
            return
        losses = await self._reach_broker()
        await self._until(max(self.due_until, self._loop.time() + self._network.lag(self.process)))
        await self._all_read.wait()
        self._check_link(losses)

    async def aclose(self) -> None:
        """Close the link; see `Transport.aclose`."""
        self._closed = True
        self.connected = False
        self._lost.set()
        self._network.forget(self)
        if self in self.process.transports:
            self.process.transports.remove(self)
        for interest in self.interests:
            interest.active = False
        self.interests.clear()
        self._backlog.clear()
        self._all_read.set()

    # ---- what the network does to it ---------------------------------------------------

    def receive(self, interest: Interest, message: Message) -> None:
        """A message has arrived; a frozen process reads it later."""
        self._network.monitor.arrived(message, self.process)
        if self.process.frozen or self._backlog:
            self._backlog.append((interest, message))
            self._all_read.clear()
        else:
            self._hand_over(interest, message)

    def read_backlog(self) -> None:
        """Read what arrived while the process was frozen."""
        while self._backlog and not self.process.frozen:
            interest, message = self._backlog.popleft()
            self._hand_over(interest, message)
        if not self._backlog:
            self._all_read.set()

    def break_off(self, reason: str, after: float) -> None:
        """The broker ended the link; the transport notices `after` so many seconds."""
        self._network.detach(self)
        self._loop.call_later(after, self._lose, reason, self._losses, context=self.process.context)

    def probe(self, after: float) -> None:
        """The link fell silent; find that out `after` so many seconds, if it still is."""
        self._loop.call_later(after, self._probe, self._losses, context=self.process.context)

    def come_back(self, after: float) -> None:
        """The broker can be reached again; reconnect `after` so many seconds."""
        self._loop.call_later(after, self._reconnect, context=self.process.context)

    # ------------------------------------------------------------------------------------

    def _hand_over(self, interest: Interest, message: Message) -> None:
        if interest.active:
            self.process.context.run(interest.deliver, message)
        self._network.monitor.handled(message, self.process)

    def _probe(self, losses: int) -> None:
        if not self.process.reachable:
            self._lose("the broker does not answer", losses)

    def _lose(self, reason: str, losses: int) -> None:
        if self.connected and losses == self._losses:
            self._losses += 1
            self.connected = False
            self._lost.set()
            self._network.detach(self)
            self._network.monitor.changed(self.process, "disconnected")
            self._on_state(LinkState.DISCONNECTED, reason)
            self._network.come_back_later(self)

    def _reconnect(self) -> None:
        if not self.connected and not self._closed and self.process.reachable:
            self._connect()
            self._on_state(LinkState.CONNECTED, "reconnected")

    def _connect(self) -> None:
        self.connected = True
        self._lost = asyncio.Event()
        self._network.attach(self)
        self._network.monitor.changed(self.process, "connected")

    async def _reach_broker(self) -> int:
        """Wait until everything sent so far is at the broker; returns the number of losses."""
        await self._ready()
        self._check_link()
        losses = self._losses
        await self._until(max(self.sent_until, self._loop.time() + self._network.lag(self.process)))
        self._check_link(losses)
        if not self.session or not self.process.reachable:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), _ANSWER_LIMIT)
            self._check_link(losses)
            raise TransportError(f"no answer from {self.address}")
        return losses

    async def _until(self, time: float) -> None:
        await asyncio.sleep(max(0.0, time - self._loop.time()) + _MOMENT)

    async def _ready(self) -> None:
        if self.process.frozen:
            await self.process.awake()
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport to {self.address} is closed")

    def _check_link(self, losses: int | None = None) -> None:
        self._check_open()
        if not self.connected or losses not in (None, self._losses):
            raise TransportError(f"no link to {self.address}")


class Interest:
    """A `Subscription`: the interest of one handler in one pattern.

    Attributes:
        transport: whose interest it is.
        pattern: what it is in.
        active: whether it lasts.
    """

    __slots__ = ("_handler", "active", "pattern", "transport")

    def __init__(self, transport: SimulatedTransport, pattern: str, handler: Handler) -> None:
        self.transport = transport
        self.pattern = pattern
        self.active = True
        self._handler = handler

    def __repr__(self) -> str:
        return f"<interest of {self.transport.process.name} in {self.pattern!r}>"

    async def unsubscribe(self) -> None:
        """End the interest; see `Subscription.unsubscribe`."""
        self.active = False
        self.transport.interests.pop(self, None)
        self.transport.process.network.remove(self)

    def deliver(self, message: Message) -> None:
        """Call the handler."""
        try:
            self._handler(message.subject, message.payload)
        except (Exception, asyncio.CancelledError):
            _logger.exception("the handler of %r raised", self)


def _ignore(_state: LinkState, _reason: str) -> None:
    """The state handler of a transport that nobody connected yet."""
