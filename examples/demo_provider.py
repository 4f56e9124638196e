"""A provider of the demo: a TCP service that announces itself, in a process of its own.

    python examples/demo_provider.py NAME INSTANCE NATS_URL TTL

It answers a line with its own name, sets the status that a line on its standard input says,
leaves gracefully on SIGTERM, and ends when its standard input does: then the demo is gone.
It writes what it does and when, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
import time
from functools import partial

from aioregistry import Registration, Registry, Status

DRAIN = 0.5
"""For how long to go on serving after the withdrawal, in seconds."""


def report(what: str, *details: object) -> None:
    print(what, time.monotonic_ns(), *details, flush=True)


async def answer(instance: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        question = await reader.readline()
        writer.write(f"{instance} answers ".encode() + question)
        await writer.drain()
    except ConnectionError:
        pass  # the caller has gone
    finally:
        writer.close()


async def serve(
    name: str, instance: str, url: str, ttl: float, announced: asyncio.Future[Registration]
) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_server(partial(answer, instance), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    # For a service that other machines call: listen on 0.0.0.0, announce advertised_address(port).
    async with server, Registry(url, ttl=ttl) as registry:
        report("registering")
        registration = await registry.register(
            name, f"127.0.0.1:{port}", version="1.0.0", metadata={"instance": instance}
        )
        announced.set_result(registration)
        await stop.wait()
        report("withdrawing")
        await registry.drain(DRAIN)


async def obey(announced: asyncio.Future[Registration]) -> None:
    """Set the status that each line says, until the demo is gone."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    async for line in lines:
        registration = await announced
        report("updating")
        await registration.set_status(Status(line.decode().strip()))


async def run(name: str, instance: str, url: str, ttl: float) -> None:
    announced: asyncio.Future[Registration] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve(name, instance, url, ttl, announced))
    obeying = asyncio.create_task(obey(announced))
    await asyncio.wait({serving, obeying}, return_when=asyncio.FIRST_COMPLETED)
    obeying.cancel()
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def main() -> None:
    logging.getLogger("aioregistry").setLevel(logging.CRITICAL)  # the demo loses its broker, too
    name, instance, url, ttl = sys.argv[1:]
    asyncio.run(run(name, instance, url, float(ttl)))


if __name__ == "__main__":
    main()
