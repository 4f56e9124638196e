"""The README: every program in it runs, and does what the text says."""

from __future__ import annotations

import asyncio
import inspect
import re
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from tests.examples.links import dead_links
from tests.tools import eventually

from aioregistry import EventType, Registry, Status, free_port

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()

Runner = Callable[["Programs", Path], Awaitable[None]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def name_of(block: str) -> str:
    """The name of the file, in the first line of a program."""
    found = re.match(r"# (\w+\.py)\b", block)
    assert found, f"the first line does not name the file:\n{block}"
    return found[1]


PROGRAMS = {name_of(block): block for block in blocks("python")}


async def it_ends_well(programs: Programs, file: Path) -> None:
    program = programs.python(file)
    assert await program.wait() == 0, program.output


async def it_prints_the_service(programs: Programs, file: Path) -> None:
    program = programs.python(file)
    assert await program.wait() == 0, program.output
    assert program.output == "orders 10.0.0.5:8080\n"


def start(programs: Programs, file: Path, *arguments: str) -> Program:
    """As the first line of the program says."""
    if " uvicorn " in file.read_text().splitlines()[0]:
        app = f"{file.stem}:app"
        port = arguments[0] if arguments else "0"
        command = ("-m", "uvicorn", "--app-dir", str(file.parent), app, "--port", port)
        return programs.python(*command)
    return programs.python(file, *arguments)


async def it_greets(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("greeter") as watch:
        program = start(programs, file)
        event = await anext(watch)
        assert event.type is EventType.REGISTERED
        address = event.service.address
        response = await program.serves(f"http://{address}/greet/Ada")
        assert response.json()["greeting"] == "Hello Ada"
        await program.writes(f"greeter is announced at {address}")
        await program.stop()
        assert (await anext(watch)).type is EventType.UNREGISTERED
    assert "Traceback" not in program.output


async def it_calls(programs: Programs, file: Path) -> None:
    port = str(free_port())
    program = start(programs, file, port)
    url = f"http://127.0.0.1:{port}/hello/Ada"
    response = await program.serves(url)
    assert response.status_code == 503
    assert "no instance of 'greeter' is known" in response.text

    service = file.with_name(file.name.replace("caller", "service"))
    for _ in range(2):
        start(programs, service)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client, asyncio.timeout(20):
        processes: set[int] = set()
        while len(processes) < 2:  # both are found, and called in turn
            response = await client.get(url)
            assert response.status_code in (200, 503)
            if response.status_code == 200:
                assert response.json()["greeting"] == "Hello Ada"
                processes.add(response.json()["process"])
    await program.stop()
    assert "Traceback" not in program.output


async def it_prints_events(programs: Programs, file: Path) -> None:
    program = programs.python(file)
    async with Registry(programs.url) as registry:
        for name in ("greeter", "billing.invoices", "orders"):
            await registry.register(name, "10.0.0.1:80")
        await program.writes("REGISTERED greeter 10.0.0.1:80")
        await program.writes("REGISTERED billing.invoices 10.0.0.1:80")
    await program.writes("UNREGISTERED greeter 10.0.0.1:80")
    assert "orders" not in program.output


async def it_withdraws_when_it_is_stopped(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry, registry.watch("orders") as watch:
        program = programs.python(file)
        assert (await anext(watch)).type is EventType.REGISTERED
        assert await program.stop() == 0, program.output
        assert (await anext(watch)).type is EventType.UNREGISTERED
    assert program.output == ""


async def it_changes(programs: Programs, file: Path) -> None:
    last = "        await orders.unregister()"
    text = await asyncio.to_thread(file.read_text)
    assert last in text
    held = text.replace(last, f"        await anext(registry.watch('go-on'))\n{last}")
    await asyncio.to_thread(file.write_text, held)
    async with Registry(programs.url) as registry, registry.watch("orders") as watch:
        await registry.observe("reports")
        program = programs.python(file)
        assert (await anext(watch)).type is EventType.REGISTERED

        def changed() -> bool:
            found = {(each.version, each.status) for each in registry.cached("orders")}
            return found == {("1.4.3", Status.PASSING)} and not registry.cached("reports")

        await eventually(changed)
        assert registry.cached("orders")[0].metadata == {"zone": "eu-1"}
        await registry.register("go-on", "10.0.0.1:80")
        async for event in watch:
            if event.type is EventType.UNREGISTERED:
                break
    assert await program.wait() == 0, program.output


async def it_has_names_in_memory(programs: Programs, file: Path) -> None:
    async with Registry(programs.url) as registry:
        await registry.register("greeter", "10.0.0.1:80")
        await registry.register("greeter", "10.0.0.2:80", status=Status.WARNING)
        await registry.register("greeter", "10.0.0.3:80", status=Status.CRITICAL)
        await registry.register("billing.invoices", "10.0.0.4:80")
        await registry.register("orders", "10.0.0.5:80")
        program = programs.python(file)
        assert await program.wait() == 0, program.output
    first, *others = program.output.splitlines()
    assert first == "2 of greeter"
    assert (
        {
            "greeter 10.0.0.1:80 passing",
            "greeter 10.0.0.2:80 warning",
        }
        <= set(others)
        <= {
            "greeter 10.0.0.1:80 passing",
            "greeter 10.0.0.2:80 warning",
            "greeter 10.0.0.3:80 critical",
            "billing.invoices 10.0.0.4:80 passing",
        }
    )


async def it_passes(programs: Programs, file: Path) -> None:
    program = programs.python("-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", file)
    assert await program.wait() == 0, program.output
    assert " 1 passed" in program.output


RUNNERS: dict[str, Runner] = {
    "in_short.py": it_prints_the_service,
    "fastapi_service.py": it_greets,
    "fastapi_caller.py": it_calls,
    "aiohttp_service.py": it_greets,
    "aiohttp_caller.py": it_calls,
    "worker.py": it_withdraws_when_it_is_stopped,
    "change.py": it_changes,
    "watch.py": it_prints_events,
    "in_memory.py": it_has_names_in_memory,
    "choose.py": it_ends_well,
    "share_nats.py": it_ends_well,
    "share_redis.py": it_ends_well,
    "process_wide.py": it_ends_well,
    "test_checkout.py": it_passes,
}

BROKERS = ("nats_broker", "redis_broker")
RUNS = [
    (broker, name)
    for name in RUNNERS
    for broker in BROKERS
    if not name.startswith("share_") or name == f"share_{broker.partition('_')[0]}.py"
]


def test_every_program_is_run() -> None:
    assert len(PROGRAMS) == len(blocks("python")), "two programs have the same name"
    assert PROGRAMS.keys() == RUNNERS.keys()
    assert set(re.findall(r"^```(\w*)$", TEXT, re.MULTILINE)) == {"python", "sh", ""}


@pytest.mark.parametrize(("programs", "name"), RUNS, indirect=["programs"])
async def test_program(programs: Programs, name: str, tmp_path: Path) -> None:
    for each, block in PROGRAMS.items():
        (tmp_path / each).write_text(block)
    await RUNNERS[name](programs, tmp_path / name)


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    mentioned = set(re.findall(r"make ([a-z]+)", "\n".join((*blocks("sh"), *spans()))))
    assert mentioned == {"demo", "test", "help", "check", "bench"}
    for target in mentioned:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for target in mentioned:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


COMMANDS = [
    line for line in "\n".join(blocks("sh")).splitlines() if line.startswith("aioregistry ")
]


async def test_commands(programs: Programs) -> None:
    """Each line finds what the one that registers announces."""
    *others, announcing = (shlex.split(line)[1:] for line in COMMANDS)
    async with Registry(programs.url) as registry, registry.watch("legacy") as watch:
        await registry.register("orders", "10.0.0.1:80")
        await registry.register("billing.invoices", "10.0.0.2:80", metadata={"zone": "eu-1"})
        program = programs.python("-m", "aioregistry", *announcing)
        assert (await anext(watch)).service.metadata == {"zone": "eu-1"}
        expected = {"list": "legacy", "watch": "10.0.0.1:80", "get": "10.0.0.1:80"}
        for arguments in others:
            asking = programs.python("-m", "aioregistry", *arguments)
            billing = any(each.startswith("billing") for each in arguments)
            await asking.writes("10.0.0.2:80" if billing else expected[arguments[0]])
        await program.stop()
        assert (await anext(watch)).type is EventType.UNREGISTERED


def test_shell_lines_are_known() -> None:
    """A shell line that is new needs a look whether it works."""
    lines = [
        line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()
    ]
    assert lines == [
        *("make demo", "make test", "pip install .", "pip install '.[embedded]'"),
        *("pip install '.[fastapi,httpx]'", "pip install '.[aiohttp]'"),
        "export AIOREGISTRY_URL=nats://localhost:4222",
        *COMMANDS,
    ]
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^embedded = ", project, re.MULTILINE)
    assert 'name = "aioregistry-discovery"' in project


def test_the_unrelated_project_is_not_installed() -> None:
    assert not re.search(r"install\s+aioregistry\b(?!-)", TEXT)


def test_every_option_is_in_the_table() -> None:
    table = TEXT.partition("## Configure")[2].partition("\nURLs")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in spans(row)
    ]
    named.remove("Registry(...)") if "Registry(...)" in named else None
    assert named == list(inspect.signature(Registry).parameters)
    for row in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", table, re.MULTILINE):
        default = inspect.signature(Registry).parameters[row[0]].default
        if isinstance(default, int | float | str):
            assert eval(row[1]) == default


def test_links_lead_somewhere() -> None:
    assert dead_links(ROOT / "README.md") == []


def spans(text: str = TEXT) -> list[str]:
    """What stands between backticks within a line."""
    return re.findall(r"`([^`\n]+)`", text)
