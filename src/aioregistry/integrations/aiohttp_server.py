"""aiohttp services that are announced exactly while they can serve.

    app.cleanup_ctx.append(register("nats://localhost:4222", "greeter", drain=2.0))
    run_app(app, port=8080)

`run_app` and `serve` are those of this module: the service is announced when the server accepts
connections, at the address that it listens on; and when it is to stop, it is withdrawn first,
serves on for the `drain`, and only then stops to accept. Under aiohttp's own `web.run_app` the
`address` has to be given, and the service is withdrawn just after the server has stopped to
accept: aiohttp asks nobody before.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from ssl import SSLContext
from typing import Any, Final

from aioregistry import (
    Balancer,
    InvalidService,
    Predicate,
    Registry,
    Service,
    ServiceNotFound,
    Status,
    TransportError,
)
from aioregistry.integrations._address import Endpoint, endpoint_of, is_complete, name_of
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
from aioregistry.integrations.health import HealthCheck

try:
    from aiohttp import web

    from aioregistry.integrations._aiohttp_parts import Stage, keep, part_of, presences_of
except ModuleNotFoundError as error:
    raise missing(error, __name__, "aiohttp") from error

__all__ = [
    "CLIENT",
    "REGISTRY",
    "ClientFactory",
    "HealthCheck",
    "RegistrySource",
    "connect",
    "get_client",
    "get_registry",
    "get_service",
    "get_services",
    "readiness",
    "register",
    "run_app",
    "serve",
]

ClientFactory = Callable[[Registry], AbstractAsyncContextManager[Any]]
"""Makes the client that `get_client` hands out; it is entered and left with the application."""

REGISTRY: Final = web.AppKey("aioregistry", Registry)
"""Where the application keeps its registry, for work outside of requests."""

CLIENT: Final = web.AppKey("aioregistry.client", object)
"""Where the application keeps the client."""

_Context = Callable[[web.Application], AsyncIterator[None]]


def connect(registry: RegistrySource = None, *, client: ClientFactory | None = None) -> _Context:
    """A `cleanup_ctx` that has a registry, and announces nothing: for callers.

    Args:
        registry: the URL of the broker; a transport; a `Registry`, which is started and
            closed with the application unless it is started already; or a function that
            makes one, for applications that start more than once in a process.
        client: makes the client that `get_client` hands out, of the registry.

    Starting the application raises `TransportError` when there is no broker.
    """

    async def connected(app: web.Application) -> AsyncIterator[None]:
        async with _opened(app, registry, client):
            yield

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
    client: ClientFactory | None = None,
) -> _Context:
    """A `cleanup_ctx` that has a registry, and announces the application while it serves.

    Args:
        registry: as for `connect`.
        service: the name, or a whole `Service`.
        address: `host:port`, where callers reach it; with port 0, the port of the server.
            Empty: what the server listens on, if `serve` or `run_app` of this module runs it.
        url: the full URL, where there is more to say than the address; `{address}` in it
            stands for the address.
        network: the network of the address; empty means tcp.
        version: the version of the service.
        host: the name of the machine; empty: the registry's `hostname`.
        metadata: free string pairs.
        status: the status; None: passing.
        drain: how long the server goes on accepting after the withdrawal, in seconds; None:
            two. With `serve` or `run_app` of this module.
        health: a check of the service's own, which decides its status.
        ready: awaited before the announcement; in place of the look whether the server
            accepts connections where `serve` does not run it.
        client: makes the client that `get_client` hands out, of the registry.

    Starting the application raises `TransportError` when there is no broker. What goes wrong
    later is logged, and told by `readiness`.

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

    async def registered(app: web.Application) -> AsyncIterator[None]:
        async with _opened(app, registry, client) as opened:
            presence, part = Presence(opened, offer, drain=drain, health=health), part_of(app)
            stage = part.enter(presence)
            presence.begin(partial(_locate, presence, stage, ready))
            try:
                yield
            finally:
                part.presences.remove(presence)
                # As a rule that is done already. But a sub-application whose main one has no
                # part hears of its end only here: its signals are frozen when it is added.
                await presence.withdraw()

    return registered


