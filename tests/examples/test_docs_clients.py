"""The pages on HTTP clients: every program in them runs, and does what the text says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.examples.links import dead_links

from aioregistry import Registry
from aioregistry.integrations.aiohttp import RegistryMiddleware
from aioregistry.integrations.httpx import Policy, RegistryTransport

if TYPE_CHECKING:
    from tests.examples.conftest import Programs

ROOT = Path(__file__).parents[2]
PAGES = ("httpx", "aiohttp")

Runner = Callable[["Programs", Path, str], Awaitable[None]]


def text_of(page: str) -> str:
    return (ROOT / "docs" / "integrations" / f"{page}.md").read_text()


def programs_of(page: str) -> dict[str, str]:
    found = re.findall(r"^```python\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    names = [re.match(r"# (\w+\.py)\b", block) for block in found]
    return {name[1]: block for name, block in zip(names, found, strict=True) if name}


async def lines_of(programs: Programs, file: Path, *arguments: str) -> list[str]:
    program = programs.python(file, *arguments)
    assert await program.wait() == 0, program.output
    return program.output.splitlines()


async def it_greets(programs: Programs, file: Path, address: str) -> None:
    lines = await lines_of(programs, file)
    assert lines == ["Hello Ada", f"http://greeter/greet/Ada was {address}"]


async def it_mounts(programs: Programs, file: Path, address: str) -> None:
    assert await lines_of(programs, file, f"http://{address}/greet/Bob") == ["200"] * 3


async def it_chooses(programs: Programs, file: Path, address: str) -> None:
    status, error = await lines_of(programs, file)
    assert status == "405"  # the greeter takes no POST; but it has been asked
    assert "no instance of 'nobody' is known, nobody answered in 2 s" in error


async def it_resolves(programs: Programs, file: Path, address: str) -> None:
    assert await lines_of(programs, file) == ["Hello Ada"]


async def it_passes(programs: Programs, file: Path, address: str) -> None:
    command = ("-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", str(file))
    program = programs.python(*command)
    assert await program.wait() == 0, program.output
    assert " 1 passed" in program.output


RUNNERS: dict[tuple[str, str], Runner] = {
    ("httpx", "caller.py"): it_greets,
    ("httpx", "mounted.py"): it_mounts,
    ("httpx", "choosy.py"): it_chooses,
    ("httpx", "test_shop.py"): it_passes,
    ("aiohttp", "caller.py"): it_greets,
    ("aiohttp", "choosy.py"): it_chooses,
    ("aiohttp", "resolver.py"): it_resolves,
}


def test_every_program_is_run() -> None:
    assert {(page, name) for page in PAGES for name in programs_of(page)} == RUNNERS.keys()


LIBRARIES = {"httpx": ("httpx", "httpx2"), "aiohttp": ("aiohttp",)}
RUNS = [(page, name, library) for page, name in RUNNERS for library in LIBRARIES[page]]


@pytest.mark.parametrize(("page", "name", "library"), RUNS)
async def test_program(
    programs: Programs, page: str, name: str, library: str, tmp_path: Path
) -> None:
    block = re.sub(rf"\b{page}\b", library, programs_of(page)[name])
    patient = 'Registry(os.environ.get("AIOREGISTRY_URL"), lookup_timeout=10.0)'  # however slow
    file = tmp_path / name
    file.write_text(block.replace('Registry(os.environ.get("AIOREGISTRY_URL"))', patient))
    programs.example("aiohttp_service.py")
    async with Registry(programs.url) as registry:
        address = (await registry.get_service("greeter", timeout=15)).address
        version = registry.cached("greeter")[0].version
        if name == "choosy.py":
            assert version.startswith("1.")
        await RUNNERS[page, name](programs, file, address)


@pytest.mark.parametrize(
    ("page", "what"), [("httpx", RegistryTransport), ("aiohttp", RegistryMiddleware)]
)
def test_the_signatures_are_those_in_the_text(page: str, what: type) -> None:
    shown = re.search(rf"`({what.__name__}\(registry, \*, .*?\))`", text_of(page), re.DOTALL)
    assert shown
    given = list(inspect.signature(what).parameters)
    assert re.findall(r"(\w+)(?==None)", shown[1]) == given[1:]


def test_the_numbers_are_those_of_the_policy() -> None:
    policy = Policy()
    words = {1: "one", 3: "three", 5: "five", 10: "ten"}
    text = " ".join(text_of("httpx").split())
    assert f"after {words[policy.failures]} failures in a row" in text
    assert f"set aside for {words[int(policy.set_aside)]} seconds" in text
    assert policy.set_aside_at_most == 5 * 60
    assert "up to five minutes" in text
    assert f"sent {words[policy.attempts]} times at most" in text
    assert f"{policy.retry_ratio * 100:g} % of the requests" in text
    assert f"{policy.retries_per_second:g} a second" in text
    assert policy.bad_statuses == {502, 503, 504}


def test_the_table_of_the_policy() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \|", text_of("httpx").partition("### Policy")[2], re.MULTILINE
    )
    assert [name for name, _ in rows] == [field.name for field in fields(Policy)]
    assert Policy(**{name: eval(default) for name, default in rows}) == Policy()


@pytest.mark.parametrize("page", PAGES)
def test_links_and_installation(page: str) -> None:
    text = text_of(page)
    assert dead_links(ROOT / "docs" / "integrations" / f"{page}.md") == []
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"'\.\[(\w+)\]'", text):
        assert re.search(rf"^{extra} = ", project, re.MULTILINE)
    assert not re.search(r"install\s+aioregistry\b(?!-)", text)
