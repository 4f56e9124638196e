"""One service of this process, on the air exactly while it can serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from aioregistry import (
    Registration,
    Registry,
    RegistryError,
    Service,
    Status,
)
from aioregistry.integrations._address import (
    Endpoint,
    check_given,
    doubts,
    is_complete,
    place,
)
from aioregistry.integrations._leaving import DRAIN
from aioregistry.integrations._logs import log
from aioregistry.integrations.health import HealthCheck
from aioregistry.limits import check_service, described

__all__ = [
    "Presence",
    "check_drain",
    "check_hooks",
    "offered",
    "readiness_of",
    "until_it_accepts",
]

_PROBE: Final = 0.05
_PATIENCE: Final = 5.0
_FAREWELL: Final = 2.0
_UNPROBED: Final = ("udp", "unixgram", "unixpacket")
"""How the names of networks begin, as Go has them, where asyncio can open no connection."""


def offered(
    service: Service | str, address: str, *, status: Status | None, **given: Any
) -> Service:
    """The service that `register` was asked to announce; arguments as for `Registry.register`.

    Raises:
        InvalidService: a value makes no sense or is too large; the text says what to write
            instead.
    """
    base = described(service, address=address, status=status, **given)
    check_service(msgspec.structs.replace(base, address=""))
    check_given(base.name, base.address, base.network)  # it has more to say about an address
    if is_complete(base):
        check_service(base)
    return base


def check_drain(drain: float | None) -> None:
    """Raise `ValueError` unless `drain` is a number of seconds, zero, or None."""
    if drain is None:
        return
    number = isinstance(drain, int | float)  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
    if not number or not 0 <= drain < float("inf"):
        raise ValueError(f"drain must be a number of seconds, or 0, not {drain!r}")


def check_hooks(health: object, ready: object) -> None:
    """Raise `TypeError`, saying what to write, unless these can be what `register` takes."""
    if health is not None and not isinstance(health, HealthCheck):
        raise TypeError(
            f"health must be a HealthCheck, not {health!r}; for an async function:"
            " health=HealthCheck(check)"
        )
    if ready is not None and not callable(ready):
        raise TypeError(f"ready must be an async function without arguments, not {ready!r}")


class Presence:
    """Announces a service when its server serves, and withdraws it before the server stops.

    Args:
        registry: where to; started.
        service: what to announce; its address may be missing.
        drain: how long to serve on after the withdrawal, in seconds; None: `DRAIN`.
        health: the check that decides the status; None: it stays as it is.

    Attributes:
        state: where it is in its life: waiting, announced, draining, withdrawn or failed.
        reason: why it is there, in words.
    """

    def __init__(
        self,
        registry: Registry,
        service: Service,
        *,
        drain: float | None = None,
        health: HealthCheck | None = None,
    ) -> None:
        self.state = "waiting"
        self.reason = "the server does not accept connections yet"
        self.registry = registry
        self.offer = service
        self._drain = DRAIN if drain is None else drain
        self._health = health
        self._registration: Registration | None = None
        self._sent = False
        self._announced = False
        self._task: asyncio.Task[None] | None = None

    @property
    def service(self) -> Service:
        """The service as it is announced, or as it was offered."""
        return self._registration.service if self._registration else self.offer

    @property
    def id(self) -> str:
        """The id of what it has announced; empty: nothing."""
        return self.service.id if self._announced else ""

    @property
    def ready(self) -> bool:
        """Whether callers are sent here: it is announced, and not as critical."""
        return self.state == "announced" and self.service.status is not Status.CRITICAL

    @property
    def draining(self) -> bool:
        """Whether it is withdrawn, and its server is to serve on for a while."""
        return self.state == "draining"

    def begin(self, locate: Callable[[], Awaitable[Endpoint | None]]) -> None:
        """Announce it as soon as it is served, in the background.

        Args:
            locate: waits until the server accepts connections, and tells where, if it knows.
        """
        self._task = asyncio.create_task(self._announce(locate), name="aioregistry announcing")

    async def withdraw(self) -> None:
        """Withdraw it, if it is announced; doing it twice is harmless.

        Takes a round trip to the broker, and at most two seconds.
        """
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,))
        registration, self._registration = self._registration, None
        sent, self._sent = self._sent, False
        if sent and self._drain:
            self.state = "draining"
            self.reason = f"it is withdrawn, and serves on for {self._drain:g} s"
        elif self.state not in ("draining", "failed"):
            self.state, self.reason = "withdrawn", "the server stops"
        if registration is not None:
            self.offer = registration.service
            try:
                async with asyncio.timeout(_FAREWELL):
                    await registration.unregister()
            except (RegistryError, TimeoutError) as error:
                log().warning("the withdrawal of %s may be lost: %r", self.offer.name, error)

    async def drain(self) -> None:
        """After the withdrawal: give callers the time to move away.

        Cancelling ends the waiting.
        """
        if self.draining:
            log().info(
                "%s is withdrawn; serving on for %g s, or until Ctrl-C is pressed again",
                *(self.offer.name, self._drain),
            )
            try:
                await asyncio.sleep(self._drain)
            finally:
                self.state, self.reason = "withdrawn", "the server stops"

    async def _announce(self, locate: Callable[[], Awaitable[Endpoint | None]]) -> None:
        try:
            service, reason = await self._complete(locate)
            registration = await self._register(service, reason)
        except (RegistryError, ValueError, OSError) as error:
            self.state, self.reason, self._sent = "failed", str(error), False
            log().error("%s is not announced: %s", self.offer.name, error)
        except Exception as error:  # noqa: BLE001 - logged with its traceback, and readiness tells
            self.state, self.reason, self._sent = "failed", repr(error), False
            log().exception("%s is not announced", self.offer.name)
        else:
            await self._look_after(registration)

    async def _complete(
        self, locate: Callable[[], Awaitable[Endpoint | None]]
    ) -> tuple[Service, str]:
        """The service with its address and first status, and the reason for that status."""
        endpoint = await locate()
        where = await asyncio.to_thread(place, self.offer, endpoint)
        service = msgspec.structs.replace(self.offer, **where)
        if self._health is None:
            return service, ""
        status, reason = await self._health.outcome()
        return msgspec.structs.replace(service, status=status), reason

    async def _register(self, service: Service, reason: str) -> Registration:
        rivals = await self._rivals(service)
        self.reason = "the broker has not taken the announcement yet"
        self._sent = True  # callers may know it before the broker has confirmed it
        registration = self._registration = await self.registry.register(service)
        self._announced = True
        self._on_air(registration.service, reason)
        for rival in rivals:
            _warn_of(rival, registration.service)
        return registration

    async def _look_after(self, registration: Registration) -> None:
        """Say what looks wrong, and keep the status true, while it is on the air."""
        try:
            problem = await asyncio.to_thread(doubts, registration.service, self.registry)
        except ValueError:  # a host of the broker that cannot be one
            problem = None
        if problem:
            log().warning("%s", problem)
        if self._health is not None:
            await self._health.run(registration, registration.service.status)

    def _on_air(self, service: Service, reason: str) -> None:
        self.state, self.reason = "announced", ""
        where = service.url or service.address
        if service.status is Status.PASSING:
            log().info("%s is announced at %s", service.name, where)
        else:
            status = service.status.value
            log().warning("%s is announced at %s as %s: %s", service.name, where, status, reason)

    async def _rivals(self, service: Service) -> tuple[Service, ...]:
        """Who answers for the same name and address, before this process announces it."""
        name, registry, key = service.name, self.registry, service.key
        if name in registry.observed or any(own.key == key for own in registry.registered):
            return ()  # what memory holds may be a predecessor of ours; or it is ours

        def same(other: Service) -> bool:
            return other.key == key

        try:
            rivals = await registry.get_services(name, where=same, wait=False)
        except RegistryError:
            return ()  # without a broker there is nobody to ask
        if not registry.stats().watches:
            await registry.unobserve(name)
        return rivals


def _warn_of(rival: Service, own: Service) -> None:
    log().warning(
        "two processes announce %s at %s: %s, and now %s; callers see one instance that keeps"
        " restarting: stop one, or give each its own port or address",
        *(own.name, own.key[1], f"one {_who(rival)}", f"process {os.getpid()} {_who(own)}"),
    )


def _who(service: Service) -> str:
    version = f", version {service.version}" if service.version else ""
    return f"on {service.host or 'an unnamed host'} (id {service.id or 'none'}{version})"


async def until_it_accepts(service: Service) -> None:
    """Wait until something accepts connections at the address of a service.

    For servers that cannot be asked. It connects, and closes at once. Where that cannot
    be, as with UDP, it does not wait.
    """
    if service.network.startswith(_UNPROBED):
        return
    waited = 0.0
    while not await _accepts(service):
        if waited <= _PATIENCE < waited + _PROBE:
            log().warning(
                "%s is not announced yet: nothing accepts connections at %s; if this machine"
                " cannot reach itself there, give ready=, which says when the server serves",
                service.name,
                service.key[1],
            )
        waited += _PROBE
        await asyncio.sleep(_PROBE)


async def _accepts(service: Service) -> bool:
    try:
        async with asyncio.timeout(1.0):
            if service.network.startswith("unix"):
                _, writer = await asyncio.open_unix_connection(service.address)
            else:
                _, writer = await asyncio.open_connection(*service.hostname_port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def readiness_of(
    registry: Registry, presences: Iterable[Presence], *, require_broker: bool
) -> tuple[bool, Mapping[str, Any]]:
    """Whether callers are sent here, and what there is to say about it.

    Args:
        registry: the registry of the application.
        presences: what it offers.
        require_broker: whether losing the broker makes it not ready.
    """
    services = [_described(each) for each in presences]
    ready = all(each["ready"] for each in services) and (registry.connected or not require_broker)
    try:
        detail = registry.stats().detail
    except RegistryError as error:
        ready, detail = False, str(error)
    broker = {"connected": registry.connected, "detail": detail}
    return ready, {"ready": ready, "broker": broker, "services": services}


def _described(presence: Presence) -> dict[str, Any]:
    service = presence.service
    return {
        "name": service.name,
        "address": service.key[1],
        "status": service.status.value,
        "state": presence.state,
        "reason": presence.reason,
        "ready": presence.ready,
    }
