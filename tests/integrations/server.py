"""An instance of `orders` in a process of its own: uvicorn or aiohttp, as services are run.

It registers when it listens. When it is told to end, it withdraws, stays for a moment so that
callers move away, and only then lets its server stop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from typing import Any

from aioregistry import Registry

WORK = 0.002
"""For how long a request is worked on, in seconds."""

DRAIN = 1.0
"""For how long it stays after it has withdrawn, in seconds: callers on a busy machine hear late."""


@contextlib.asynccontextmanager
async def serve_with_uvicorn(listening: socket.socket, tag: str) -> AsyncGenerator[None]:
    import uvicorn  # noqa: PLC0415 - each process only what it needs

    class Server(uvicorn.Server):
        """One that leaves signals to us."""

        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    body = json.dumps({"tag": tag}).encode()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(WORK)
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    server = Server(uvicorn.Config(app, lifespan="off", log_level="error"))
    task = asyncio.create_task(server.serve([listening]))
    yield
    server.should_exit = True
    await task


@contextlib.asynccontextmanager
async def serve_with_aiohttp(listening: socket.socket, tag: str) -> AsyncGenerator[None]:
    from aiohttp import web  # noqa: PLC0415 - as above

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(WORK)
        return web.json_response({"tag": tag})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening).start()
    yield
    await runner.cleanup()


SERVERS = {"uvicorn": serve_with_uvicorn, "aiohttp": serve_with_aiohttp}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=SERVERS)
    parser.add_argument("broker")
    parser.add_argument("port", type=int)
    parser.add_argument("tag")
    options = parser.parse_args()
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", options.port))
    listening.listen(1024)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with (
        Registry(options.broker) as registry,
        SERVERS[options.framework](listening, options.tag),
    ):
        await registry.register("orders", f"127.0.0.1:{options.port}")
        await told.wait()
        await registry.drain(DRAIN)


if __name__ == "__main__":
    asyncio.run(main())
