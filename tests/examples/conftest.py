"""Programs as a user runs them: processes with a deadline, every one of which is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PATIENCE = 15.0

_T = TypeVar("_T")


class Program:
    """One process, and what it has written."""

    def __init__(
        self,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        written: Path,
        terminal: int | None = None,
    ) -> None:
        self._command = command
        self._written = written
        with written.open("w") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output if terminal is None else terminal,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has written so far, to both of its outputs."""
        return self._written.read_text()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def until(self, condition: Callable[[], _T | None], patience: float = PATIENCE) -> _T:
        """Wait until `condition` holds; if that takes too long, tell what the program wrote.

        The condition is called in a thread, so that it may block.
        """
        return await asyncio.to_thread(self._until, condition, patience)

    async def writes(self, text: str) -> None:
        """Wait until it has written `text`."""
        await self.until(lambda: text in self.output)

    async def serves(self, url: str) -> httpx.Response:
        """The first answer to a GET of `url`."""
        return await self.until(lambda: _answer(url))

    def send(self, signum: int) -> None:
        """Send a signal to its process group, as a terminal does."""
        os.killpg(self._process.pid, signum)

    async def stop(self, signum: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait until it has."""
        self.send(signum)
        return await self.wait()

    async def wait(self, patience: float = PATIENCE) -> int:
        """Wait until it has ended; returns the exit status."""
        await self.until(lambda: not self.running, patience)
        return self._process.wait()

    def _until(self, condition: Callable[[], _T | None], patience: float) -> _T:
        deadline = time.monotonic() + patience
        while not (result := condition()):
            assert time.monotonic() < deadline, f"{self._command} wrote:\n{self.output}"
            time.sleep(0.01)
        return result

    def dispose(self) -> None:
        """End it, if it has not ended."""
        if self.running:
            self.send(signal.SIGKILL)
        self._process.wait()


def _answer(url: str) -> httpx.Response | None:
    try:
        return httpx.get(url, timeout=10, trust_env=False)
    except httpx.ConnectError:  # it does not listen yet
        return None


class Programs:
    """Starts programs; they find the broker at `url`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self._folder = folder
        self.started: list[Program] = []

    def run(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        terminal: int | None = None,
    ) -> Program:
        """Start a program, in the root of the checkout; it writes to `terminal`, or to a file."""
        written = self._folder / f"output-{len(self.started)}"
        environment = {"AIOREGISTRY_URL": self.url, **(environment or {})}
        program = Program(command, environment, written, terminal)
        self.started.append(program)
        return program

    def python(self, *arguments: str | Path, **options: Any) -> Program:
        """Start Python with `arguments`; with options as for `run`."""
        return self.run(sys.executable, *map(str, arguments), **options)

    def example(self, name: str, *arguments: str, **options: Any) -> Program:
        """Start one of the examples; with options as for `run`."""
        return self.python(ROOT / "examples" / name, *arguments, **options)


@pytest.fixture
def programs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Programs]:
    """Starts programs over NATS, or over what `@pytest.mark.parametrize` says, and ends them."""
    broker = getattr(request, "param", "nats_broker")
    started = Programs(request.getfixturevalue(broker).url, tmp_path)
    yield started
    for program in started.started:
        program.dispose()
