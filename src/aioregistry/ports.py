"""Free TCP ports, and the address under which others reach this machine.

A port that was found free may be taken before its finder binds it: no search can rule that
out. Where it matters, bind port 0 and announce the port that the socket got, or be prepared
to search again.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from aioregistry.errors import NoFreePort

__all__ = [
    "advertised_address",
    "find_free_address",
    "find_free_port",
    "free_address",
    "free_port",
]

# Addresses that are kept for documentation: nothing is sent there, and every route leads there
# that would lead to the rest of the world. Port 9 is "discard".
_ELSEWHERE = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)


def free_port() -> int:
    """A TCP port that nobody uses on this machine right now, of the system's choice.

    Raises:
        NoFreePort: the system has none left.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("", 0))
        except OSError as error:
            raise NoFreePort(f"the system has no free port left: {error}") from error
        port: int = probe.getsockname()[1]
        return port


def find_free_port(first: int, last: int) -> int:
    """The lowest TCP port of a range that nobody uses on this machine right now.

    Args:
        first: the lowest port to try, 1 to 65535.
        last: the highest port to try, 1 to 65535, not below `first`.

    Raises:
        NoFreePort: every port of the range is taken, or not ours to take.
        ValueError: this is no range of ports.
    """
    _check_port("first", first)
    _check_port("last", last)
    if first > last:
        raise ValueError(f"first={first} is above last={last}; swap them")
    for port in range(first, last + 1):
        if _is_free(port):
            return port
    raise NoFreePort(f"every port from {first} to {last} is taken")


def free_address() -> str:
    """A free port of the system's choice, as `host:port` for others to connect to.

    Raises:
        NoFreePort: the system has none left.
    """
    return advertised_address(free_port())


def find_free_address(first: int, last: int) -> str:
    """The lowest free port of a range, as `host:port` for others to connect to.

    Args:
        first: the lowest port to try, 1 to 65535.
        last: the highest port to try, 1 to 65535, not below `first`.

    Raises:
        NoFreePort: every port of the range is taken, or not ours to take.
        ValueError: this is no range of ports.
    """
    return advertised_address(find_free_port(first, last))


def advertised_address(port: int) -> str:
    """`host:port` under which other machines reach a server here that listens on every address.

    The host is the address from which this machine would talk to the rest of the world, else
    one that its own name stands for, else the loopback address: on a machine without any
    network there is nobody else. An IPv6 address is put in brackets. Nothing is sent, but a
    machine without a route may look up its own name, which can take seconds.

    Args:
        port: the port of the server, 1 to 65535.

    Raises:
        ValueError: this is no port.
    """
    _check_port("port", port)
    host = _routed_host() or _named_host() or "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_port(name: str, port: int) -> None:
    if not 1 <= port <= 65535:
        raise ValueError(f"{name}={port!r} is no port; ports go from 1 to 65535")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: without it, a port whose last connections linger would not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("", port))
            return True
    return False


def _routed_host() -> str | None:
    """The own address on the way to the rest of the world."""
    for family, elsewhere in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0)
            probe.connect(elsewhere)  # a datagram socket picks its route and sends nothing
            host: str = probe.getsockname()[0]
            if _is_reachable(host):
                return host
    return None


def _named_host() -> str | None:
    """An address that the name of this machine stands for."""
    with contextlib.suppress(OSError):
        for *_, address in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            host = str(address[0])
            if _is_reachable(host):
                return host
    return None


def _is_reachable(host: str) -> bool:
    address = ipaddress.ip_address(host)
    return not (address.is_unspecified or address.is_loopback or address.is_link_local)
