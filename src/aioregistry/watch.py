"""Watch: an async iterator over the changes of the catalogue, bounded and merging."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, Self

from aioregistry.choosing import Predicate
from aioregistry.errors import RegistryError
from aioregistry.service import EventType, Service, ServiceEvent
from aioregistry.subjects import is_pattern, matches

__all__ = ["Watch", "WatchSource"]

_REMOVALS = (EventType.UNREGISTERED, EventType.EXPIRED)


class WatchSource(Protocol):
    """What a watch needs from whoever has the catalogue.

    Attributes:
        awaited: the watches that somebody waits for. A source refers to the others weakly, so
            that one that is given up ends; but who waits may be a task that nobody else
            refers to, and is to get its events.
    """

    awaited: set[Watch]

    def attach(self, watch: Watch) -> Iterable[Service]:
        """Offer every event to `watch` from now on; return what is known now."""
        ...

    def detach(self, watch: Watch) -> None:
        """Offer no more events to `watch`."""
        ...

    async def observe(self, *patterns: str) -> None:
        """Keep what the patterns name in the catalogue."""
        ...


class _Change:
    """What happened to one instance since the receiver last heard of it."""

    __slots__ = ("after", "before", "last", "why")

    after: Service | None
    last: Service
    why: EventType

    def __init__(self, before: Service | None) -> None:
        self.before = before

    def event(self) -> ServiceEvent:
        if self.after is None:
            return ServiceEvent(self.why, self.last, self.before)
        kind = EventType.REGISTERED if self.before is None else EventType.UPDATED
        return ServiceEvent(kind, self.after, self.before)


class Watch:
    """The changes of the instances that some patterns name, as `Registry.watch` returns it.

    Iterate over it with `async for`, from one task. Used as an async context manager, it is
    told apart when the block is left; otherwise it is when nothing refers to it any longer.

    A slow receiver holds back nobody and loses no final state: per instance, the events that
    it has not taken yet are merged, so memory is bounded by the number of instances. What
    came and went unseen vanishes; two updates become one with the older `previous`.

    With a predicate, the watch shows the catalogue as seen through it: an instance that
    begins to match is REGISTERED, one that ceases to match is UNREGISTERED.

    Cancelling the task that waits for the next event loses nothing.

    Attributes:
        observed: the names and patterns that it watches.
    """

    def __init__(
        self,
        source: WatchSource,
        patterns: tuple[str, ...],
        *,
        where: Predicate | None = None,
        include_current: bool = True,
    ) -> None:
        self._source = source
        self.observed = patterns
        self._names = frozenset(pattern for pattern in patterns if not is_pattern(pattern))
        self._patterns = tuple(pattern for pattern in patterns if is_pattern(pattern))
        self._where = where
        self._include_current = include_current
        # A plain dict looks for its first one among all those that were taken before.
        self._pending: OrderedDict[tuple[str, str], _Change] = OrderedDict()
        self._attached = self._started = self._ended = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def __anext__(self) -> ServiceEvent:
        """The next event.

        Raises:
            StopAsyncIteration: the watch or the registry was closed.
            RegistryError: what ended the registry, when it did not end by being closed.
        """
        # Where a cancellation cut the start short, what has come since then is not held back.
        if not self._started and not self._ended and not (self._attached and self._pending):
            await self._start()
        while not self._pending:
            if self._error is not None:
                error = self._error
                raise error.again() if isinstance(error, RegistryError) else error
            if self._ended:
                raise StopAsyncIteration
            await self._wait()
        _, change = self._pending.popitem(last=False)
        return change.event()

    async def aclose(self) -> None:
        """End the watch: events that were not taken yet are dropped."""
        self._source.detach(self)
        self._pending.clear()
        self.end()

    # ---- the side of the source --------------------------------------------------------

    def offer(self, event: ServiceEvent) -> None:
        """Take in an event of the catalogue, merging it with those not taken yet."""
        service = event.service
        if not self.concerns(service.name) or self._error is not None:
            return
        try:
            self._merge(event)
        except Exception as error:  # noqa: BLE001 - the receiver's predicate: it gets to see it
            self.end(error)
            self._source.detach(self)
        if self._pending:
            self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """No more events will come; an `error` is raised to the receiver after the last."""
        self._ended = True
        self._error = self._error or error
        self._wake()

    # ------------------------------------------------------------------------------------

    async def _start(self) -> None:
        # The first look and the first event must have nothing between them: no await.
        if not self._attached:
            self._attached = True
            current = self._source.attach(self)
            if self._include_current:
                for service in current:
                    self.offer(ServiceEvent(EventType.REGISTERED, service))
        if self._ended:
            return
        try:
            await self._source.observe(*self.observed)
        except RegistryError:
            if not self._ended:  # else it was the end that came in between
                raise
        self._started = True

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task waits for this watch; give each task its own watch")
        self._waiter = asyncio.get_running_loop().create_future()
        self._source.awaited.add(self)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._source.awaited.discard(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def concerns(self, name: str) -> bool:
        """Whether one of the patterns names `name`."""
        return name in self._names or any(matches(pattern, name) for pattern in self._patterns)

    def _wanted(self, service: Service | None) -> Service | None:
        if service is None or self._where is None or self._where(service):
            return service
        return None

    def _merge(self, event: ServiceEvent) -> None:
        removal = event.type in _REMOVALS
        after = None if removal else self._wanted(event.service)
        key = event.service.key
        change = self._pending.get(key)
        if change is None:
            change = _Change(self._wanted(event.previous))
        change.after = after
        change.last = event.service
        change.why = event.type if removal else EventType.UNREGISTERED
        if change.before == after:
            self._pending.pop(key, None)
        else:
            self._pending[key] = change
