"""Who gets in to NATS, and what those hear who do not."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import runpy
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from tests.credentials import Certificates, Key, Operator, creds_file
from tests.templates import example
from tests.tools import eventually, in_time, no_new_tasks

from aioregistry import Registry, TransportError
from aioregistry.testing.brokers import Broker, nats_server
from aioregistry.transports.nats import NatsTransport

SECRET = "p@ss:w/ord"
IN_A_URL = "p%40ss%3Aw%2Ford"

Serve = Callable[[str], Awaitable[Broker]]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Starts a server with a configuration."""
    path = tmp_path / "nats.conf"
    exits = contextlib.ExitStack()

    async def start(config: str) -> Broker:
        path.write_text(config)
        server = nats_server("--config", str(path))
        return await asyncio.to_thread(exits.enter_context, server)

    yield start
    await asyncio.to_thread(exits.close)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    async with no_new_tasks():
        yield


@pytest.fixture
def files_may_be_read(blocking_calls_are_errors: BlockBuster) -> None:
    """The driver reads its key files within the event loop."""
    blocking_calls_are_errors.deactivate()


async def check_works(transport: str | NatsTransport, caplog: pytest.LogCaptureFixture) -> None:
    """Let a registry live, and see that it keeps its secrets."""
    with caplog.at_level(logging.DEBUG):
        async with asyncio.timeout(30), Registry(transport, lookup_timeout=5) as registry:
            await registry.register("orders", "10.0.0.5:8080")
            assert (await registry.get_service("orders")).port == 8080
            assert registry.stats().denied == 0
            check_secret(repr(registry), *([] if isinstance(transport, str) else [repr(transport)]))
    check_secret(caplog.text)


def check_secret(*texts: str) -> None:
    for text in texts:
        assert SECRET not in text
        assert IN_A_URL not in text


