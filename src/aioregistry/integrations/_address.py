"""The address to announce: from the socket that serves, or as given; and what looks wrong."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from aioregistry import InvalidService, Registry, Service, advertised_address
from aioregistry.limits import check_field

__all__ = ["Endpoint", "check_given", "doubts", "endpoint_of", "is_complete", "name_of", "place"]

_PLACEHOLDER: Final = "{address}"
_WINDOWS: Final = re.compile(r"[A-Za-z]:[\\/]|\\\\|//[./]/pipe/")
_NO_HOST: Final = re.compile(r"[\s/\\@?#]")
_ELSEWHERE: Final = ("2001:db8::1", 9)  # kept for documentation: nothing is sent there


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        host: an IP address, perhaps an unspecified one: `::` is every one of IPv6, and none
            of IPv4; for a Unix socket, its path.
        port: the TCP port; None for a Unix socket.
        secure: whether it speaks TLS.
    """

    host: str
    port: int | None
    secure: bool = False

    def __str__(self) -> str:
        """As a URL, or the path."""
        if self.port is None:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"


def name_of(sock: Any) -> Any:
    """What `getsockname` says; of a socket that takes IPv4 as well as IPv6, as for IPv4.

    Args:
        sock: a listening socket, or what asyncio shows of one.
    """
    name: Any = sock.getsockname()
    # Four parts are IPv6, whatever the family says: that of a descriptor, uvicorn makes up.
    if len(name) == 4 and name[0] == "::":
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return name if only else ("0.0.0.0", name[1])  # noqa: S104 - it is so bound already
    return name


def endpoint_of(names: Iterable[Any], *, secure: bool = False) -> Endpoint | None:
    """The endpoint that others can use best, out of the names of the sockets.

    Args:
        names: see `name_of`; what is neither TCP nor Unix is passed over.
        secure: whether the server speaks TLS.
    """
    found: list[Endpoint] = []
    for name in names:
        if isinstance(name, tuple) and len(name) >= 2:  # pyright: ignore[reportUnknownArgumentType] - as the system gives it
            found.append(Endpoint(str(name[0]), int(name[1]), secure))  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(name, str) and name:
            found.append(Endpoint(name, None, secure))
    found.sort(key=lambda each: (each.port is None, _is_loopback(each.host), each.host == "::"))
    return found[0] if found else None


def check_given(name: str, address: str, network: str = "") -> None:
    """Look at an address that somebody wrote down.

    Args:
        name: of the service, for the messages.
        address: `host:port`; port 0 stands for the port of the server.
        network: the network of the address.

    Raises:
        InvalidService: it cannot be one; the text says what to write instead.
    """
    if not address or network.startswith("unix"):
        return
    check_field(f"address of {name!r}", address)
    what = f"address={address!r} of {name!r}"
    if _WINDOWS.match(address):
        raise InvalidService(
            f"{what} is a Windows path or pipe; callers need 'host:port', such as '10.0.0.5:8080'"
        )
    if "://" in address:
        raise InvalidService(f"{what} is a URL: give it as url=, and the address as 'host:port'")
    host, colon, port = ("", "", "") if address.endswith("]") else address.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise InvalidService(f"{what} is IPv6 without brackets: write {_in_brackets(address)}")
    if not colon or not port:
        raise InvalidService(
            f"{what} has no port: write '{address.rstrip(':')}:8080' for port 8080, or"
            f" '{address.rstrip(':')}:0' for the port of the server"
        )
    if not host:
        raise InvalidService(
            f"{what} has no host: write it as other machines reach it, such as '10.0.0.5:{port}',"
            " or leave the address out to have it found"
        )
    odd = _NO_HOST.search(host)
    if odd:
        raise InvalidService(
            f"{what} has {odd[0]!r} in its host; write '10.0.0.5:{port}', or a name"
        )
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise InvalidService(f"{what} has no port from 1 to 65535 after the last colon")


def _in_brackets(address: str) -> str:
    """What may have been meant by an IPv6 address, with or without a port after it."""
    host, _, port = address.rpartition(":")
    meant: list[str] = []
    if _is_ip(host) or not _is_ip(address):
        meant.append(f"'[{host}]:{port}' for port {port}")
    else:
        meant.append(f"'[{address}]:8080' for port 8080")
    if _is_ip(address):
        meant.append(f"'[{address}]:0' for the port of the server")
    return ", or ".join(meant)


