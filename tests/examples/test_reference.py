"""The reference: it has every public name, with the arguments that it takes, and no other."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from tests.examples.links import dead_links

import aioregistry
from aioregistry import NatsTransport, RedisTransport, Registration, Registry, Service, Stats

if TYPE_CHECKING:
    from tests.examples.conftest import Programs

PAGE = Path(__file__).parents[2] / "docs" / "reference.md"
TEXT = PAGE.read_text()

INTEGRATIONS = "aioregistry.integrations."

MODULES = (
    "aioregistry",
    "aioregistry.cli",
    "aioregistry.integrations.aiohttp",
    "aioregistry.integrations.aiohttp_server",
    "aioregistry.integrations.fastapi",
    "aioregistry.integrations.health",
    "aioregistry.integrations.httpx",
    "aioregistry.integrations.resilience",
    "aioregistry.testing",
    "aioregistry.testing.brokers",
    "aioregistry.testing.plugin",
    "aioregistry.transports.base",
    "aioregistry.transports.memory",
)

TWINS = {
    "aioregistry.integrations.httpx2": ("aioregistry.integrations.httpx", set[str]()),
    "aioregistry.integrations.starlette": (
        "aioregistry.integrations.fastapi",
        {"RegistryDep", "Server", "get_service", "get_services"},
    ),
}
"""Modules that have the names of another one, but for some."""

CLASSES: dict[str, type] = {
    "Registry": Registry,
    "Registration": Registration,
    "Services and events": Service,
    "Stats": Stats,
}
"""Whose members stand under which heading."""

OPTIONS = {"probe_interval", "probe_timeout"}


class Entry(NamedTuple):
    """What stands between backticks in the first column of a table."""

    module: str
    heading: str
    text: str

    @property
    def name(self) -> str:
        return self.text.partition("(")[0]

    @property
    def arguments(self) -> list[str] | None:
        found = re.search(r"\((.*)\)$", self.text)
        return None if found is None else [each for each in found[1].split(", ") if each]

    @property
    def meant(self) -> Any:
        """What it is the name of; None: nothing."""
        module = importlib.import_module(self.module)
        if self.name in module.__all__:
            return getattr(module, self.name)
        owner = CLASSES.get(self.heading) if self.module == "aioregistry" else None
        return getattr(owner, self.name, None)

    @property
    def mistake(self) -> str | None:
        if self.meant is None:
            return f"there is no {self.name}"
        if self.arguments is None:
            return None
        taken = list(map(written, parameters(self.meant)))
        return None if self.arguments == taken else f"{self.name} takes {', '.join(taken)}"


def parameters(function: Any) -> list[inspect.Parameter]:
    given = list(inspect.signature(function).parameters.values())
    return given[1:] if given and given[0].name == "self" else given


def written(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{parameter.name}"
    return f"{parameter.name}=" if parameter.kind is parameter.KEYWORD_ONLY else parameter.name


def entries() -> Iterator[Entry]:
    module = heading = ""
    for line in TEXT.splitlines():
        if found := re.match(r"## `(.*)`$", line):
            module, heading = found[1], ""
        elif found := re.match(r"### (.*)$", line):
            heading = found[1]
        elif line.startswith("| `"):
            for text in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                yield Entry(module, heading, text)


ENTRIES = tuple(entry for entry in entries() if entry.name not in OPTIONS)


def named(module: str) -> set[str]:
    return {entry.name for entry in ENTRIES if entry.module == module}


def public(module: str) -> set[str]:
    return set(importlib.import_module(module).__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_there(module: str) -> None:
    assert public(module) - named(module) == set()


@pytest.mark.parametrize("heading", CLASSES)
def test_every_public_member_is_there(heading: str) -> None:
    members = {name for name in dir(CLASSES[heading]) if not name.startswith("_")}
    if heading == "Services and events":
        members -= set(Service.__struct_fields__)  # these stand there as its arguments
    assert members - {entry.name for entry in ENTRIES if entry.heading == heading} == set()


@pytest.mark.parametrize("module", MODULES)
def test_what_is_there_is_so(module: str) -> None:
    """It is the name of something, which takes these arguments."""
    mistakes = [entry.mistake for entry in ENTRIES if entry.module == module]
    assert list(filter(None, mistakes)) == []


def test_every_module_is_there() -> None:
    assert set(re.findall(r"^## `(.*)`$", TEXT, re.MULTILINE)) == set(MODULES)
    folder = Path(aioregistry.__file__).parent / "integrations"
    there = {f"{INTEGRATIONS}{file.stem}" for file in folder.glob("[!_]*.py")}
    assert there == {each for each in (*MODULES, *TWINS) if each.startswith(INTEGRATIONS)}


@pytest.mark.parametrize("module", TWINS)
def test_twins_are_alike(module: str) -> None:
    twin, missing = TWINS[module]
    assert public(module) == public(twin) - missing
    section = TEXT.partition(f"## `{twin}`")[2].partition("\n| ")[0]
    assert f"Also as `{module}`" in section
    assert set(re.findall(r"`(\w+)`", section)) == missing


def test_the_defaults_of_the_transports() -> None:
    rows = re.findall(r"^\| `(probe_\w+)` \| `([\d.]+)` \| `([\d.]+)` \|", TEXT, re.MULTILINE)
    assert {name for name, _, _ in rows} == OPTIONS
    for name, nats, redis in rows:
        for transport, shown in ((NatsTransport, nats), (RedisTransport, redis)):
            assert inspect.signature(transport).parameters[name].default == float(shown)


def test_links() -> None:
    assert dead_links(PAGE) == []


PROGRAMS = re.findall(r"^```python\n(# (\w+\.py)\b.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def test_every_program_is_run() -> None:
    assert [name for _, name in PROGRAMS] == ["tcp.py"]
    assert TEXT.count("```python") == len(PROGRAMS)


@pytest.mark.parametrize("programs", ["nats_broker", "redis_broker"], indirect=True)
async def test_a_server_and_its_caller(programs: Programs, tmp_path: Path) -> None:
    file = tmp_path / "tcp.py"
    file.write_text(PROGRAMS[0][0])
    program = programs.python(file)
    assert await program.wait() == 0, program.output
    assert program.output == "hello\n"
