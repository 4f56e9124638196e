"""What an aiohttp application keeps for its services, however often it starts.

aiohttp freezes an application when it starts for the first time, and most of a sub-application
when it is added to another: from then on no handler may be added. So each application gets one
`Part` in time, with the handlers that look into it; what changes later changes in there.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from aiohttp import web

from aioregistry.integrations._address import Endpoint
from aioregistry.integrations._leavers import LEAVING, header_of
from aioregistry.integrations._leaving import until_gone
from aioregistry.integrations._presence import Presence

__all__ = ["Part", "Stage", "keep", "part_of", "presences_of"]

_Value = TypeVar("_Value")


class Stage:
    """One run of `serve`, as the applications in it see it."""

    def __init__(self) -> None:
        self._leaving = False
        self.presences: list[Presence] = []
        self.endpoint: asyncio.Future[Endpoint | None] = asyncio.get_running_loop().create_future()

    @contextmanager
    def open_to(self, app: web.Application) -> Generator[None]:
        """Have it seen by an application and those below it, until the block ends.

        Not by others: an application that this one runs beside itself listens elsewhere.
        """
        parts = [part_of(each) for each in _family(app)]
        for part in parts:
            part.stage = self
        try:
            yield
        finally:
            for part in parts:
                part.stage = None

    async def withdraw(self) -> None:
        """Withdraw everything."""
        self._leaving = True
        await asyncio.gather(*(presence.withdraw() for presence in self.presences))

    async def drain(self, runner: web.AppRunner) -> None:
        """Give callers the time to move away, from everything at once; then accept no more."""
        draining = [presence for presence in self.presences if presence.draining]
        if not draining:
            return
        await asyncio.gather(*(presence.drain() for presence in draining))
        for site in runner.sites:
            await site.stop()
        await until_gone(lambda: runner.server.connections if runner.server else ())

    def ask_to_leave(self, response: web.StreamResponse) -> None:
        """Once it withdraws: let the client send its next request to somebody else."""
        if self._leaving and not isinstance(response, web.WebSocketResponse):
            response.force_close()
            response.headers["Connection"] = "close"
            response.headers[LEAVING] = header_of(presence.id for presence in self.presences)


class Part:
    """What is there of one application: its own services, and the run of `serve` it is in.

    Attributes:
        presences: what it announces while it runs.
        stage: the run; None: something else serves the application, or nothing does.
    """

    def __init__(self) -> None:
        self.presences: list[Presence] = []
        self.stage: Stage | None = None

    def enter(self, presence: Presence) -> Stage | None:
        """Take in a service of the application; returns the stage that it enters."""
        self.presences.append(presence)
        if self.stage is not None:
            self.stage.presences.append(presence)
        return self.stage

    async def ask_to_leave(self, _request: web.Request, response: web.StreamResponse) -> None:
        """Before each response."""
        if self.stage is not None:
            self.stage.ask_to_leave(response)


_PART: Final = web.AppKey("aioregistry.part", Part)


def part_of(app: web.Application) -> Part:
    """The part of an application; it is made when it is asked for first."""
    part = app.get(_PART)
    if part is None:
        part = Part()
        keep(app, _PART, part)
        if not app.on_shutdown.frozen:  # a sub-application relies on the handlers of its main one
            app.on_shutdown.append(_withdraw)
            app.on_response_prepare.append(part.ask_to_leave)
    return part


def presences_of(app: web.Application) -> list[Presence]:
    """What an application and those below it announce."""
    parts = (each.get(_PART) for each in _family(app))
    found = (presence for part in parts if part for presence in part.presences)
    return list(dict.fromkeys(found))  # the same application may be below in two places


def keep(app: web.Application, key: web.AppKey[_Value], value: _Value) -> None:
    """Put a value where the application finds it, even if it has started before.

    aiohttp deprecates that because a running application should not change; this one starts
    again, with another registry.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        app[key] = value


def _family(app: web.Application) -> Iterator[web.Application]:
    """An application, and all that are below it."""
    yield app
    for resource in app.router.resources():
        below = resource.get_info().get("app")
        if below is not None:
            yield from _family(below)


async def _withdraw(app: web.Application) -> None:
    await asyncio.gather(*(presence.withdraw() for presence in presences_of(app)))
