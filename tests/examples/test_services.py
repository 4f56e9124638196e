"""Services run as users run them: uvicorn on the command line, its workers, its reloader."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.tools import eventually

from aioregistry import (
    EventType,
    Registry,
    Service,
    ServiceEvent,
    ServiceNotFound,
    Watch,
    free_port,
)

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

SERVICE = """
import logging, os
from fastapi import FastAPI
from aioregistry.integrations.fastapi import register

logging.basicConfig(format="%(message)s", level=logging.INFO)
app = FastAPI(lifespan=register(None, "greeter", drain={drain}, version="{version}"))

@app.get("/")
async def root() -> int:
    return os.getpid()
"""


@pytest.fixture
async def registry(programs: Programs) -> AsyncIterator[Registry]:
    async with Registry(programs.url) as registry:
        yield registry


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "app" / "greeter.py"
    file.parent.mkdir()
    file.write_text(SERVICE.format(version="1", drain=60.0))
    return file


def uvicorn(programs: Programs, module: Path, *options: str) -> Program:
    folder = str(module.parent)
    return programs.python("-m", "uvicorn", "--app-dir", folder, "greeter:app", *options)


async def next_event(watch: Watch) -> ServiceEvent:
    return await asyncio.wait_for(anext(watch), 20)


async def process_of(service: Service | str) -> int:
    address = service if isinstance(service, str) else service.address
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        found: int = (await client.get(f"http://{address}/")).json()
        return found


async def test_ctrl_c_while_a_caller_loops(
    programs: Programs, registry: Registry, module: Path
) -> None:
    """Not one call fails: it is withdrawn before it stops to accept."""
    program = uvicorn(programs, module, "--port", "0")
    calls = 0

    async def call_for_ever() -> None:
        nonlocal calls
        while True:
            try:
                service = await registry.get_service("greeter", timeout=10 if not calls else 0)
            except ServiceNotFound:
                return
            await process_of(service)
            calls += 1

    async with registry.watch("greeter") as watch:
        assert (await next_event(watch)).type is EventType.REGISTERED
        caller = asyncio.create_task(call_for_ever())
        await eventually(lambda: calls > 20)
        program.send(signal.SIGINT)
        assert (await next_event(watch)).type is EventType.UNREGISTERED
        assert program.running, "at once: the server is still there"
        await asyncio.wait_for(caller, 10)
    await program.writes("greeter is withdrawn; serving on for 60 s")
    assert "Traceback" not in program.output
    await program.stop(signal.SIGINT)  # enough of the drain


async def test_each_worker_is_an_instance(
    programs: Programs, registry: Registry, module: Path
) -> None:
    port = free_port()
    program = uvicorn(programs, module, "--port", str(port), "--workers", "2")
    async with registry.watch("greeter") as watch:
        services = [(await next_event(watch)).service for _ in range(2)]
        assert len({service.address for service in services} | {f"127.0.0.1:{port}"}) == 3
        processes = [await process_of(service) for service in services]
        assert len(set(processes)) == 2
        assert [await process_of(service) for service in services] == processes
        assert await process_of(f"127.0.0.1:{port}") in processes, "the shared port works, too"
        for service in services:
            where = f"http://127.0.0.1:{port}, this one alone listens at http://{service.address}"
            assert where in program.output

        program.send(signal.SIGINT)  # to all of them, as the terminal does; SIGTERM follows
        events = [await next_event(watch) for _ in range(2)]
        assert {event.type for event in events} == {EventType.UNREGISTERED}
        for service in services:
            assert await process_of(service) in processes
    assert "Traceback" not in program.output
    await program.stop(signal.SIGINT)  # enough of the drain


async def test_workers_cannot_have_one_address(programs: Programs, module: Path) -> None:
    text = SERVICE.format(version="1", drain=0).replace('"greeter",', '"greeter", "10.0.0.5:80",')
    await asyncio.to_thread(module.write_text, text)
    program = uvicorn(programs, module, "--port", "0", "--workers", "2")
    await program.writes("is to be announced at '10.0.0.5:80' by each of 2 workers")


async def test_a_reload_leaves_no_ghost(
    programs: Programs, registry: Registry, module: Path
) -> None:
    await asyncio.to_thread(module.write_text, SERVICE.format(version="1", drain=0))
    reload = ("--reload", "--reload-dir", str(module.parent), "--reload-delay", "0.05")
    program = uvicorn(programs, module, "--port", "0", *reload)
    async with registry.watch("greeter") as watch:
        first = await next_event(watch)
        assert (first.type, first.service.version) == (EventType.REGISTERED, "1")
        # Of another length: within a second, Python tells by it that its byte code is old.
        await asyncio.to_thread(module.write_text, SERVICE.format(version="2.0", drain=0))
        assert (await next_event(watch)).type is EventType.UNREGISTERED
        second = await next_event(watch)
        assert (second.type, second.service.version) == (EventType.REGISTERED, "2.0")
        assert second.service.address == first.service.address
        assert registry.cached("greeter") == (second.service,)
        await process_of(second.service)
        program.send(signal.SIGINT)
        assert (await next_event(watch)).type is EventType.UNREGISTERED
        assert registry.cached("greeter") == ()
    await program.wait()
    assert "two processes announce" not in program.output
    assert "Traceback" not in program.output


async def test_a_user_who_sets_up_no_logging_sees_where_it_is(
    programs: Programs, module: Path
) -> None:
    quiet = SERVICE.format(version="1", drain=60.0).replace("logging.basicConfig(", "dict(")
    await asyncio.to_thread(module.write_text, quiet)
    port = free_port()
    program = uvicorn(programs, module, "--port", str(port))
    await program.writes(f"INFO:     greeter is announced at 127.0.0.1:{port}\n")
    program.send(signal.SIGINT)
    await program.writes("INFO:     greeter is withdrawn; serving on for 60 s, or until Ctrl-C")
    await program.stop(signal.SIGINT)


AIOHTTP_SERVICE = """
from aiohttp import web
from aioregistry.integrations.aiohttp_server import register, run_app

