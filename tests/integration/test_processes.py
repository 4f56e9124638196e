"""Providers in processes of their own: what arrives when they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from tests.tools import eventually

from aioregistry import Registry
from aioregistry.testing.brokers import Broker

ROUNDS = 20

# Each child says nothing after closing and exits at once: what is still in a buffer is lost.
# They are forked by a process that has imported everything once.
REGISTER_CLOSE_EXIT = """
import asyncio, os, sys
from aioregistry import Registry

async def main(name):
    async with Registry(sys.argv[1], prefix=sys.argv[2]) as registry:
        for port in range(1, 6):
            await registry.register(name, f"10.0.0.5:{port}")
    os._exit(0)

children = []
for number in range(int(sys.argv[3])):
    children.append(os.fork())
    if not children[-1]:
        asyncio.run(main(f"s{number}"))
for child in children:
    _, status = os.waitpid(child, 0)
    assert status == 0, status
"""


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker:
    found: Broker = request.getfixturevalue(f"{request.param}_broker")
    return found


async def run(script: str, *args: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *args, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert (process.returncode, errors) == (0, b"")


async def test_closing_delivers_every_withdrawal_even_if_the_process_ends_at_once(
    broker: Broker,
) -> None:
    prefix = "processes"
    async with Registry(broker.url, prefix=prefix, ttl=60.0) as observer:
        await observer.observe("*")
        await run(REGISTER_CLOSE_EXIT, broker.url, prefix, str(ROUNDS))
        await eventually(lambda: observer.stats().withdrawals_received == 5 * ROUNDS)
        assert not observer.service_names
        assert observer.stats().expired == 0
