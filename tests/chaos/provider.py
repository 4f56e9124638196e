"""A provider in a process of its own, to be killed, stopped or blocked.

Run as `python -m tests.chaos.provider URL PREFIX NAME ADDRESS TTL`. It says "ready" when the
broker has taken its announcement. A line "block SECONDS" on its standard input blocks its
event loop for so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncGenerator

from aioregistry import Registry

Process = asyncio.subprocess.Process


async def start(url: str, prefix: str, name: str, address: str, ttl: float) -> Process:
    """Start a provider and wait until it is announced."""
    arguments = (url, prefix, name, address, str(ttl))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    return process


@contextlib.asynccontextmanager
async def provider(
    url: str, prefix: str, name: str, address: str, ttl: float
) -> AsyncGenerator[Process]:
    """A provider that is killed when the block ends, unless it has ended before."""
    process = await start(url, prefix, name, address, ttl)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _provide(url: str, prefix: str, name: str, address: str, *, ttl: float) -> None:
    async with Registry(url, prefix=prefix, ttl=ttl) as registry:
        await registry.register(name, address)
        print("ready", flush=True)  # noqa: T201 - that is its report
        while line := await asyncio.to_thread(sys.stdin.readline):
            time.sleep(float(line.removeprefix("block ")))  # noqa: ASYNC251 - the very thing


if __name__ == "__main__":
    asyncio.run(_provide(*sys.argv[1:5], ttl=float(sys.argv[5])))
