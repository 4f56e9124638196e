"""The transport protocol: what the registry asks of a broker, and nothing more.

Delivery is "at most once, may repeat, may reorder between subjects": the catalogue copes.
`aioregistry.testing.check_transport` is the contract suite of this protocol.

Subjects are dot-separated tokens; in a pattern `*` stands for exactly one token and a
final `>` for one or more, as in NATS, on every transport.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

__all__ = [
    "Handler",
    "LinkState",
    "PromptTransport",
    "StateHandler",
    "Subscription",
    "Transport",
]


class LinkState(enum.Enum):
    """What a transport knows of its link to the broker."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"


Handler = Callable[[str, bytes], None]
"""Called with subject and payload, in the order of arrival. Plain, quick, never raises."""

StateHandler = Callable[[LinkState, str], None]
"""Called with the new state and its reason in words. Plain, quick, never raises."""


class Subscription(Protocol):
    """A standing interest in a pattern."""

    async def unsubscribe(self) -> None:
        """End the interest. No handler call follows; doing it twice is harmless.

        It never raises because of a lost link: the interest is gone either way.
        """
        ...


@runtime_checkable
class Transport(Protocol):
    """The adapter to one broker.

    Every method raises `TransportError` and no driver exception, and every method is
    bounded in time by the transport itself, even on a link that hangs. A subject or pattern
    that the broker's protocol cannot carry is a `ValueError`. A cancelled call leaves the
    transport usable, and a cancelled `subscribe` no interest behind.
    """

    @property
    def address(self) -> str:
        """Where the broker is, for messages to people: never with credentials."""
        ...

    @property
    def look_interval(self) -> float | None:
        """How often `unheard` may be asked about every node of the fleet, in seconds.

        None where a question costs a message for each subject: then only about those whose
        heartbeats are late.
        """
        ...

    @property
    def ordered(self) -> bool:
        """Whether the broker takes subscriptions and messages in the order of the calls.

        Then `subscribe` need not wait for it, and does not.
        """
        ...

    async def connect(self, on_state: StateHandler) -> None:
        """Make one attempt to connect.

        After it returned, the link is up, and the transport keeps it up by itself: it
        reports each loss and each recovery through `on_state` (this first success is not
        reported), restores the subscriptions before it reports CONNECTED, and reports
        DISCONNECTED followed by CONNECTED when messages may have been lost although the
        link stayed. DISCONNECTED may be repeated with a new reason. After it raised, it may
        be called again.

        Raises:
            TransportError: the attempt failed; `permanent` when another cannot succeed. Or
                it is connected already.
        """
        ...

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        """Send one message off, without waiting for the broker: `flush` does that.

        Messages of one transport are taken in the order of the calls.

        When `reply_to` is given and nobody subscribes to `subject`, as far as the broker can
        tell, an empty message arrives at this transport's own handlers for `reply_to`, and
        at nobody else's.

        Raises:
            TransportError: the link is down or congested (nothing is kept for later), or,
                with `subjects` set, the payload is larger than the broker takes.
        """
        ...

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Deliver every message whose subject matches to `handler`.

        On a link that is up, whatever this transport publishes after the return finds the
        subscription in place. On a link that is down, or before `connect`, it is kept and
        comes into force with the link. Each subscription gets its own delivery.

        Raises:
            TransportError: the broker refused (with `subjects` set; one that does not tell at
                once is quoted by the next `flush`), or the transport is closed.
        """
        ...

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody at all subscribes to, as the broker knows it.

        Whoever does subscribe may receive an empty message for it.

        Raises:
            TransportError: the broker did not answer; or it refuses the question, then with
                `subjects` set, or `permanent` when it refuses all of that kind.
        """
        ...

    async def flush(self) -> None:
        """Wait until both directions are clear.

        On return the broker has taken everything published before the call, and everything
        that it had sent here before it has passed through the handlers. Calls made
        together may share one round trip that begins after the last of them.

        Raises:
            TransportError: the broker did not answer in time; or, with `subjects` set, it
                has refused messages for these since the last flush.
        """
        ...

    async def aclose(self) -> None:
        """Close what this transport opened, in at most two seconds, and never raise.

        A client that was borrowed stays open. Closing twice is harmless; every other
        method raises `TransportError` afterwards.
        """
        ...


@runtime_checkable
class PromptTransport(Transport, Protocol):
    """A transport that can also send from within a handler, where nothing can be awaited.

    No transport has to. Where one can, a ping is answered as it arrives, without a task in between.
    """

    def publish_now(self, subject: str, payload: bytes) -> bool:
        """Send one message off as `publish` does, if that takes no wait and nothing is amiss.

        Returns:
            Whether it was sent. Where it was not, nothing has happened, and `publish` sends it or
            says why not.
        """
        ...
