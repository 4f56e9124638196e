"""The connections to each instance, for httpx and httpx2: a pool for every one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Sized
from contextvars import Context
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from aioregistry import LeastPending, Registry, Service
from aioregistry.integrations._departures import Departures, Key

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport

__all__ = ["Lease", "Maker", "Pools"]

_KEPT_ALIVE: Final = 4.0
"""How long an idle connection may be used again, in seconds. uvicorn (and Node) close theirs
after five, as httpx does by itself: who comes just then loses the request."""

_IDLE: Final = 60.0
"""After so many seconds without a request a pool is closed."""


class Maker:
    """Makes what sends requests to one instance.

    Args:
        module: httpx or httpx2.
        make: the user's own way; None: the library's defaults, but for the time that idle
            connections are kept, and with the certificates that it trusts loaded once for all.
    """

    def __init__(self, module: ModuleType, make: Callable[[], AsyncBaseTransport] | None) -> None:
        self._module = module
        self._make = make
        self._limits = module.Limits(
            max_connections=100, max_keepalive_connections=20, keepalive_expiry=_KEPT_ALIVE
        )
        self._trusting: ssl.SSLContext | None = None
        self._trusting_nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def __call__(self, *, secure: bool) -> AsyncBaseTransport:
        """A transport of its own for one instance, over TLS or not."""
        if self._make is not None:
            return self._make()
        context = self._trusting_nobody
        if secure:
            context = self._trusting or self._module.create_ssl_context()
        transport: AsyncBaseTransport = self._module.AsyncHTTPTransport(
            verify=context, limits=self._limits
        )
        return transport

    async def prepare(self) -> None:
        """To be called before one over TLS is made: loading certificates takes a while."""
        if self._make is None and self._trusting is None:
            self._trusting = await asyncio.to_thread(self._module.create_ssl_context)


class _Pool:
    """The connections to one life of an instance."""

    __slots__ = ("answers", "id", "key", "leases", "transport", "used")

    def __init__(self, key: tuple[Key, bool], identity: str, transport: AsyncBaseTransport) -> None:
        self.key = key
        self.id = identity
        self.transport = transport
        self.leases: dict[Lease, None] = {}  # in the order in which they began
        self.answers = 0  # responses that have ended
        self.used = 0.0

    def has_lost_some(self, waiting: Lease) -> bool:
        """Whether there are connections that no request has, if none was free for this one.

        httpx (not httpx2) loses that of a request which is given up in the moment in which it
        gets one, and counts it for ever. A free connection goes to the request that has waited
        longest, so only those that began before this one can have any. It goes to whoever is
        quickest just after a response: if one has ended since, it remains to be seen. So a pool
        that is busy, or whose instance hangs, is left alone, and the limit of connections holds.
        """
        if self.answers != waiting.answers:
            return False
        before = next(n for n, lease in enumerate(self.leases) if lease is waiting)
        return before < self._connections()

    def _connections(self) -> int:
        """How many there are, if none is free: at least one, in transports of other kinds."""
        connections = getattr(getattr(self.transport, "_pool", None), "connections", None)
        return max(1, len(connections)) if isinstance(connections, Sized) else 1


class Lease:
    """The use of a pool for one request, until `release`."""

    __slots__ = ("_pending", "_pool", "_pools", "answers", "transport")

    def __init__(self, pools: Pools, pool: _Pool, pending: Any) -> None:
        self._pools = pools
        self._pool: _Pool | None = pool
        self._pending = pending
        self.transport = pool.transport
        self.answers = pool.answers  # those that had ended before

    def release(self, *, answered: bool = False) -> None:
        """The request is done, with a response or without. Doing it twice is harmless."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        pool.answers += answered
        if self._pending is not None:
            self._pending.__exit__()
        self._pools.released(pool, self)

    def full(self) -> None:
        """The request is done: it has waited in vain for a connection that is free."""
        if self._pool is not None:
            self._pools.full(self._pool, self)
        self.release()


class Pools:
    """A pool of connections for every instance, closed when the instance goes.

    When one withdraws, expires or restarts, its pool is closed as soon as the requests that
    are on their way through it are done; nobody gets it any more. A pool that was not used
    for a minute is closed, too.

    Args:
        registry: where the instances are.
        make: makes what sends the requests to one instance.
    """

    def __init__(self, registry: Registry, make: Maker) -> None:
        self._make = make
        self._departures = Departures(registry, self.changed)
        self._pools: dict[tuple[Key, bool], _Pool] = {}
        self._retired: set[_Pool] = set()  # with requests that are still on their way
        self._closing: set[asyncio.Task[None]] = set()
        self._sweep_at = 0.0

    def lease(self, service: Service, *, secure: bool, balancer: LeastPending | None) -> Lease:
        """Use the pool of an instance for a request.

        Args:
            service: the instance.
            secure: whether over TLS.
            balancer: who is to know that the request is in flight; None: nobody.
        """
        key = service.key, secure
        pool = self._pools.get(key)
        if pool is None or pool.id != service.id:
            if pool is not None:
                self._retire(pool)
            pool = self._pools[key] = _Pool(key, service.id, self._make(secure=secure))
        pending = None
        if balancer is not None:
            pending = balancer.pending(service)
            pending.__enter__()
        lease = Lease(self, pool, pending)
        pool.leases[lease] = None
        pool.used = now = asyncio.get_running_loop().time()
        self._departures.watch(service)
        if now >= self._sweep_at:
            self._sweep(now)
        return lease

    def full(self, pool: _Pool, lease: Lease) -> None:
        """A request has waited in vain; if others would for ever, they get a new pool."""
        if self._pools.get(pool.key) is pool and pool.has_lost_some(lease):
            del self._pools[pool.key]
            self._retire(pool)

    def released(self, pool: _Pool, lease: Lease) -> None:
        """A request is done."""
        del pool.leases[lease]
        if not pool.leases and pool in self._retired:
            self._retired.remove(pool)
            self._close(pool)

    def changed(self, key: Key, identity: str | None) -> None:
        """An instance has changed: `identity` is who is there now; None: nobody."""
        for secure in (False, True):
            pool = self._pools.get((key, secure))
            if pool is not None and pool.id != identity:
                del self._pools[key, secure]
                self._retire(pool)

    async def aclose(self) -> None:
        """Close every connection, as httpx does when a client is closed."""
        await self._departures.aclose()
        pools = {*self._pools.values(), *self._retired}
        self._pools.clear()
        self._retired.clear()
        for pool in pools:
            self._close(pool)
        await asyncio.gather(*self._closing)

    # ------------------------------------------------------------------------------------

    def _retire(self, pool: _Pool) -> None:
        if pool.leases:
            self._retired.add(pool)
        else:
            self._close(pool)

    def _close(self, pool: _Pool) -> None:
        work: Coroutine[Any, Any, None] = pool.transport.aclose()
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _sweep(self, now: float) -> None:
        self._sweep_at = now + _IDLE / 4
        for key, pool in list(self._pools.items()):
            if not pool.leases and now - pool.used > _IDLE:
                del self._pools[key]
                self._retire(pool)
