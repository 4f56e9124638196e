"""The fixtures for pytest, in somebody else's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import asyncio

import pytest

from aioregistry import MemoryTransport, Registry

pytest_plugins = ["aioregistry.testing.plugin"]


async def finds(target):
    async with Registry(target) as registry:
        await registry.register("orders", "10.0.0.1:80")
        return (await registry.get_service("orders")).address


@pytest.mark.parametrize("kind", ["nats_broker", "redis_broker"])
def test_real(kind, request):
    assert asyncio.run(finds(request.getfixturevalue(kind).url)) == "10.0.0.1:80"


@pytest.mark.parametrize("turn", [1, 2])
def test_memory(memory_broker, turn):
    async def alone():
        async with Registry(MemoryTransport(memory_broker)) as registry:
            assert not await registry.get_services("orders")

    asyncio.run(alone())
    assert asyncio.run(finds(MemoryTransport(memory_broker))) == "10.0.0.1:80"
"""


def test_the_fixtures(tmp_path: Path) -> None:
    file = tmp_path / "test_theirs.py"
    file.write_text(TESTS)
    alone = ("-c", "/dev/null", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error")
    done = subprocess.run(
        (sys.executable, "-m", "pytest", *alone, file),
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert " 4 passed" in done.stdout, done.stdout + done.stderr