def get_registry(request: web.Request) -> Registry:
    """The registry of the application that serves a request.

    Raises:
        RuntimeError: it has none.
    """
    registry = request.config_dict.get(REGISTRY)
    if registry is None:
        raise RuntimeError(
            "this application has no registry: app.cleanup_ctx.append(register(...)), or"
            " connect(...)"
        )
    return registry


def get_client(request: web.Request) -> Any:
    """What the `client` of `register` or `connect` has made.

    Raises:
        RuntimeError: the application has none.
    """
    client = request.config_dict.get(CLIENT)
    if client is None:
        raise RuntimeError(
            "this application has no client; give client= to connect() or register()"
        )
    return client


async def get_service(
    request: web.Request,
    name: str,
    *,
    where: Predicate | None = None,
    balancer: Balancer | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - as Registry.get_service has it
    wait: bool = True,
) -> Service:
    """One instance of `name`; arguments as for `Registry.get_service`.

    Raises:
        HTTPServiceUnavailable: there is none, or no broker to ask; with the reason.
    """
    try:
        return await get_registry(request).get_service(
            name, where=where, balancer=balancer, timeout=timeout, wait=wait
        )
    except (ServiceNotFound, TransportError) as error:
        raise _unavailable(error) from error


async def get_services(
    request: web.Request,
    name: str,
    *,
    where: Predicate | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - as Registry.get_services has it
    wait: bool = True,
    minimum: int = 1,
) -> tuple[Service, ...]:
    """Every instance of `name`; arguments as for `Registry.get_services`.

    Raises:
        HTTPServiceUnavailable: there is no broker to ask.
    """
    try:
        return await get_registry(request).get_services(
            name, where=where, timeout=timeout, wait=wait, minimum=minimum
        )
    except TransportError as error:
        raise _unavailable(error) from error


def readiness(*, require_broker: bool = False) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that says whether callers are sent here: 200, or 503; in JSON, why.

        app.router.add_get("/ready", readiness())

    It is ready from when the broker has taken the announcement until it is withdrawn, unless
    its status is critical. What sub-applications announce counts, too.

    Args:
        require_broker: not ready while there is no broker, either. Callers that know the
            service go on calling it through an outage of the broker; with this, a platform
            that asks takes every instance out of service at once.
    """

    async def ready(request: web.Request) -> web.Response:
        presences = presences_of(_owner(request))
        if presences and REGISTRY not in request.config_dict:  # those below have one
            registry = presences[0].registry
        else:
            registry = get_registry(request)
        is_ready, body = readiness_of(registry, presences, require_broker=require_broker)
        return web.json_response(body, status=200 if is_ready else 503)

    return ready


async def serve(
    app: web.Application,
    *,
    host: str | None = None,
    port: int | None = None,
    path: str | None = None,
    sock: socket.socket | None = None,
    ssl_context: SSLContext | None = None,
    stop: asyncio.Event | None = None,
    **options: Any,
) -> None:
    """Serve the application until SIGTERM or Ctrl-C, and withdraw it before it stops.

    A second Ctrl-C ends the drain. Cancelling it stops at once, without a drain.

    Args:
        app: the application.
        host: the host to listen on; None: every one.
        port: the port; None: 8080, or 8443 with TLS; 0: any that is free.
        path: the path of a Unix socket to listen on, in place of host and port.
        sock: a bound socket to listen on, in place of host and port.
        ssl_context: for TLS.
        stop: ends it, too, when it is set. With it, signals are left alone.
        options: those of `aiohttp.web.AppRunner`, such as `shutdown_timeout`.

    Raises:
        OSError: it cannot listen there.
        TransportError: an application in it has no broker.
    """
    stage, runner = Stage(), web.AppRunner(app, **options)
    with stage.open_to(app):
        try:
            await runner.setup()
            site: web.BaseSite
            if path is not None:
                site = web.UnixSite(runner, path, ssl_context=ssl_context)
            elif sock is not None:
                site = web.SockSite(runner, sock, ssl_context=ssl_context)
            else:
                site = web.TCPSite(runner, host, port, ssl_context=ssl_context)
            await site.start()
            names = runner.addresses if sock is None else [name_of(sock)]
            endpoint = endpoint_of(names, secure=ssl_context is not None)
            log().info("serving at %s (press Ctrl-C to stop)", endpoint)
            stage.endpoint.set_result(endpoint)
            if stop is None:
                await _until_signalled(stage, runner)
            else:
                await stop.wait()
                await stage.withdraw()
                await stage.drain(runner)
        finally:
            await runner.cleanup()


def run_app(app: web.Application, **options: Any) -> None:
    """Run the application until SIGTERM or Ctrl-C; the blocking form of `serve`.

    What the library has to say goes to the standard error output, unless the program has set up
    logging.

    Args:
        app: the application.
        options: those of `serve`.

    Raises:
        OSError: it cannot listen there.
        TransportError: an application in it has no broker.
    """
    logger = log()
    if not logger.hasHandlers():  # as aiohttp's own does for its access log
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    try:
        asyncio.run(serve(app, **options))
    except TransportError as error:
        # The text says it all, and would drown in how it came to that.
        raise error.with_traceback(None) from None


# ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(
    app: web.Application, registry: RegistrySource, client: ClientFactory | None
) -> AsyncGenerator[Registry]:
    """The registry and the client, where the application finds them."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_registry(registry))
        part_of(app)  # so that what is below this application is withdrawn with it
        keep(app, REGISTRY, opened)
        if client is not None:
            keep(app, CLIENT, await stack.enter_async_context(client(opened)))
        yield opened


