"""The servers of a NATS transport: what their URLs say, and what the cluster tells of itself."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import ParseResult, unquote, urlparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["UNSENDABLE", "Server", "learned", "parse_servers"]

UNSENDABLE: Final = re.compile("[\x00-\x20\x7f\ud800-\udfff]")
"""What would end a line of the protocol, or break the parser of whoever receives it."""

_PLAIN_SCHEMES: Final = ("nats", "tls")
_WEB_SCHEMES: Final = ("ws", "wss")


@dataclass(frozen=True, slots=True)
class Server:
    """A server to connect to, and what the driver needs to get in.

    The driver would take the credentials from the URL too, but as they are written there
    (percent-encoded), and not for servers that it is told of.
    """

    url: ParseResult
    login: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    tls: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)

    def __str__(self) -> str:
        return self.url._replace(netloc=self.url.netloc.rpartition("@")[2]).geturl()


def parse_servers(servers: str | Sequence[str]) -> tuple[Server, ...]:
    texts = [text.strip() for text in servers.split(",")] if isinstance(servers, str) else servers
    if isinstance(servers, str) and any("@" in text and "://" not in text for text in texts[1:]):
        raise ValueError(  # a part of a password would be taken for a server, and shown
            f"cannot read the NATS URLs {_masked(servers)!r}; write a comma in a password as %2C,"
            " and the scheme before each server that has a user"
        )
    parsed = tuple(_parse_server(text.strip()) for text in texts)
    if not parsed:
        raise ValueError("no servers given; pass at least one URL such as nats://localhost:4222")
    if len({server.url.scheme in _WEB_SCHEMES for server in parsed}) > 1:
        urls = ",".join(map(str, parsed))
        raise ValueError(f"WebSocket and other URLs cannot be mixed: {urls}; use one kind")
    return parsed


def _parse_server(text: str) -> Server:
    url = _split(text)
    if url is None:
        schemes = ", ".join((*_PLAIN_SCHEMES, *_WEB_SCHEMES))
        raise ValueError(
            f"cannot read the NATS URL {_masked(text)!r};"
            f" write scheme://[user:password@]host:port, with the scheme {schemes}"
        )
    userinfo, _, place = url.netloc.rpartition("@")
    if url.scheme in _PLAIN_SCHEMES and url.port is None:
        place = f"{place.rstrip(':')}:4222"
    return Server(url._replace(netloc=place, path=url.path.rstrip("/")), _parse_login(userinfo))


def _split(text: str) -> ParseResult | None:
    """The parts of a URL; None when it makes no sense."""
    try:
        url = urlparse(text if "://" in text else f"nats://{text}")
        complete = bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        return None
    if not complete or UNSENDABLE.search(text) or url.query or url.fragment:
        return None
    if url.scheme in _PLAIN_SCHEMES:
        return url if url.path in ("", "/") else None
    return url if url.scheme in _WEB_SCHEMES else None


def _parse_login(userinfo: str) -> dict[str, str]:
    if not userinfo:
        return {}
    user, colon, password = userinfo.partition(":")
    if not colon:
        return {"token": unquote(user)}
    return {"user": unquote(user), "password": unquote(password)}


def _masked(text: str) -> str:
    """A URL that may be malformed, with whatever stands before its last @ left out."""
    userinfo, at, place = text.rpartition("@")
    if not at:
        return text
    scheme, separator, _ = userinfo.partition("://")
    return f"{scheme}://***@{place}" if separator else f"***@{place}"


def learned(configured: Sequence[Server], told: Iterable[ParseResult]) -> tuple[Server, ...]:
    """The servers that a cluster told of, with what it takes to get in.

    Args:
        configured: the servers that the user named.
        told: the addresses as the driver has them.
    """
    # The servers of a cluster share their users, and a certificate usually has names only.
    origin = configured[0]
    if origin.url.scheme in _WEB_SCHEMES:
        return ()  # what is announced is for the other protocol
    tls = {} if _is_ip(origin.url) else {"tls_hostname": origin.url.hostname}
    return tuple(Server(url, origin.login, tls if _is_ip(url) else {}) for url in told)


def _is_ip(url: ParseResult) -> bool:
    try:
        ipaddress.ip_address(url.hostname or "")
    except ValueError:
        return False
    return True
