"""An aiohttp service that calls another one, wherever that is right now.

    python examples/aiohttp_caller.py --port 8000
    curl localhost:8000/hello/Ada

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs aiohttp.
"""

import argparse
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from aioregistry import (
    Predicate,
    Registry,
    Service,
    ServiceNotFound,
    TransportError,
    all_of,
    not_critical,
)

REGISTRY = web.AppKey("registry", Registry)
CLIENT = web.AppKey("client", aiohttp.ClientSession)


async def resources(app: web.Application) -> AsyncIterator[None]:
    timeout = aiohttp.ClientTimeout(total=5)
    async with Registry() as registry, aiohttp.ClientSession(timeout=timeout) as client:
        app[REGISTRY], app[CLIENT] = registry, client
        yield


@web.middleware
async def unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nobody provides the service, or it cannot be reached: the client may try again."""
    try:
        return await handler(request)
    except (ServiceNotFound, TransportError, aiohttp.ClientConnectionError, TimeoutError) as error:
        detail = {"detail": str(error) or "no answer in time"}
        return web.json_response(detail, status=503, headers={"Retry-After": "1"})


async def hello(request: web.Request) -> web.Response:
    registry, name = request.app[REGISTRY], request.match_info["name"]
    service = await registry.get_service("greeter")
    try:
        answer = await ask(request.app[CLIENT], service, name)
    except aiohttp.ClientConnectorError:  # it has just gone: nothing was sent, so try another one
        other = await registry.get_service("greeter", where=other_than(service))
        answer = await ask(request.app[CLIENT], other, name)
    return web.json_response(answer)


async def ask(client: aiohttp.ClientSession, service: Service, name: str) -> Any:
    url = f"http://{service.address}/greet/{name}"
    async with client.get(url, raise_for_status=True) as response:
        return await response.json()


def other_than(failed: Service) -> Predicate:
    return all_of(not_critical, lambda service: service.key != failed.key)


def create_app() -> web.Application:
    app = web.Application(middlewares=[unavailable])
    app.cleanup_ctx.append(resources)
    app.router.add_get("/hello/{name}", hello)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    web.run_app(create_app(), port=parser.parse_args().port)


if __name__ == "__main__":
    main()
