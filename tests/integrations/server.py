"""An instance of `orders` in a process of its own, with the defaults that users get.

python -m tests.integrations.server uvicorn nats://127.0.0.1:4222 8001 a
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from aioregistry import Registry

WORK: Final = 0.002
"""For how long a request is worked on, in seconds."""


def run_uvicorn(registry: Registry, port: int, tag: str) -> None:
    import uvicorn  # noqa: PLC0415 - each process only what it needs
    from starlette.applications import Starlette  # noqa: PLC0415
    from starlette.requests import Request  # noqa: PLC0415
    from starlette.responses import JSONResponse  # noqa: PLC0415
    from starlette.routing import Route  # noqa: PLC0415

    from aioregistry.integrations.starlette import register  # noqa: PLC0415

    async def answer(request: Request) -> JSONResponse:
        await request.body()
        await asyncio.sleep(WORK)
        return JSONResponse({"tag": tag})

    route = Route("/{path:path}", answer, methods=["GET", "POST"])
    app = Starlette(routes=[route], lifespan=register(registry, "orders"))
    uvicorn.run(app, port=port, log_level="error")


def run_aiohttp(registry: Registry, port: int, tag: str) -> None:
    from aiohttp import web  # noqa: PLC0415 - as above

    from aioregistry.integrations.aiohttp_server import register, run_app  # noqa: PLC0415

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(WORK)
        return web.json_response({"tag": tag})

    app = web.Application()
    app.cleanup_ctx.append(register(registry, "orders"))
    app.router.add_route("*", "/{path:.*}", answer)
    run_app(app, host="127.0.0.1", port=port, access_log=None)


FRAMEWORKS: Final = {"uvicorn": run_uvicorn, "aiohttp": run_aiohttp}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("broker")
    parser.add_argument("port", type=int)
    parser.add_argument("tag")
    options = parser.parse_args()
    FRAMEWORKS[options.framework](Registry(options.broker), options.port, options.tag)


if __name__ == "__main__":
    main()
