"""The command line, as somebody at a shell sees it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from aioregistry import EventType, Registry, Service, Status
from aioregistry.cli import main
from aioregistry.testing.brokers import Broker, nats_server

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

BROKERS = pytest.mark.parametrize("programs", ["nats_broker", "redis_broker"], indirect=True)


def start(programs: Programs, *arguments: str) -> Program:
    return programs.python("-m", "aioregistry", *arguments)


async def ended(programs: Programs, *arguments: str) -> tuple[int, list[str]]:
    """The exit status of a command, and what it wrote."""
    program = start(programs, *arguments)
    return await program.wait(), program.output.splitlines()


async def three(registry: Registry) -> None:
    """What is there to be found."""
    await registry.register("orders", "10.0.0.1:80", version="1.4", metadata={"zone": "eu"})
    await registry.register("orders", "10.0.0.2:80", version="2.0", status=Status.CRITICAL)
    await registry.register("billing.invoices", url="https://billing/")


@BROKERS
async def test_list(programs: Programs) -> None:
    async with Registry(programs.url, prefix="cli", hostname="here") as registry:
        await three(registry)
        status, lines = await ended(programs, "--prefix", "cli", "list")
        assert status == 0
        assert [re.split("  +", line) for line in lines] == [
            ["NAME", "ADDRESS", "STATUS", "VERSION", "HOST", "METADATA"],
            ["billing.invoices", "https://billing/", "passing", "here"],
            ["orders", "10.0.0.1:80", "passing", "1.4", "here", "zone=eu"],
            ["orders", "10.0.0.2:80", "critical", "2.0", "here"],
        ]
        status, lines = await ended(programs, "--prefix", "cli", "list", "billing.>", "--json")
        assert status == 0
        assert [json.loads(line)["url"] for line in lines] == ["https://billing/"]
        which = ("--metadata", "zone=eu", "--version", ">=1,<2")
        status, lines = await ended(programs, "--prefix", "cli", "list", *which)
        assert status == 0
        assert [line.split()[1] for line in lines] == ["ADDRESS", "10.0.0.1:80"]


@BROKERS
async def test_get(programs: Programs) -> None:
    async with Registry(programs.url, prefix="cli") as registry:
        await three(registry)
        assert await ended(programs, "--prefix", "cli", "get", "orders") == (0, ["10.0.0.1:80"])
        await registry.set_status("orders", Status.WARNING, "10.0.0.2:80")
        status, lines = await ended(programs, "--prefix", "cli", "get", "orders", "--all")
        assert (status, sorted(lines)) == (0, ["10.0.0.1:80", "10.0.0.2:80"])
        newer = ("get", "orders", "--version", ">=2", "--wait", "5")
        assert await ended(programs, "--prefix", "cli", *newer) == (0, ["10.0.0.2:80"])


async def test_get_what_nobody_provides(programs: Programs) -> None:
    status, [line] = await ended(programs, "get", "nobody", "--wait", "0.1")
    assert status == 1
    assert line.startswith("aioregistry: no instance of 'nobody' is known")


@BROKERS
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_register(programs: Programs, signum: int, status: int) -> None:
    """It is announced until the process ends, and then withdrawn."""
    async with (
        Registry(programs.url, prefix="cli") as registry,
        registry.watch("legacy") as watch,
    ):
        pairs = ("--metadata", "zone=eu", "--metadata", "tier=gold")
        more = ("--version", "3", "--host", "there", "--status", "warning", "--ttl", "4")
        program = start(
            programs, "--prefix", "cli", "register", "legacy", "10.0.0.9:21", *pairs, *more
        )
        event = await anext(watch)
        assert event.type is EventType.REGISTERED
        assert event.service == Service(
            "legacy",
            "10.0.0.9:21",
            version="3",
            host="there",
            metadata={"zone": "eu", "tier": "gold"},
            status=Status.WARNING,
            id=event.service.id,
        )
        await program.writes("announced: legacy at 10.0.0.9:21")
        assert await program.stop(signum) == status
        assert (await anext(watch)).type is EventType.UNREGISTERED
    assert program.output == "announced: legacy at 10.0.0.9:21\n"


@BROKERS
async def test_watch(programs: Programs) -> None:
    async with Registry(programs.url, prefix="cli") as registry:
        await three(registry)
        program = start(programs, "--prefix", "cli", "watch", "orders")
        await program.writes("registered    orders  10.0.0.1:80  passing\n")
        await program.writes("registered    orders  10.0.0.2:80  critical\n")
        await registry.set_status("orders", Status.WARNING, "10.0.0.1:80")
        await program.writes("updated       orders  10.0.0.1:80  status passing -> warning\n")
        await registry.unregister("orders", "10.0.0.1:80")
        await program.writes("unregistered  orders  10.0.0.1:80\n")
        assert await program.stop(signal.SIGINT) == 130
    assert len(program.output.splitlines()) == 4


async def test_watch_in_json(programs: Programs) -> None:
    async with Registry(programs.url, prefix="cli") as registry:
        program = start(programs, "--prefix", "cli", "watch", "--json")
        await registry.register("orders", "10.0.0.1:80")
        await program.until(lambda: program.output.endswith("\n"))
        await program.stop()
    event = json.loads(program.output)
    assert (event["type"], event["service"]["address"]) == ("registered", "10.0.0.1:80")


@pytest.fixture(autouse=True)
def level_of_the_log() -> Iterator[None]:
    """What is run in this process leaves it as it was."""
    logger = logging.getLogger("aioregistry")
    before = logger.level
    yield
    logger.setLevel(before)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One that may be stopped."""
    with nats_server() as broker:
        yield broker


