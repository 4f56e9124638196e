"""The address that an integration announces: from the socket, or as given; and the doubts."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from aioregistry import InvalidService, Registry, Service, advertised_address
from aioregistry.integrations._address import (
    Endpoint,
    check_given,
    doubts,
    endpoint_of,
    name_of,
    place,
)


class TestTheEndpoint:
    @pytest.mark.parametrize(
        ("names", "endpoint"),
        [
            ([("0.0.0.0", 80)], Endpoint("0.0.0.0", 80)),
            ([("::1", 80, 0, 0)], Endpoint("::1", 80)),
            ([("127.0.0.1", 80), ("10.0.0.5", 81)], Endpoint("10.0.0.5", 81)),
            ([("::", 80, 0, 0), ("0.0.0.0", 80)], Endpoint("0.0.0.0", 80)),
            (["/run/x.sock", ("127.0.0.1", 80)], Endpoint("127.0.0.1", 80)),
            (["/run/x.sock"], Endpoint("/run/x.sock", None)),
            ([b"", ""], None),
            ([], None),
        ],
    )
    def test_is_the_one_that_others_can_use_best(
        self, names: list[Any], endpoint: Endpoint | None
    ) -> None:
        assert endpoint_of(names) == endpoint

    @pytest.mark.parametrize(("dualstack", "host"), [(True, "0.0.0.0"), (False, "::")])
    def test_of_every_ipv6_address_may_take_ipv4_too(self, host: str, *, dualstack: bool) -> None:
        with socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=dualstack
        ) as listener:
            port = listener.getsockname()[1]
            assert endpoint_of([name_of(listener)]) == Endpoint(host, port)


class TestThePlace:
    @pytest.mark.parametrize(
        ("service", "endpoint", "address", "url"),
        [
            (Service("x"), Endpoint("10.0.0.5", 80), "10.0.0.5:80", ""),
            (Service("x"), Endpoint("fd00::5", 80), "[fd00::5]:80", ""),
            (
                Service("x"),
                Endpoint("10.0.0.5", 443, secure=True),
                "10.0.0.5:443",
                "https://10.0.0.5:443",
            ),
            (Service("x"), Endpoint("0.0.0.0", 80), advertised_address(80), ""),
            (Service("x", "orders-1:0"), Endpoint("0.0.0.0", 80), "orders-1:80", ""),
            (Service("x", "[::1]:0"), Endpoint("::", 80), "[::1]:80", ""),
            (Service("x", "nat:8000"), Endpoint("0.0.0.0", 80), "nat:8000", ""),
            (Service("x", "nat:8000"), None, "nat:8000", ""),
            (Service("x", url="https://a/b"), None, "", "https://a/b"),
            (
                Service("x", url="http://{address}/v1"),
                Endpoint("10.0.0.5", 80),
                "10.0.0.5:80",
                "http://10.0.0.5:80/v1",
            ),
        ],
    )
    def test_comes_from_the_socket_or_as_given(
        self, service: Service, endpoint: Endpoint | None, address: str, url: str
    ) -> None:
        assert place(service, endpoint) == {"address": address, "network": "", "url": url}

    def test_of_every_ipv6_address_is_one_of_them(self) -> None:
        """The server does not listen on any IPv4 address, so none is announced."""
        with socket.create_server(("::", 0), family=socket.AF_INET6) as listener:
            endpoint = endpoint_of([name_of(listener)])
            assert endpoint is not None
            host, port = Service("x", place(Service("x"), endpoint)["address"]).hostname_port
            assert ":" in host
            socket.create_connection((host, port)).close()

    def test_may_be_a_unix_socket(self) -> None:
        where = place(Service("x"), Endpoint("/run/x.sock", None))
        assert where == {"address": "/run/x.sock", "network": "unix", "url": ""}

    def test_cannot_be_half_a_unix_socket(self) -> None:
        with pytest.raises(InvalidService, match=r"Unix socket /run/x.sock, which has no port"):
            place(Service("x", "a:0"), Endpoint("/run/x.sock", None))

    def test_is_asked_for_where_nobody_knows(self) -> None:
        with pytest.raises(InvalidService, match=r"no address .* 'x' .* give address='host:port'"):
            place(Service("x"), None)


@pytest.mark.parametrize(
    "address", ["", "10.0.0.5:80", "[::1]:80", "[fe80::1%eth0]:80", "orders-1.local:0", "a_b:1"]
)
def test_addresses_that_are_fine(address: str) -> None:
    check_given("x", address)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("::1:8000", r"IPv6 without brackets: write '\[::1\]:8000' for port 8000"),
        ("fd00::5", r"or '\[fd00::5\]:0' for the port of the server"),
        ("::1", r"write '\[::1\]:8080' for port 8080, or '\[::1\]:0' for the port of the server"),
        ("fe80::1%eth0", r"write '\[fe80::1%eth0\]:8080' for port 8080, or '\[fe80::1%eth0\]:0'"),
        ("[::1]", r"has no port: write '\[::1\]:8080'"),
        ("localhost", r"has no port: write 'localhost:8080' for port 8080, or 'localhost:0'"),
        ("localhost:", "has no port: write 'localhost:8080'"),
        (":8080", r"has no host: .* '10.0.0.5:8080', or leave the address out"),
        ("localhost:http", "has no port from 1 to 65535"),
        ("localhost:65536", "has no port from 1 to 65535"),
        ("http://10.0.0.5:80", r"is a URL: give it as url="),
        (r"C:\services\orders", r"a Windows path or pipe; callers need 'host:port'"),
        ("C:/services/orders", r"a Windows path or pipe"),
        (r"\\.\pipe\orders", r"a Windows path or pipe"),
        (r"\\server\share", r"a Windows path or pipe"),
        (r"DESKTOP-7\orders:80", r"has '\\\\' in its host; write '10\.0\.0\.5:80', or a name"),
        ("my machine:80", r"has ' ' in its host"),
        ("orders/api:80", r"has '/' in its host"),
    ],
)
def test_addresses_that_cannot_be_one(address: str, advice: str) -> None:
    with pytest.raises(InvalidService, match=advice) as caught:
        check_given("orders", address)
    assert repr(address) in str(caught.value)
    assert "'orders'" in str(caught.value)


class TestDoubts:
    @pytest.fixture(autouse=True)
    def names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Host names without a name server."""
        known = {"nats": "192.0.2.77", "here": "127.0.0.1", "localhost": "127.0.0.1"}
        original = socket.getaddrinfo

        def look_up(host: str, *args: Any, **options: Any) -> Any:
            if host == "unknown":
                raise socket.gaierror(-2, "Name or service not known")
            return original(known.get(host, host), *args, **options)

        monkeypatch.setattr("socket.getaddrinfo", look_up)

    @pytest.mark.parametrize(
        "url",
        [
            "nats://nats:4222",
            "nats://192.0.2.77:4222",
            "nats://unknown:4222",
            "nats://localhost:4222,nats://nats:4222",
            "redis://nats:6379",
        ],
    )
    @pytest.mark.parametrize("address", ["127.0.0.1:80", "[::1]:80", "localhost:80"])
    def test_only_this_machine_reaches_it_but_the_broker_is_elsewhere(
        self, url: str, address: str
    ) -> None:
        said = doubts(Service("x", address), Registry(url))
        assert said is not None
        assert f"x is announced at {address}, which only this machine reaches" in said
        assert "--host 0.0.0.0" in said
        assert "address='host:port'" in said

    @pytest.mark.parametrize(
        "url", ["nats://127.0.0.1:4222", "nats://here:4222", "redis://localhost", "memory://x"]
    )
    def test_nothing_is_wrong_where_the_broker_is_here(self, url: str) -> None:
        assert doubts(Service("x", "127.0.0.1:80"), Registry(url)) is None

    def test_the_broker_is_at_an_address_of_this_machine(self) -> None:
        host, _, _ = advertised_address(80).rpartition(":")
        assert doubts(Service("x", "127.0.0.1:80"), Registry(f"nats://{host}:4222")) is None

    @pytest.mark.parametrize("address", ["10.0.0.5:80", "orders-1:80", "[fd00::5]:80"])
    def test_nothing_is_wrong_with_a_proper_address(self, address: str) -> None:
        assert doubts(Service("x", address), Registry("nats://nats:4222")) is None

    @pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80"])
    def test_nobody_connects_to_every_address(self, address: str) -> None:
        said = doubts(Service("x", address), Registry("nats://localhost:4222"))
        assert said is not None
        assert f"x is announced at {address}, where a server can listen but no caller" in said

    def test_a_unix_socket_is_on_this_machine_only(self) -> None:
        service = Service("x", "/run/x.sock", network="unix")
        assert "only this machine reaches" in str(doubts(service, Registry("nats://nats:4222")))
