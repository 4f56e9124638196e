"""Who gets in to Redis, and what those hear who do not."""

from __future__ import annotations

import asyncio
import logging
import runpy
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from tests.credentials import Certificates
from tests.templates import example
from tests.tls_front import tls_front
from tests.tools import eventually, in_time, no_new_tasks

from aioregistry import Registry, TransportError
from aioregistry.testing.brokers import Broker, redis_server
from aioregistry.transports.redis import RedisTransport

SECRET = "p@ss:w/ord"
IN_A_URL = "p%40ss%3Aw%2Ford"
EVERYTHING = ("+@all", "allchannels")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def broker() -> Iterator[Broker]:
    with redis_server() as broker:
        yield broker


@pytest.fixture
async def acl(broker: Broker) -> AsyncIterator[Callable[..., Any]]:
    """Runs an ACL command."""
    client: Any = redis.asyncio.Redis(port=broker.port)  # partly untyped
    async with client:
        execute = client.execute_command
        yield lambda *words: execute("ACL", *words)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    async with no_new_tasks():
        yield


@pytest.fixture
def secure_url(broker: Broker, certificates: Certificates) -> Iterator[str]:
    """Where the broker is reached with TLS."""
    with tls_front(broker.port, certificates.server_context()) as port:
        yield f"rediss://localhost:{port}"


async def check_works(transport: str | RedisTransport, caplog: pytest.LogCaptureFixture) -> None:
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
    make: Callable[[], RedisTransport | str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether one waits for the broker or not, one hears at once, and for good."""
    async with in_time(10):
        with pytest.raises(TransportError, match=text) as failure:
            await Registry(make(), connect_timeout=60).start()
        assert failure.value.permanent
        check_secret(str(failure.value))
        async with Registry(make(), connect_timeout=None) as registry:
            watch = registry.watch()
            for call in (
                registry.register("orders", "10.0.0.5:8080"),
                anext(watch),
                registry.get_service("orders"),
                registry.observe("orders"),
                registry.wait_connected(),
            ):
                with pytest.raises(TransportError, match=text):
                    await call
    check_secret(caplog.text)


async def test_password(
    broker: Broker, acl: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    await acl("SETUSER", "default", f">{SECRET}", "resetpass", f">{SECRET}")
    await check_works(broker.url.replace("//", f"//:{IN_A_URL}@"), caplog)
    await check_works(RedisTransport(broker.url, password=SECRET), caplog)
    await check_refused(
        lambda: RedisTransport(broker.url, password="wrong"), "refuses this user", caplog
    )
    await check_refused(lambda: broker.url, "refuses this user", caplog)


async def test_acl_user(
    broker: Broker, acl: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    await acl("SETUSER", "orders", "on", f">{SECRET}", *EVERYTHING)
    await acl("SETUSER", "off", "off", f">{SECRET}", *EVERYTHING)
    await check_works(broker.url.replace("//", f"//orders:{IN_A_URL}@"), caplog)
    await check_works(RedisTransport(broker.url, username="orders", password=SECRET), caplog)
    shared: Any = redis.asyncio.Redis(port=broker.port, username="orders", password=SECRET)
    await check_works(RedisTransport(client=shared), caplog)
    await shared.aclose()
    for user, password in (("orders", "wrong"), ("nobody", SECRET), ("off", SECRET)):
        await check_refused(
            lambda u=user, p=password: RedisTransport(broker.url, username=u, password=p),  # type: ignore[misc]  # the loop's values
            "refuses this user",
            caplog,
        )


async def test_credentials_that_are_withdrawn_later(
    broker: Broker, acl: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Then it goes on trying, and says why it is not connected."""
    await acl("SETUSER", "orders", "on", f">{SECRET}", *EVERYTHING)
    transport = RedisTransport(broker.url, username="orders", password=SECRET)
    async with Registry(transport, lookup_timeout=5) as registry:
        await registry.register("orders", "10.0.0.5:8080")
        await registry.get_service("orders")
        await acl("DELUSER", "orders")  # which cuts its connections
        await eventually(lambda: "refuses this user" in registry.stats().detail)
        assert "refuses this user" in caplog.text
        assert (await registry.get_service("orders")).port == 8080
        await acl("SETUSER", "orders", "on", f">{SECRET}", *EVERYTHING)
        await registry.wait_connected(10)
    check_secret(caplog.text)


async def test_mutual_tls(
    secure_url: str,
    acl: Callable[..., Any],
    certificates: Certificates,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await acl("SETUSER", "orders", "on", f">{SECRET}", *EVERYTHING)
    folder = certificates.folder

    def options(client: str | None, **more: str) -> dict[str, Any]:
        pair = {} if client is None else {"ssl_certfile": client, "ssl_keyfile": client}
        files = {"ssl_ca_certs": "ca.pem", **pair, **more}
        paths = {name: str(folder / file) for name, file in files.items()}
        return {"username": "orders", "password": SECRET, **paths}

    await check_works(RedisTransport(secure_url, **options("client.pem")), caplog)
    for given, text in (
        (options(None), "no TLS with .*certificate required"),
        (options("stranger.pem"), "no TLS with .*unknown ca"),
        (options("client.pem", ssl_ca_certs="stranger.pem"), "is not trusted"),
        ({"username": "orders", "password": SECRET}, "is not trusted"),
    ):
        await check_refused(
            lambda g=given: RedisTransport(secure_url, **g),  # type: ignore[misc]  # the loop's values
            text,
            caplog,
        )
    by_address = secure_url.replace("localhost", "127.0.0.1")
    await check_refused(
        lambda: RedisTransport(by_address, **options("client.pem")), "is not trusted", caplog
    )


async def test_a_server_without_tls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    received: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(1000))
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    url = f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    await check_refused(lambda: RedisTransport(url, password=SECRET), "no TLS with", caplog)
    server.close()
    await server.wait_closed()
    assert received
    assert not any(b"AUTH" in message or SECRET.encode() in message for message in received)


async def test_the_documented_example(
    secure_url: str, acl: Callable[..., Any], certificates: Certificates, tmp_path: Path
) -> None:
    await acl("SETUSER", "orders", "on", ">secret", *EVERYTHING)
    script = tmp_path / "example.py"
    script.write_text(example("redis"))
    main = runpy.run_path(str(script))["main"]
    async with asyncio.timeout(10):
        await main(secure_url, str(certificates.folder))
