"""What the commands do, once there is a registry."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable

from aioregistry.choosing import Predicate, Random, all_of, not_critical
from aioregistry.cli.lines import event_json, event_line, place, service_json, table
from aioregistry.registry import Registry
from aioregistry.service import Status

__all__ = ["Options", "announce", "find", "follow", "show"]


class Options(argparse.Namespace):
    """What was asked for; the help of the command line says what each means."""

    command: Callable[[Registry, Options], Awaitable[None]]
    url: str | None
    prefix: str
    ttl: float = 10.0

    patterns: list[str]
    predicates: list[Predicate]
    wait: float
    json: bool
    all: bool

    name: str
    address: str
    service_url: str
    version: str
    host: str
    metadata: list[tuple[str, str]]
    status: str


async def show(registry: Registry, options: Options) -> None:
    """Print who is there."""
    await registry.observe(*(options.patterns or (">",)))
    # Nobody can say that all have answered: peers that do not know the question to everybody
    # show with their next heartbeat.
    await asyncio.sleep(options.wait)
    where = all_of(*options.predicates)
    found = [each for name in registry.service_names for each in registry.cached(name, where)]
    for line in map(service_json, found) if options.json else table(found):
        print(line)


async def follow(registry: Registry, options: Options) -> None:
    """Print who is there, and then every change, until somebody ends it."""
    line_of = event_json if options.json else event_line
    async for event in registry.watch(*options.patterns, where=all_of(*options.predicates)):
        print(line_of(event), flush=True)


async def find(registry: Registry, options: Options) -> None:
    """Print where an instance is reached, or every one."""
    name, wanted = options.name, options.predicates
    where = all_of(not_critical, *wanted) if wanted else not_critical
    # Each in turn would be the first one for every process that asks once.
    found = [await registry.get_service(name, where=where, balancer=Random(), timeout=options.wait)]
    if options.all:
        found = [*await registry.get_services(name, where=where, timeout=options.wait)]
    for each in found:
        print(service_json(each) if options.json else place(each))


async def announce(registry: Registry, options: Options) -> None:
    """Announce a service until the process is told to end."""
    registration = await registry.register(
        options.name,
        options.address,
        url=options.service_url,
        version=options.version,
        host=options.host,
        metadata=dict(options.metadata),
        status=Status(options.status),
    )
    print(f"announced: {options.name} at {place(registration.service)}", flush=True)
    async for _ in registry.watch(options.name):
        pass  # which raises if the registry can do no more
