"""The servers of the peers, for as long as they are measured, on loopback ports."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from aioregistry import free_port

_START_TIMEOUT = 30.0
_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where they keep their data: not on the disk, which they would wait for."""

ZOOKEEPER = Path("/usr/share/java/zookeeper.jar")


class NotInstalled(Exception):
    """A server is not on this machine; the text says how to get it."""


@contextlib.contextmanager
def etcd() -> Generator[str]:
    """Run an etcd until the block ends."""
    program = shutil.which("etcd")
    if program is None:
        raise NotInstalled("there is no etcd; on Debian: apt-get install etcd-server")
    port, peer_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="benchmarks-etcd-", dir=_MEMORY) as folder:
        here, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        command = [program, "--data-dir", folder, "--listen-client-urls", here]
        command += ["--advertise-client-urls", here, "--listen-peer-urls", peers]
        command += ["--initial-advertise-peer-urls", peers]
        command += ["--initial-cluster", f"default={peers}"]
        with _running(command, port):
            yield here


@contextlib.contextmanager
def zookeeper() -> Generator[str]:
    """Run a ZooKeeper until the block ends."""
    java = shutil.which("java")
    if java is None or not ZOOKEEPER.exists():
        raise NotInstalled("there is no ZooKeeper; on Debian: apt-get install zookeeper")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="benchmarks-zookeeper-", dir=_MEMORY) as folder:
        settings = Path(folder) / "zoo.cfg"
        lines = ("tickTime=2000", f"dataDir={folder}", "clientPortAddress=127.0.0.1")
        more = (f"clientPort={port}", "admin.enableServer=false", "maxClientCnxns=0")
        settings.write_text("\n".join((*lines, *more)) + "\n")
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        with _running([java, "-cp", str(ZOOKEEPER), main, str(settings)], port):
            yield f"zookeeper://127.0.0.1:{port}"


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Generator[None]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it does not start: {' '.join(command)}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
