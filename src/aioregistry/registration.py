"""Registration: the handle of a service that this process announces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from aioregistry.errors import NotRegistered
from aioregistry.limits import check_service, status_of
from aioregistry.provider import Provider
from aioregistry.service import Service, Status, freeze

__all__ = ["Registration"]


class Registration:
    """One registered service, as `Registry.register` returns it.

    As an async context manager it unregisters the service when the block is left.
    """

    def __init__(self, provider: Provider, service: Service) -> None:
        self._provider = provider
        self._service = service

    def __repr__(self) -> str:
        return f"<Registration of {self._service!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.unregister()

    @property
    def service(self) -> Service:
        """The service as it is announced now, or was last."""
        return self._current() or self._service

    async def update(
        self,
        *,
        status: Status | None = None,
        metadata: Mapping[str, str] | None = None,
        version: str | None = None,
        host: str | None = None,
        network: str | None = None,
        url: str | None = None,
    ) -> None:
        """Change what is announced; every watcher sees it at once.

        Returns when the broker has taken the announcement; without a broker at once, and
        the change goes out with the reconnect. Cancelling while it waits takes it back.

        Args:
            status: the new status.
            metadata: the new metadata, in place of the old.
            version: the new version.
            host: the new host name.
            network: the new network of the address.
            url: the new URL; a service without address cannot change it, being known by it.

        Raises:
            NotRegistered: the service was unregistered.
            RegistryClosed: the registry is closed.
            InvalidService: a value makes no sense.
            TransportError: the broker refused the announcement.
        """
        current = self._provider.find(self._service)
        if current.id != self._service.id:
            raise NotRegistered(
                f"this registration of {current.name!r} at {current.key[1]!r} was unregistered;"
                " what is registered there now has another handle"
            )
        given: dict[str, Any] = {
            "status": None if status is None else status_of(status),
            "metadata": metadata,
            "version": version,
            "host": host,
            "network": network,
            "url": url,
        }
        changes = {field: value for field, value in given.items() if value is not None}
        changed = msgspec.structs.replace(current, **changes)
        check_service(changed, key=current.key)
        changed = msgspec.structs.replace(changed, metadata=freeze(changed.metadata))
        await self._provider.announce(changed, changes, wait=True, patient=False)
        self._service = changed

    async def set_status(self, status: Status) -> None:
        """Change the status; as `update(status=...)`."""
        await self.update(status=status_of(status))

    async def unregister(self) -> None:
        """Withdraw the service; doing it twice is harmless.

        Returns when the broker has taken the withdrawal; without a broker at once, and the
        withdrawal goes out with the reconnect. Cancelling cancels only the waiting.

        Raises:
            TransportError: the broker refuses the withdrawal; it is not announced any longer.
            RegistryClosed: the registry is closed.
        """
        if self._current() is not None:
            await self._provider.withdraw(self._service.key)

    def _current(self) -> Service | None:
        current = self._provider.current(self._service.key)
        return current if current is not None and current.id == self._service.id else None
