"""Free ports, and the address to announce."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Self

import pytest

from aioregistry.errors import NoFreePort
from aioregistry.ports import (
    advertised_address,
    find_free_address,
    find_free_port,
    free_address,
    free_port,
)
from aioregistry.service import split_address

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        yield server.getsockname()[1]


class FakeSocket:
    """A datagram socket on a machine with the given own addresses; None: no route."""

    own: tuple[str | None, str | None] = (None, None)

    def __init__(self, family: int, _kind: int) -> None:
        self.address = self.own[0] if family == socket.AF_INET else self.own[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _seconds: float) -> None:
        pass

    def connect(self, _address: object) -> None:
        if self.address is None:
            raise OSError("Network is unreachable")

    def getsockname(self) -> tuple[str | None, int]:
        return self.address, 12345


def machine(
    monkeypatch: pytest.MonkeyPatch,
    v4: str | None = None,
    v6: str | None = None,
    names: tuple[str, ...] | None = None,
) -> None:
    """Pretend to run on a machine with these own addresses, and these behind its name."""

    def getaddrinfo(*_: object, **__: object) -> list[tuple[Any, ...]]:
        if names is None:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, 0)) for name in names]

    monkeypatch.setattr(FakeSocket, "own", (v4, v6))
    monkeypatch.setattr(socket, "socket", FakeSocket)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_free_port_can_be_bound() -> None:
    with socket.socket() as server:
        server.bind(("", free_port()))


def test_free_ports_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(socket.socket):
        def bind(self, _address: object, /) -> None:
            raise OSError("Address already in use")

    monkeypatch.setattr(socket, "socket", Full)
    with pytest.raises(NoFreePort, match="no free port left"):
        free_port()


def test_finds_a_port_within_the_range() -> None:
    port = free_port()
    assert find_free_port(port, port) == port


def test_passes_over_a_taken_port(taken: int) -> None:
    last = min(taken + 50, 65535)
    found = find_free_port(taken, last)
    assert taken < found <= last


def test_every_port_is_taken(taken: int) -> None:
    with pytest.raises(NoFreePort, match=f"every port from {taken} to {taken} is taken") as caught:
        find_free_port(taken, taken)
    assert isinstance(caught.value, OSError)


def test_taken_on_one_address_is_taken() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(NoFreePort):
            find_free_port(port, port)


@pytest.mark.parametrize(
    ("first", "last", "culprit"),
    [
        (0, 10, "first=0"),
        (-1, 10, "first=-1"),
        (10, 65536, "last=65536"),
        (20, 10, "first=20 is above last=10"),
    ],
)
def test_no_range_of_ports(first: int, last: int, culprit: str) -> None:
    with pytest.raises(ValueError, match=culprit):
        find_free_port(first, last)
    with pytest.raises(ValueError, match=culprit):
        find_free_address(first, last)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port(port: int) -> None:
    with pytest.raises(ValueError, match=f"port={port} is no port"):
        advertised_address(port)


def test_addresses_of_this_machine() -> None:
    port = free_port()
    for address in (free_address(), find_free_address(port, port), advertised_address(8080)):
        host, number = split_address(address)
        assert number is not None
        assert host not in ("", "0.0.0.0", "::")


def test_advertises_the_address_of_the_default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, v4="10.1.2.3", v6="2a00::1", names=("10.9.9.9",))
    assert advertised_address(8080) == "10.1.2.3:8080"


def test_ipv6_is_put_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, v6="2a00::1", names=("10.9.9.9",))
    assert advertised_address(8080) == "[2a00::1]:8080"


@pytest.mark.parametrize("useless", ["0.0.0.0", "127.0.0.1", "169.254.1.1"])
def test_without_a_useful_route_the_name_decides(
    monkeypatch: pytest.MonkeyPatch, useless: str
) -> None:
    machine(monkeypatch, v4=useless, names=("127.0.1.1", "10.9.9.9"))
    assert advertised_address(8080) == "10.9.9.9:8080"


@pytest.mark.parametrize("names", [None, (), ("127.0.1.1", "0.0.0.0")])
def test_without_any_network_it_is_loopback(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] | None
) -> None:
    machine(monkeypatch, names=names)
    assert advertised_address(8080) == "127.0.0.1:8080"


async def test_within_an_event_loop() -> None:
    port = free_port()
    assert advertised_address(port).endswith(f":{port}")