def is_complete(service: Service) -> bool:
    """Whether the service says where it is, without a look at the server."""
    if service.address:
        return service.port != 0
    return bool(service.url) and _PLACEHOLDER not in service.url


def place(service: Service, endpoint: Endpoint | None) -> dict[str, str]:
    """What to announce of where a service is: address, network and URL.

    May look up the name of this machine, which can take seconds: call it in a thread.

    Args:
        service: the service as it was offered. Port 0 in its address stands for the port of
            the endpoint, and `{address}` in its URL for the address that comes of it.
        endpoint: where the server listens; None where that is not known.

    Raises:
        InvalidService: it is not known where the service is.
    """
    if is_complete(service):
        return {"address": service.address, "network": service.network, "url": service.url}
    if endpoint is None:
        raise InvalidService(
            f"no address to announce {service.name!r} at: the server was not found;"
            " give address='host:port', as other machines reach it"
        )
    if endpoint.port is None:
        if service.address or service.url:
            raise InvalidService(
                f"{service.name!r} is served at the Unix socket {endpoint.host}, which has no port:"
                " write the port in its address, and no {address} in its url"
            )
        return {"address": endpoint.host, "network": "unix", "url": ""}
    host = service.address.rpartition(":")[0] or _host(endpoint)
    address = f"{host}:{endpoint.port}"
    url = service.url.replace(_PLACEHOLDER, address)
    if not url and endpoint.secure:
        url = f"https://{address}"
    return {"address": address, "network": service.network, "url": url}


def doubts(service: Service, registry: Registry) -> str | None:
    """Why callers may not reach a service where it is announced; None: nothing looks wrong.

    May look up the host of the broker, which can take seconds: call it in a thread.
    """
    host = service.hostname_port[0]
    if service.network.startswith("unix"):
        host = "127.0.0.1"
    announced = f"{service.name} is announced at {service.key[1]}"
    remedy = (
        "listen on every address (uvicorn: --host 0.0.0.0) and leave the address out, or give"
        " address='host:port' as other machines reach it"
    )
    if _is_unspecified(host):
        return f"{announced}, where a server can listen but no caller connect to: {remedy}"
    if not _is_loopback(host):
        return None
    brokers = _brokers(registry)
    if all(map(_is_here, brokers)):
        return None
    return (
        f"{announced}, which only this machine reaches, while the broker is at"
        f" {', '.join(brokers)}: {remedy}"
    )


def _host(endpoint: Endpoint) -> str:
    """The host of a TCP endpoint as others reach it, in brackets if it is IPv6."""
    host = endpoint.host
    if host == "::":
        host = _ipv6_of_this_machine()
    elif _is_unspecified(host):
        return advertised_address(endpoint.port or 1).rpartition(":")[0]
    return f"[{host}]" if ":" in host else host


def _ipv6_of_this_machine() -> str:
    """As `advertised_address` does it, for a server that no IPv4 gets to."""
    candidates: list[str] = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(_ELSEWHERE)  # a datagram socket picks its route and sends nothing
        candidates.append(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET6)
        candidates += [str(entry[4][0]) for entry in found]
    for candidate in candidates:
        address = ipaddress.ip_address(candidate)
        if not (address.is_unspecified or address.is_loopback or address.is_link_local):
            return candidate
    return "::1"


def _brokers(registry: Registry) -> list[str]:
    """The hosts of the broker, as far as the registry says; none for one in the process."""
    hosts: list[str] = []
    for url in registry.address.split(","):
        parts = urlsplit(url if "://" in url else f"//{url}")
        if parts.scheme not in ("memory", "unix") and parts.hostname:
            hosts.append(parts.hostname)
    return hosts


def _is_here(host: str) -> bool:
    """Whether a host is this machine; one whose name cannot be looked up is not."""
    try:
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return any(_is_loopback(str(address)) or _is_own(str(address)) for address in addresses)


def _is_own(address: str) -> bool:
    """Whether an IP address is one of this machine: only such can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
