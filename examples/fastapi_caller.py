"""A FastAPI service that calls another one, wherever that is right now.

    uvicorn --app-dir examples fastapi_caller:app --port 8000
    curl localhost:8000/hello/Ada

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs fastapi, uvicorn, httpx.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

import httpx
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse

from aioregistry import (
    Predicate,
    Registry,
    Service,
    ServiceNotFound,
    TransportError,
    all_of,
    not_critical,
)


class State(TypedDict):
    registry: Registry
    client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncGenerator[State]:
    async with Registry() as registry, httpx.AsyncClient(timeout=5) as client:
        yield {"registry": registry, "client": client}


app = FastAPI(lifespan=lifespan)


@app.exception_handler(ServiceNotFound)
@app.exception_handler(TransportError)
@app.exception_handler(httpx.TransportError)
async def unavailable(_request: Request, error: Exception) -> JSONResponse:
    """Nobody provides the service, or it cannot be reached: the client may try again."""
    return JSONResponse({"detail": str(error)}, status_code=503, headers={"Retry-After": "1"})


class Greeter:
    """The client of the service `greeter`."""

    def __init__(self, request: Request) -> None:
        self._registry: Registry = request.state.registry
        self._client: httpx.AsyncClient = request.state.client

    async def greet(self, name: str) -> Any:
        service = await self._registry.get_service("greeter")
        try:
            return await self._ask(service, name)
        except httpx.ConnectError:  # it has just gone: nothing was sent, so try another one
            other = await self._registry.get_service("greeter", where=other_than(service))
            return await self._ask(other, name)

    async def _ask(self, service: Service, name: str) -> Any:
        response = await self._client.get(f"http://{service.address}/greet/{name}")
        return response.raise_for_status().json()


def other_than(failed: Service) -> Predicate:
    return all_of(not_critical, lambda service: service.key != failed.key)


@app.get("/hello/{name}")
async def hello(name: str, greeter: Annotated[Greeter, Depends()]) -> Any:
    return await greeter.greet(name)
