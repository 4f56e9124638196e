"""The uvicorn server that runs this application: found, asked, and made to wait.

An application has no official way to its server. While uvicorn runs in the main thread, its
signal handlers are methods of the server, and Python says what handles a signal; `Server`
is for everywhere else. Nothing here imports uvicorn: who runs another server need not have it.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aioregistry.integrations._address import Endpoint, endpoint_of

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Uvicorn", "running_server"]

_POLL: Final = 0.02
"""uvicorn has a flag that says that it serves, and no event: so often it is looked at."""

running_server: ContextVar[uvicorn.Server | None] = ContextVar("running_server", default=None)
"""The server that runs the lifespan, where the server says so itself."""


class Uvicorn:
    """One uvicorn server.

    Attributes:
        workers: how many processes serve on the same sockets.
    """

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self.workers = 1 if server.config.reload else server.config.workers

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
        names = [each.getsockname() for server in self._server.servers for each in server.sockets]
        return endpoint_of(names, secure=self._server.config.is_ssl)

    async def listen_alone(self) -> Endpoint | None:
        """Listen on a port of its own, too, on the address that it shares with its siblings.

        The new port serves exactly as the shared one: with the same application, settings and
        limits; and it is closed with it.

        Raises:
            OSError: there is no port.
        """
        server, shared = self._server, self.endpoint()
        if shared is None or shared.port is None:
            return None
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
        names = [each.getsockname() for each in listener.sockets]
        return endpoint_of(names, secure=config.is_ssl)

    def before_stop(
        self,
        withdraw: Callable[[], Awaitable[None]],
        drain: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Have two things done before it stops to accept connections, whatever makes it stop.

        Args:
            withdraw: the first, which is always waited for.
            drain: the second, which a second Ctrl-C ends: with that, uvicorn hurries.
        """
        server, stop = self._server, self._server.shutdown

        async def shutdown(sockets: list[socket.socket] | None = None) -> None:
            await withdraw()
            draining = asyncio.create_task(drain())
            while not draining.done() and not server.force_exit:
                await asyncio.wait((draining,), timeout=_POLL)
            draining.cancel()
            await asyncio.wait((draining,))
            await stop(sockets=sockets)

        replaced: Any = server  # what a subclass does, for an object that others have made
        replaced.shutdown = shutdown
