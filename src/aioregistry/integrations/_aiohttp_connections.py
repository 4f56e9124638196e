"""The connections to each instance, for aiohttp, whose connector keeps them all in one pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from aioregistry import LeastPending, Registry, Service
from aioregistry.integrations._departures import Departures, Key

if TYPE_CHECKING:
    from aiohttp import BaseConnector, ClientRequest, ClientResponse
    from aiohttp.connector import Connection

__all__ = ["Connections", "Dispatch"]


class _Link:
    """The connections to one life of an instance."""

    __slots__ = ("busy", "gone", "id", "transports")

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.gone = False
        self.transports: set[asyncio.Transport] = set()
        self.busy: set[asyncio.Transport] = set()

    def close(self) -> None:
        """Close what is idle now, and the rest when it is done."""
        self.gone = True
        for transport in self.transports - self.busy:
            transport.close()


class Connections:
    """Which connections lead to which instance, so that they can be closed when it goes.

    Args:
        registry: where the instances are.

    Attributes:
        requests: how many have a connection, or wait for one.
    """

    def __init__(self, registry: Registry) -> None:
        self.requests = 0
        self._links: dict[Key, _Link] = {}
        self._departures = Departures(registry, self.changed)

    def lead_to(self, service: Service) -> bool:
        """Whether one to this life of the instance is free: then none has to be made."""
        link = self._links.get(service.key)
        if link is None or link.id != service.id:
            return False
        return any(not each.is_closing() for each in link.transports - link.busy)

    def fill(self, connector: BaseConnector | None) -> bool:
        """Whether requests have all that the connector may have: then the next one waits."""
        if connector is None:
            return False
        # It does not say how many others have, unless asked like this.
        in_use = max(self.requests, len(getattr(connector, "_acquired", ())))
        return 0 < connector.limit <= in_use

    def are_all_used(self, connector: BaseConnector | None, service: Service) -> bool:
        """Whether requests have all that the connector may have, at all or to the instance."""
        link = self._links.get(service.key)
        if connector is None or link is None:
            return self.fill(connector)
        return self.fill(connector) or 0 < connector.limit_per_host <= len(link.busy)

    def used(self, service: Service, connection: Connection) -> None:
        """A request to the instance got this connection, and has it until it is released."""
        transport = connection.transport
        if transport is None:
            return
        link = self._links.get(service.key)
        if link is None or link.id != service.id:
            if link is not None:
                link.close()
            link = self._links[service.key] = _Link(service.id)
        if transport not in link.transports:
            link.transports = {each for each in link.transports if not each.is_closing()}
            link.transports.add(transport)
        link.busy.add(transport)
        connection.add_callback(partial(_released, link, transport, connection))
        self._departures.watch(service)

    def changed(self, key: Key, identity: str | None) -> None:
        """An instance has changed: `identity` is who is there now; None: nobody."""
        link = self._links.get(key)
        if link is not None and link.id != identity:
            del self._links[key]
            link.close()

    async def aclose(self) -> None:
        """End the background work."""
        await self._departures.aclose()


def _released(link: _Link, transport: asyncio.Transport, connection: Connection) -> None:
    link.busy.discard(transport)
    protocol = connection.protocol
    if link.gone and protocol is not None:
        protocol.force_close()  # instead of going back to the pool


class _Flight:
    """A request that has a connection, or waits for one; counted until `over`."""

    def __init__(
        self, connections: Connections, service: Service, balancer: LeastPending | None
    ) -> None:
        self._connections = connections
        self._pending: Any = None
        connections.requests += 1
        if balancer is not None:
            self._pending = balancer.pending(service)
            self._pending.__enter__()

    def over(self) -> None:
        self._connections.requests -= 1
        if self._pending is not None:
            self._pending.__exit__()


class Dispatch:
    """Sees the moment when a request gets its connection, which is before its first byte.

    It takes the place of the `send` method of one request, until `remove`. What stands after
    us in the list of middlewares may send the request more than once.

    Args:
        request: the request.
        connections: told of the connection.
        service: the instance that the request is for.
        balancer: who is to know that the request is in flight; None: nobody.

    Attributes:
        sent: whether the moment has come.
        connected: called then.
    """

    def __init__(
        self,
        request: ClientRequest,
        connections: Connections,
        service: Service,
        balancer: LeastPending | None,
    ) -> None:
        self.sent = False
        self.connected: Callable[[], None] | None = None
        self._request = request
        self._connections = connections
        self._service = service
        self._begin = partial(_Flight, connections, service, balancer)
        self._first = self._begin()
        self._send = request.send
        # The client calls it with the connection, which it shows to nobody else; aiohttp has no
        # hook for that, so the method of this one object is replaced.
        request.send = self._see_and_send  # type: ignore[method-assign]

    async def _see_and_send(self, conn: Connection) -> ClientResponse:
        flight = self._begin() if self.sent else self._first
        self.sent = True
        if self.connected is not None:
            self.connected()
        self._connections.used(self._service, conn)
        conn.add_callback(flight.over)
        return await self._send(conn)

    def remove(self) -> None:
        """Give the request its own `send` back."""
        del self._request.send
        if not self.sent:
            self._first.over()
