"""The transport of a client, for httpx and httpx2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, cast

from aioregistry import Balancer, Predicate, Registry
from aioregistry.integrations._httpx_pools import Maker
from aioregistry.integrations._httpx_sender import Sender
from aioregistry.integrations._httpx_streams import Library
from aioregistry.integrations._routing import Router
from aioregistry.integrations._targets import check_domain
from aioregistry.integrations.resilience import Policy

__all__ = ["BalancingTransport"]

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Transport = TypeVar("_Transport")


class BalancingTransport(Generic[_Request, _Response, _Transport]):
    """Sends each request to an instance of the service that the host of its URL names.

    Give it to a client as `transport=`, or mount it for one service, scheme or domain:
    `mounts={"http://orders": transport}`, `mounts={"all://*.service": transport}`.

    What httpx users are used to stays: the URL, cookies, redirects and event hooks see
    `http://orders/items`; timeouts are those of the client, where `connect` is the time for
    finding any instance that can be connected to, and `pool` for one that has a connection
    free; bodies stream both ways. The instance is in `response.extensions["service"]`. Every
    instance has a connection pool of its own, which is closed when it withdraws or restarts,
    once its requests are done.

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
        make_transport: makes what sends requests to one instance, for example
            `lambda: httpx.AsyncHTTPTransport(verify=context, http2=True)`; None: what httpx
            itself would take.

    Raises:
        ValueError: the domain has no name in it.
    """

    _library: ClassVar[Library]

    def __init__(
        self,
        registry: Registry,
        *,
        domain: str | None = None,
        where: Predicate | None = None,
        balancer: Balancer | None = None,
        timeout: float | None = None,
        policy: Policy | None = None,
        make_transport: Callable[[], _Transport] | None = None,
    ) -> None:
        router = Router(registry, where=where, balancer=balancer, timeout=timeout, policy=policy)
        maker = Maker(self._library.module, cast("Callable[[], Any] | None", make_transport))
        self._sender = Sender(self._library, router, check_domain(domain), maker)

    async def handle_async_request(self, request: _Request) -> _Response:
        """Send a request: what the client calls.

        Cancelling is as with any transport of httpx: the connection in use is closed.

        Raises:
            httpx.ConnectError: nobody provides the service, as far as is known, or no
                instance can be connected to; the text says what was tried.
            httpx.TransportError: as with any transport of httpx; the text names the
                service and the instances.
        """
        return cast("_Response", await self._sender.send(cast("Any", request)))

    async def aclose(self) -> None:
        """Close all connections: what the client calls when it is closed."""
        await self._sender.aclose()
