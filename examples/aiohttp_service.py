"""An aiohttp service that announces itself, and withdraws before it stops.

    python examples/aiohttp_service.py --port 8001

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs aiohttp.
"""

import argparse

from aiohttp import web

from aioregistry.integrations.aiohttp_server import readiness, register, run_app


async def greet(request: web.Request) -> web.Response:
    host, port = request.get_extra_info("sockname")[:2]  # where this request came in
    name = request.match_info["name"]
    return web.json_response({"greeting": f"Hello {name}", "from": f"{host}:{port}"})


def create_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(register(None, "greeter", version="1.0.0"))
    app.router.add_get("/greet/{name}", greet)
    app.router.add_get("/ready", readiness())
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    run_app(create_app(), port=parser.parse_args().port)


if __name__ == "__main__":
    main()
