"""The pages on services: every program in them runs, and does what the text says."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from faststream.redis import RedisBroker
from tests.examples.links import dead_links

from aioregistry import EventType, RedisTransport, Registry, Service, Watch, free_port
from aioregistry.testing.brokers import Broker

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

ROOT = Path(__file__).parents[2]
PAGES = ("fastapi", "aiohttp-server", "grpc", "faststream")

Runner = Callable[["Programs", Path], Awaitable[None]]


def text_of(page: str) -> str:
    return (ROOT / "docs" / "integrations" / f"{page}.md").read_text()


def programs_of(page: str) -> dict[str, str]:
    found = re.findall(r"^```python\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    names = [re.match(r"# (\w+\.py)\b", block) for block in found]
    assert all(names), "the first line of a program names the file"
    return {name[1]: block for name, block in zip(names, found, strict=True) if name}


async def get(service: Service | str, path: str) -> httpx.Response:
    address = service if isinstance(service, str) else service.address
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        return await client.get(f"http://{address}{path}")


async def when_ready(service: Service) -> httpx.Response:
    """The answer of the readiness route; observers may hear of it a moment before it knows."""
    async with asyncio.timeout(10):
        while (response := await get(service, "/ready")).status_code != 200:  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # another process: there is no event to await
    return response


async def registered(watch: Watch, *programs: Program) -> Service:
    return await the_next(watch, EventType.REGISTERED, programs)


async def unregistered(watch: Watch, *programs: Program) -> Service:
    return await the_next(watch, EventType.UNREGISTERED, programs)


async def the_next(watch: Watch, kind: EventType, programs: Iterable[Program]) -> Service:
    """The next event, which is of this kind; or what the programs wrote."""
    try:
        event = await asyncio.wait_for(anext(watch), 20)
    except TimeoutError:
        pytest.fail("\n".join(["no event, but:", *(program.output for program in programs)]))
    assert event.type is kind
    return event.service


def start(programs: Programs, file: Path, port: int) -> Program:
    """As the first line of the program says."""
    if " uvicorn " in file.read_text().splitlines()[0]:
        app = f"{file.stem}:app"
        folder = str(file.parent)
        return programs.python("-m", "uvicorn", "--app-dir", folder, app, "--port", str(port))
    return programs.python(file, str(port))


async def it_is_a_service(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("greeter") as watch:
        program = start(programs, file, free_port())
        service = await registered(watch, program)
        assert (service.version, service.metadata) == ("1.0.0", {"zone": "eu-1"})
        assert (await get(service, "/greet/Ada")).json()["greeting"] == "Hello Ada"
        assert (await get(service, "/peers")).json() == [service.address]
        assert (await when_ready(service)).json()["ready"] is True
        program.send(signal.SIGTERM)
        await unregistered(watch, program)
        assert (await get(service, "/ready")).status_code == 503
        assert (await get(service, "/greet/Bob")).status_code == 200
        assert "Traceback" not in program.output
        await program.stop(signal.SIGINT)  # enough of the drain


async def it_calls(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("greeter") as watch:
        service = start(programs, file.with_name("service.py"), free_port())
        caller = start(programs, file, port := free_port())
        await registered(watch, service)
        response = await caller.serves(f"http://127.0.0.1:{port}/hello/Ada")
        assert response.json()["greeting"] == "Hello Ada"
        await caller.stop()
        assert "Traceback" not in caller.output


async def it_has_a_lifespan_of_its_own(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("orders") as watch:
        for port in (1, 2):
            await registry.register("billing", f"10.0.0.5:{port}")
        program = start(programs, file, free_port())
        assert (await get(await registered(watch, program), "/known")).json() >= 1
        await program.stop(signal.SIGINT)
        await unregistered(watch, program)


async def it_is_withdrawn_after_it_stopped(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("plain") as watch:
        program = start(programs, file, port := free_port())
        service = await registered(watch, program)
        assert service.port == port
        await when_ready(service)
        program.send(signal.SIGTERM)
        await unregistered(watch, program)
        assert await program.wait() == 0


async def it_serves_calls(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("demo.Greeter") as watch:
        servers = [programs.python(file) for _ in range(2)]
        addresses = {(await registered(watch, *servers)).address for _ in servers}
        client = programs.python(file.with_name("client.py"), "Ada", "Bob")
        assert await client.wait() == 0, client.output
        lines = [line.partition(" from ") for line in client.output.splitlines()]
        assert [line[0] for line in lines] == ["Hello Ada", "Hello Bob"]
        assert {line[2] for line in lines} <= addresses
        for server in servers:
            server.send(signal.SIGTERM)
        assert {(await unregistered(watch, *servers)).address for _ in servers} == addresses
        for server in servers:
            assert await server.wait() == 0, server.output


async def it_works(programs: Programs, file: Path) -> None:
    nats = pytest.importorskip("nats")
    async with Registry(programs.url) as registry, registry.watch("invoicing") as watch:
        program = programs.python(file)
        service = await registered(watch, program)
        assert service.url.startswith("nats://")
        assert service.metadata == {"subject": "orders.created"}
        await registry.register("billing", "10.0.0.5:80")
        client = await nats.connect(programs.url)
        answer = await client.request("orders.created", b"o-1", timeout=10)
        assert answer.data == b"o-1 is billed by 10.0.0.5:80"
        await client.close()
        program.send(signal.SIGTERM)
        await unregistered(watch, program)
        assert await program.wait() == 0, program.output
    assert "Traceback" not in program.output


RUNNERS: dict[tuple[str, str], Runner] = {
    ("fastapi", "service.py"): it_is_a_service,
    ("fastapi", "caller.py"): it_calls,
    ("fastapi", "own_lifespan.py"): it_has_a_lifespan_of_its_own,
    ("aiohttp-server", "service.py"): it_is_a_service,
    ("aiohttp-server", "caller.py"): it_calls,
    ("aiohttp-server", "plain.py"): it_is_withdrawn_after_it_stopped,
    ("grpc", "server.py"): it_serves_calls,
    ("faststream", "worker.py"): it_works,
}
RUN_WITH_ANOTHER = {("grpc", "client.py")}


async def test_faststream_shares_its_redis_client(redis_broker: Broker) -> None:
    broker = RedisBroker(redis_broker.url)
    async with Registry(RedisTransport(client=await broker.connect())) as registry:
        await registry.register("invoicing", "10.0.0.5:80")
        assert (await registry.get_service("invoicing")).port == 80
    await broker.stop()


def test_every_program_is_run() -> None:
    there = {(page, name) for page in PAGES for name in programs_of(page)}
    assert there == RUNNERS.keys() | RUN_WITH_ANOTHER


@pytest.mark.parametrize(("page", "name"), RUNNERS)
async def test_program(programs: Programs, page: str, name: str, tmp_path: Path) -> None:
    for each, block in programs_of(page).items():
        patient = block.replace("drain=1.0", "drain=60.0")  # however slow the test is
        (tmp_path / each).write_text(patient)
    await RUNNERS[page, name](programs, tmp_path / name)


@pytest.mark.parametrize("page", PAGES)
def test_the_extras_exist_and_the_unrelated_project_is_not_installed(page: str) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"pip install '\.\[([^\]]+)\]'", text_of(page)):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = ", project, re.MULTILINE), extra
    assert not re.search(r"install\s+'?aioregistry\b(?!-)", text_of(page))
    assert dead_links(ROOT / "docs" / "integrations" / f"{page}.md") == []
