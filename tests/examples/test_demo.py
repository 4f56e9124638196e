"""The demo: what the viewer sees, and that nothing is left of it, however it ends."""

from __future__ import annotations

import asyncio
import os
import pty
import random
import re
import signal
import sys
import sysconfig
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

MARK = "AIOREGISTRY_TEST_MARK"


class Demo:
    """A run of the demo, whose processes bear a mark."""

    def __init__(self, programs: Programs) -> None:
        self.mark = uuid.uuid4().hex
        self.program: Program = programs.example("demo.py", environment={MARK: self.mark})

    @property
    def processes(self) -> list[str]:
        """The command lines of all processes that descend from the demo."""
        if not Path("/proc/self/environ").exists():
            pytest.skip("needs /proc")
        found: list[str] = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue  # it has just ended, or is not ours
        return found


async def test_the_demo(programs: Programs) -> None:
    start = time.monotonic()
    demo = Demo(programs)
    assert await demo.program.wait(40) == 0, demo.program.output
    assert time.monotonic() - start < 35
    assert demo.processes == []

    output = demo.program.output
    events = re.findall(r"s  ([A-Z]+) +([a-z]+-\d) ", output)
    assert sorted(events[:4]) == [
        ("REGISTERED", name) for name in ("billing-1", "orders-1", "orders-2", "orders-3")
    ]
    assert events[4:] == [
        ("UPDATED", "orders-2"),
        ("UPDATED", "orders-2"),
        ("UNREGISTERED", "orders-3"),
        ("EXPIRED", "orders-1"),
        ("REGISTERED", "orders-4"),
    ]
    assert "passing -> warning" in output
    assert "warning -> passing" in output
    assert " 0 calls failed to reach it" in output
    assert set(re.findall(r"(\d+) errors|errors (\d+)", output)) == {("0", ""), ("", "0")}
    for measured in (
        r"register, update -> event +[\d.]+ ms",
        r"cold lookup +[\d.]+ ms",
        r"cached lookup +\d+ ns",
        r"withdrawal -> event +[\d.]+ ms",
        r"kill -> EXPIRED +[\d.]+ s",
        r"calls +[\d,]+ +0 errors, \d+ moved",
        r"answered by +orders 1: \d+%  .*billing: \d+%",
    ):
        assert re.search(measured, output), f"{measured} is not in:\n{output}"
    assert "\x1b" not in output, "no colours where nobody watches"
    assert "Traceback" not in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("last_words", ["title", "broker", "REGISTERED", "calls", "WARNING"])
async def test_interrupted(programs: Programs, last_words: str) -> None:
    demo = Demo(programs)
    if last_words != "title":
        await demo.program.writes(f" {last_words}")
    await asyncio.sleep(random.uniform(0.05, 0.3))  # at any moment whatever
    status = await demo.program.stop(signal.SIGINT)
    assert status == 128 + signal.SIGINT, demo.program.output
    assert demo.processes == []
    assert "Traceback" not in demo.program.output
    words = demo.program.output.splitlines()
    assert words == [] or words[-1] == "interrupted; every process of the demo has ended"


async def test_killed(programs: Programs) -> None:
    """Nobody is left to end the others: they notice."""
    demo = Demo(programs)
    await demo.program.writes("billing-1 ")
    assert len(demo.processes) == 1 + 2 + 4  # the demo, the broker and its keeper, the providers
    demo.program.send(signal.SIGKILL)
    await demo.program.wait()
    await demo.program.until(lambda: not demo.processes)


async def test_the_reader_leaves(programs: Programs) -> None:
    """As in `python examples/demo.py | head`: it ends, quietly."""
    demo = programs.python(
        "-c",
        "import subprocess, sys;"
        " demo = subprocess.Popen([sys.executable, 'examples/demo.py'], stdout=subprocess.PIPE);"
        " demo.stdout.readline(); demo.stdout.close(); sys.exit(demo.wait())",
    )
    assert await demo.wait() == 1
    assert demo.output == ""


@pytest.mark.parametrize(("environment", "colourful"), [({}, True), ({"NO_COLOR": "1"}, False)])
async def test_colours(programs: Programs, environment: dict[str, str], *, colourful: bool) -> None:
    """On a terminal there are colours, unless somebody asked for none."""
    terminal, theirs = pty.openpty()
    demo = programs.example(
        "demo.py", terminal=theirs, environment={"TERM": "xterm", **environment}
    )
    os.close(theirs)
    title = b""
    while b"\n" not in title:
        title += os.read(terminal, 1000)
    await demo.stop(signal.SIGINT)
    os.close(terminal)
    assert (b"\x1b[1m" in title) is colourful


async def test_without_nats_server(programs: Programs) -> None:
    """One line says what is missing and how to get it."""
    if sys.prefix == sys.base_prefix:
        pytest.skip("needs a virtual environment")
    base = getattr(sys, "_base_executable", sys.executable)
    elsewhere = {"PYTHONPATH": f"src:{sysconfig.get_path('purelib')}", "PATH": ""}
    demo = programs.run(base, "examples/demo.py", environment=elsewhere)
    assert await demo.wait() == 1
    complaints = demo.output.splitlines()[1:]
    assert [line[:32] for line in complaints] == ["demo: no nats-server found; inst"]
