"""Getting in: servers, credentials, TLS, WebSockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    UP,
    Reports,
    check_delivery,
    connected,
    freeze,
    served,
)

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.transports.nats import NatsTransport


async def test_no_server(broker: Broker) -> None:
    await asyncio.to_thread(broker.stop)
    before = asyncio.all_tasks()
    transport = NatsTransport(broker.url)
    started = time.monotonic()
    with pytest.raises(TransportError, match=f"nothing listens at {broker.url}") as failure:
        await transport.connect(Reports())
    assert not failure.value.permanent
    assert time.monotonic() - started < 1
    for call in (transport.publish("x", b""), transport.flush(), transport.unheard(["x"])):
        with pytest.raises(TransportError, match="not connected"):
            await call
    await asyncio.to_thread(broker.start)
    await transport.connect(Reports())
    await transport.flush()
    with pytest.raises(TransportError, match="called before"):
        await transport.connect(Reports())
    await transport.aclose()
    assert asyncio.all_tasks() == before


async def test_a_server_that_does_not_answer(broker: Broker) -> None:
    """Pitfall 8: the driver would go on for minutes."""
    freeze(broker)
    transport = NatsTransport(broker.url, connect_timeout=0.2)
    with pytest.raises(TransportError, match=r"no answer from .* within 0.2 s"):
        await transport.connect(Reports())
    await transport.aclose()
    broker.thaw()


async def test_an_unknown_host() -> None:
    transport = NatsTransport("nats://no-such-host.invalid", connect_timeout=5)
    with pytest.raises(TransportError, match=r"cannot connect to nats://no-such-host.invalid:4222"):
        await transport.connect(Reports())
    await transport.aclose()


async def test_something_else_listens(redis_broker: Broker) -> None:
    transport = NatsTransport(redis_broker.url.replace("redis", "nats"), connect_timeout=0.3)
    with pytest.raises(TransportError, match=r"cannot connect|no answer"):
        await transport.connect(Reports())
    await transport.aclose()


async def test_a_cluster_with_a_server_down(nats_broker: Broker, broker: Broker) -> None:
    await asyncio.to_thread(broker.stop)
    for servers in ([broker.url, nats_broker.url], f"{nats_broker.url},{broker.url}"):
        async with connected(servers) as (transport, _):
            await transport.flush()


@pytest.mark.parametrize("login", ["", "all:wrong@", "nobody:x@", "token@"])
async def test_refused_credentials_are_permanent(restricted_broker: Broker, login: str) -> None:
    transport = NatsTransport(restricted_broker.url.replace("//", f"//{login}"))
    with pytest.raises(TransportError, match="refuses the credentials") as failure:
        await transport.connect(Reports())
    assert failure.value.permanent
    assert "wrong" not in str(failure.value)
    await transport.aclose()


async def test_credentials_as_options(restricted_broker: Broker) -> None:
    async with connected(restricted_broker.url, user="all", password="p@ss") as (transport, _):
        await transport.flush()


@pytest.mark.parametrize(("user", "verb"), [("mute", "publish"), ("deaf", "subscribe")])
async def test_a_user_without_inboxes_learns_what_is_missing(
    restricted_broker: Broker, user: str, verb: str
) -> None:
    transport = NatsTransport(restricted_broker.url, user=user, password=user)
    with pytest.raises(TransportError, match=f"no permission to {verb}.*'_INBOX.>'") as failure:
        await transport.connect(Reports())
    assert failure.value.permanent
    await transport.aclose()


async def test_cancelled_while_it_connects(broker: Broker) -> None:
    before = asyncio.all_tasks()
    freeze(broker)
    transport = NatsTransport(broker.url)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await transport.connect(Reports())
    broker.thaw()
    await transport.connect(Reports())
    await transport.flush()
    await transport.aclose()
    assert asyncio.all_tasks() == before


async def test_closed_while_it_connects(broker: Broker) -> None:
    freeze(broker)
    transport = NatsTransport(broker.url)
    connecting = asyncio.create_task(transport.connect(Reports()))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await transport.aclose()
    with pytest.raises(TransportError, match="is closed"):
        await connecting
    assert time.monotonic() - started < 1
    broker.thaw()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return folder


# The driver calls aiohttp in a way that newer versions of aiohttp disapprove of.
websocket = pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning")


@websocket
@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_tls(certificate: Path, tmp_path: Path, scheme: str) -> None:
    config = tmp_path / "nats.conf"
    tls = f'tls {{ cert_file: "{certificate}/cert.pem", key_file: "{certificate}/key.pem" }}'
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        web_port = probe.getsockname()[1]
    config.write_text(f'{tls}\nwebsocket {{ host: "127.0.0.1", port: {web_port}, {tls} }}')
    async with served(config) as broker:
        url = f"{scheme}://localhost:{broker.port if scheme == 'tls' else web_port}"
        transport = NatsTransport(url)
        with pytest.raises(
            TransportError, match=r"certificate .* is not trusted.* pass tls="
        ) as refusal:
            await transport.connect(Reports())
        assert refusal.value.permanent
        await transport.aclose()
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        async with connected(url, tls=trusting, probe_interval=0.2, probe_timeout=0.2) as (
            transport,
            reports,
        ):
            await check_delivery(transport)
            freeze(broker)
            await reports.until(DOWN)
            broker.thaw()
            await reports.until(DOWN, UP)
            await check_delivery(transport)


@websocket
async def test_websocket(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config.write_text(f'websocket {{ host: "127.0.0.1", port: {port}, no_tls: true }}')
    async with (
        served(config) as broker,
        connected(f"ws://127.0.0.1:{port}") as (transport, reports),
    ):
        await check_delivery(transport)
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await check_delivery(transport)
