"""Something to test: a part of a service that looks others up; see test_my_service.py."""

from __future__ import annotations

from aioregistry import Registry, ServiceNotFound, Status


class Checkout:
    """Sends people to whoever takes payments; when nobody does, says so in its own status."""

    def __init__(self, registry: Registry, address: str) -> None:
        self._registry = registry
        self._address = address

    async def start(self) -> None:
        await self._registry.register("checkout", self._address)

    async def payment_url(self, order: str) -> str | None:
        try:
            service = await self._registry.get_service("payments")
        except ServiceNotFound:
            await self._registry.set_status("checkout", Status.WARNING)
            return None
        await self._registry.set_status("checkout", Status.PASSING)
        return f"http://{service.address}/pay/{order}"
