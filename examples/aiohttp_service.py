"""An aiohttp service that announces itself, and withdraws before it stops.

    python examples/aiohttp_service.py --port 8001

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs aiohttp.
"""

import argparse
import asyncio
import signal
import socket

from aiohttp import web

from aioregistry import Registry, advertised_address

DRAIN = 1.0
"""How long callers have to move to other instances before this one stops, in seconds."""

ADDRESS = web.AppKey("address", str)


async def greet(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    return web.json_response({"greeting": f"Hello {name}", "from": request.app[ADDRESS]})


async def serve(listener: socket.socket, address: str) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)

    app = web.Application()
    app[ADDRESS] = address
    app.router.add_get("/greet/{name}", greet)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        # First it serves, then it is announced; first it withdraws, then it stops.
        await web.SockSite(runner, listener).start()
        async with Registry() as registry:
            await registry.register("greeter", address, version="1.0.0")
            await stop.wait()
            await registry.drain(DRAIN)
    finally:
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    listener = socket.create_server(("", parser.parse_args().port))
    asyncio.run(serve(listener, advertised_address(listener.getsockname()[1])))


if __name__ == "__main__":
    main()
