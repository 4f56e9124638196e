"""An aiohttp service that calls another one, wherever that is right now.

    python examples/aiohttp_caller.py --port 8000
    curl localhost:8000/hello/Ada

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs aiohttp.
"""

import argparse

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler

from aioregistry import Registry
from aioregistry.integrations.aiohttp import RegistryMiddleware
from aioregistry.integrations.aiohttp_server import connect, get_client, run_app


def balanced(registry: Registry) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=5)
    return aiohttp.ClientSession(middlewares=[RegistryMiddleware(registry)], timeout=timeout)


@web.middleware
async def unavailable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nobody provides the service, or it cannot be reached: the client may try again."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectionError, TimeoutError) as error:
        detail = {"detail": str(error) or "no answer in time"}
        return web.json_response(detail, status=503, headers={"Retry-After": "1"})


async def hello(request: web.Request) -> web.Response:
    url = f"http://greeter/greet/{request.match_info['name']}"
    async with get_client(request).get(url, raise_for_status=True) as response:
        return web.json_response(await response.json())


def create_app() -> web.Application:
    app = web.Application(middlewares=[unavailable])
    app.cleanup_ctx.append(connect(client=balanced))
    app.router.add_get("/hello/{name}", hello)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    run_app(create_app(), port=parser.parse_args().port)


if __name__ == "__main__":
    main()
