"""The values that the registry hands out: Service, Status, ServiceEvent."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

__all__ = [
    "EventType",
    "FrozenDict",
    "Service",
    "ServiceEvent",
    "Status",
    "split_address",
]

_URL_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21, "ssh": 22}

_K = TypeVar("_K")
_V = TypeVar("_V")


class Status(enum.Enum):
    """How an instance says that it is doing."""

    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


class EventType(enum.Enum):
    """What happened to an instance."""

    REGISTERED = "registered"
    UPDATED = "updated"
    UNREGISTERED = "unregistered"
    EXPIRED = "expired"


class FrozenDict(dict[_K, _V]):
    """A dict that cannot be changed, so that it can be shared and hashed."""

    __slots__ = ()

    def _refuse(*_: Any, **__: Any) -> Any:
        raise TypeError("this mapping belongs to a Service; copy it with dict(...) to change it")

    __setitem__ = __delitem__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # dict declares itself unhashable
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type[FrozenDict[_K, _V]], tuple[dict[_K, _V]]]:
        return type(self), (dict(self),)


class Service(msgspec.Struct, frozen=True, gc=False):
    """One running instance of a service, as it announced itself.

    Immutable and hashable; two are equal when every field is. `msgspec.structs.replace`
    makes a changed copy.

    Attributes:
        name: what callers look up; may be dotted (`billing.orders`).
        address: `host:port`; IPv6 hosts in brackets. Empty when only `url` is given.
        network: the network of the address (`tcp`, `udp`, `unix`); empty means tcp.
        url: the full URL, when it has more to say than the address.
        version: the version of the provider's software.
        host: the name of the machine that it runs on.
        metadata: free string pairs.
        status: passing, warning or critical.
        id: the incarnation, new with every registration; empty for peers that have none.
    """

    name: str
    address: str = ""
    network: str = ""
    url: str = ""
    version: str = ""
    host: str = ""
    metadata: Mapping[str, str] = FrozenDict()
    status: Status = Status.PASSING
    id: str = ""

    def __hash__(self) -> int:
        return hash((self.name, self.address, self.url, self.id))

    @property
    def key(self) -> tuple[str, str]:
        """What tells one instance from another: the name, and the address or else the URL."""
        return self.name, self.address or self.url

    @property
    def hostname_port(self) -> tuple[str, int | None]:
        """The host, without brackets, and the port of the address, or else of the URL.

        Ready for `asyncio.open_connection(*service.hostname_port)`. An address without a
        port has None; a service with neither address nor URL has `("", None)`.
        """
        if self.address:
            return split_address(self.address)
        try:
            parts = urlsplit(self.url)
            return parts.hostname or "", parts.port or _URL_PORTS.get(parts.scheme)
        except ValueError:  # a URL from the wire that makes no sense
            return "", None

    @property
    def port(self) -> int | None:
        """The port of the address, or else of the URL; None when there is none."""
        return self.hostname_port[1]


class ServiceEvent(msgspec.Struct, frozen=True, gc=False):
    """One change of the catalogue.

    Folding the events over an empty dict always gives the catalogue: REGISTERED adds,
    UPDATED replaces, UNREGISTERED and EXPIRED remove `service.key`.

    Attributes:
        type: what happened.
        service: the instance as it is now; for a removal, as it was last known.
        previous: the instance as the receiver knew it before; None for REGISTERED.
    """

    type: EventType
    service: Service
    previous: Service | None = None


def split_address(address: str) -> tuple[str, int | None]:
    """Split `host:port`, `[v6]:port`, a bare name or a bare IPv6 address.

    Args:
        address: the text to split.

    Returns:
        The host without brackets, and the port, or None where there is none to read.
    """
    host, colon, tail = address.rpartition(":")
    if not colon or tail.endswith("]") or (":" in host and not host.endswith("]")):
        return address.strip("[]"), None
    port = int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 10 else None
    return host.strip("[]"), port


def freeze(metadata: Mapping[str, str]) -> FrozenDict[str, str]:
    """An immutable copy of `metadata`."""
    return FrozenDict(metadata)
