"""The providing processes of a simulation."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import msgspec

from aioregistry.errors import RegistryClosed
from aioregistry.registration import Registration
from aioregistry.registry import Registry
from aioregistry.service import Service, Status, freeze
from aioregistry.testing.process import ProcessCrashed, SimulatedProcess
from aioregistry.testing.simulation.ledger import Ledger
from aioregistry.testing.simulation.plan import Plan

__all__ = ["Host"]


class Host:
    """One providing process, and what it registers.

    Args:
        process: where it lives.
        ledger: the truth.
        plan: the plan of the simulation.

    Attributes:
        process: as given.
        registrations: by key, those in force.
        closed: whether it was told to close.
    """

    def __init__(self, process: SimulatedProcess, ledger: Ledger, plan: Plan) -> None:
        self.process = process
        self.registrations: dict[tuple[str, str], Registration] = {}
        self.closed = False
        self.changes = 0
        self._ledger = ledger
        self.registry: Registry = process.new_registry(
            ttl=plan.ttl, heartbeat_interval=plan.heartbeat_interval, connect_timeout=None
        )

    @property
    def usable(self) -> bool:
        """Whether it can be told to do something."""
        return not (self.closed or self.process.crashed or self.process.frozen)

    async def run(self, services: list[Service]) -> None:
        """Start, and register."""
        try:
            await self.process.run(self.registry.start())
            for service in services:
                await self.register(service)
        except ProcessCrashed:
            return

    async def register(self, service: Service) -> None:
        """Register a service, whether or not there is a broker."""
        registration = await self.process.run(self.registry.register(service, wait=False))
        self.registrations[service.key] = registration
        self.changes += 1
        self._ledger.born(registration.service, self.process)

    async def add(self, service: Service) -> None:
        """Register a service, unless the process crashes first."""
        with suppress(ProcessCrashed):
            await self.register(service)

    async def withdraw(self, key: tuple[str, str]) -> None:
        """Withdraw a service."""
        registration = self.registrations.pop(key)
        self.changes += 1
        self._ledger.died(self._ledger.lives[registration.service.id], "withdrawn")
        await self._try(registration.unregister())

    async def update(self, key: tuple[str, str], status: Status, number: int) -> None:
        """Change the content of a service."""
        registration = self.registrations[key]
        metadata = freeze({"n": str(number)})
        self.changes += 1
        self._ledger.changed_content(
            msgspec.structs.replace(registration.service, status=status, metadata=metadata)
        )
        await self._try(registration.update(status=status, metadata=metadata))

    async def close(self) -> None:
        """Close the registry: everything is withdrawn."""
        self.closed = True
        self._all_died("withdrawn")
        await self._try(self.registry.aclose())

    def crash(self, *, noticed: bool) -> list[Service]:
        """Crash, and return what was registered."""
        services = [each.service for each in self.registrations.values()]
        self._all_died("crashed" if noticed and self.process.reachable else "crashed unnoticed")
        self.process.crash(noticed=noticed)
        return services

    def _all_died(self, how: str) -> None:
        for registration in self.registrations.values():
            self._ledger.died(self._ledger.lives[registration.service.id], how)
        self.registrations.clear()

    async def _try(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await self.process.run(work)
        except ProcessCrashed:
            pass
        except RegistryClosed:
            if not self.closed:  # else it was closed while the call was under way
                raise
