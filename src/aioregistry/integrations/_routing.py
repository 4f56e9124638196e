"""The way of each request to an instance: what the HTTP clients have in common."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from aioregistry import Balancer, LeastPending, Predicate, Registry, RegistryError, Service
from aioregistry.integrations._leavers import Leavers, is_named
from aioregistry.integrations._logs import log
from aioregistry.integrations._targets import Unusable
from aioregistry.integrations.resilience import (
    Attempts,
    Incarnation,
    Outliers,
    Policy,
    RetryBudget,
    incarnation,
)

__all__ = ["Call", "Router"]

_MAX_NAMES: Final = 4096


class _AmongThese(msgspec.Struct, frozen=True):
    """The predicate of a chosen few, so that the registry's own balancer chooses from them."""

    chosen: frozenset[Incarnation]

    def __call__(self, service: Service) -> bool:
        return incarnation(service) in self.chosen


class _NoneOfThese(msgspec.Struct, frozen=True):
    """The predicate of those that have not been tried."""

    where: Predicate
    tried: frozenset[Incarnation]

    def __call__(self, service: Service) -> bool:
        return incarnation(service) not in self.tried and self.where(service)


class _Named:
    """What is remembered of one service."""

    __slots__ = ("_chosen", "_predicate", "budget", "leavers", "outliers")

    def __init__(self, policy: Policy) -> None:
        self.outliers = Outliers(policy)
        self.budget = RetryBudget(policy)
        self.leavers = Leavers()
        self._chosen: tuple[Service, ...] = ()
        self._predicate = _AmongThese(frozenset())

    def among(self, chosen: tuple[Service, ...]) -> Predicate:
        """The predicate of these instances; for the same tuple, the same as before."""
        if chosen is not self._chosen:
            self._chosen = chosen
            self._predicate = _AmongThese(frozenset(map(incarnation, chosen)))
        return self._predicate


