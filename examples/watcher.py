"""Print what comes, changes and goes.

    python examples/watcher.py                 everything
    python examples/watcher.py 'billing.>'     one name, or a pattern of names

The broker is at $AIOREGISTRY_URL, or else at nats://localhost:4222; it may be away for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from datetime import datetime

from aioregistry import EventType, Registry, ServiceEvent


def describe(event: ServiceEvent) -> str:
    service, before = event.service, event.previous
    time = datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")
    text = f"{time}  {event.type.name:<12}  {service.name}  {service.address or service.url}"
    if event.type is EventType.UPDATED and before is not None:
        changed = "restarted" if service.id != before.id else f"was {before.status.value}"
        text += f"  {service.status.value} ({changed})"
    return text


async def watch(patterns: list[str]) -> None:
    async with Registry(connect_timeout=None) as registry:
        async for event in registry.watch(*patterns):
            print(describe(event), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(watch(sys.argv[1:]))
