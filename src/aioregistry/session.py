"""Session: all the work of a registry, from the connecting to the last farewell.

It holds the two halves, the `Provider` and the `Observer`, and what they share.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import weakref
from typing import Final, cast

import anyio

from aioregistry.errors import RegistryClosed, RegistryError, TransportError
from aioregistry.link import Link, end_of
from aioregistry.lookup import Lookups
from aioregistry.observer import Observer
from aioregistry.provider import Provider
from aioregistry.settings import Settings
from aioregistry.transports.base import Transport

__all__ = ["Session", "is_in_use"]

_logger = logging.getLogger("aioregistry")

_FAREWELL: Final = 1.2
"""For how long closing tries to get the withdrawals out, in seconds."""


class Session:
    """What exists between start and close.

    Attributes:
        link: the way to the broker.
        provider: announces.
        observer: knows.
        lookups: finds.
        stop: set when it is to end.
        ready: done when it works, or never will.
        failure: why it has ended, unless it was told to.
        disowned: whether it belongs to the process that this one was forked from.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        # Made here and not earlier: after a fork, two processes must not draw the same ids.
        self.rng = settings.rng or random.Random()
        clock = asyncio.get_running_loop().time
        self.node = self.new_id()
        self.link = Link(
            transport,
            self.rng,
            on_up=self._on_up,
            on_down=self._on_down,
            on_denied=self._on_denied,
            on_retry=self._on_retry,
        )
        self.provider = Provider(self.link, settings, node=self.node, rng=self.rng, clock=clock)
        self.observer = Observer(
            self.link,
            settings,
            rng=self.rng,
            clock=clock,
            own=self.provider.current,
            node=self.node,
        )
        self.lookups = Lookups(
            self.observer, self.link, patience=settings.lookup_timeout, clock=clock
        )
        self.stop = asyncio.Event()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: RegistryError | None = None
        self.disowned = False
        self._patience = settings.connect_timeout
        _sessions.add(self)

    def disown(self) -> None:
        """It belongs to another process, and so does its connection."""
        self.disowned = True
        self.failure = RegistryClosed(
            "this registry belongs to the process that this one was forked from; make another"
        )
        self.provider.disown(self.failure)
        self.observer.disown(self.failure)

    def new_id(self) -> str:
        """A random name, for a node or an incarnation."""
        return f"{self.rng.getrandbits(60):015x}"  # 16 would take another 16 bytes each

    def _on_up(self) -> None:
        self.provider.resume()
        self.observer.resume()

    def _on_down(self) -> None:
        self.provider.suspend()
        self.observer.suspend()

    def _on_denied(self, error: TransportError) -> None:
        self.provider.deny(error)
        self.observer.deny(error)

    async def _on_retry(self, refused: bool) -> None:  # noqa: FBT001 - as the link calls it
        await self.observer.retry(refused=refused)
        if refused:
            await self.provider.retry()

    async def run(self) -> None:
        """All background work, from the connecting to the last farewell."""
        patience = self._patience
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_heed, self.stop, group.cancel_scope)
                if patience is None:
                    group.start_soon(_open, self.link, None)
                else:
                    await _open(self.link, patience)
                group.start_soon(self.link.check_forever)
                group.start_soon(self.provider.send_forever)
                group.start_soon(self.provider.confirm_forever)
                group.start_soon(self.observer.expire_forever)
                group.start_soon(self.observer.asker.run_forever)
                group.start_soon(self.observer.vigil.run_forever)
                self.ready.set_result(None)
        except Exception as error:  # noqa: BLE001 - handed to whoever uses the registry
            self.failure = _cause(error)
        except asyncio.CancelledError:
            self.failure = RegistryClosed("the background work of this registry was cancelled")
            raise
        finally:
            await self._close()

    async def _close(self) -> None:
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(_FAREWELL):
                    await self.provider.farewell()
            except TransportError as error:
                if error.messages or not error.subjects:
                    _logger.warning("withdrawals may be lost: %s", error)
            finally:
                _sessions.discard(self)
                self.stop.set()
                end = self.failure or RegistryClosed("the registry was closed")
                self.link.close(end)
                self.provider.close(end)
                self.observer.close(self.failure)
                await self.link.transport.aclose()
        if not self.ready.done():
            self.ready.set_exception(self.failure or RegistryClosed("closed while starting"))
            self.ready.exception()  # whoever started it may have been cancelled
        elif self.failure is not None and not isinstance(self.failure, RegistryClosed):
            _logger.error("the registry ended: %s", self.failure)


_sessions: Final[weakref.WeakSet[Session]] = weakref.WeakSet()
_disowned: Final[list[Session]] = []
"""Those of the process that this one was forked from. Kept, so that nothing of them is ever
finalized here: their connections go on there."""


def _disown() -> None:
    """In a process that was forked: what its parent has started is of no use here."""
    for session in tuple(_sessions):
        session.disown()
        _disowned.append(session)
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


def is_in_use(transport: Transport) -> bool:
    """Whether a session that has not ended has this transport."""
    return any(session.link.transport is transport for session in _sessions)


async def _open(link: Link, patience: float | None) -> None:
    """Connect; cancelled, it lets the transport come to its end with one cancellation."""
    opening = asyncio.create_task(link.open(patience))
    opening.add_done_callback(_retrieve)
    try:
        await asyncio.wait([opening])
    finally:
        opening.cancel()
        await end_of(opening)
    opening.result()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever would have heard of its error may have been cancelled."""
    if not task.cancelled():
        task.exception()


async def _heed(stop: asyncio.Event, scope: anyio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


def _cause(error: Exception) -> RegistryError:
    """What ended the background work, out of the groups that it comes in."""
    if isinstance(error, ExceptionGroup):
        return _cause(cast("ExceptionGroup[Exception]", error).exceptions[0])
    if isinstance(error, RegistryError):
        return error
    failure = RegistryError(f"the registry's background work failed: {error!r}; please report it")
    failure.__cause__ = error
    return failure
