"""Where the clauses of the contract are played: transports, handlers, expectations."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from aioregistry.errors import TransportError
from aioregistry.transports.base import LinkState, Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable

__all__ = [
    "Inbox",
    "Stage",
    "abridged",
    "cancel_after",
    "ended",
    "eventually",
    "expect_unheard",
    "is_cancelled",
    "raises_transport_error",
    "require",
    "require_instance",
    "spin",
]

PATIENCE: Final = 10.0  # seconds, for one thing to happen on a busy machine
_BREATH: Final = 0.01  # seconds between two looks at what only the broker knows

Message = tuple[str, bytes]


class Inbox:
    """A handler that keeps what it is called with."""

    def __init__(self, owner: str = "the handler") -> None:
        self.owner = owner
        self.messages: list[Message] = []
        self._arrival = asyncio.Event()

    def __call__(self, subject: str, payload: bytes) -> None:
        """Keep a message."""
        self.messages.append((subject, payload))
        self._arrival.set()

    @property
    def payloads(self) -> list[bytes]:
        """Those of the messages, in the order of their arrival."""
        return [payload for _, payload in self.messages]

    async def reaches(self, count: int) -> None:
        """Wait until `count` messages have arrived."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.messages) < count:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.owner} got {len(self.messages)} of {count} messages"
                f" within {PATIENCE:g} s: {abridged(self.messages)}"
            ) from None


class Stage:
    """The transports of one check, and subjects that nobody else uses."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._prefix = f"check-{secrets.token_hex(6)}"
        self._made: list[Transport] = []
        self._connected: list[Transport] = []
        self.reports: list[tuple[LinkState, str]] = []

    def subject(self, *tokens: object) -> str:
        """A subject, or a pattern, of this check alone."""
        return ".".join((self._prefix, *map(str, tokens)))

    def make(self) -> Transport:
        """A transport that nobody connected yet."""
        transport = self._make()
        self._made.append(transport)
        return transport

    async def connect(self, transport: Transport | None = None) -> Transport:
        """Connect a transport, a new one unless given."""
        transport = transport or self.make()
        await transport.connect(lambda state, reason: self.reports.append((state, reason)))
        self._connected.append(transport)
        return transport

    async def close(self, transport: Transport) -> None:
        """Close a transport that was connected here."""
        self._connected.remove(transport)
        await transport.aclose()

    async def settle(self) -> None:
        """Wait until nothing is on its way: out of every transport, then into every one."""
        for transport in self._connected * 2:
            await transport.flush()

    async def expect(self, inbox: Inbox, messages: Iterable[Message]) -> None:
        """Wait for exactly these messages, in any order, and make sure that no more come."""
        expected = sorted(messages)
        await inbox.reaches(len(expected))
        await self.settle()
        missing = Counter(expected) - Counter(inbox.messages)
        surplus = Counter(inbox.messages) - Counter(expected)
        require(not missing, f"{inbox.owner} missed {abridged(missing.elements())}")
        require(
            not surplus, f"{inbox.owner} got more than it should: {abridged(surplus.elements())}"
        )

    async def clear(self) -> None:
        """Close everything; what goes wrong in it is for the checks of aclose to find."""
        for transport in self._made:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(transport.aclose(), PATIENCE)


async def expect_unheard(
    transport: Transport, subjects: Collection[str], expected: set[str]
) -> None:
    """Ask for the silent ones among `subjects`, which have to be the `expected`."""
    given = await transport.unheard(subjects)
    require_instance(given, frozenset, "what unheard gave")
    wrongly = given - expected
    require(not wrongly, f"unheard names {abridged(sorted(wrongly))}, where somebody listens")
    missed = expected - given
    require(not missed, f"unheard does not name {abridged(sorted(missed))}, where nobody listens")


async def eventually(
    condition: Callable[[], Awaitable[bool]], otherwise: str, *, patience: float | None = None
) -> None:
    """Wait for what only the broker knows, by asking again and again."""
    loop = asyncio.get_running_loop()
    patience = PATIENCE if patience is None else patience
    deadline = loop.time() + patience
    while not await condition():
        require(loop.time() < deadline, f"{otherwise}, even after {patience:g} s")
        await asyncio.sleep(_BREATH)


async def ended(tasks: Iterable[asyncio.Future[Any]]) -> bool:
    """Wait for the end of tasks; whether all have ended in time."""
    _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
    return not pending


async def spin(count: int) -> None:
    """Let the event loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


async def raises_transport_error(what: str, call: Callable[[], Awaitable[object]]) -> None:
    """Make a call that has to raise `TransportError`."""
    try:
        async with asyncio.timeout(PATIENCE):
            await call()
    except TransportError:
        return
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r}, not TransportError") from error
    raise AssertionError(f"{what} raised nothing")


async def cancel_after(count: int, name: str, call: Callable[[], Awaitable[object]]) -> bool:
    """Begin a call, cancel it `count` turns of the event loop later; whether that ended it."""
    task = asyncio.ensure_future(call())
    await spin(count)
    task.cancel()
    require(await ended([task]), f"{name} goes on {PATIENCE:g} s after it was cancelled")
    if not task.cancelled():
        await task
    return task.cancelled()


def is_cancelled() -> bool:
    """Whether it is this task that somebody wants to end, and not one that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as assert does
    """Raise `AssertionError`, with the text, unless the condition holds."""
    if not condition:
        raise AssertionError(otherwise)


def require_instance(value: object, kind: type, what: str) -> None:
    """Raise `AssertionError` unless the value is of this kind."""
    require(isinstance(value, kind), f"{what} is {value!r}, not a {kind.__name__}")


def abridged(items: Iterable[object], limit: int = 5) -> str:
    """A text for some of the items, each cut where it is long."""
    everything = list(items)
    shown = [
        text if len(text) <= 80 else f"{text[:77]}..." for text in map(repr, everything[:limit])
    ]
    more = [f"and {len(everything) - limit} more"] if len(everything) > limit else []
    return ", ".join(shown + more) or "nothing"
