"""Where the figures come from: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.peers.servers import ZOOKEEPER

PACKAGES = ("aioregistry-discovery", "nats-py", "redis", "hiredis", "msgspec", "anyio")
_DESCRIBE = ("--always", "--dirty", "--exclude=*")
"""How git tells the commit, and whether anything was changed since."""

PEERS = ("zeroconf", "aetcd", "kazoo")


def describe() -> dict[str, str]:
    """The machine, its load, and the versions of what takes part in this process and the peers."""
    facts = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
    for package in PACKAGES + PEERS:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    facts["commit"] = _said(("git", "-C", str(Path(__file__).parent), "describe", *_DESCRIBE))
    facts["etcd"] = _said(("etcd", "--version")).partition(": ")[2] or "not installed"
    # The jar is a link to one that has its version in its name.
    facts["ZooKeeper"] = ZOOKEEPER.resolve().stem if ZOOKEEPER.exists() else "not installed"
    return facts


def describe_broker(url: str) -> str:
    """The kind and the version of a running broker, in its own words."""
    address = (urlsplit(url).hostname, urlsplit(url).port)
    with socket.create_connection(address, timeout=10) as connection:
        if url.startswith("nats"):
            greeting = connection.makefile("rb").readline().removeprefix(b"INFO ")
            return f"nats-server {json.loads(greeting)['version']}"
        connection.sendall(b"INFO server\r\n")
        answer = connection.makefile("rb")
        lines = answer.read(int(answer.readline()[1:])).decode().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    if "valkey_version" in facts:  # which says in redis_version what it is compatible with
        return f"Valkey {facts['valkey_version']}"
    return f"Redis {facts['redis_version']}"


def _said(command: Sequence[str]) -> str:
    """The first line of what a program prints; nothing, if it does not run."""
    if shutil.which(command[0]) is None:
        return ""
    printed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return printed.partition("\n")[0]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
