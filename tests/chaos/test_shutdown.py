"""Every way to end that lets code run: the withdrawals arrive."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys

import pytest

from aioregistry import EventType, Registry
from aioregistry.ports import free_port
from aioregistry.testing.brokers import Broker, nats_server, redis_server
from tests.chaos import shutdown_app
from tests.chaos.scene import serving
from tests.chaos.witness import witness
from tests.tools import eventually

SIGNALLED = {
    "sigint": signal.SIGINT,
    "uvicorn": signal.SIGTERM,
    "aiohttp": signal.SIGTERM,
}


async def end_in(broker: Broker, how: str) -> None:
    async with Registry(broker.url, prefix=how) as registry, witness(registry) as seen:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", shutdown_app.__name__, how, broker.url, how),
            str(free_port()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            await eventually(lambda: len(seen.of(EventType.REGISTERED)) == shutdown_app.INSTANCES)
            if how in SIGNALLED:
                process.send_signal(SIGNALLED[how])
            elif process.stdin is not None:
                process.stdin.write(b"end\n")
            await eventually(lambda: process.returncode is not None, within=20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await eventually(lambda: not seen.instances)
        assert len(seen.of(EventType.UNREGISTERED)) == shutdown_app.INSTANCES, how
        assert not seen.of(EventType.EXPIRED), how


@pytest.mark.timeout(120)  # sixteen processes, with a framework each, take their time to start
async def test_whatever_ends_a_service_its_withdrawals_arrive() -> None:
    """None of them expires: its ttl is a minute, and it says that it leaves."""
    async with serving(nats_server()) as nats, serving(redis_server()) as redis:
        ways = (*shutdown_app.WAYS, *SIGNALLED)
        await asyncio.gather(*(end_in(broker, how) for broker in (nats, redis) for how in ways))
