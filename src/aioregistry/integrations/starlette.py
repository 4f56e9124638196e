"""Starlette (and FastAPI) services that are announced exactly while they can serve.

    app = Starlette(routes, lifespan=register("nats://localhost:4222", "greeter"))

Under uvicorn, however it was started, the service is announced when the server accepts
connections, at the address that it listens on; and when the server is to stop, it is withdrawn
first, serves on for the `drain`, and only then stops to accept. Any other server needs an
`address`, and withdraws when it runs the shutdown of the lifespan: usually after it has
stopped to accept.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from aioregistry import InvalidService, Registry, Service, Status
from aioregistry.integrations._address import Endpoint, is_complete
from aioregistry.integrations._extras import missing
from aioregistry.integrations._logs import log
from aioregistry.integrations._presence import (
    Presence,
    check_drain,
    check_hooks,
    offered,
    readiness_of,
    until_it_accepts,
)
from aioregistry.integrations._source import RegistrySource, open_registry
from aioregistry.integrations._uvicorn import Uvicorn
from aioregistry.integrations.health import HealthCheck

try:
    from starlette.requests import HTTPConnection, Request
    from starlette.responses import JSONResponse
except ModuleNotFoundError as error:
    raise missing(error, __name__, "fastapi") from error

__all__ = [
    "ClientFactory",
    "HealthCheck",
    "Lifespan",
    "RegistryLifespan",
    "RegistrySource",
    "connect",
    "get_client",
    "get_registry",
    "readiness",
    "register",
]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
"""The application's own: called with the application, as Starlette calls it."""

RegistryLifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]
"""What an application is given as its lifespan."""

ClientFactory = Callable[[Registry], AbstractAsyncContextManager[Any]]
"""Makes the client that `get_client` hands out; it is entered and left with the application."""

_KEY: Final = "aioregistry"


@dataclass
class _Context:
    """What one application has of the registry."""

    registry: Registry
    client: Any
    presences: list[Presence] = field(default_factory=list[Presence])


def connect(
    registry: RegistrySource = None,
    *,
    lifespan: Lifespan | None = None,
    client: ClientFactory | None = None,
) -> RegistryLifespan:
    """A lifespan that has a registry, and announces nothing: for callers.

    Args:
        registry: the URL of the broker; a transport; a `Registry`, which is started and
            closed with the application unless it is started already; or a function that
            makes one, for applications that start more than once in a process.
        lifespan: the application's own; it runs inside, while the registry is there.
        client: makes the client that `get_client` hands out, of the registry.

    Entering the lifespan raises `TransportError` when there is no broker.
    """

    @asynccontextmanager
    async def connected(app: Any) -> AsyncGenerator[dict[str, Any]]:
        async with _opened(app, registry, lifespan, client) as (_, state):
            yield state

    return connected


def register(
    registry: RegistrySource,
    service: Service | str,
    address: str = "",
    *,
    url: str = "",
    network: str = "",
    version: str = "",
    host: str = "",
    metadata: Mapping[str, str] | None = None,
    status: Status | None = None,
    drain: float | None = None,
    health: HealthCheck | None = None,
    ready: Callable[[], Awaitable[object]] | None = None,
    own_port: bool | None = None,
    lifespan: Lifespan | None = None,
    client: ClientFactory | None = None,
) -> RegistryLifespan:
    """A lifespan that has a registry, and announces the application while it serves.

    Args:
        registry: as for `connect`.
        service: the name, or a whole `Service`.
        address: `host:port`, where callers reach it; with port 0, the port of the server.
            Empty: what the server listens on.
        url: the full URL, where there is more to say than the address; `{address}` in it
            stands for the address.
        network: the network of the address; empty means tcp.
        version: the version of the service.
        host: the name of the machine; empty: the registry's `hostname`.
        metadata: free string pairs.
        status: the status; None: passing.
        drain: how long the server goes on accepting after the withdrawal, in seconds. None:
            two, or none at all under `uvicorn --reload`.
        health: a check of the service's own, which decides its status.
        ready: awaited before the announcement; in place of the look whether the server
            accepts connections where it is not uvicorn.
        own_port: whether to listen on a port of its own, too, and announce that. None: when
            uvicorn runs several workers, which share the other.
        lifespan: the application's own; it runs inside, while the registry is there.
        client: makes the client that `get_client` hands out, of the registry.

    Entering the lifespan raises `TransportError` when there is no broker, and
    `InvalidService` when several workers would announce one address. What goes wrong later
    is logged, and told by `readiness`.

    Raises:
        InvalidService: a value makes no sense or is too large.
        ValueError: `drain` makes no sense.
        TypeError: `health` is no `HealthCheck`, or `ready` no function.
    """
    offer = offered(
        service,
        address,
        url=url,
        network=network,
        version=version,
        host=host,
        metadata=metadata,
        status=status,
    )
    check_drain(drain)
    check_hooks(health, ready)

    @asynccontextmanager
    async def registered(app: Any) -> AsyncGenerator[dict[str, Any]]:
        server = Uvicorn.find()
        alone = _listens_alone(offer, server, own_port)
        async with _opened(app, registry, lifespan, client) as (context, state):
            patience = 0.0 if drain is None and server and server.reloads else drain
            presence = Presence(context.registry, offer, drain=patience, health=health)
            context.presences.append(presence)
            presence.begin(partial(_locate, presence, server, ready, alone=alone))
            try:
                yield state
            finally:
                await presence.withdraw()

    return registered