def _owner(request: web.Request) -> web.Application:
    """The application that a request has its registry from; if it has none, its own."""
    apps = reversed(request.match_info.apps)
    return next((app for app in apps if REGISTRY in app), request.app)


async def _locate(
    presence: Presence, stage: Stage | None, ready: Callable[[], Awaitable[object]] | None
) -> Endpoint | None:
    """Wait until the server accepts connections, and say where."""
    if stage is None and not is_complete(presence.offer):
        raise InvalidService(
            f"no address to announce {presence.offer.name!r} at: the server cannot be asked; run it"
            " with run_app or serve of aioregistry.integrations.aiohttp_server, or give"
            " address='host:port', as other machines reach it"
        )
    endpoint = None if stage is None else await asyncio.shield(stage.endpoint)
    if ready is not None:
        await ready()
    elif stage is None:
        await until_it_accepts(presence.offer)
    return endpoint


async def _until_signalled(stage: Stage, runner: web.AppRunner) -> None:
    """Wait for SIGTERM or SIGINT, withdraw, and drain until that is over or SIGINT comes again."""
    loop = asyncio.get_running_loop()
    signalled, hurry = asyncio.Event(), asyncio.Event()

    def on_signal(signum: int) -> None:
        if signalled.is_set() and signum == signal.SIGINT:
            hurry.set()
        signalled.set()

    handled = (signal.SIGINT, signal.SIGTERM)
    for signum in handled:
        loop.add_signal_handler(signum, on_signal, signum)
    try:
        await signalled.wait()
        await stage.withdraw()
        await _drain(stage, runner, hurry)
    finally:
        for signum in handled:
            loop.remove_signal_handler(signum)


async def _drain(stage: Stage, runner: web.AppRunner, hurry: asyncio.Event) -> None:
    """Drain, but no longer than until there is a hurry."""
    draining = asyncio.create_task(stage.drain(runner))
    ends = (draining, asyncio.create_task(hurry.wait()))
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in ends:
            task.cancel()
        await asyncio.wait(ends)
    if not draining.cancelled():
        draining.result()


def _unavailable(error: Exception) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": "1"})
