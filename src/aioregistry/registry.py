"""Registry: registers services, looks them up, and watches them come and go.

This is the shell around the two halves, the `Provider` and the `Observer`. It owns the one
task in which all background work lives, so that entering and leaving may happen in
different tasks: no cancel scope is ever held across the caller's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Self, cast

import anyio
import msgspec

from aioregistry.catalogue import Selection
from aioregistry.choosing import (
    Balancer,
    Predicate,
    RoundRobin,
    not_critical,
    why_no_predicate,
)
from aioregistry.errors import RegistryClosed, RegistryError, TransportError
from aioregistry.limits import check_name, check_pattern, check_service, status_of
from aioregistry.link import Link, end_of
from aioregistry.lookup import Lookups
from aioregistry.observer import Observer
from aioregistry.provider import Provider
from aioregistry.registration import Registration
from aioregistry.service import Service, Status, freeze
from aioregistry.settings import Settings, check_duration
from aioregistry.stats import Stats
from aioregistry.transports import open_transport
from aioregistry.transports.base import Transport
from aioregistry.watch import Watch

__all__ = ["Registry"]

_logger = logging.getLogger("aioregistry")

_FAREWELL: Final = 1.2
"""For how long closing tries to get the withdrawals out, in seconds."""


class _Session:
    """What exists between start and close.

    Attributes:
        link: the way to the broker.
        provider: announces.
        observer: knows.
        lookups: finds.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        # Made here and not earlier: after a fork, two processes must not draw the same ids.
        self.rng = settings.rng or random.Random()
        clock = asyncio.get_running_loop().time
        self.node = self.new_id()
        self.link = Link(
            transport,
            self.rng,
            on_up=self._on_up,
            on_down=self._on_down,
            on_denied=self._on_denied,
            on_retry=self._on_retry,
        )
        self.provider = Provider(self.link, settings, node=self.node, rng=self.rng, clock=clock)
        self.observer = Observer(
            self.link,
            settings,
            rng=self.rng,
            clock=clock,
            own=self.provider.current,
            node=self.node,
        )
        self.lookups = Lookups(
            self.observer, self.link, patience=settings.lookup_timeout, clock=clock
        )
        self.stop = asyncio.Event()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.failure: RegistryError | None = None

    def disown(self) -> None:
        """It belongs to another process, and so does its connection."""
        self.failure = RegistryClosed(
            "this registry belongs to the process that this one was forked from; make another"
        )
        self.provider.disown(self.failure)
        self.observer.disown(self.failure)

    def new_id(self) -> str:
        """A random name, for a node or an incarnation."""
        return f"{self.rng.getrandbits(60):015x}"  # 16 would take another 16 bytes each

    def _on_up(self) -> None:
        self.provider.resume()
        self.observer.resume()

    def _on_down(self) -> None:
        self.provider.suspend()
        self.observer.suspend()

    def _on_denied(self, error: TransportError) -> None:
        self.provider.deny(error)
        self.observer.deny(error)

    async def _on_retry(self, refused: bool) -> None:  # noqa: FBT001 - as the link calls it
        await self.observer.retry(refused=refused)
        if refused:
            await self.provider.retry()


_sessions: Final[weakref.WeakSet[_Session]] = weakref.WeakSet()
_disowned: Final[list[_Session]] = []
"""Those of the process that this one was forked from. Kept, so that nothing of them is ever
finalized here: their connections go on there."""


