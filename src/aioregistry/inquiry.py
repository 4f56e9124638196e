"""One ping and its answers: what any number of lookups of a cold name wait for together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self

from aioregistry.errors import TransportError

__all__ = ["Inquiries", "Inquiry"]

QUIET: Final = 2.0
"""Answers have stopped when none came for so many times what the first one took."""

MIN_QUIET: Final = 0.01
MAX_QUIET: Final = 0.25
"""The first answer may have been no answer, but an instance that came up later."""

STALL: Final = 0.02
"""Who wakes up so many seconds late had its event loop blocked: what arrived meanwhile may still
be on its way through the driver."""


class Inquiry:
    """A ping for a name that was or will be sent, and what is known of the answers.

    Whoever takes part enters it; it is under way until the last has left.

    Args:
        under_way: all inquiries that are, by name.
        name: the name that is asked for.

    Attributes:
        nobody: the broker says that nobody listens to the ping.
        refusal: why the broker does not let us ask, or hear the answers.
        users: how many take part.
    """

    def __init__(self, under_way: dict[str, Inquiry], name: str) -> None:
        self._under_way = under_way
        self._name = name
        self.nobody = False
        self.refusal: TransportError | None = None
        self.users = 0
        self._asked: float | None = None
        self._first: float | None = None
        self._last = 0.0
        self._asking: asyncio.Event | None = None
        self._waiters: dict[asyncio.Future[None], None] = {}

    def __enter__(self) -> Self:
        self.users += 1
        self._under_way[self._name] = self
        return self

    def __exit__(self, *_: object) -> None:
        self.users -= 1
        if not self.users:
            del self._under_way[self._name]

    async def ask_once(
        self, ask: Callable[[], Awaitable[None]], now: float, patience: float
    ) -> None:
        """Call `ask` unless that was done less than `patience` seconds before `now`.

        Of several callers at once, one asks and the others wait for it; when that one is
        cancelled or fails, the next takes over.
        """
        while self._asking is not None or self._asked is None or now - self._asked > patience:
            if self._asking is not None:
                await self._asking.wait()
                continue
            self._asking = asyncio.Event()
            self.nobody, self.refusal, self._first = False, None, None
            before, self._asked = self._asked, now
            try:
                await ask()
            except BaseException:
                self._asked = before
                raise
            finally:
                self._asking.set()
                self._asking = None

    @property
    def asked(self) -> bool:
        """Whether the ping was sent."""
        return self._asked is not None and self._asking is None

    @property
    def quiet_at(self) -> float | None:
        """When the answers count as complete if no further one comes; None without any."""
        if self._first is None or self._asked is None:
            return None
        quiet = QUIET * (self._first - self._asked)
        return self._last + min(max(quiet, MIN_QUIET), MAX_QUIET)

    def heard(self, now: float) -> None:
        """An instance of the name announced itself."""
        self._last = now
        if self._first is None:
            self._first = now
            self.wake()

    def wake(self) -> None:
        """Something changed: let those who wait have a look."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def news(self, until: float) -> None:
        """Wait until something changes, or the event loop's clock reads `until`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters[waiter] = None
        timer = loop.call_at(until, _finish, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)
        if loop.time() - until > STALL and self._first is not None:
            self._last = loop.time()  # whether the answers have stopped is not known


class Inquiries:
    """The inquiries that somebody waits for, by name."""

    def __init__(self) -> None:
        self._inquiries: dict[str, Inquiry] = {}

    def __bool__(self) -> bool:
        return bool(self._inquiries)

    def get(self, name: str) -> Inquiry | None:
        """The inquiry for `name` that is under way."""
        return self._inquiries.get(name)

    def names(self) -> tuple[str, ...]:
        """The names that are inquired about."""
        return tuple(self._inquiries)

    def items(self) -> list[tuple[str, Inquiry]]:
        """All inquiries that are under way, with the names that they are for."""
        return list(self._inquiries.items())

    def join(self, name: str) -> Inquiry:
        """The inquiry for `name`, to be entered by who takes part in it."""
        return self._inquiries.get(name) or Inquiry(self._inquiries, name)

    def wake_all(self) -> None:
        """Let everybody have a look: the link came up or went down."""
        for inquiry in self._inquiries.values():
            inquiry.wake()


def _finish(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