def get_registry(connection: HTTPConnection) -> Registry:
    """The registry of the application that serves a request or WebSocket.

    Raises:
        RuntimeError: it has none.
    """
    return _context(connection).registry


def get_client(connection: HTTPConnection) -> Any:
    """What the `client` of `register` or `connect` has made.

    Raises:
        RuntimeError: the application has none.
    """
    context = _context(connection)
    if context.client is None:
        raise RuntimeError(
            "this application has no client; give client= to connect() or register()"
        )
    return context.client


def readiness(*, require_broker: bool = False) -> Callable[[Request], Awaitable[JSONResponse]]:
    """An endpoint that says whether callers are sent here: 200, or 503; in JSON, why.

        app.add_route("/ready", readiness())

    It is ready from when the broker has taken the announcement until it is withdrawn, unless
    its status is critical.

    Args:
        require_broker: not ready while there is no broker, either. Callers that know the
            service go on calling it through an outage of the broker; with this, a platform
            that asks takes every instance out of service at once.
    """

    async def ready(request: Request) -> JSONResponse:
        context = _context(request)
        is_ready, body = readiness_of(
            context.registry, context.presences, require_broker=require_broker
        )
        return JSONResponse(body, status_code=200 if is_ready else 503)

    return ready


# ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(
    app: Any,
    registry: RegistrySource,
    lifespan: Lifespan | None,
    client: ClientFactory | None,
) -> AsyncGenerator[tuple[_Context, dict[str, Any]]]:
    """The registry, the client and the application's own lifespan, in this order."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_registry(registry))
        made = await stack.enter_async_context(client(opened)) if client else None
        state: dict[str, Any] = {}
        if lifespan is not None:
            given = await stack.enter_async_context(_managed(lifespan)(app))
            state.update(given or {})
        context = _Context(opened, made)
        inner = state.get(_KEY)
        if isinstance(inner, _Context):  # several services of one application
            context.presences += inner.presences
            context.client = made if made is not None else inner.client
        yield context, {**state, _KEY: context}


def _managed(lifespan: Lifespan) -> Lifespan:
    """Starlette also takes a bare async generator function."""
    if inspect.isasyncgenfunction(lifespan):
        return cast("Lifespan", asynccontextmanager(lifespan))
    return lifespan


def _listens_alone(offer: Service, server: Uvicorn | None, own_port: bool | None) -> bool:  # noqa: FBT001 - as it was given
    """Whether the process needs a port of its own.

    Raises:
        InvalidService: it does, and the address leaves no room for it; or one is asked for
            of a server that has no way to do so.
    """
    workers = 1 if server is None else server.workers
    alone = workers > 1 if own_port is None else own_port
    if own_port and server is None:
        raise InvalidService(
            f"own_port=True for {offer.name!r}, but uvicorn was not found in this process"
        )
    if is_complete(offer) and alone:
        raise InvalidService(
            f"{offer.name!r} is to be announced at {offer.key[1]!r} by each of {workers} workers;"
            " each needs an address of its own: leave it out, or write port 0 ('host:0')"
        )
    return alone


async def _locate(
    presence: Presence,
    server: Uvicorn | None,
    ready: Callable[[], Awaitable[object]] | None,
    *,
    alone: bool,
) -> Endpoint | None:
    """Wait until the server accepts connections, and say where."""
    if server is None:
        if ready is None and is_complete(presence.offer):
            await until_it_accepts(presence.offer)
        elif ready is not None:
            await ready()
        return None
    await server.started()
    context = server.state(_KEY)
    if not isinstance(context, _Context) or presence not in context.presences:
        raise InvalidService(
            "the uvicorn server in this process runs another application, or a lifespan that"
            " drops the state of this one; give address=, or run it with"
            " aioregistry.integrations.fastapi.Server"
        )
    server.before_stop(presence)
    endpoint = server.endpoint()
    if alone:
        shared, endpoint = endpoint, await server.listen_alone()
        log().info("of the workers at %s, this one alone listens at %s, too", shared, endpoint)
    if ready is not None:
        await ready()
    return endpoint


def _context(connection: HTTPConnection) -> _Context:
    context = connection.scope.get("state", {}).get(_KEY)
    if isinstance(context, _Context):
        return context
    raise RuntimeError(
        "this application has no registry: give it lifespan=register(...) or"
        " lifespan=connect(...); and in a test, enter the lifespan: with TestClient(app) as client"
    )