async def check_refused(
    make: Callable[[], NatsTransport | str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether one waits for the broker or not, one hears at once, and for good."""
    async with in_time(10):
        with pytest.raises(TransportError, match=text) as failure:
            await Registry(make(), connect_timeout=60).start()
        assert failure.value.permanent
        check_secret(str(failure.value))
        async with Registry(make(), connect_timeout=None) as registry:
            watch = registry.watch()
            with pytest.raises(TransportError, match=text) as failure:
                await registry.register("orders", "10.0.0.5:8080")
            assert failure.value.permanent
            with pytest.raises(TransportError, match=text):
                await anext(watch)
            for call in (
                registry.get_service("orders"),
                registry.get_services("orders"),
                registry.observe("orders"),
                registry.register("orders", "10.0.0.5:8080", wait=False),
                registry.wait_connected(),
            ):
                with pytest.raises(TransportError, match=text):
                    await call
    assert any(
        record.levelno >= logging.ERROR and "the registry ended" in record.getMessage()
        for record in caplog.records
    )
    check_secret(caplog.text)


# User, token, keys ------------------------------------------------------------------------


async def test_user_and_password(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    broker = await serve(f'authorization {{ user: orders, password: "{SECRET}" }}')
    await check_works(broker.url.replace("//", f"//orders:{IN_A_URL}@"), caplog)
    await check_works(NatsTransport(broker.url, user="orders", password=SECRET), caplog)
    for user, password in (("orders", "wrong"), ("other", SECRET)):
        await check_refused(
            lambda u=user, p=password: NatsTransport(broker.url, user=u, password=p),  # type: ignore[misc]  # the loop's values
            "refuses the credentials",
            caplog,
        )
    await check_refused(lambda: broker.url, "refuses the credentials", caplog)


async def test_token(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    broker = await serve(f'authorization {{ token: "{SECRET}" }}')
    await check_works(broker.url.replace("//", f"//{IN_A_URL}@"), caplog)
    await check_works(NatsTransport(broker.url, token=SECRET), caplog)
    await check_refused(
        lambda: NatsTransport(broker.url, token="wrong"), "refuses the credentials", caplog
    )


@pytest.mark.usefixtures("files_may_be_read")
async def test_nkey(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key, other = Key.of_user(), Key.of_user()
    broker = await serve(f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}")
    seed_file = tmp_path / "orders.nk"
    seed_file.write_bytes(key.seed)
    await check_works(NatsTransport(broker.url, nkeys_seed=str(seed_file)), caplog)
    await check_works(NatsTransport(broker.url, nkeys_seed_str=key.seed.decode()), caplog)
    assert key.seed.decode() not in caplog.text
    await check_refused(
        lambda: NatsTransport(broker.url, nkeys_seed_str=other.seed.decode()),
        "refuses the credentials",
        caplog,
    )
    await check_refused(
        lambda: NatsTransport(broker.url, nkeys_seed_str="SUNOSEED"), "invalid seed", caplog
    )
    await check_refused(
        lambda: NatsTransport(broker.url, nkeys_seed=str(tmp_path / "none.nk")),
        "none.nk",
        caplog,
    )


@pytest.mark.usefixtures("files_may_be_read")
async def test_credentials_file(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    operator, stranger, key = Operator(), Operator(), Key.of_user()
    broker = await serve(operator.nats())
    good = creds_file(tmp_path / "good.creds", operator.user(key), key)
    foreign = creds_file(tmp_path / "foreign.creds", stranger.user(key), key)
    rubbish = tmp_path / "rubbish.creds"
    rubbish.write_text("rubbish")
    await check_works(NatsTransport(broker.url, user_credentials=str(good)), caplog)
    assert key.seed.decode() not in caplog.text
    for path, text in (
        (foreign, "refuses the credentials"),
        (tmp_path / "none.creds", "none.creds"),
        (tmp_path, "irectory"),
        (rubbish, "no line 'BEGIN NATS USER JWT' in the credentials file"),
    ):
        await check_refused(
            lambda p=path: NatsTransport(broker.url, user_credentials=str(p)),  # type: ignore[misc]  # the loop's values
            text,
            caplog,
        )


async def test_credentials_that_are_withdrawn_later(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Then it goes on trying, and says why it is not connected."""
    broker = await serve(f'authorization {{ user: orders, password: "{SECRET}" }}')
    transport = NatsTransport(broker.url, user="orders", password=SECRET)
    async with Registry(transport, lookup_timeout=5) as registry:
        await registry.register("orders", "10.0.0.5:8080")
        await registry.get_service("orders")
        config = tmp_path / "nats.conf"
        before = config.read_text()
        config.write_text("authorization { user: orders, password: other }")
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        await eventually(lambda: "refuses the credentials" in registry.stats().detail)
        assert "refuses the credentials" in caplog.text
        assert (await registry.get_service("orders")).port == 8080
        config.write_text(before)
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        await registry.wait_connected(10)
    check_secret(caplog.text)


# TLS --------------------------------------------------------------------------------------


async def test_mutual_tls(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await serve(
        f'{certificates.nats()}\nauthorization {{ user: orders, password: "{SECRET}" }}'
    )
    url = f"tls://localhost:{broker.port}"
    login: dict[str, Any] = {"user": "orders", "password": SECRET}
    await check_works(NatsTransport(url, tls=certificates.context(), **login), caplog)
    plain_scheme = NatsTransport(
        f"nats://localhost:{broker.port}", tls=certificates.context(), **login
    )
    await check_works(plain_scheme, caplog)
    foreign = ssl.create_default_context()
    for context, text in (
        (certificates.context(client=None), "no TLS with .*certificate required"),
        (certificates.context(client="stranger"), "no TLS with .*(unknown ca|bad certificate)"),
        (foreign, "is not trusted"),
        (None, "is not trusted"),
    ):
        await check_refused(
            lambda c=context: NatsTransport(url, tls=c, **login),  # type: ignore[misc]  # the loop's values
            text,
            caplog,
        )


async def test_a_certificate_for_another_name(
    serve: Serve, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    broker = await serve(certificates.nats())
    await check_refused(
        lambda: NatsTransport(f"tls://127.0.0.1:{broker.port}", tls=certificates.context()),
        "is not trusted .*127.0.0.1",
        caplog,
    )


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls_is_never_downgraded(
    certificates: Certificates, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server, or somebody in front of it, that does not ask for TLS gets nothing at all."""
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","auth_required":true,"max_payload":1000}\r\n')
        received.append(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await check_refused(
        lambda: NatsTransport(
            f"{scheme}://127.0.0.1:{port}",
            tls=certificates.context(),
            user="orders",
            password=SECRET,
        ),
        "does not ask for TLS",
        caplog,
    )
    server.close()
    await server.wait_closed()
    assert set(received) == {b""}


async def test_a_plain_server_is_refused_with_tls(
    nats_broker: Broker, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    url = nats_broker.url.replace("nats", "tls")
    await check_refused(lambda: url, "does not ask for TLS", caplog)
    await check_refused(
        lambda: NatsTransport(url, tls=certificates.context(), tls_handshake_first=True),
        "no TLS with",
        caplog,
    )


async def test_a_driver_that_hides_its_connection_is_not_trusted(
    serve: Serve,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hidden(_client: object) -> None:
        pass

    monkeypatch.setattr("aioregistry.transports._nats_driver.stream_of", hidden)
    broker = await serve(certificates.nats())
    await check_refused(
        lambda: NatsTransport(f"tls://localhost:{broker.port}", tls=certificates.context()),
        "does not ask for TLS",
        caplog,
    )


async def test_the_documented_example(
    serve: Serve, certificates: Certificates, tmp_path: Path
) -> None:
    broker = await serve(
        f"{certificates.nats()}\nauthorization {{ user: orders, password: secret }}"
    )
    script = tmp_path / "example.py"
    script.write_text(example("nats"))
    main = runpy.run_path(str(script))["main"]
    async with asyncio.timeout(10):
        await main(f"tls://localhost:{broker.port}", str(certificates.folder))
