"""FastAPI services that are announced exactly while they can serve, and their dependencies.

    app = FastAPI(lifespan=register("nats://localhost:4222", "greeter", drain=2.0))

    @app.get("/orders")
    async def orders(billing: Annotated[Service, Depends(get_service("billing"))]) -> ...:

See `aioregistry.integrations.starlette` for what happens when.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from typing import Annotated

from aioregistry import Balancer, Predicate, Registry, Service, ServiceNotFound, TransportError
from aioregistry.integrations._extras import missing
from aioregistry.integrations._uvicorn import running_server

try:
    import uvicorn
    from fastapi import Depends, HTTPException
    from fastapi.requests import HTTPConnection

    from aioregistry.integrations.starlette import (
        ClientFactory,
        HealthCheck,
        Lifespan,
        RegistryLifespan,
        RegistrySource,
        connect,
        get_client,
        get_registry,
        readiness,
        register,
    )
except ModuleNotFoundError as error:
    raise missing(error, __name__, "fastapi") from error

__all__ = [
    "ClientFactory",
    "HealthCheck",
    "Lifespan",
    "RegistryDep",
    "RegistryLifespan",
    "RegistrySource",
    "Server",
    "connect",
    "get_client",
    "get_registry",
    "get_service",
    "get_services",
    "readiness",
    "register",
]

RegistryDep = Annotated[Registry, Depends(get_registry)]
"""A parameter of this type is the registry of the application."""


def get_service(
    name: str,
    *,
    where: Predicate | None = None,
    balancer: Balancer | None = None,
    timeout: float | None = None,
    wait: bool = True,
) -> Callable[[HTTPConnection], Awaitable[Service]]:
    """A dependency that hands out one instance of `name`; arguments as `Registry.get_service`.

        billing: Annotated[Service, Depends(get_service("billing"))]

    The response is 503, with the reason and Retry-After, when there is none, or no broker to ask.
    """

    async def chosen(connection: HTTPConnection) -> Service:
        try:
            return await get_registry(connection).get_service(
                name, where=where, balancer=balancer, timeout=timeout, wait=wait
            )
        except (ServiceNotFound, TransportError) as error:
            raise _unavailable(error) from error

    return chosen


def get_services(
    name: str,
    *,
    where: Predicate | None = None,
    timeout: float | None = None,
    wait: bool = True,
    minimum: int = 1,
) -> Callable[[HTTPConnection], Awaitable[tuple[Service, ...]]]:
    """A dependency that hands out every instance; arguments as for `Registry.get_services`.

    The response is 503, with the reason and Retry-After, when there is no broker to ask.
    """

    async def found(connection: HTTPConnection) -> tuple[Service, ...]:
        try:
            return await get_registry(connection).get_services(
                name, where=where, timeout=timeout, wait=wait, minimum=minimum
            )
        except TransportError as error:
            raise _unavailable(error) from error

    return found


class Server(uvicorn.Server):
    """uvicorn's server, found by `register` wherever it runs.

    Not needed where uvicorn runs in the main thread: then any uvicorn is found. It is for a
    server in another thread, and for several servers in one event loop.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, as uvicorn does, where the lifespan can see who starts it."""
        token = running_server.set(self)
        try:
            await super().startup(sockets)
        finally:
            running_server.reset(token)


def _unavailable(error: Exception) -> HTTPException:
    return HTTPException(status_code=503, detail=str(error), headers={"Retry-After": "1"})
