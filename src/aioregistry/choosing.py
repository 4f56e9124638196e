"""Which instances will do, and which of them to take: predicates and balancers.

A predicate is any function from a `Service` to a bool. The ones made here compare and hash by
value, so that `metadata(zone="eu")` written twice is one question, whose answer is kept; and
they print as they were written, because they appear in error texts.
"""

from __future__ import annotations

import bisect
import hashlib
import inspect
import itertools
import random
import socket
from collections.abc import Callable, Hashable, Mapping
from typing import Final, NamedTuple, Protocol, TypeVar, runtime_checkable
from weakref import ReferenceType

import msgspec

from aioregistry import versions
from aioregistry.service import Service, Status

__all__ = [
    "Balancer",
    "LeastPending",
    "Predicate",
    "Random",
    "Rendezvous",
    "RoundRobin",
    "Weighted",
    "all_of",
    "any_of",
    "local",
    "metadata",
    "negate",
    "not_critical",
    "passing",
    "version",
]

Predicate = Callable[[Service], bool]
"""Whether an instance will do. Plain, quick, without side effects; its answers are kept."""

_V = TypeVar("_V")

# Python 3.11 takes ten times as long to look a member up in its enumeration as to compare it.
_PASSING: Final = Status.PASSING
_CRITICAL: Final = Status.CRITICAL

# A program asks a handful of questions; this only bounds one that makes them up as it goes.
_MAX_SCOPES: Final = 4096
_FEW_SCOPES: Final = 64

_MAX_WEIGHT: Final = 1e100


def passing(service: Service) -> bool:
    """Whether the instance says that it is well."""
    return service.status is _PASSING


def not_critical(service: Service) -> bool:
    """Whether the instance is fit for use: passing, or passing with a warning."""
    return service.status is not _CRITICAL


def local(hostname: str | None = None) -> Predicate:
    """Instances that run on one machine.

    Args:
        hostname: what they call that machine in `Service.host`; None: the name of this one.
    """
    return _Local(socket.gethostname() if hostname is None else hostname)


def metadata(pairs: Mapping[str, str] | None = None, /, **more: str) -> Predicate:
    """Instances whose metadata has all of these pairs, whatever else it has.

    Args:
        pairs: for keys that are no Python names: `metadata({"k8s.io/zone": "eu-1"})`.
        more: the others: `metadata(zone="eu-1", tier="gold")`.

    Raises:
        TypeError: a key or a value is not a string; such a pair could never match.
    """
    wanted = {**pairs, **more} if pairs else more
    for key, value in wanted.items():
        _check_pair(key, value)
    return _Metadata(frozenset(wanted.items()))


