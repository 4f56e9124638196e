"""A resolver that knows services, for those who only hold a connector of aiohttp."""

from __future__ import annotations

import errno
import socket
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from aioregistry import Balancer, Predicate, Registry, RegistryError, Service
from aioregistry.integrations._targets import Unusable, check_domain, service_name, target_of

__all__ = ["RegistryResolver"]

_PLAIN: Final = 80
_TLS: Final = 443
"""The ports of `http` and `https`: all that a resolver gets to know of the scheme."""


class RegistryResolver(AbstractResolver):
    """Resolves the names of services to the addresses and ports of their instances.

        connector = aiohttp.TCPConnector(
            resolver=RegistryResolver(registry), use_dns_cache=False
        )

    A balancer chooses the first one, and the others follow, so the connector goes on to them
    when it cannot connect. It keeps connections alive for the name as a whole: the choice is
    made once for each connection, not for each request, and nothing that was sent is sent
    again. `RegistryMiddleware` does better where it can be used. Instances that announce a
    URL with a path are passed over: a resolver cannot add that. So are those that announce
    `https` where the request is for `http`, and the other way round.

    Args:
        registry: where the services are; it stays the caller's, to start and to close.
        domain: the end of the names that mean services, as in `RegistryMiddleware`; None:
            every name is a service.
        where: which instances do; None: the registry's `where`.
        balancer: which of several comes first; None: the registry's `balancer`.
        timeout: how long to wait for a service that nobody is known to provide, in seconds;
            None: the registry's `lookup_timeout`.
        resolver: for all other names, and for instances that announce one; None: the
            system's.

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
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._registry = registry
        self._domain = check_domain(domain)
        self._where = where
        self._balancer = balancer
        self._timeout = timeout
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Where the instances of a service listen: what the connector calls.

        Raises:
            OSError: nobody provides the service, as far as is known; the connector makes a
                `ClientConnectorDNSError` of it.
        """
        # That a URL names the port of its scheme does not show here.
        given = None if port in (0, _PLAIN, _TLS) else port
        name = service_name(host, given, self._domain)
        if name is None:
            return await self._others().resolve(host, port, family)
        found: list[ResolveResult] = []
        failure = OSError(errno.EHOSTUNREACH, f"service {name!r}: it has no address")
        for place in await self._places(name, host, port):
            try:
                found += await self._others().resolve(*place, family)
            except OSError as error:
                failure = error
        if not found:
            raise failure
        return found

    async def close(self) -> None:
        """Close the resolver for other names."""
        if self._resolver is not None:
            await self._resolver.close()

    def _others(self) -> AbstractResolver:
        if self._resolver is None:
            self._resolver = aiohttp.ThreadedResolver()
        return self._resolver

    async def _places(self, name: str, host: str, port: int) -> list[tuple[str, int]]:
        places: list[tuple[str, int]] = []
        why = "it has no instance"
        for service in await self._services(name):
            try:
                target = target_of(service, host, secure=port == _TLS)
            except Unusable as reason:
                why = str(reason)
                continue
            if target.secure and port == _PLAIN:
                why = f"it announces https, and the request is for port {port}"
            elif target.prefix:
                why = f"it announces the path {target.prefix}, which a resolver cannot add"
            else:
                places.append((target.host, target.port))
        if not places:
            raise OSError(errno.EHOSTUNREACH, f"service {name!r}: {why}")
        return places

    async def _services(self, name: str) -> list[Service]:
        """The instances of a service, the chosen one first."""
        try:
            first = await self._registry.get_service(
                name, where=self._where, balancer=self._balancer, timeout=self._timeout
            )
        except RegistryError as error:
            raise OSError(errno.EHOSTUNREACH, str(error)) from error
        others = self._registry.cached(name, self._where)
        return [first, *(each for each in others if each is not first)]
