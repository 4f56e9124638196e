"""Services that end in every way that lets code run.

Run as `python -m tests.chaos.shutdown_app HOW URL PREFIX PORT`; it says "ready" when it is
announced, and ends when it is told by a line or a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncGenerator

import anyio

from aioregistry import Registry

INSTANCES = 3


async def announce(registry: Registry) -> None:
    for number in range(INSTANCES):
        await registry.register("shutdown", f"10.0.0.5:{1000 + number}")
    print("ready", flush=True)  # noqa: T201 - that is its report


async def told() -> None:
    """Wait for a line on the standard input: the observer has seen what was announced."""
    await asyncio.to_thread(sys.stdin.readline)


async def normal(registry: Registry) -> None:
    async with registry:
        await announce(registry)
        await told()


async def exception(registry: Registry) -> None:
    async with registry:
        await announce(registry)
        await told()
        raise LookupError("on purpose")


async def system_exit(registry: Registry) -> None:
    async with registry:
        await announce(registry)
        await told()
        sys.exit(3)


async def cancelled_task(registry: Registry) -> None:
    task = asyncio.create_task(sigint(registry))
    await told()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def cancelled_scope(registry: Registry) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(sigint, registry)
        await told()
        group.cancel_scope.cancel()


async def sigint(registry: Registry) -> None:
    async with registry:
        await announce(registry)
        await asyncio.sleep(60)


def run_uvicorn(registry: Registry, port: int) -> None:
    import fastapi  # noqa: PLC0415 - slow to import, and needed only here
    import uvicorn  # noqa: PLC0415

    @contextlib.asynccontextmanager
    async def lifespan(_app: fastapi.FastAPI) -> AsyncGenerator[None]:
        async with registry:
            await announce(registry)
            yield

    uvicorn.run(fastapi.FastAPI(lifespan=lifespan), port=port, log_level="error")


def run_aiohttp(registry: Registry, port: int) -> None:
    from aiohttp import web  # noqa: PLC0415 - slow to import, and needed only here

    async def provide(_app: web.Application) -> AsyncGenerator[None]:
        async with registry:
            await announce(registry)
            yield

    app = web.Application()
    app.cleanup_ctx.append(provide)
    web.run_app(app, port=port, print=None)


WAYS = {
    each.__name__: each
    for each in (normal, exception, system_exit, cancelled_task, cancelled_scope)
}
SERVERS = {"uvicorn": run_uvicorn, "aiohttp": run_aiohttp}


def main(how: str, url: str, prefix: str, port: str) -> None:
    registry = Registry(url, prefix=prefix, ttl=60.0)
    if how in SERVERS:
        SERVERS[how](registry, int(port))
    else:
        asyncio.run({**WAYS, "sigint": sigint}[how](registry))


if __name__ == "__main__":
    main(*sys.argv[1:])