class Router:
    """Chooses instances for requests, and remembers how they did.

    Args:
        registry: where the services are.
        where: which instances do; None: the registry's `where`.
        balancer: which of several to take; None: the registry's `balancer`.
        timeout: how long to wait for an instance of a service that nobody is known to
            provide, in seconds; None: the registry's `lookup_timeout`.
        policy: what to do about instances that fail.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        where: Predicate | None,
        balancer: Balancer | None,
        timeout: float | None,
        policy: Policy | None,
    ) -> None:
        self.registry = registry
        self.where = where
        self.balancer = balancer
        self.timeout = timeout
        self.policy = policy or Policy()
        chooser = registry.balancer if balancer is None else balancer
        self.counting = chooser if isinstance(chooser, LeastPending) else None
        self._names: OrderedDict[str, _Named] = OrderedDict()  # the one used last is last

    def call(self, name: str, *, repeatable: bool) -> Call:
        """Begin a request.

        Args:
            name: the service.
            repeatable: whether it may be sent more than once.
        """
        named = self._names.get(name)
        if named is not None:
            self._names.move_to_end(name)
        else:
            if len(self._names) >= _MAX_NAMES:
                self._names.popitem(last=False)
            named = self._names[name] = _Named(self.policy)
        return Call(self, name, named, repeatable=repeatable)


class Call:
    """One request on its way: choose, send, and tell what came of it.

    Attributes:
        name: the service.
        attempts: what was tried.
    """

    __slots__ = ("_among", "_full", "_named", "_now", "_router", "attempts", "name")

    def __init__(self, router: Router, name: str, named: _Named, *, repeatable: bool) -> None:
        self.name = name
        self.attempts = Attempts(router.policy, named.budget, repeatable=repeatable)
        self._router = router
        self._named = named
        self._now = asyncio.get_running_loop().time
        self._among = 1
        self._full = False
        named.budget.deposit(self._now())

    async def choose(self) -> Service | None:
        """The instance to try next; None: there is no other.

        Where nobody is known, or nobody who has not been tried, it waits as a lookup does; but
        not after `full`, where the time has been spent on waiting. Cancelling is immediate.

        Raises:
            RegistryError: nobody is registered, or nobody could be asked.
        """
        router = self._router
        registry, where = router.registry, router.where
        known = registry.cached(self.name, where)
        if known:
            staying = self._named.leavers.staying(known)
            in_use = self._in_use(staying)
            candidates = self.attempts.candidates(in_use, known)
            if not candidates:
                return None if self._full else await self._newcomer()
            self._among = len(candidates)
            if candidates is not known:
                where = self._named.among(candidates)
        service = await registry.get_service(
            self.name, where=where, balancer=router.balancer, timeout=router.timeout
        )
        if not known:
            self._among = len(registry.cached(self.name, where))
        return service

    async def _newcomer(self) -> Service | None:
        """One who is heard of only now: who answers late, or comes back after a restart."""
        router = self._router
        registry = router.registry
        where = _NoneOfThese(router.where or registry.where, self.attempts.tried)
        try:
            return await registry.get_service(
                self.name, where=where, balancer=router.balancer, timeout=router.timeout
            )
        except RegistryError:
            return None  # what was tried says more

    def patience(self, left: float | None) -> float | None:
        """How long to wait for a connection to the instance chosen, in seconds.

        Args:
            left: how much time there is for connecting, in seconds; None: any.
        """
        return self.attempts.patience(left, self._among)

    def unusable(self, service: Service, target: Callable[[Service], object]) -> None:
        """Note that the instance cannot take such a request, and which others cannot, either.

        Args:
            service: the instance.
            target: where the request would go; raises `Unusable` for those that cannot.
        """
        for each in {service: None, **dict.fromkeys(self._known())}:
            try:
                target(each)
            except Unusable as why:
                self.attempts.unusable(each, str(why))

    def full(self, service: Service, error: BaseException) -> bool:
        """Note that no connection to the instance was free; whether to try another.

        That is no failure of the instance: how many connections there are is our own choice.
        """
        self._full = True
        return self.attempts.not_sent(service, describe(error))

    def not_sent(self, service: Service, error: BaseException) -> bool:
        """Note that nothing got to the instance; whether to try another."""
        self._full = False
        self.failed(service)
        return self.attempts.not_sent(service, describe(error))

    def sent(self, service: Service, error: BaseException, *, intact: bool) -> bool:
        """Note that it broke off after something was sent; whether to send it again."""
        self._full = False
        self.failed(service)
        return self.attempts.sent(service, describe(error), self._now(), intact=intact)

    def leaving(self, service: Service, header: str) -> None:
        """Note what a response says in the header `LEAVING`."""
        if is_named(service, header):  # a gateway may have passed on that of its own backend
            self._named.leavers.add(service)

    def answered(self, service: Service, status: int) -> None:
        """Note the end of a response that did not break off.

        Args:
            service: whose it is.
            status: its status code.
        """
        if status in self._router.policy.bad_statuses:
            self.failed(service)
        else:
            self._named.outliers.succeeded(service)

    def broke_off(self, service: Service, error: BaseException, *, blame: bool = True) -> None:
        """Note a failure after which the request is not sent again, whatever it is."""
        if blame:
            self.failed(service)
        self.attempts.note(service, describe(error))

    def failed(self, service: Service) -> None:
        """Note a failure of the instance."""
        known, now, outliers = self._known(), self._now(), self._named.outliers
        if outliers.failed(service, known, now):
            failures, seconds = outliers.standing(service, now)
            log().warning(
                "%s at %s is set aside for %g s: %d failures in a row; %d of %d are left",
                *(self.name, _place(service), seconds, failures),
                *(len(outliers.in_use(known, now)), len(known)),
            )

    def _in_use(self, services: tuple[Service, ...]) -> tuple[Service, ...]:
        """Those that are not set aside."""
        outliers = self._named.outliers
        in_use = outliers.in_use(services, self._now())
        for service in outliers.returned():
            log().info("%s at %s is used again", self.name, _place(service))
        return in_use

    def _known(self) -> tuple[Service, ...]:
        try:
            return self._router.registry.cached(self.name, self._router.where)
        except RegistryError:  # it was closed meanwhile: what went wrong otherwise says more
            return ()

    def report(self) -> str:
        """What was tried in vain, for the text of an error."""
        return self.attempts.report(self.name)


def _place(service: Service) -> str:
    """Where it is, for the log: as others say, who may say anything."""
    place = service.key[1]
    return place if place.isprintable() else repr(place)


def describe(error: BaseException) -> str:
    """An error in a few words."""
    # aiohttp would say once more where it was, and call it a host that cannot be connected to.
    text = getattr(error, "strerror", None) or str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
