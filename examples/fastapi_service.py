"""A FastAPI service that announces itself, and withdraws before it stops.

    python examples/fastapi_service.py --port 8001

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222. Needs fastapi, uvicorn.
"""

import argparse
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from aioregistry import Registry, advertised_address

DRAIN = 1.0
"""How long callers have to move to other instances before this one stops, in seconds."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    registry: Registry = app.state.registry
    async with registry:
        await registry.register("greeter", app.state.address, version="1.0.0")
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/greet/{name}")
async def greet(name: str) -> dict[str, str]:
    return {"greeting": f"Hello {name}", "from": app.state.address}


class Server(uvicorn.Server):
    """Withdraws at SIGTERM and serves on for a moment; uvicorn alone would stop first."""

    def __init__(self, config: uvicorn.Config, registry: Registry) -> None:
        super().__init__(config)
        self._registry = registry

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._registry.drain(DRAIN)
        await super().shutdown(sockets)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0, help="default: any free port")
    # It listens before it is announced: uvicorn's own socket would come after the lifespan.
    listener = socket.create_server(("", parser.parse_args().port))
    app.state.address = advertised_address(listener.getsockname()[1])
    app.state.registry = registry = Registry()
    Server(uvicorn.Config(app), registry).run(sockets=[listener])


if __name__ == "__main__":
    main()
