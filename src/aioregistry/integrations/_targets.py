"""From the URL of a request to a service, and from an instance to where it listens."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from aioregistry import Service

__all__ = [
    "PLAIN",
    "SECURE",
    "Target",
    "Unusable",
    "check_domain",
    "location_for",
    "scheme_for",
    "service_name",
    "target_of",
]

SECURE: Final = frozenset({"https", "wss"})
"""The schemes of requests that go over TLS."""

PLAIN: Final = frozenset({"http", "ws"})
"""The schemes of requests that need not."""

_NETWORKS: Final = frozenset({"", "tcp", "tcp4", "tcp6", "http", "https"})
_CACHED: Final = 10_000

_REFERENCE: Final = re.compile(r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(.*)", re.DOTALL)
"""Scheme, authority, path, and what follows: RFC 3986, appendix B. It matches everything."""


class Unusable(Exception):
    """The instance cannot take the request; the text says why."""


class Target(NamedTuple):
    """Where a request goes.

    Attributes:
        secure: whether over TLS.
        host: without brackets.
        port: the TCP port.
        prefix: what comes before the path of the request, without a slash at its end.
        authority: the host, and port if it is a special one, that the instance says it is to
            be called by; empty: that of the request.
        server_name: the name that its certificate has to be for.
    """

    secure: bool
    host: str
    port: int
    prefix: str
    authority: str
    server_name: str


def check_domain(domain: str | None) -> str:
    """The end of a host name that says: this is a service. Empty: every name is one.

    Raises:
        ValueError: the domain has no name in it.
    """
    if domain is None:
        return ""
    name = domain.strip(".").lower()
    if not name:
        raise ValueError(f"domain={domain!r}: a name, such as 'service'; None: no domain")
    return f".{name}"


@lru_cache(_CACHED)
def service_name(host: str, port: int | None, domain: str) -> str | None:
    """The service that the host of a URL means; None: it means just that host.

    Args:
        host: without brackets.
        port: the port, if the URL has one that is not the scheme's own.
        domain: as `check_domain` has it.
    """
    host = host.lower().rstrip(".")
    if domain:
        return host.removesuffix(domain) if host.endswith(domain) and host != domain else None
    if port is not None or not host or host == "localhost" or _is_address(host):
        return None
    return host


def target_of(service: Service, host: str, *, secure: bool) -> Target:
    """Where to send a request for an instance.

    Args:
        service: the instance.
        host: that of the request's URL, which is what a certificate has to be for, unless
            the instance announces a URL with another.
        secure: whether the request is for https.

    Raises:
        Unusable: it announces nothing that HTTP can use, or no TLS where the request is for
            https: what was meant to be encrypted never goes out in the clear.
    """
    return _target(service.network, service.address, service.url, host, secure)


def scheme_for(scheme: str, *, secure: bool) -> str:
    """The scheme of a request as the instance gets it."""
    plain, encrypted = ("ws", "wss") if scheme in ("ws", "wss") else ("http", "https")
    return encrypted if secure else plain


def location_for(location: str, target: Target, host: str, *, scheme: str, authority: str) -> str:
    """A `Location` header as the caller has to see it, who knows the service, not the instance.

    A redirect to where the request was sent becomes one to the service, without the path that
    the instance announces, as Apache's `ProxyPassReverse` does it. All others stay.

    Args:
        location: the header as the instance has it.
        target: where the request was sent.
        host: the `Host` header that was sent.
        scheme: that of the caller's URL.
        authority: the host, and port if there is one, of the caller's URL.
    """
    to, place, path, rest = next(_REFERENCE.finditer(location)).groups()
    if place is None and (to or not path.startswith("/")):
        return location
    if place is not None and not _is_at(to, place, target, host):
        return location
    if target.prefix:
        before, path = path, path.removeprefix(target.prefix)
        if path == before or path[:1] not in ("", "/"):
            return location
    if place is None and not path.startswith("//"):  # which would name a host
        return (path or "/") + rest
    return f"{scheme_for(to or 'http', secure=scheme in SECURE)}://{authority}{path}{rest}"


@lru_cache(_CACHED)
def _target(network: str, address: str, url: str, host: str, secure: bool) -> Target:  # noqa: FBT001 - lru_cache: positional is quicker
    if network not in _NETWORKS:
        raise Unusable(f"it listens on {network}")
    try:
        parts = _split(url)
        where, port = Service("", address).hostname_port if address else _place(parts)
        where = where.encode("idna").decode()  # as a lookup has it: a name may be none
        if ":" in where or where.replace(".", "").isdigit():
            ipaddress.ip_address(where)  # what looks like one and is none is no name, either
    except ValueError:
        raise Unusable(f"{address or url!r} makes no sense") from None
    if not where or parts.path[:1] not in ("", "/"):
        raise Unusable(f"neither its address {address!r} nor its URL {url!r} names a host")
    if parts.scheme and parts.scheme not in SECURE | PLAIN:
        raise Unusable(f"it announces {parts.scheme}")
    if secure and parts.scheme in PLAIN:
        raise Unusable("it announces plain http, and the request is for https")
    encrypted = secure or parts.scheme in SECURE
    return Target(
        encrypted,
        where,
        port or (443 if encrypted else 80),
        parts.path.rstrip("/"),
        parts.netloc.rpartition("@")[2],
        parts.hostname or host,
    )


def _is_at(scheme: str | None, authority: str, target: Target, host: str) -> bool:
    """Whether it is where the request was sent."""
    secure = target.secure
    if scheme is not None and scheme.lower() not in (SECURE if secure else PLAIN):
        return False
    return _bare(authority, secure=secure) == _bare(host, secure=secure)


def _bare(authority: str, *, secure: bool) -> str:
    """Without a port that goes without saying."""
    return authority.lower().removesuffix(":443" if secure else ":80")


def _split(url: str) -> SplitResult:
    if not url.isascii():  # HTTP takes no other, and clients do not agree on what it means
        raise ValueError(url)
    return urlsplit(url)


def _place(parts: SplitResult) -> tuple[str, int | None]:
    return parts.hostname or "", parts.port


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