def version(spec: str) -> Predicate:
    """Instances whose version satisfies every one of the comma-separated comparisons.

    | written | means |
    |---|---|
    | `>=1.2`, `>1.2`, `<=1.2`, `==1.2`, `!=1.2` | in the order of versions |
    | `<2` | likewise, but not the pre-releases of 2, unless it names one: `<2-rc2` |
    | `==1.4.*`, `!=1.4.*` | begins with 1.4, or not; pre-releases of 1.4 begin with it |
    | `~=1.4.2` | `>=1.4.2,==1.4.*`: compatible as far as the part before last tells |

    A version is numbers between dots, after an optional `v`: missing numbers are zeros
    (1.2 equals 1.2.0). A suffix (`-rc.1`, `rc1`) makes a pre-release, which comes before the
    version itself; within a suffix numbers compare as numbers, and come before words. What
    follows a `+` is ignored. An instance whose version is missing or something else matches
    no spec at all.

    Args:
        spec: for example `">=1.2,<2"`.

    Raises:
        ValueError: the spec cannot be read.
        TypeError: it is no string.
    """
    if not isinstance(spec, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise TypeError(f'version() takes a string such as ">=1.2,<2", not {spec!r}')
    versions.comparisons(spec)
    return _Version(spec)


def all_of(*predicates: Predicate) -> Predicate:
    """Instances that satisfy every one of the predicates.

    Raises:
        TypeError: one of them cannot be a predicate.
    """
    _check_predicates("all_of", predicates)
    return _AllOf(predicates)


def any_of(*predicates: Predicate) -> Predicate:
    """Instances that satisfy at least one of the predicates.

    Raises:
        TypeError: one of them cannot be a predicate.
    """
    _check_predicates("any_of", predicates)
    return _AnyOf(predicates)


def negate(predicate: Predicate) -> Predicate:
    """Instances that do not satisfy the predicate.

    Raises:
        TypeError: it cannot be a predicate.
    """
    _check_predicates("negate", (predicate,))
    return _Negation(predicate)


def why_no_predicate(given: object) -> str | None:
    """Why `given` cannot be a predicate, in words that end with what to write; None: it can."""
    if given is not_critical or given is passing or isinstance(given, _Made):
        return None  # asked of the default for each name that is looked up
    if not callable(given):
        return f"{given!r} is no function; write one such as passing, or all_of() for everything"
    if is_async(given):
        return f"{given!r} is async, so that everything would match; write a plain function"
    if any(given is maker for maker in _MAKERS):
        return f"{given!r} only makes predicates; write {name_of(given)}(...)"
    return None


def why_no_balancer(given: object) -> str | None:
    """Why `given` cannot be a balancer, in words that end with what to write; None: it can."""
    if isinstance(given, type):
        return f"{given!r} is a class; write {given.__name__}(...)"
    choose = getattr(given, "choose", None)
    if not callable(choose) or is_async(choose):
        return f"{given!r} has no method choose() that is not async; write one such as RoundRobin()"
    return None


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine, as far as can be seen without a call."""
    called = getattr(function, "__call__", None)  # noqa: B004 - the method of an object
    return any(map(inspect.iscoroutinefunction, (function, called)))


class _Made(msgspec.Struct, frozen=True):
    """A predicate that was made here."""


class _Local(_Made, frozen=True):
    hostname: str

    def __call__(self, service: Service) -> bool:
        return service.host == self.hostname

    def __repr__(self) -> str:
        return f"local({self.hostname!r})"


class _Metadata(_Made, frozen=True):
    pairs: frozenset[tuple[str, str]]

    def __call__(self, service: Service) -> bool:
        return service.metadata.items() >= self.pairs

    def __repr__(self) -> str:
        pairs = sorted(self.pairs)
        if all(key.isidentifier() for key, _ in pairs):
            return f"metadata({', '.join(f'{key}={value!r}' for key, value in pairs)})"
        return f"metadata({dict(pairs)!r})"


class _Version(_Made, frozen=True):
    spec: str

    def __call__(self, service: Service) -> bool:
        parsed = versions.parse(service.version)
        if parsed is None:
            return False
        for holds in versions.comparisons(self.spec):  # noqa: SIM110 - all() of a generator takes longer
            if not holds(parsed):
                return False
        return True

    def __repr__(self) -> str:
        return f'version("{self.spec}")'


class _AllOf(_Made, frozen=True):
    predicates: tuple[Predicate, ...]

    def __call__(self, service: Service) -> bool:
        for predicate in self.predicates:  # noqa: SIM110 - all() of a generator takes thrice as long
            if not predicate(service):
                return False
        return True

    def __repr__(self) -> str:
        return f"all_of({', '.join(map(name_of, self.predicates))})"


class _AnyOf(_Made, frozen=True):
    predicates: tuple[Predicate, ...]

    def __call__(self, service: Service) -> bool:
        for predicate in self.predicates:  # noqa: SIM110 - as above
            if predicate(service):
                return True
        return False

    def __repr__(self) -> str:
        return f"any_of({', '.join(map(name_of, self.predicates))})"


class _Negation(_Made, frozen=True):
    predicate: Predicate

    def __call__(self, service: Service) -> bool:
        return not self.predicate(service)

    def __repr__(self) -> str:
        return f"negate({name_of(self.predicate)})"


def name_of(predicate: object) -> str:
    """A predicate as it was written, as far as that is known."""
    return getattr(predicate, "__name__", None) or repr(predicate)


_MAKERS: Final = (local, metadata, version, all_of, any_of, negate)


def _check_predicates(maker: str, given: tuple[object, ...]) -> None:
    for each in given:
        reason = why_no_predicate(each)
        if reason:
            raise TypeError(f"{maker}() takes predicates, each an argument: {reason}")


def _check_pair(key: object, value: object) -> None:
    if not isinstance(key, str) or not isinstance(value, str):
        raise TypeError(f"metadata is strings to strings; {key!r}: {value!r} can never match")


@runtime_checkable
class Balancer(Protocol):
    """Takes one of several instances that will all do."""

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:
        """Take one.

        Args:
            services: what there is to choose from, at least one; the same tuple object for one
                scope until something changes.
            scope: identifies a stream of equal questions (same name, same predicate).
        """
        ...


class RoundRobin:
    """One after the other, separately for each question.

    Every question has a cursor of its own, so lookups with different predicates do not take
    each other's turns. When instances come or go it goes on after the last one that was taken. It
    starts anywhere: clients that were started together would all begin with the same instance
    otherwise. O(1), and O(n) whenever the instances have changed.

    Args:
        rng: decides where to start; None: a generator of its own.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._cursors: dict[Hashable, _Cursor] = {}

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:
        """Take the one after the last one that was taken for this scope."""
        try:
            cursor = self._cursors[scope]
        except KeyError:
            cursor = _Cursor(services, int(self._rng.random() * len(services)))
            _remember(self._cursors, scope, cursor)
        if cursor.services is not services:
            cursor.move_to(services)
        turn = cursor.turn
        if turn >= len(services):
            turn = 0
        cursor.turn = turn + 1
        return services[turn]


class _Cursor:
    """Whose turn it is among the instances of one scope."""

    __slots__ = ("services", "turn")

    def __init__(self, services: tuple[Service, ...], turn: int) -> None:
        self.services = services
        self.turn = turn

    def move_to(self, services: tuple[Service, ...]) -> None:
        """Go on after the last one that was taken and is still there."""
        before, turn = self.services, self.turn
        self.services, self.turn = services, 0
        places = {each.address or each.url: place for place, each in enumerate(services)}
        for each in (*reversed(before[:turn]), *reversed(before[turn:])):
            place = places.get(each.address or each.url)
            if place is not None:
                self.turn = place + 1
                return


class Random:
    """Any of them, with equal probability. O(1).

    Args:
        rng: the source of randomness; None: a generator of its own.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:  # noqa: ARG002 - the protocol's
        """Take any."""
        return services[int(self._rng.random() * len(services))]  # a third of the time of choice()


class LeastPending:
    """Of two taken at random, the one with fewer requests in flight from this process.

    Two choices keep the longest queue exponentially shorter than one does, and need no look at
    all the others, which would also send everybody to the same one: M. Mitzenmacher, "The Power
    of Two Choices in Randomized Load Balancing", IEEE TPDS 12 (10), 2001. O(1).

    The balancer knows of the requests that are counted through `pending`:

        service = await registry.get_service("orders", balancer=balancer)
        with balancer.pending(service):
            await call(service)

    Args:
        rng: the source of randomness; None: a generator of its own.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._in_flight: dict[tuple[str, str, str], int] = {}

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:  # noqa: ARG002 - the protocol's
        """Take the less busy one of two."""
        if len(services) == 1:
            return services[0]
        draw, others = self._rng.random, len(services) - 1
        first, second = int(draw() * len(services)), int(draw() * others)
        one, other = services[first], services[second + (second >= first)]
        return one if self.in_flight(one) <= self.in_flight(other) else other

    def pending(self, service: Service) -> _Pending:
        """Count a request to `service` as in flight while the `with` or `async with` lasts.

        It ends with the block, however that is left. The block gets `service`.
        """
        return _Pending(self._in_flight, service)

    def in_flight(self, service: Service) -> int:
        """How many requests to `service` are counted right now."""
        return self._in_flight.get(_incarnation(service), 0)


class _Pending:
    """Counts one request for as long as its block lasts."""

    def __init__(self, in_flight: dict[tuple[str, str, str], int], service: Service) -> None:
        self._in_flight = in_flight
        self._service = service

    def __enter__(self) -> Service:
        key = _incarnation(self._service)
        self._in_flight[key] = self._in_flight.get(key, 0) + 1
        return self._service

    def __exit__(self, *_: object) -> None:
        key = _incarnation(self._service)
        left = self._in_flight.pop(key) - 1
        if left:
            self._in_flight[key] = left

    async def __aenter__(self) -> Service:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


class Weighted:
    """At random, in proportion to a weight that each instance announces in its metadata.

    A weight of zero means never, unless all of them are zero: then all are equal. What is no
    number, negative, or absurd (over 1e100) counts as `default`. O(log n) by bisection of the
    cumulative weights, after O(n) whenever the instances have changed.

    Args:
        key: the metadata key of the weight.
        default: the weight of an instance that announces none.
        rng: the source of randomness; None: a generator of its own.

    Raises:
        ValueError: `default` is negative or not finite.
    """

    def __init__(
        self, key: str = "weight", default: float = 1.0, rng: random.Random | None = None
    ) -> None:
        if not 0 <= default <= _MAX_WEIGHT:
            raise ValueError(f"default={default!r}: a weight is between 0 and {_MAX_WEIGHT:g}")
        self._key = key
        self._default = default
        self._rng = rng or random.Random()
        self._shares: dict[Hashable, _Shares] = {}

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:
        """Take one, at random by weight."""
        shares = self._shares.get(scope)
        if shares is None or shares.services is not services:
            shares = self._share_out(services)
            _remember(self._shares, scope, shares)
        point = self._rng.random() * shares.bounds[-1]
        # The product of tiny weights may be rounded up to the last bound, where nobody is.
        return shares.eligible[bisect.bisect_right(shares.bounds, point, hi=len(shares.bounds) - 1)]

    def _share_out(self, services: tuple[Service, ...]) -> _Shares:
        weights = [self._weight(service) for service in services]
        if not any(weights):
            weights = [1.0] * len(services)
        eligible = [service for service, weight in zip(services, weights, strict=True) if weight]
        return _Shares(services, eligible, list(itertools.accumulate(filter(None, weights))))

    def _weight(self, service: Service) -> float:
        try:
            weight = float(service.metadata[self._key])
        except (KeyError, ValueError):
            return self._default
        return weight if 0 <= weight <= _MAX_WEIGHT else self._default


class _Shares(NamedTuple):
    services: tuple[Service, ...]
    eligible: list[Service]
    bounds: list[float]  # where each one's share ends; the last is the sum of the weights


class Rendezvous(msgspec.Struct, frozen=True):
    """The same instance for the same key, in every process, for as long as it is there.

    Each instance is rated by a hash of its address and the key, and the highest wins. So when
    one goes, only its keys move, spread over the others; when one comes, it takes its share
    from all of them. A restart at the same address changes nothing. D. G. Thaler and
    C. V. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", IEEE/ACM Transactions
    on Networking 6 (1), 1998. O(n).

    Attributes:
        key: what to keep together: a user, a session, a shard.
    """

    key: str

    def choose(self, services: tuple[Service, ...], scope: Hashable) -> Service:  # noqa: ARG002 - the protocol's
        """Take the one that rates highest for the key."""
        key, rate = self.key, hashlib.blake2b  # not hash(): that differs from process to process

        def rating(service: Service) -> bytes:
            text = f"{service.name}\0{service.address or service.url}\0{key}"
            return rate(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()

        return max(services, key=rating)


def _incarnation(service: Service) -> tuple[str, str, str]:
    return service.name, service.address or service.url, service.id


def _remember(table: dict[Hashable, _V], scope: Hashable, value: _V) -> None:
    """Keep the value for the scope; forget scopes that are over, and the oldest of too many."""
    if scope not in table:
        size = len(table)
        # At each power of two: seldom enough for a look at all of them.
        if _FEW_SCOPES <= size < _MAX_SCOPES and not size & (size - 1):
            for over in filter(_is_over, tuple(table)):
                del table[over]
        if len(table) >= _MAX_SCOPES:
            del table[next(iter(table))]
    table[scope] = value


def _is_over(scope: Hashable) -> bool:
    return isinstance(scope, ReferenceType) and scope() is None
