"""Registry: registers services, looks them up, and watches them come and go.

This is the shell around a `Session`, which does the work. It owns the one task in which all of that
lives, so that entering and leaving may happen in different tasks: no cancel scope is ever held
across the caller's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping
from typing import Final, Self, cast

import msgspec

from aioregistry.catalogue import Selection
from aioregistry.choosing import (
    Balancer,
    Predicate,
    RoundRobin,
    not_critical,
    why_no_balancer,
    why_no_predicate,
)
from aioregistry.errors import RegistryClosed, RegistryError, TransportError
from aioregistry.limits import (
    check_duration,
    check_name,
    check_pattern,
    check_service,
    described,
)
from aioregistry.link import end_of
from aioregistry.lookup import Lookups
from aioregistry.registration import Registration
from aioregistry.service import Service, Status, freeze
from aioregistry.session import Session, is_in_use
from aioregistry.settings import Settings
from aioregistry.stats import Stats
from aioregistry.transports import open_transport
from aioregistry.transports.base import Transport
from aioregistry.watch import Watch

__all__ = ["Registry"]


class Registry:
    """The live view that this process has of the services around it, and its own place in it.

    Use it as an async context manager, or call `start` and `aclose`; entering and leaving in
    different tasks works. Leaving withdraws everything that was registered here.

    Args:
        target: the URL of the broker, or a `Transport`. None: the environment variable
            AIOREGISTRY_URL, or else `nats://localhost:4222`. To share a client that the
            application has already: `Registry(NatsTransport(client=nc))`.
        prefix: the first token or tokens of every subject: the boundary between tenants.
        ttl: how long an instance of ours lives without a further announcement, in seconds.
        heartbeat_interval: the longest time between two announcements, in seconds; None: a
            third of the ttl.
        lookup_timeout: how long lookups wait for an answer, in seconds.
        where: which instances lookups give by default: those that are not critical.
        accept: which announcements enter the catalogue at all; None: every one.
        balancer: which of several instances `get_service` takes by default; None: each in
            turn.
        hostname: the name of this machine in announcements; None: what the system says.
        connect_timeout: how long entering waits for the broker, in seconds; None: come up
            without it and keep trying.
        max_instances: how many instances the catalogue takes in; further ones are dropped
            and counted in `stats().refused`.
        wall_clock: seconds since the epoch, for the peers that read it; for simulations.
        rng: the source of ids and jitter; for simulations.

    Raises:
        ValueError: an option or the URL makes no sense.
    """

    def __init__(
        self,
        target: str | Transport | None = None,
        *,
        prefix: str = "registry",
        ttl: float = 10.0,
        heartbeat_interval: float | None = None,
        lookup_timeout: float = 0.1,
        where: Predicate = not_critical,
        accept: Predicate | None = None,
        balancer: Balancer | None = None,
        hostname: str | None = None,
        connect_timeout: float | None = 5.0,
        max_instances: int = 100_000,
        wall_clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._settings = Settings(
            prefix=prefix,
            ttl=ttl,
            heartbeat_interval=heartbeat_interval,
            lookup_timeout=lookup_timeout,
            where=where,
            accept=accept,
            balancer=RoundRobin() if balancer is None else balancer,
            hostname=hostname,
            connect_timeout=connect_timeout,
            max_instances=max_instances,
            wall_clock=wall_clock,
            rng=rng,
        )
        self._transport = _transport_of(target)
        self._where = self._settings.where
        self._balancer = self._settings.balancer
        self._select: Callable[[str, Predicate], Selection] = _select_nothing
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self.closed:
            state = "closed"
        elif self._session is None:
            state = "not started"
        else:
            state = "connected" if self.connected else "disconnected"
        return f"<Registry at {self._transport.address}, {state}>"

    # ---- coming and going --------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Connect, and begin to work; what entering the context manager does.

        Cancelling it leaves the registry closed, with nothing left behind.

        Raises:
            TransportError: no broker within `connect_timeout`, or it refuses for good.
            RegistryClosed: the registry was closed before; make another one.
            RuntimeError: it was started before, or its transport serves another registry.
        """
        if self._closed:
            raise RegistryClosed("this registry was closed; make another one")
        if self._task is not None:
            raise RuntimeError("this registry was started already")
        if is_in_use(self._transport):
            raise RuntimeError(
                f"the transport to {self.address} serves another registry; make one for each"
            )
        session = self._session = Session(self._transport, self._settings)
        self._task = asyncio.create_task(session.run(), name="aioregistry")
        try:
            await asyncio.shield(session.ready)
        except BaseException:
            await self.aclose()
            raise
        if self._closed:
            raise RegistryClosed("closed while starting")
        self._select = session.observer.catalogue.select

    async def aclose(self) -> None:
        """Withdraw everything that was registered here, and close.

        Takes at most two seconds, usually a round trip. Doing it twice is harmless.
        A cancelled call finishes the closing before it lets the cancellation through.
        """
        session, task = self._session, self._task
        if session is not None and task is not None and not (session.disowned or task.done()):
            session.link.check_loop()
        self._closed = True
        if session is not None and session.disowned:
            return
        if session is None or task is None:
            if not is_in_use(self._transport):
                await self._transport.aclose()
            return
        session.stop.set()
        await end_of(task)

    async def drain(self, delay: float) -> None:
        """Withdraw everything now, and stay for a while, so that callers move away.

        For rolling deployments: call it when the shutdown begins, go on serving meanwhile,
        and stop afterwards. Looking up and watching go on as before. It ends with the registry.

        Args:
            delay: how long to stay, in seconds.

        Raises:
            TransportError: the broker refuses a withdrawal; raised when the delay is over.
            RegistryClosed: the registry is closed.
        """
        if delay != 0:
            check_duration("delay", delay)
        session = self._here()
        provider = session.provider
        refusal: TransportError | None = None
        try:
            await provider.withdraw(*(service.key for service in provider.services))
        except TransportError as error:
            refusal = error
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await session.stop.wait()
        if refusal is not None:
            raise refusal

    # ---- announcing --------------------------------------------------------------------

    async def register(
        self,
        service: Service | str,
        address: str = "",
        *,
        url: str = "",
        network: str = "",
        version: str = "",
        host: str = "",
        metadata: Mapping[str, str] | None = None,
        status: Status | None = None,
        wait: bool = True,
    ) -> Registration:
        """Announce a service, from now until it is unregistered or the registry closes.

        The same name and address again is a change of the first registration, not a second
        instance: it is then as this call says, and what this call does not say is not kept. A
        cancelled call leaves nothing registered that was not before, unless another call has
        changed it meanwhile.

        Args:
            service: the name, or a whole `Service` (its `id` is not used).
            address: `host:port`, where callers reach it; see `advertised_address`.
            url: the full URL, where there is more to say than the address.
            network: the network of the address; empty means tcp.
            version: the version of the provider.
            host: the name of the machine; empty: the registry's `hostname`.
            metadata: free string pairs.
            status: the status; None: passing.
            wait: return when the broker has taken the announcement, which without a broker
                is when there is one again. False: return at once, and let it go out as soon
                as it can.

        Raises:
            InvalidService: a value makes no sense or is too large.
            TransportError: the broker refused the announcement.
            RegistryClosed: the registry is closed.
        """
        session = self._here()
        base = described(
            service,
            address=address,
            url=url,
            network=network,
            version=version,
            host=host,
            metadata=metadata,
            status=status,
        )
        check_service(base)
        announced = msgspec.structs.replace(
            base,
            host=base.host or self._settings.host,
            metadata=freeze(base.metadata),
            id=self._incarnation(session, base.key),
        )
        registration = Registration(session.provider, announced)
        await session.provider.announce(
            announced, Service.__struct_fields__, wait=wait, patient=True
        )
        return registration

    async def unregister(self, service: Service | str, address: str = "") -> None:
        """Withdraw a service; see `Registration.unregister`.

        Args:
            service: the service as it was registered, or its name.
            address: its address or URL, where the name is registered more than once.

        Raises:
            NotRegistered: it is not registered here.
            TransportError: the broker refuses the withdrawal; it is not announced any longer.
            RegistryClosed: the registry is closed.
        """
        provider = self._here().provider
        await provider.withdraw(provider.find(service, address).key)

    async def set_status(self, service: Service | str, status: Status, address: str = "") -> None:
        """Change the status of a registered service; see `Registration.update`.

        Args:
            service: the service as it was registered, or its name.
            status: the new status.
            address: its address or URL, where the name is registered more than once.

        Raises:
            NotRegistered: it is not registered here.
            RegistryClosed: the registry is closed.
            TransportError: the broker refused the announcement.
        """
        provider = self._here().provider
        await Registration(provider, provider.find(service, address)).set_status(status)

    @property
    def registered(self) -> tuple[Service, ...]:
        """The services that this registry announces."""
        return self._session.provider.services if self._session else ()

    @property
    def where(self) -> Predicate:
        """Which instances lookups give unless they are told otherwise."""
        return self._where

    @property
    def balancer(self) -> Balancer:
        """Which of several instances `get_service` takes unless it is told otherwise."""
        return self._balancer

    # ---- looking up --------------------------------------------------------------------

    async def get_service(
        self,
        name: str,
        *,
        where: Predicate | None = None,
        balancer: Balancer | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a part of the contract
        wait: bool = True,
    ) -> Service:
        """One instance of `name`: from memory if a match is known, or else by asking.

        Instances whose process the broker has stopped hearing are passed over while at least
        half of the matches are left: they have probably crashed, or are reconnecting.
        Any number of callers of one unknown name share one ping. Cancelling is immediate.

        Args:
            name: the service.
            where: which instances do; None: the registry's `where`.
            balancer: which one to take; None: the registry's `balancer`.
            timeout: how long to wait for a match, in seconds; None: `lookup_timeout`.
            wait: False: answer as soon as it is known that nobody answers.

        Raises:
            ServiceNotFound: no instance matches; the text says what is known.
            TransportError: nothing is known, and there is no broker to ask.
            InvalidService: the name cannot be one.
            RegistryClosed: the registry is closed.
            TypeError: `where` cannot be a predicate, or `balancer` no balancer.
            ValueError: `timeout` is no number of seconds.
        """
        if where is None:
            where = self._where
        selection = self._select(name, where)
        if not selection.trusted:
            selection = await self._lookups(name).find(
                name, where, timeout=self._timeout(timeout), wait=wait
            )
        if balancer is None:
            balancer = self._balancer
        try:
            return balancer.choose(selection.trusted, selection.scope)
        except (AttributeError, TypeError):
            if reason := why_no_balancer(balancer):
                raise TypeError(f"balancer={reason}") from None
            raise

    async def get_services(
        self,
        name: str,
        *,
        where: Predicate | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a part of the contract
        wait: bool = True,
        minimum: int = 1,
    ) -> tuple[Service, ...]:
        """Every matching instance of `name`; empty when there is none.

        A name that was not looked up before is asked for, and the answers are collected
        until they stop coming.

        Args:
            name: the service.
            where: which instances do; None: the registry's `where`.
            timeout: how long to wait at most, in seconds; None: `lookup_timeout`.
            wait: False: answer as soon as it is known that nobody answers.
            minimum: how many to wait for, until the timeout.

        Raises:
            TransportError: nothing is known, and there is no broker to ask.
            InvalidService: the name cannot be one.
            RegistryClosed: the registry is closed.
            TypeError: `where` cannot be a predicate.
            ValueError: `timeout` is no number of seconds, or `minimum` no number of instances.
        """
        _check_minimum(minimum)
        return await self._lookups(name).collect(
            name,
            self._where if where is None else where,
            timeout=self._timeout(timeout),
            wait=wait,
            minimum=minimum,
        )

    def cached(self, name: str, where: Predicate | None = None) -> tuple[Service, ...]:
        """The matching instances that memory holds, without asking anybody.

        Args:
            name: the service; observe it, or look it up once, to have it in memory.
            where: which instances do; None: the registry's `where`; `all_of()`: every one.

        Raises:
            InvalidService: the name cannot be one.
            TypeError: `where` cannot be a predicate.
            RegistryClosed: the registry is closed.
        """
        self._live()
        services = self._select(name, self._where if where is None else where).services
        if not services:
            check_name(name)
        return services

    async def observe(self, *patterns: str) -> None:
        """Keep in memory what the patterns name, from now on until `unobserve`.

        Args:
            patterns: names, or patterns as in NATS: `*` for one token, a final `>` for the
                rest.

        Raises:
            InvalidService: a pattern cannot be one.
            TransportError: the broker refused.
            RegistryClosed: the registry is closed.
        """
        _check_patterns(patterns)
        await self._here().observer.observe(*patterns, standing=True)

    async def unobserve(self, *patterns: str) -> None:
        """Forget what the patterns name, unless another observed pattern names it too.

        Watches see what is forgotten as UNREGISTERED, and nothing more of it until it is observed
        or looked up again. A cancelled call lets the cancellation
        through when the names that remain are heard without the patterns: a round trip later.

        Args:
            patterns: as they were observed; others are passed over.

        Raises:
            InvalidService: a pattern cannot be one.
            RegistryClosed: the registry is closed.
        """
        _check_patterns(patterns)
        await self._here().observer.unobserve(*patterns)

    @property
    def observed(self) -> tuple[str, ...]:
        """The names and patterns that are kept in memory: observed, watched or looked up."""
        return self._session.observer.observed if self._session else ()

    @property
    def service_names(self) -> tuple[str, ...]:
        """The names that have an instance in memory."""
        return self._session.observer.catalogue.names if self._session else ()

    # ---- watching ----------------------------------------------------------------------

    def watch(
        self, *patterns: str, where: Predicate | None = None, include_current: bool = True
    ) -> Watch:
        """The instances that the patterns name, and then every change, with no gap between.

        It ends when the registry closes.

        Args:
            patterns: names or patterns, which are observed from the first event on; none:
                everything. When the last watch of a pattern is closed, and nobody asked for it by
                `observe`, it is given up within some ten seconds; a name is kept as one that was
                looked up.
            where: watch only the instances that match; None: all, whatever their status.
            include_current: begin with those that are known, as REGISTERED.

        Raises:
            InvalidService: a pattern cannot be one.
            TypeError: `where` cannot be a predicate.
            RegistryClosed: the registry is closed.
        """
        _check_patterns(patterns)
        if where is not None and (reason := why_no_predicate(where)):
            raise TypeError(f"where={reason}")
        return Watch(
            self._live().observer,
            patterns or (">",),
            where=where,
            include_current=include_current,
        )

    # ---- health ------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the broker is: its URL, or several with commas between; never credentials."""
        return self._transport.address

    @property
    def closed(self) -> bool:
        """Whether it is of no more use: it was closed, or its background work has failed."""
        return self._closed or (self._session is not None and self._session.failure is not None)

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached, as far as is known."""
        return self._session is not None and self._session.link.connected

    async def wait_connected(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - a part of the contract
        """Wait until the broker can be reached.

        Args:
            timeout: how long, in seconds; None: for ever.

        Raises:
            TransportError: not within `timeout`.
            ValueError: `timeout` is no number of seconds.
            RegistryClosed: the registry is closed.
        """
        if timeout:
            check_duration("timeout", timeout)
        link = self._here().link
        try:
            async with asyncio.timeout(timeout):
                await link.wait_connected()
        except TimeoutError:
            raise link.error() from None

    def stats(self) -> Stats:
        """A snapshot of what the registry has done and holds.

        Raises:
            RegistryClosed: the registry is closed.
        """
        session = self._live()
        link, provider, observer = session.link, session.provider, session.observer
        catalogue = observer.catalogue
        return Stats(
            connected=link.connected,
            detail=link.detail,
            losses=link.losses,
            instances=len(catalogue),
            names=len(catalogue.names),
            observed=len(observer.observed),
            watches=observer.watches,
            registered=len(provider.services),
            announcements_sent=provider.announced,
            withdrawals_sent=provider.withdrawn,
            pings_sent=observer.asker.pings,
            announcements_received=observer.announcements,
            withdrawals_received=observer.withdrawals,
            pings_received=provider.pinged,
            denied=link.denied,
            malformed=observer.malformed,
            late=catalogue.late,
            rejected=catalogue.rejected,
            refused=catalogue.refused,
            expired=catalogue.expired,
            tombstones=catalogue.tombstones,
            held=catalogue.held,
            doubted=len(catalogue.doubted),
        )

    # ------------------------------------------------------------------------------------

    def _live(self) -> Session:
        session = self._session
        if session is None or self._closed or session.failure is not None:
            raise self._reason(session)
        return session

    def _here(self) -> Session:
        """As `_live`, for what must not be done in another event loop."""
        session = self._live()
        session.link.check_loop()
        return session

    def _reason(self, session: Session | None) -> RegistryError:
        if session is not None and session.failure is not None:
            return session.failure.again()
        if self._closed:
            return RegistryClosed("this registry was closed")
        return RegistryClosed("this registry has not been started; enter it with 'async with'")

    def _lookups(self, name: str) -> Lookups:
        check_name(name)
        return self._here().lookups

    def _timeout(self, timeout: float | None) -> float:
        if timeout is None:
            return self._settings.lookup_timeout
        if timeout != 0:
            check_duration("timeout", timeout)
        return timeout

    def _incarnation(self, session: Session, key: tuple[str, str]) -> str:
        current = session.provider.current(key)
        return session.new_id() if current is None else current.id


_NOTHING: Final = Selection()


def _transport_of(target: str | Transport | None) -> Transport:
    if target is None or isinstance(target, str):
        return open_transport(target)
    if isinstance(cast("object", target), type):
        name = cast("type", target).__name__
        raise ValueError(f"target={name}: a class; make a transport of it, as {name}(url)")
    if not isinstance(target, Transport):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise ValueError(f"target={target!r}: neither a URL nor a transport")
    return target


def _select_nothing(_name: str, _where: Predicate) -> Selection:
    """What a registry knows before it started and after it closed."""
    return _NOTHING


def _check_minimum(minimum: object) -> None:
    if not isinstance(minimum, int) or minimum < 0:
        raise ValueError(f"minimum must be a number of instances, not {minimum!r}")


def _check_patterns(patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        check_pattern(pattern)