async def test_a_watch_goes_on_when_the_broker_is_back(programs: Programs, broker: Broker) -> None:
    watch = start(programs, "--url", broker.url, "watch")
    provider = start(programs, "--url", broker.url, "register", "orders", "10.0.0.1:80")
    await watch.writes("registered    orders  10.0.0.1:80")
    await asyncio.to_thread(broker.kill)
    await watch.writes(f"aioregistry: lost {broker.url}")
    await asyncio.to_thread(broker.start)
    for program in (watch, provider):
        await program.writes(f"aioregistry: broker {broker.url}: connected")
    await provider.stop()
    await watch.writes("unregistered  orders  10.0.0.1:80")


async def test_who_has_seen_enough_is_not_shown_a_traceback(programs: Programs) -> None:
    async with Registry(programs.url, prefix="cli") as registry:
        reading, writing = os.pipe()
        program = programs.python("-m", "aioregistry", "--prefix", "cli", "watch", terminal=writing)
        os.close(writing)
        await registry.register("orders", "10.0.0.1:80")
        await program.until(lambda: os.read(reading, 100))
        os.close(reading)
        await registry.unregister("orders")
        assert await program.wait() == 141
    assert program.output == ""


def test_no_broker(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--url", "redis://user:secret@127.0.0.1:1", "list"]) == 3
    told = capsys.readouterr().err
    assert told.startswith("aioregistry: no broker at redis://")
    assert "secret" not in told
    monkeypatch.setenv("AIOREGISTRY_URL", "gopher://there")
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith("aioregistry: no transport for gopher://")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["lst"], "invalid choice: 'lst'"),
        (["register", "orders"], "an ADDRESS or a --service-url is needed"),
        (["register", "orders", "a:1", "--status", "fine"], "invalid choice: 'fine'"),
        (["register", "orders", "a:1", "--metadata", "zone"], "'zone' is not KEY=VALUE"),
        (["list", "--version", "new"], "'new' is no comparison"),
        (["list", "--wait", "-1"], "-1 is no number of seconds"),
        (["list", "--wait", "nan"], "nan is no number of seconds"),
        (["--version"], ""),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == (2 if reason else 0)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["get", "a b"], "service name 'a b'"),
        (["list", "a..b"], "pattern 'a..b'"),
        (["register", "orders", "here:99999"], "1 to 65535"),
        (["--prefix", "a b", "list"], "prefix"),
        (["register", "orders", "a:1", "--ttl", "0.01"], "ttl must be"),
    ],
)
def test_values_that_make_no_sense(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--url", "memory://", *arguments]) == 2
    assert reason in capsys.readouterr().err
