"""What a NATS transport makes of its arguments, before anything is connected."""

from __future__ import annotations

import re
from typing import Any

import pytest
from nats.aio.client import Client

from aioregistry.errors import TransportError
from aioregistry.transports.base import Transport
from aioregistry.transports.nats import NatsTransport


def test_is_a_transport() -> None:
    assert isinstance(NatsTransport("nats://localhost"), Transport)


@pytest.mark.parametrize(
    ("servers", "address"),
    [
        ("nats://localhost:4222", "nats://localhost:4222"),
        ("nats://localhost", "nats://localhost:4222"),
        ("nats://localhost:", "nats://localhost:4222"),
        ("nats://localhost/", "nats://localhost:4222"),
        ("localhost:4333", "nats://localhost:4333"),
        ("tls://[::1]:4333", "tls://[::1]:4333"),
        ("ws://example.com", "ws://example.com"),
        ("wss://example.com:8443/nats", "wss://example.com:8443/nats"),
        ("nats://a:1, nats://b:2", "nats://a:1,nats://b:2"),
        (["nats://a:1", "tls://b:2"], "nats://a:1,tls://b:2"),
        ("nats://user:secret@a:1,nats://t0ken@b:2", "nats://a:1,nats://b:2"),
        ("nats://user:p%40ss@a:1", "nats://a:1"),
    ],
)
def test_the_address_names_the_servers_without_credentials(
    servers: str | list[str], address: str
) -> None:
    transport = NatsTransport(servers)
    assert transport.address == address
    assert address in repr(transport)


@pytest.mark.parametrize(
    "servers",
    [
        "",
        "nats://",
        "http://localhost:4222",
        "nats://localhost:99999",
        "nats://localhost:port",
        "nats://local host:4222",
        "nats://localhost:4222\r\nPUB x 0",
        "nats://localhost:4222/path",
        "nats://localhost:4222?option=1",
        "nats://[::1:4222",
        "nats://a:1,,nats://b:1",
        "nats://a:1,ws://b:1",
        [],
    ],
)
def test_servers_that_make_no_sense_are_refused(servers: str | list[str]) -> None:
    with pytest.raises(ValueError, match=r"write scheme://|pass at least one|use one kind"):
        NatsTransport(servers)


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@host",
        "nats://user:secret@host:x",
        "user:secret@:1",
        "nats://user:secret,more@host",
        "nats://user:12345secret,more@host:4222",
        "nats://a:1,nats://user:secret,@host",
        "nats://user:secret://more@host",
        "nats://user:secret/more@host",
        "nats://user:secret#more@host",
    ],
)
def test_a_refused_url_is_shown_without_credentials(url: str) -> None:
    with pytest.raises(ValueError) as refusal:
        NatsTransport(url)
    assert "secret" not in str(refusal.value)
    assert "***" in str(refusal.value)


def test_either_servers_or_a_client() -> None:
    with pytest.raises(ValueError, match=r"either servers= .* or client="):
        NatsTransport()
    with pytest.raises(ValueError, match=r"either servers= .* or client="):
        NatsTransport("nats://localhost", client=Client())


def test_options_are_for_connections_of_its_own() -> None:
    with pytest.raises(ValueError, match="name: a borrowed client is connected already"):
        NatsTransport(client=Client(), name="x")


def test_options_that_do_not_exist_or_are_managed_are_refused() -> None:
    with pytest.raises(TypeError, match="no option usr"):
        NatsTransport("nats://localhost", usr="x")
    for name in ("allow_reconnect", "error_cb", "no_echo", "pending_size"):
        unusual: dict[str, Any] = {name: 1}
        with pytest.raises(TypeError, match=f"{name} is managed"):
            NatsTransport("nats://localhost", **unusual)


@pytest.mark.parametrize("name", ["probe_interval", "probe_timeout"])
@pytest.mark.parametrize(
    "value",
    [0, -1, float("nan"), float("inf"), 10**400, True, "1", None, [1]],
    ids=lambda value: f"{value!r:.9}",
)
def test_times_are_positive_numbers(name: str, value: object) -> None:
    times: dict[str, Any] = {name: value}
    told = re.escape(f"{name} must be a positive number of seconds, not {value!r}")
    with pytest.raises(ValueError, match=told):
        NatsTransport("nats://localhost", **times)


async def test_a_client_that_was_never_connected_is_refused() -> None:
    transport = NatsTransport(client=Client())
    with pytest.raises(TransportError, match="not connected"):
        await transport.connect(lambda _state, _reason: None)
    await transport.aclose()
