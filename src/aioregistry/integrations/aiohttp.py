"""aiohttp: `session.get("http://orders/items")` goes to an instance of `orders`.

    async with aiohttp.ClientSession(middlewares=[RegistryMiddleware(registry)]) as session:
        async with session.get("http://orders/items") as response:
            ...

`RegistryResolver` is for those who only hold a connector.
"""

from __future__ import annotations

from aioregistry import Balancer, Predicate, Registry
from aioregistry.integrations._extras import missing
from aioregistry.integrations._repeating import repeatable, unrepeatable
from aioregistry.integrations._routing import Router
from aioregistry.integrations._targets import check_domain, service_name
from aioregistry.integrations.resilience import Policy

try:
    import aiohttp
except ModuleNotFoundError as error:
    raise missing(error, __name__, "aiohttp") from error

from aioregistry.integrations._aiohttp_connections import Connections
from aioregistry.integrations._aiohttp_exchange import Exchange
from aioregistry.integrations._aiohttp_resolver import RegistryResolver

__all__ = ["Policy", "RegistryMiddleware", "RegistryResolver", "repeatable", "unrepeatable"]


class RegistryMiddleware:
    """Sends each request to an instance of the service that the host of its URL names.

    Give it to a session, or to a single request, as `middlewares=[...]`. What follows in
    that list sees the request as the instance gets it, once for every attempt.

    What aiohttp users are used to stays: the URL of the response, cookies and redirects are
    those of `http://orders/items`; timeouts are those of the session or the request, where
    `total` is for all attempts together; bodies stream both ways. The instance's own URL is
    in `response.request_info.url`. The connections are the connector's, with its limits;
    those to an instance that withdraws or restarts are closed once their requests are done.

    An instance that cannot be connected to costs nothing but time: the request goes to
    another. One that breaks off later, too, if the request may be repeated: by its method,
    an `Idempotency-Key` header, or `with repeatable():`. See `Policy`.

    An IP address, `localhost`, or a URL with a port that is not the scheme's own is no
    service: it is called directly.

    Args:
        registry: where the services are; it stays the caller's, to start and to close.
        domain: the end of the names that mean services: with `service`,
            `http://orders.service/` means `orders`, and other names are called directly.
            None: every name is a service.
        where: which instances do; None: the registry's `where`.
        balancer: which of several to take; None: the registry's `balancer`. A
            `LeastPending`, here or there, is told what is in flight.
        timeout: how long to wait for a service that nobody is known to provide, or nobody who
            can be connected to, in seconds; None: the registry's `lookup_timeout`.
        policy: what to do about instances that fail; None: `Policy()`.

    Raises:
        ValueError: the domain has no name in it.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        domain: str | None = None,
        where: Predicate | None = None,
        balancer: Balancer | None = None,
        timeout: float | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._domain = check_domain(domain)
        self._router = Router(
            registry, where=where, balancer=balancer, timeout=timeout, policy=policy
        )
        self._connections = Connections(registry)

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request: what aiohttp calls.

        Cancelling is as without it: the connection in use is closed.

        Raises:
            aiohttp.ClientConnectorError: nobody provides the service, as far as is known, or
                no instance can be connected to; the text says what was tried.
            aiohttp.ClientError: as without it; the text names the service and the instances.
        """
        url = request.url
        port = None if url.is_default_port() else url.port
        name = service_name(url.host or "", port, self._domain)
        if name is None:
            return await handler(request)
        return await Exchange(self._router, self._connections, request, handler, name).run()

    async def aclose(self) -> None:
        """End the background work. Unless it is called, that ends with the registry."""
        await self._connections.aclose()