app = web.Application()
app.cleanup_ctx.append(register(None, "greeter"))
run_app(app, host="127.0.0.1", port={port})
"""


async def test_the_same_with_aiohttp(programs: Programs, module: Path) -> None:
    port = free_port()
    await asyncio.to_thread(module.write_text, AIOHTTP_SERVICE.format(port=port))
    program = programs.python(module)
    await program.writes(f"serving at http://127.0.0.1:{port} (press Ctrl-C to stop)\n")
    await program.writes(f"greeter is announced at 127.0.0.1:{port}\n")
    assert await program.stop(signal.SIGINT) == 0
    assert "Traceback" not in program.output


async def test_two_services_by_accident_at_one_address(
    programs: Programs, registry: Registry, module: Path
) -> None:
    address = f"127.0.0.1:{free_port()}"
    await registry.register("greeter", address, version="0.9")
    program = uvicorn(programs, module, "--port", address.split(":")[1])
    await program.writes(f"two processes announce greeter at {address}")
    own = registry.registered[0]
    line = next(line for line in program.output.splitlines() if "two processes" in line)
    assert f"one on {own.host} (id {own.id}, version 0.9)" in line
    assert "version 1)" in line


async def test_a_wrong_url(programs: Programs, module: Path) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    options = ("-m", "uvicorn", "--app-dir", str(module.parent), "greeter:app", "--port", "0")
    program = programs.python(*options, environment={"AIOREGISTRY_URL": url})
    assert await program.wait() == 3, "as for every application whose startup fails"
    told = [line for line in program.output.splitlines() if "TransportError" in line]
    assert len(told) == 1, "once, and without how it came to that"
    assert f"no broker at {url} within 5 s: nothing listens at" in told[0]

    wrong = programs.python(*options, environment={"AIOREGISTRY_URL": "nat://127.0.0.1:4222"})
    assert await wrong.wait() == 3
    assert "ValueError: no transport for nat://...; a URL begins with one of nats" in wrong.output
    assert "registry.py" not in wrong.output, "nothing of how it came to that"


async def test_a_wrong_url_with_aiohttp(programs: Programs, module: Path) -> None:
    await asyncio.to_thread(module.write_text, AIOHTTP_SERVICE.format(port=0))
    url = f"nats://127.0.0.1:{free_port()}"
    program = programs.python(module, environment={"AIOREGISTRY_URL": url})
    assert await program.wait() == 1
    lines = program.output.splitlines()
    assert lines[0] == f"no broker at {url} yet: nothing listens at {url}"
    assert lines[1].startswith("Traceback"), "it is said once"
    assert f"no broker at {url} within 5 s: nothing listens at" in lines[-1]
    assert len(lines) < 12, "nothing of how it came to that"
