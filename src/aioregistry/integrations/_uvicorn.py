"""The uvicorn server that runs this application: found, asked, and made to wait.

An application has no official way to its server. While uvicorn runs in the main thread, its
signal handlers are methods of the server, and Python says what handles a signal; `Server`
is for everywhere else. Nothing here imports uvicorn: who runs another server need not have it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import socket
import sys
from collections.abc import Coroutine, Iterable
from contextvars import ContextVar
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Any, Final

from aioregistry.integrations._address import Endpoint, endpoint_of, name_of
from aioregistry.integrations._leavers import LEAVING, header_of
from aioregistry.integrations._leaving import Guest, until_gone

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Uvicorn", "running_server"]

_POLL: Final = 0.02
"""uvicorn has a flag that says that it serves, and no event: so often it is looked at."""

_CLOSE: Final = (b"connection", b"close")
"""With this, a client does not send its next request over the same connection. (Over HTTP/2,
where `Connection` is not allowed, uvicorn leaves it out.)"""

running_server: ContextVar[uvicorn.Server | None] = ContextVar("running_server", default=None)
"""The server that runs the lifespan, where the server says so itself."""


class Uvicorn:
    """One uvicorn server.

    Attributes:
        reloads: whether it is started again whenever a file changes.
        workers: how many processes serve on the same sockets.
    """

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self.reloads = bool(server.config.reload)
        several = _is_a_worker() and not self.reloads
        self.workers = server.config.workers if several else 1

    @classmethod
    def find(cls) -> Uvicorn | None:
        """The server that runs in this context or else in the main thread, if there is one."""
        server = running_server.get()
        if server is None and "uvicorn" in sys.modules:
            from uvicorn import Server  # noqa: PLC0415 - imported already, by the server

            found = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            server = found if isinstance(found, Server) else None
        return None if server is None else cls(server)

    async def started(self) -> None:
        """Wait until it accepts connections."""
        while not self._server.started:  # noqa: ASYNC110 - a flag is all that uvicorn has
            await asyncio.sleep(_POLL)

    def state(self, key: str) -> object:
        """What the lifespan that it runs has put under `key` into the state; None: nothing."""
        return self._server.lifespan.state.get(key)

    def endpoint(self) -> Endpoint | None:
        """Where it listens."""
        names = [name_of(each) for server in self._server.servers for each in server.sockets]
        return endpoint_of(names, secure=self._server.config.is_ssl)

    async def listen_alone(self) -> Endpoint | None:
        """Listen on a port of its own, too, on the address that it shares with its siblings.

        The new port serves exactly as the shared one: with the same application, settings and
        limits; and it is closed with it.

        Raises:
            OSError: there is no port.
        """
        server, shared = self._server, self.endpoint()
        if shared is None:
            return None
        if shared.port is None:
            raise OSError(
                f"its workers share the Unix socket {shared.host}, where callers cannot tell them"
                " apart: listen on a host and port instead, or run one worker"
            )
        config = server.config

        def protocol() -> asyncio.Protocol:
            make: Any = config.http_protocol_class  # declared as any protocol: it takes these
            made: asyncio.Protocol = make(
                config=config, server_state=server.server_state, app_state=server.lifespan.state
            )
            return made

        listener = await asyncio.get_running_loop().create_server(
            protocol, host=shared.host, port=0, ssl=config.ssl, backlog=config.backlog
        )
        server.servers.append(listener)
        names = map(name_of, listener.sockets)
        return endpoint_of(names, secure=config.is_ssl)

    def before_stop(self, guest: Guest) -> None:
        """Have the server wait for a guest before it stops, whatever makes it stop.

        Args:
            guest: withdraws first, then drains; a second Ctrl-C ends the draining: with that,
                uvicorn hurries.
        """
        farewell = self._server.shutdown
        if not isinstance(farewell, _Farewell):
            farewell = _Farewell(self._server)
            replaced: Any = self._server  # what a subclass does, for what others have made
            replaced.shutdown = farewell
        farewell.guests.append(guest)


class _Farewell:
    """What one server does to stop: it takes leave of its callers first, and loses no request.

    Args:
        server: the server, whose `shutdown` this is to replace.
    """

    def __init__(self, server: uvicorn.Server) -> None:
        self.guests: list[Guest] = []
        self._server = server
        self._stop = server.shutdown

    async def __call__(self, sockets: list[socket.socket] | None = None) -> None:
        forced = self._server.force_exit
        self._ask_to_leave()
        await asyncio.gather(*(guest.withdraw() for guest in self.guests))
        draining = [guest for guest in self.guests if guest.draining]
        if draining:
            await self._unless_in_a_hurry(_all(guest.drain() for guest in draining))
            for listener in self._server.servers:
                listener.close()
            await self._unless_in_a_hurry(until_gone(lambda: self._server.server_state.connections))
            # A second Ctrl-C is meant for the drain: uvicorn by itself would have come to an end
            # by then, and have run the shutdown of the lifespan. A third one is its own again.
            self._server.force_exit = forced
        await self._stop(sockets=sockets)

    def _ask_to_leave(self) -> None:
        leaving = header_of(guest.id for guest in self.guests)
        # In place: the requests that are under way refer to this list. Nothing else changes
        # it any more, since the loop that does so every second has ended.
        self._server.server_state.default_headers += [_CLOSE, (LEAVING.encode(), leaving.encode())]

    async def _unless_in_a_hurry(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        try:
            while not task.done() and not self._server.force_exit:
                await asyncio.wait((task,), timeout=_POLL)
        finally:
            task.cancel()
            await asyncio.wait((task,))


def _is_a_worker() -> bool:
    """Whether a supervisor has started this process, perhaps among others.

    The configuration does not tell: a server that a program runs by itself takes the number of
    workers from $WEB_CONCURRENCY, too. uvicorn spawns its workers; gunicorn forks them from a
    process that has imported its arbiter.
    """
    spawned = isinstance(multiprocessing.current_process(), SpawnProcess)
    return spawned or "gunicorn.arbiter" in sys.modules


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*work)
