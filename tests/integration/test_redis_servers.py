"""The Redis transport and servers, users and Sentinels that are not as most are."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.backoff
from redis.asyncio.sentinel import Sentinel
from tests.integration.test_redis_transport_trouble import (
    RIGHTS,
    FakeRedis,
    Inbox,
    States,
    connected,
    hears,
    restrict,
    serving,
)

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import unused_port
from aioregistry.transports.redis import RedisTransport

Untyped: Any = Sentinel  # partly untyped


async def test_wrong_credentials_are_permanent_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "redis.sock")
    async with serving("--unixsocket", path, "--requirepass", "right-word"):
        transport = RedisTransport(f"unix://:wrong-word@{path}")
        with pytest.raises(TransportError, match="check user name and password") as caught:
            await transport.connect(States())
        assert caught.value.permanent
        await transport.aclose()


class WithoutResp3(FakeRedis):
    """A server that knows HELLO, but not RESP3."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = [await self._word(reader) for _ in range(int(line[1:]))]
                if words[0] == b"PING":
                    writer.write(b"$%d\r\n%b\r\n" % (len(words[1]), words[1]))
                elif words[0] == b"SUBSCRIBE":
                    writer.write(self.confirmation(words[1]))
                elif words == [b"HELLO", b"2"]:
                    writer.write(b"*2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n")
                else:
                    writer.write(b"-NOPROTO unsupported protocol version\r\n")


async def test_a_server_that_knows_hello_but_not_resp3() -> None:
    fake = WithoutResp3(resp3=False)
    async with fake.serving() as url, connected(url) as transport:
        await transport.flush()
        assert len(fake.writers) == 2


class TakesHelloAndStaysAtResp2(FakeRedis):
    """A server that takes `HELLO 3`, and goes on in RESP2, as its answer says."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = [await self._word(reader) for _ in range(int(line[1:]))]
                if words[0] == b"PING":
                    writer.write(b"$%d\r\n%b\r\n" % (len(words[1]), words[1]))
                elif words[0] == b"SUBSCRIBE":
                    writer.write(self.confirmation(words[1]))
                elif words[0] == b"PUBLISH":
                    message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n"
                    self.writers[0].write(message)
                    writer.write(b":1\r\n")
                else:
                    writer.write(b"*4\r\n$5\r\nproto\r\n:2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n")


async def test_a_server_that_takes_hello_3_and_stays_at_resp2() -> None:
    fake, states, inbox = TakesHelloAndStaysAtResp2(resp3=False), States(), Inbox()
    async with fake.serving() as url, connected(url, states) as transport:
        await transport.subscribe("a", inbox)
        assert await hears(transport, "a", inbox)
        assert states == []


async def test_documented_rights_are_enough_with_a_database() -> None:
    async with (
        serving() as broker,
        redis.asyncio.Redis(port=broker.port, protocol=2) as admin,
    ):
        await restrict(admin, *RIGHTS)
        async with connected(f"redis://app:word@127.0.0.1:{broker.port}/1") as transport:
            await transport.flush()


async def test_a_missing_file_of_certificates(tmp_path: Path) -> None:
    transport = RedisTransport(
        f"rediss://localhost:{unused_port()}", ssl_ca_certs=str(tmp_path / "missing.pem")
    )
    with pytest.raises(TransportError) as caught:
        await transport.connect(States())
    assert caught.value.permanent
    assert "missing.pem" in str(caught.value) or "ssl_ca_certs" in str(caught.value)
    await transport.aclose()


async def test_no_sentinel_and_no_password_in_the_text() -> None:
    sentinel: Any = Untyped(
        [("127.0.0.1", unused_port())],
        sentinel_kwargs={
            "password": "secret-word",
            "retry": redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0),
        },
    )
    client = sentinel.master_for("main", password="other-word")
    transport = RedisTransport(client=client)
    with pytest.raises(TransportError) as caught:
        await transport.connect(States())
    assert "-word" not in str(caught.value)  # in it with redis-py 6 and 7
    assert "socket_timeout" not in str(caught.value)  # the options, in full, with each of them
    await transport.aclose()


async def test_what_is_under_way_learns_why_the_link_was_given_up() -> None:
    states = States()
    async with (
        serving() as broker,
        connected(broker.url, states, probe_interval=0.05, probe_timeout=0.2) as transport,
    ):
        await transport.flush()
        broker.freeze()
        with pytest.raises(TransportError) as caught:
            await transport.flush()
        broker.thaw()
        assert "no answer" in str(caught.value)