def _disown() -> None:
    """In a process that was forked: what its parent has started is of no use here."""
    for session in tuple(_sessions):
        session.disown()
        _disowned.append(session)
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown)


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
        self._session: _Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def __repr__(self) -> str:
        if self._session is None:
            state = "closed" if self._closed else "not started"
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
        if _is_in_use(self._transport):
            raise RuntimeError(
                f"the transport to {self.address} serves another registry; make one for each"
            )
        session = self._session = _Session(self._transport, self._settings)
        _sessions.add(session)
        self._task = asyncio.create_task(self._run(session), name="aioregistry")
        try:
            await asyncio.shield(session.ready)
        except BaseException:
            await self.aclose()
            raise
        if self._closed:
            raise RegistryClosed("closed while starting")

    async def aclose(self) -> None:
        """Withdraw everything that was registered here, and close.

        Takes at most two seconds, usually a round trip. Doing it twice is harmless.
        A cancelled call finishes the closing before it lets the cancellation through.
        """
        self._closed = True
        session, task = self._session, self._task
        if session in _disowned:
            return
        if session is None or task is None:
            if not _is_in_use(self._transport):
                await self._transport.aclose()
            return
        if not task.done():
            session.link.check_loop()
        session.stop.set()
        await end_of(task)

    async def drain(self, delay: float) -> None:
        """Withdraw everything now, and stay for a while, so that callers move away.

        For rolling deployments: call it when the shutdown begins, go on serving meanwhile,
        and stop afterwards. Looking up and watching go on as before. It ends with the registry.

        Args:
            delay: how long to stay, in seconds.

        Raises:
            RegistryClosed: the registry is closed.
        """
        if delay != 0:
            check_duration("delay", delay)
        session = self._here()
        provider = session.provider
        await provider.withdraw(*(service.key for service in provider.services))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await session.stop.wait()

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
        base = service if isinstance(service, Service) else Service(service)
        if address or url or network or version or host or metadata or status is not None:
            given: dict[str, Any] = {
                "address": address,
                "url": url,
                "network": network,
                "version": version,
                "host": host,
                "metadata": metadata,
                "status": None if status is None else status_of(status),
            }
            changes = {field: value for field, value in given.items() if value}
            base = msgspec.structs.replace(base, **changes)
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
        return balancer.choose(selection.trusted, selection.scope)

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
        """
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
            RegistryClosed: the registry is closed.
        """
        self._live()
        services = self._select(name, self._where if where is None else where).services
        if not services:
            check_name(name)
        return services

    async def observe(self, *patterns: str) -> None:
        """Keep in memory what the patterns name, from now on.

        Args:
            patterns: names, or patterns as in NATS: `*` for one token, a final `>` for the
                rest.

        Raises:
            InvalidService: a pattern cannot be one.
            TransportError: the broker refused.
            RegistryClosed: the registry is closed.
        """
        _check_patterns(patterns)
        await self._here().observer.observe(*patterns)

    async def unobserve(self, *patterns: str) -> None:
        """Forget what the patterns name, unless another observed pattern names it too.

        Watches see what is forgotten as UNREGISTERED. A cancelled call lets the cancellation
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
        """The names and patterns that are kept in memory, by `observe` or by looking up."""
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
                everything.
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
            RegistryClosed: the registry is closed.
        """
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

    def _live(self) -> _Session:
        session = self._session
        if session is None or self._closed or session.failure is not None:
            raise self._reason(session)
        return session

    def _here(self) -> _Session:
        """As `_live`, for what must not be done in another event loop."""
        session = self._live()
        session.link.check_loop()
        return session

    def _reason(self, session: _Session | None) -> RegistryError:
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

    def _incarnation(self, session: _Session, key: tuple[str, str]) -> str:
        current = session.provider.current(key)
        return session.new_id() if current is None else current.id

    async def _run(self, session: _Session) -> None:
        """All background work, from the connecting to the last farewell."""
        patience = self._settings.connect_timeout
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_heed, session.stop, group.cancel_scope)
                if patience is None:
                    group.start_soon(_open, session.link, None)
                else:
                    await _open(session.link, patience)
                group.start_soon(session.link.check_forever)
                group.start_soon(session.provider.send_forever)
                group.start_soon(session.provider.confirm_forever)
                group.start_soon(session.observer.expire_forever)
                group.start_soon(session.observer.asker.run_forever)
                group.start_soon(session.observer.vigil.run_forever)
                self._select = session.observer.catalogue.select
                session.ready.set_result(None)
        except Exception as error:  # noqa: BLE001 - handed to whoever uses the registry
            session.failure = _cause(error)
        except asyncio.CancelledError:
            session.failure = RegistryClosed("the background work of this registry was cancelled")
            raise
        finally:
            await self._close(session)

    async def _close(self, session: _Session) -> None:
        self._select = _select_nothing
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(_FAREWELL):
                    await session.provider.farewell()
            except TransportError as error:
                if error.messages or not error.subjects:
                    _logger.warning("withdrawals may be lost: %s", error)
            finally:
                _sessions.discard(session)
                session.stop.set()
                end = session.failure or RegistryClosed("the registry was closed")
                session.link.close(end)
                session.provider.close(end)
                session.observer.close(session.failure)
                await self._transport.aclose()
        if not session.ready.done():
            session.ready.set_exception(session.failure or RegistryClosed("closed while starting"))
            session.ready.exception()  # whoever started it may have been cancelled
        elif session.failure is not None and not isinstance(session.failure, RegistryClosed):
            _logger.error("the registry ended: %s", session.failure)


async def _open(link: Link, patience: float | None) -> None:
    """Connect; cancelled, it lets the transport come to its end with one cancellation."""
    opening = asyncio.create_task(link.open(patience))
    opening.add_done_callback(_retrieve)
    try:
        await asyncio.wait([opening])
    finally:
        opening.cancel()
        await end_of(opening)
    opening.result()


def _retrieve(task: asyncio.Task[None]) -> None:
    """Whoever would have heard of its error may have been cancelled."""
    if not task.cancelled():
        task.exception()


async def _heed(stop: asyncio.Event, scope: anyio.CancelScope) -> None:
    await stop.wait()
    scope.cancel()


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


def _is_in_use(transport: Transport) -> bool:
    return any(session.link.transport is transport for session in _sessions)


def _select_nothing(_name: str, _where: Predicate) -> Selection:
    """What a registry knows before it started and after it closed."""
    return _NOTHING


def _check_patterns(patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        check_pattern(pattern)


def _cause(error: Exception) -> RegistryError:
    """What ended the background work, out of the groups that it comes in."""
    if isinstance(error, ExceptionGroup):
        return _cause(cast("ExceptionGroup[Exception]", error).exceptions[0])
    if isinstance(error, RegistryError):
        return error
    failure = RegistryError(f"the registry's background work failed: {error!r}; please report it")
    failure.__cause__ = error
    return failure
