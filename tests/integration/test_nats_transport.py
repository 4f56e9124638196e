"""The NATS transport against a real nats-server, and what nats-py does not say by itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from aioregistry import Registry
from aioregistry.errors import TransportError
from aioregistry.testing import TcpProxy
from aioregistry.testing.brokers import Broker, nats_server
from aioregistry.transports import _nats_driver, _nats_wire
from aioregistry.transports.base import Handler, LinkState
from aioregistry.transports.nats import NatsTransport

UP, DOWN = LinkState.CONNECTED, LinkState.DISCONNECTED
PATIENCE = 10.0

Message = tuple[str, bytes]


class Reports:
    """A state handler that keeps what it is told, and lets one wait for it."""

    def __init__(self) -> None:
        self.all: list[tuple[LinkState, str]] = []
        self._news = asyncio.Event()

    def __call__(self, state: LinkState, reason: str) -> None:
        self.all.append((state, reason))
        self._news.set()

    @property
    def states(self) -> list[LinkState]:
        return [state for state, _ in self.all]

    async def until(self, *states: LinkState) -> str:
        """Wait until exactly these were reported; the reason of the last one."""
        async with asyncio.timeout(PATIENCE):
            while len(self.all) < len(states):
                self._news.clear()
                await self._news.wait()
        assert self.states == list(states), self.all
        return self.all[-1][1]


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for what nobody tells of: the state of the broker, or of the driver."""
    async with asyncio.timeout(PATIENCE):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def connected(
    *args: Any, **kwargs: Any
) -> AsyncGenerator[tuple[NatsTransport, Reports], None]:
    """A transport with its reports, which is closed in the end."""
    transport, reports = NatsTransport(*args, **kwargs), Reports()
    await transport.connect(reports)
    try:
        yield transport, reports
    finally:
        started = time.monotonic()
        await transport.aclose()
        assert time.monotonic() - started < 2


@contextlib.asynccontextmanager
async def borrowing(url: str, **options: Any) -> AsyncGenerator[Client, None]:
    driver: Any = nats  # partly untyped
    client: Client = await driver.connect(
        url, max_reconnect_attempts=-1, reconnect_time_wait=0.02, error_cb=_ignore, **options
    )
    try:
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def served(config: Path, *options: str, **kwargs: Any) -> AsyncGenerator[Broker, None]:
    """A broker that is started and stopped from within the event loop."""
    manager = nats_server("--config", str(config), *options, **kwargs)
    broker = await asyncio.to_thread(manager.__enter__)
    try:
        yield broker
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


async def _ignore(_error: Exception) -> None:
    pass


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    yield
    for _ in range(3):  # what the clients of the tests leave for the next round of the loop
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # a task whose error nobody looked at is found now
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of one test, which it may kill."""
    with nats_server() as broker:
        yield broker


@pytest.fixture
def restricted_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker with two users: one may do all, the other only a little."""
    config = tmp_path / "nats.conf"
    config.write_text("""
        max_payload: 1000
        authorization { users = [
            {user: all, password: "p@ss"}
            {user: some, password: some, permissions: {
                publish: {deny: ["secret.>", "Denied.>"]}, subscribe: {deny: ["secret.>"]}}}
            {user: mute, password: mute, permissions: {publish: {deny: ["_INBOX.>"]}}}
            {user: deaf, password: deaf, permissions: {subscribe: {deny: ["_INBOX.>"]}}}
        ]}
    """)
    with nats_server("--config", str(config)) as broker:
        yield broker


def collector() -> tuple[list[Message], Handler]:
    messages: list[Message] = []
    return messages, lambda subject, payload: messages.append((subject, payload))


def driver_of(transport: Any) -> Any:
    return transport._link._client


def ignore(_subject: str, _payload: bytes) -> None:
    pass


def must_not_arrive(subject: str, _payload: bytes) -> None:
    pytest.fail(f"{subject} arrived")


def freeze(broker: Broker) -> None:
    """Stop the broker's process, and wait until it has stopped."""
    broker.freeze()
    os.waitid(os.P_PID, broker.pid, os.WSTOPPED)


# The protocol -----------------------------------------------------------------------------


async def test_messages_arrive_in_order_at_every_matching_subscription(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        one, on_one = collector()
        deep, on_deep = collector()
        await transport.subscribe("order.*", on_one)
        await transport.subscribe("order.>", on_deep)
        for number in range(50):
            await transport.publish(f"order.{number}", b"x")
            await transport.publish(f"order.{number}.more", b"")
        await transport.flush()
        assert one == [(f"order.{number}", b"x") for number in range(50)]
        assert len(deep) == 100


async def test_a_subscription_is_in_place_before_the_next_publish(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        for number in range(100):
            messages, handler = collector()
            subscription = await transport.subscribe("place", handler)
            await transport.publish("place", b"%d" % number)
            await transport.flush()
            assert messages == [("place", b"%d" % number)]
            await subscription.unsubscribe()
            await subscription.unsubscribe()


async def test_subscriptions_made_before_the_link_come_with_it(nats_broker: Broker) -> None:
    transport = NatsTransport(nats_broker.url)
    kept, on_kept = collector()
    ended, on_ended = collector()
    await transport.subscribe("early", on_kept)
    await (await transport.subscribe("early", on_ended)).unsubscribe()
    await transport.connect(Reports())
    await transport.publish("early", b"1")
    await transport.flush()
    assert (kept, ended) == ([("early", b"1")], [])
    await transport.aclose()


async def test_nobody_listens_comes_back_to_every_handler_of_the_asker(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        exact, on_exact = collector()
        wild, on_wild = collector()
        foreign, on_foreign = collector()
        await transport.subscribe("answer.here", on_exact)
        await transport.subscribe("answer.>", on_wild)
        await other.subscribe("answer.>", on_foreign)
        await other.flush()
        await transport.publish("nobody.there", b"?", "answer.here")
        await transport.flush()
        await other.flush()
        assert exact == wild == [("answer.here", b"")]
        assert foreign == []


async def test_unheard_is_what_nobody_subscribes_to(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        await transport.subscribe(">", ignore)  # takes part in all, so nothing is unheard
        assert await transport.unheard(["a.1"]) == frozenset()
    async with connected(nats_broker.url) as (transport, _):
        async with connected(nats_broker.url) as (other, _):
            for number in range(0, 500, 2):
                await other.subscribe(f"unheard.{number}", ignore)
            await other.subscribe("answering", ignore)
            await other.flush()
            subjects = [f"unheard.{number}" for number in range(500)]
            assert await transport.unheard(subjects) == frozenset(subjects[1::2])
            assert await transport.unheard([]) == frozenset()

        async def all_gone() -> bool:
            return await transport.unheard(subjects) == frozenset(subjects)

        await eventually(all_gone)


async def test_an_answer_to_the_question_is_no_silence(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(nats_broker.url) as (transport, _),
    ):

        async def respond(msg: Msg) -> None:
            await msg.respond(b"")

        await subscribe_to(client, "alive.me", respond)
        assert await transport.unheard(["alive.me", "alive.you"]) == {"alive.you"}


async def subscribe_to(client: Any, subject: str, callback: Callable[[Msg], Any]) -> None:
    await client.subscribe(subject, cb=callback)
    await client.flush()
    await client.flush()  # the first one may overtake the subscription


async def test_wildcards_at_the_front_do_not_see_the_echoes(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        everything, handler = collector()
        await transport.subscribe(">", handler)
        await transport.subscribe("*.*.*", handler)
        await transport.flush()
        await other.flush()
        await other.unheard(["x.unheard"])
        await transport.unheard(["y.unheard"])
        await other.publish("end", b"")
        await eventually(lambda: ("end", b"") in everything)
        assert everything == [("x.unheard", b""), ("y.unheard", b""), ("end", b"")]


async def test_flush_is_a_barrier_for_every_subscription(nats_broker: Broker) -> None:
    """Pitfall 5: and each subscription of the driver has a queue and a task of its own."""
    async with (
        connected(nats_broker.url) as (receiver, _),
        connected(nats_broker.url) as (sender, _),
    ):
        counts = [0] * 10

        def counter(index: int) -> Handler:
            def count(_subject: str, _payload: bytes) -> None:
                counts[index] += 1

            return count

        for index in range(10):
            await receiver.subscribe(
                f"barrier.{index}.>" if index % 2 else "barrier.>", counter(index)
            )
        await receiver.flush()
        for burst in range(1, 6):
            for number in range(2000):
                await sender.publish(f"barrier.{number % 10}.x", b"x" * 300)
            await sender.flush()  # the broker has taken it, and has sent it on
            await receiver.flush()
            assert counts == [
                2000 * burst if index % 2 == 0 else 200 * burst for index in range(10)
            ]


async def test_flush_covers_what_the_caller_has_published(nats_broker: Broker) -> None:
    """Calls may share a round trip, but only one that began after each of them."""
    async with connected(nats_broker.url) as (transport, _):
        seen: set[str] = set()
        await transport.subscribe("cover.>", lambda subject, _: seen.add(subject))

        async def publish_and_flush(number: int) -> None:
            for round_ in range(20):
                subject = f"cover.{number}.{round_}"
                await transport.publish(subject, b"")
                await transport.flush()
                assert subject in seen

        await asyncio.gather(*map(publish_and_flush, range(100)))


async def test_a_cancelled_flush_harms_no_other(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        flushes = [asyncio.create_task(transport.flush()) for _ in range(10)]
        await asyncio.sleep(0)
        for flush in flushes[::2]:
            flush.cancel()
        await asyncio.wait(flushes)
        assert [flush.cancelled() for flush in flushes] == [True, False] * 5
        assert not any(flush.exception() for flush in flushes[1::2])


async def test_a_raising_handler_loses_no_message(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 6: a callback that raises CancelledError would end the subscription."""
    async with connected(nats_broker.url) as (transport, reports):
        messages: list[bytes] = []

        def handler(_subject: str, payload: bytes) -> None:
            messages.append(payload)
            raise (asyncio.CancelledError if payload == b"cancel" else ValueError)

        await transport.subscribe("raise", handler)
        for payload in (b"cancel", b"error", b"cancel", b"end"):
            await transport.publish("raise", payload)
        await transport.flush()
        assert messages == [b"cancel", b"error", b"cancel", b"end"]
        assert reports.all == []
    assert "the handler of <subscription to 'raise'> raised" in caplog.text


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "white space",
        "line\r\nPUB x 0\r\n",
        "nul\0",
        "tab\t",
        "\x0b",
        "\x7f",
        "\ud800",
        "x" * 5000,
    ],
)
async def test_a_subject_that_would_harm_the_protocol_is_refused(
    nats_broker: Broker, subject: str
) -> None:
    """Pitfall 11."""
    async with connected(nats_broker.url) as (transport, reports):
        for call in (
            transport.publish(subject, b""),
            transport.publish("fine", b"", subject),
            transport.subscribe(subject, ignore),
            transport.unheard([subject]),
        ):
            with pytest.raises(ValueError, match="NATS cannot carry the subject"):
                await call
        await transport.flush()
        assert reports.all == []


@pytest.mark.parametrize("pattern", ["a..b", ".a", "a.", "a.>.b", "a*", "*a.b", "a.b>"])
async def test_a_pattern_that_nats_does_not_have_is_refused(
    nats_broker: Broker, pattern: str
) -> None:
    async with connected(nats_broker.url) as (transport, _):
        with pytest.raises(ValueError, match="NATS takes no pattern"):
            await transport.subscribe(pattern, ignore)


async def test_long_and_foreign_subjects_arrive(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        messages, handler = collector()
        subject = "lang." + "\U0001f600" * 470
        await transport.subscribe("lang.*", handler)
        await transport.publish(subject, b"")
        await transport.publish("nobody." + "\U0001f600" * 470, b"", subject)
        await transport.flush()
        assert messages == [(subject, b"")] * 2


async def test_a_payload_too_large_is_refused_with_both_sizes(restricted_broker: Broker) -> None:
    url = restricted_broker.url.replace("//", "//all:p%40ss@")
    async with connected(url) as (transport, reports):
        with pytest.raises(
            TransportError, match=r"'big' has 1001 bytes, .* at most 1000"
        ) as refusal:
            await transport.publish("big", b"x" * 1001)
        assert refusal.value.subjects == {"big"}
        await transport.publish("big", b"x" * 1000)
        await transport.flush()
        assert reports.all == []


# Getting in -------------------------------------------------------------------------------


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


async def check_delivery(transport: NatsTransport) -> None:
    messages, handler = collector()
    subscription = await transport.subscribe("check.delivery", handler)
    await transport.publish("check.delivery", b"1")
    await transport.flush()
    assert messages == [("check.delivery", b"1")]
    await subscription.unsubscribe()


# Losing the link --------------------------------------------------------------------------


async def test_a_broker_that_crashes_and_comes_back(broker: Broker) -> None:
    async with connected(broker.url) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("back.*", handler)
        ended = await transport.subscribe("back.>", must_not_arrive)
        await asyncio.to_thread(broker.kill)
        assert "the connection to NATS" in await reports.until(DOWN)
        started = time.monotonic()
        for call in (transport.publish("x", b""), transport.flush(), transport.unheard(["x"])):
            with pytest.raises(TransportError, match="not connected"):
                await call
        assert time.monotonic() - started < 0.1
        await ended.unsubscribe()
        await transport.subscribe("while.down", handler)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("back.again", b"1")
        await transport.publish("while.down", b"2")
        await transport.flush()
        assert sorted(messages) == [("back.again", b"1"), ("while.down", b"2")]


async def test_nothing_published_before_the_loss_comes_late(broker: Broker) -> None:
    """Pitfall 7: the driver would replay what it had kept."""
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("stale", handler)
        await transport.flush()
        await asyncio.to_thread(broker.kill)
        sent = 0
        with contextlib.suppress(TransportError):
            while True:  # as long as nobody has noticed
                await transport.publish("stale", b"")
                sent += 1
                await asyncio.sleep(0)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.flush()
        assert messages == []


async def test_a_frozen_broker_is_noticed_and_welcome_back(broker: Broker) -> None:
    """A half-open link: the socket stays, and nobody answers."""
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("thaw", handler)
        freeze(broker)
        flushing = asyncio.create_task(transport.flush())
        assert "has not answered" in await reports.until(DOWN)
        with pytest.raises(TransportError, match=r"did not answer within 0.2 s"):
            await flushing
        broker.thaw()
        await reports.until(DOWN, UP)
        await transport.publish("thaw", b"1")
        await transport.flush()
        assert messages == [("thaw", b"1")]


async def test_a_frozen_broker_is_noticed_though_somebody_flushes_all_the_time(
    broker: Broker,
) -> None:
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        flushes: list[asyncio.Task[None]] = []
        for _ in range(100):
            if DOWN in [state for state, _ in reports.all]:
                break
            flushes.append(asyncio.create_task(transport.flush()))
            await asyncio.sleep(0.02)
        assert DOWN in [state for state, _ in reports.all]
        assert all(await asyncio.gather(*flushes, return_exceptions=True))
        broker.thaw()


async def test_a_blocked_event_loop_is_no_loss(nats_broker: Broker) -> None:
    async with connected(nats_broker.url, probe_interval=0.05, probe_timeout=0.2) as (
        transport,
        reports,
    ):
        for _ in range(3):
            flushing = asyncio.create_task(transport.flush())
            await asyncio.sleep(0.03)
            time.sleep(0.5)  # noqa: ASYNC251 - the point of the test
            await flushing
        assert reports.all == []


@pytest.fixture
def plain_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that keeps its parser where ours does not find it: the messages take its way."""
    monkeypatch.setattr(_nats_driver, "Parser", object)


async def test_a_subject_that_is_no_utf8_harms_nobody(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 1: it would end the driver's read loop; so would a header that is none."""
    async with connected(nats_broker.url) as (transport, reports):
        messages, handler = collector()
        await transport.subscribe("raw.*", handler)
        await transport.flush()
        with socket.create_connection(("127.0.0.1", nats_broker.port), timeout=5) as stranger:
            stranger.sendall(
                b'CONNECT {"headers":true,"no_responders":true}\r\n'
                b"PUB raw.\xff\xfe 2\r\nhi\r\n"
                b"HPUB raw.odd 14 16\r\nNATS/1.0 \xff\r\n\r\nhi\r\n"
                b"HPUB raw.\xff 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
                b"PUB raw.end 0\r\n\r\n"
            )
            await eventually(lambda: ("raw.end", b"") in messages)
        assert messages == [("raw.odd", b"hi"), ("raw.end", b"")]
        assert reports.all == []
    assert caplog.text.count("that is not UTF-8") == 1  # one line a minute


@pytest.mark.usefixtures("plain_driver")
async def test_a_dead_read_loop_is_noticed(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 1: one subject that is no UTF-8, and the driver hears nothing any more."""
    async with connected(nats_broker.url, probe_interval=0.1, probe_timeout=0.2) as (
        transport,
        reports,
    ):
        await transport.subscribe("raw.*", ignore)
        await transport.flush()
        _, writer = await asyncio.open_connection("127.0.0.1", nats_broker.port)
        writer.write(b"CONNECT {}\r\nPUB raw.\xff\xfe 0\r\n\r\n")
        await reports.until(DOWN)
        await reports.until(DOWN, UP)
        await check_delivery(transport)
        writer.close()
        await writer.wait_closed()


async def test_a_late_echo_harms_nothing(broker: Broker) -> None:
    """Pitfall 1: a late PONG would end the driver's read loop."""
    async with connected(broker.url, probe_interval=60, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        with pytest.raises(TransportError, match="did not answer"):
            await transport.flush()
        broker.thaw()
        await transport.flush()
        await check_delivery(transport)
        assert reports.all == []


async def test_closed_for_good_by_an_error_of_the_server(broker: Broker) -> None:
    """Pitfall 2: the driver gives up after most -ERR; here one for a protocol line too long."""
    async with connected(broker.url) as (transport, reports):
        driver_of(transport)._transport.write(b"PUB " + b"x" * 5000 + b" 0\r\n\r\n")
        reason = await reports.until(DOWN)
        assert "maximum control line exceeded" in reason
        await reports.until(DOWN, UP)
        await check_delivery(transport)


async def test_refused_after_a_restart_it_keeps_trying_and_says_why(
    tmp_path: Path, broker: Broker
) -> None:
    async with connected(broker.url) as (transport, reports):
        await asyncio.to_thread(broker.stop)
        await reports.until(DOWN)
        config = tmp_path / "nats.conf"
        config.write_text("authorization { user: u, password: p }")
        async with served(config, port=broker.port):
            assert "refuses the credentials" in await reports.until(DOWN, DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, DOWN, UP)
        await check_delivery(transport)


async def test_too_many_connections(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_connections: 1")

    async def let_in(transport: NatsTransport) -> bool:
        with contextlib.suppress(TransportError):
            await transport.connect(Reports())
            return True
        return False

    async with served(config) as broker:
        first, late = NatsTransport(broker.url), NatsTransport(broker.url)
        await eventually(lambda: let_in(first))  # the server may not have forgotten its starter
        with pytest.raises(TransportError, match="cannot connect") as refusal:
            await late.connect(Reports())
        assert not refusal.value.permanent
        await first.aclose()
        await eventually(lambda: let_in(late))
        await late.aclose()


async def test_the_servers_of_a_cluster_are_remembered(tmp_path: Path) -> None:
    """The one that was configured dies, and stays dead."""
    ports: list[int] = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    config = tmp_path / "nats.conf"
    config.write_text("authorization { user: u, password: p }")

    def member(index: int) -> AbstractAsyncContextManager[Broker]:
        routes = f"nats://127.0.0.1:{ports[1 - index]}"
        name = ("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{ports[index]}")
        return served(config, *name, "--routes", routes)

    async with member(0) as first, member(1) as second:
        login = first.url.replace("//", "//u:p@")

        async def knows_both() -> bool:
            async with connected(login) as (transport, _):
                return bool(driver_of(transport).discovered_servers)

        await eventually(knows_both)
        async with connected(login) as (transport, reports):
            await asyncio.to_thread(first.kill)
            await reports.until(DOWN)
            assert second.url in await reports.until(DOWN, UP)
            await check_delivery(transport)


@pytest.mark.usefixtures("plain_driver")
async def test_dropped_messages_are_a_reason_to_resync(
    nats_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 10: the driver drops the newest messages when its queue is full."""
    monkeypatch.setattr(_nats_wire, "_PENDING_MESSAGES", 10)
    async with (
        connected(nats_broker.url, probe_interval=0.1) as (transport, reports),
        connected(nats_broker.url) as (sender, _),
    ):
        messages, handler = collector()
        await transport.subscribe("slow", handler)
        await transport.flush()
        for _ in range(3000):
            await sender.publish("slow", b"")
        reason = await reports.until(DOWN, UP)
        assert "were dropped" in reason
        assert len(messages) < 3000
        await transport.flush()
        await asyncio.sleep(1.3)  # nothing was dropped since: nothing more to report
        assert reports.states[-2:] == [DOWN, UP]
        assert len(reports.states) <= 4


async def test_a_refusal_tells_two_cases_of_one_subject_apart(restricted_broker: Broker) -> None:
    """The driver writes all in lower case."""
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        await transport.publish("denied.one", b"")
        await transport.publish("Denied.One", b"")
        await transport.subscribe("SECRET.plans", ignore)
        await transport.subscribe("secret.Plans", ignore)
        await transport.publish('Denied."Quoted\\É"', b"")
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.messages == {"Denied.One", 'Denied."Quoted\\É"'}
        assert refusal.value.subscriptions == {"secret.Plans"}


async def test_many_refusals_take_their_time_and_no_more(restricted_broker: Broker) -> None:
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        started = time.process_time()
        for number in range(10_000):
            await transport.publish(f"allowed.{number}", b"")
        await transport.flush()
        allowed = time.process_time() - started
        for number in range(10_000):
            await transport.publish(f"Denied.{number}", b"")
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert len(refusal.value.subjects) == 10_000
        # Each used to be sought among all before, which took more than a hundred times as long.
        denied = time.process_time() - started - allowed
        assert denied < 40 * allowed, (allowed, denied)


@pytest.mark.usefixtures("plain_driver")
async def test_refusals_as_the_driver_tells_them(restricted_broker: Broker) -> None:
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        await transport.publish("Denied.One", b"")
        await transport.subscribe("secret.Plans", ignore)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.messages == {"Denied.One"}
        assert refusal.value.subscriptions == {"secret.Plans"}


async def test_missing_permissions_surface_with_the_next_flush(
    restricted_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 12: the server's refusal comes later, and the driver writes it in lower case."""
    async with connected(restricted_broker.url, user="some", password="some") as (
        transport,
        reports,
    ):
        await transport.publish("Denied.One", b"")
        await transport.publish("allowed", b"")
        with pytest.raises(
            TransportError, match=r"no permission to publish to 'Denied.One'"
        ) as refusal:
            await transport.flush()
        assert refusal.value.subjects == {"Denied.One"}
        await transport.flush()
        await transport.subscribe("secret.Plans.*", ignore)
        with pytest.raises(TransportError, match=r"to subscribe to 'secret.Plans") as refusal:
            await transport.flush()
        assert refusal.value.subjects == {"secret.Plans.*"}
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            for _ in range(20):
                await transport.publish("Denied.One", b"")
                with pytest.raises(TransportError):
                    await transport.flush()
        assert caplog.text.count("Denied.One") <= 1
        assert reports.all == []


def taking(tmp_path: Path, subscriptions: int) -> AbstractAsyncContextManager[Broker]:
    """A broker that takes so many subscriptions of each connection."""
    config = tmp_path / "nats.conf"
    config.write_text(f"max_subscriptions: {subscriptions}")
    return served(config)


async def test_a_subscription_too_many_is_refused_and_ends_no_link(tmp_path: Path) -> None:
    """The server goes on; the driver would close itself, and each new link have the same end."""
    async with taking(tmp_path, 10) as broker, connected(broker.url) as (transport, reports):
        many = {f"many.{number}": collector() for number in range(12)}
        made = [await transport.subscribe(name, handler) for name, (_, handler) in many.items()]
        with pytest.raises(TransportError, match="no more subscriptions") as refusal:
            await transport.flush()
        # One is the transport's own inbox.
        assert refusal.value.subscriptions == {"many.9", "many.10", "many.11"}
        await transport.flush()  # it was told
        for name in many:
            await transport.publish(name, b"")
        await transport.flush()
        assert [name for name, (messages, _) in many.items() if messages] == list(many)[:9]
        for subscription in made[:5]:
            await subscription.unsubscribe()
        await check_delivery(transport)
        assert reports.all == []


async def test_who_may_be_refused_a_subscription_is_told(tmp_path: Path) -> None:
    """Some ended in between, so there is no telling whose the errors of the server are."""
    async with taking(tmp_path, 3) as broker, connected(broker.url) as (transport, reports):
        for number in range(5):
            subscription = await transport.subscribe(f"some.{number}", ignore)
            if number == 3:
                await subscription.unsubscribe()
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subscriptions >= {"some.2", "some.3", "some.4"}
        await transport.flush()
        assert reports.all == []


async def test_a_subscription_too_many_is_told_after_a_reconnect(tmp_path: Path) -> None:
    async with taking(tmp_path, 10) as broker, connected(broker.url) as (transport, reports):
        for number in range(12):
            await transport.subscribe(f"many.{number}", ignore)
        with pytest.raises(TransportError):
            await transport.flush()
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subscriptions == {"many.9", "many.10", "many.11"}
        await transport.flush()
        assert reports.states == [DOWN, UP]


@pytest.mark.usefixtures("plain_driver")
async def test_a_client_that_closes_itself_as_it_is_opened_is_not_connected(tmp_path: Path) -> None:
    async with taking(tmp_path, 10) as broker:
        transport = NatsTransport(broker.url)
        for number in range(12):
            await transport.subscribe(f"many.{number}", ignore)
        with pytest.raises(TransportError, match="maximum subscriptions exceeded"):
            await transport.connect(Reports())
        await transport.aclose()


async def test_a_registry_with_a_subscription_too_many_stays(tmp_path: Path) -> None:
    async with (
        taking(tmp_path, 12) as broker,
        Registry(broker.url, ttl=1) as registry,
        Registry(broker.url) as other,
    ):
        await other.observe("mine")
        await registry.register("mine", "10.0.0.5:1")
        outcomes = [
            await asyncio.gather(
                registry.get_service(f"no.{i}", timeout=0.1), return_exceptions=True
            )
            for i in range(8)
        ]
        assert isinstance(outcomes[-1][0], TransportError)
        with pytest.raises(TransportError, match="no more subscriptions"):
            await registry.observe("one.more")
        await asyncio.sleep(1.5)  # longer than the ttl
        assert registry.stats().losses == 0
        assert other.cached("mine")


# A path that is slow ----------------------------------------------------------------------

SLOW = 400_000  # bytes per second, so that a piece of the proxy takes a sixth of a second


@pytest.mark.parametrize("whose", ["own", "own, by the driver", "borrowed"])
async def test_a_burst_that_takes_longer_than_an_echo_may_is_no_loss(
    nats_broker: Broker, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operating system takes it all at once, and nothing comes back for a long time."""
    times: dict[str, Any] = {"probe_interval": 0.1, "probe_timeout": 0.4}
    if whose == "own, by the driver":
        monkeypatch.setattr(_nats_driver, "Parser", object)
    async with contextlib.AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(TcpProxy(nats_broker.port))
        if whose == "borrowed":
            times["client"] = await stack.enter_async_context(borrowing(proxy.url("nats")))
        else:
            times["servers"] = proxy.url("nats")
        transport, reports = await stack.enter_async_context(connected(**times))
        proxy.slow(SLOW)
        for _ in range(3000):
            await transport.publish("burst", b"x" * 300)
        await eventually(lambda: flushed(transport))
        proxy.slow()
        assert reports.all == []


async def flushed(transport: NatsTransport) -> bool:
    with contextlib.suppress(TransportError):
        await transport.flush()
        return True
    return False


async def test_many_subscriptions_come_back_over_a_slow_path(nats_broker: Broker) -> None:
    async with TcpProxy(nats_broker.port) as proxy:
        url = proxy.url("nats")
        async with connected(url, probe_interval=0.1, probe_timeout=0.4) as (transport, reports):
            messages, handler = collector()
            for number in range(25_000):
                await transport.subscribe(f"slow.path.{number}", ignore)
            await transport.subscribe("slow.path.last", handler)
            await transport.flush()
            proxy.slow(SLOW)
            proxy.drop()
            await reports.until(DOWN, UP)
            proxy.slow()
            await transport.publish("slow.path.last", b"")
            await transport.flush()
            assert messages == [("slow.path.last", b"")]
            assert reports.states == [DOWN, UP]


async def only_talking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A NATS server that answers for a moment, and then only talks."""
    writer.write(b'INFO {"server_id":"x","version":"2.10.0","max_payload":1000,"headers":true}\r\n')
    heard = 0
    while heard < 5 and (line := await reader.readline()):
        if line == b"PING\r\n":
            writer.write(b"PONG\r\n")
        elif line.startswith(b"PUB _INBOX."):
            heard += 1
            writer.write(b"MSG %b 1 0\r\n\r\n" % line.split()[1])
    with contextlib.suppress(OSError):
        while not writer.is_closing():
            writer.write(b"+OK\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
    writer.close()


async def test_a_link_that_is_stuck_in_one_direction_is_noticed() -> None:
    async with await asyncio.start_server(only_talking, "127.0.0.1", 0) as server:
        url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with connected(url, probe_interval=0.05, probe_timeout=0.1) as (_, reports):
            started = time.monotonic()
            assert "has not answered 2 times" in await reports.until(DOWN)
            assert time.monotonic() - started < 3
        await eventually(lambda: len(asyncio.all_tasks()) == 1)


# A link that is full ----------------------------------------------------------------------


async def fill(transport: NatsTransport) -> None:
    """Publish to a broker that does not read until the transport refuses."""
    chunk = b"x" * 500_000
    with pytest.raises(TransportError, match="is congested"):
        await publish_for_ever(transport, chunk)


@pytest.mark.parametrize("whose", ["own", "borrowed"])
async def test_a_full_link_refuses_and_never_hangs(broker: Broker, whose: str) -> None:
    """Pitfalls 3, 4 and 9: a half-open link whose buffers are full."""
    async with contextlib.AsyncExitStack() as stack:
        if whose == "borrowed":
            client = await stack.enter_async_context(borrowing(broker.url))
            transport = NatsTransport(client=client, probe_interval=60)
        else:
            transport = NatsTransport(broker.url, probe_interval=60)
        await transport.connect(Reports())
        freeze(broker)
        await fill(transport)
        await fill(transport)
        publishing = asyncio.create_task(publish_stubbornly(transport))
        await asyncio.sleep(0.05)
        publishing.cancel()
        await asyncio.wait({publishing}, timeout=1)
        assert publishing.cancelled()
        for number in range(1500):  # more than the driver's queue of flushes takes
            with contextlib.suppress(TransportError):
                async with asyncio.timeout(1):
                    await transport.subscribe(f"full.{number}", ignore)
        started = time.monotonic()
        await transport.aclose()
        assert time.monotonic() - started < 2
        broker.thaw()


async def publish_for_ever(transport: NatsTransport, payload: bytes) -> None:
    while True:
        async with asyncio.timeout(1):
            await transport.publish("full", payload)


async def publish_stubbornly(transport: NatsTransport) -> None:
    while True:
        with contextlib.suppress(TransportError):
            await transport.publish("full", b"x" * 1000)
        await asyncio.sleep(0)


async def test_a_full_link_is_replaced_and_leaves_nothing(broker: Broker) -> None:
    async with connected(broker.url, probe_interval=0.1, probe_timeout=0.2) as (transport, reports):
        freeze(broker)
        await fill(transport)
        await reports.until(DOWN)
        broker.thaw()
        await reports.until(DOWN, UP)
        await check_delivery(transport)


async def test_a_crash_of_a_full_broker_leaves_nothing(broker: Broker) -> None:
    """The driver fails half-way through its own clean-up when it still has data to send."""
    tasks = asyncio.all_tasks()
    async with connected(broker.url) as (transport, reports):
        await transport.subscribe("crash", ignore)
        freeze(broker)
        await fill(transport)
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await check_delivery(transport)
    assert asyncio.all_tasks() == tasks


async def test_a_long_burst_is_no_congestion(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        for _ in range(20_000):
            await transport.publish("burst", b"x" * 1000)
        await transport.flush()


# Closing ----------------------------------------------------------------------------------


async def test_after_the_end_everything_is_refused(nats_broker: Broker) -> None:
    transport = NatsTransport(nats_broker.url)
    await transport.connect(Reports())
    subscription = await transport.subscribe("end", ignore)
    await transport.aclose()
    await transport.aclose()
    await subscription.unsubscribe()
    for call in (
        transport.connect(Reports()),
        transport.publish("x", b""),
        transport.subscribe("x", ignore),
        transport.unheard(["x"]),
        transport.flush(),
    ):
        with pytest.raises(TransportError, match="is closed"):
            await call


async def test_what_was_published_last_still_goes_out(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (listener, _):
        messages, handler = collector()
        await listener.subscribe("last.words", handler)
        await listener.flush()
        transport = NatsTransport(nats_broker.url)
        await transport.connect(Reports())
        await transport.publish("last.words", b"bye")
        await transport.aclose()
        await eventually(lambda: bool(messages))


async def test_opened_and_closed_in_different_tasks(nats_broker: Broker) -> None:
    before = asyncio.all_tasks()
    transport = NatsTransport(nats_broker.url)
    await asyncio.create_task(transport.connect(Reports()))
    await asyncio.create_task(transport.flush())
    flushing = asyncio.create_task(transport.flush())
    await asyncio.sleep(0)
    await asyncio.create_task(transport.aclose())
    with pytest.raises(TransportError, match="closed"):
        await flushing
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("state", ["flowing", "frozen"])
async def test_a_cancelled_close_still_leaves_nothing(broker: Broker, state: str) -> None:
    before = asyncio.all_tasks()
    transport = NatsTransport(broker.url)
    await transport.connect(Reports())
    if state == "frozen":
        freeze(broker)
        await fill(transport)
    closing = asyncio.create_task(transport.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await eventually(lambda: asyncio.all_tasks() == before)
    if state == "frozen":
        broker.thaw()


async def test_closed_while_the_broker_is_away(broker: Broker) -> None:
    async with connected(broker.url) as (_, reports):
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
    assert reports.states == [DOWN]


async def test_a_close_that_was_forgotten_is_made_up_for(nats_broker: Broker) -> None:
    """The event loop ends; the fixture sees what would be complained about."""

    async def forget() -> None:
        transport = NatsTransport(nats_broker.url)
        await transport.connect(Reports())
        await transport.subscribe("forgotten", ignore)

    await asyncio.to_thread(asyncio.run, forget())


async def test_no_socket_is_left(broker: Broker, tmp_path: Path) -> None:
    for closing in ("thawed", "frozen"):
        transport = NatsTransport(broker.url)
        await transport.connect(Reports())
        transport_of_driver = driver_of(transport)._transport._io_writer.transport
        if closing == "frozen":
            freeze(broker)
            await fill(transport)
        await transport.aclose()
        assert transport_of_driver.get_extra_info("socket").fileno() == -1
        if closing == "frozen":
            broker.thaw()
    del transport, transport_of_driver
    gc.collect()  # a socket left open would be a ResourceWarning, which is an error


# A borrowed client ------------------------------------------------------------------------


def watched(client: Any) -> tuple[Any, ...]:
    """What must not change in a borrowed client."""
    return client._error_cb, client._closed_cb, client._disconnected_cb, dict(client._subs)


async def test_a_borrowed_client_stays_open_and_is_left_as_it_was(nats_broker: Broker) -> None:
    async with borrowing(nats_broker.url) as client:
        callbacks, tasks = watched(client), asyncio.all_tasks()
        async with connected(client=client) as (transport, _):
            assert transport.address == nats_broker.url
            await check_delivery(transport)
            assert await transport.unheard(["nobody"]) == {"nobody"}
            await transport.subscribe("left", must_not_arrive)
        assert asyncio.all_tasks() == tasks
        assert client.is_connected
        assert watched(client) == callbacks
        await client.publish("left", b"")
        await client.flush()


@pytest.mark.parametrize(("queue", "names"), [(1024, 2000), (100, 3000)])
async def test_a_borrowed_client_takes_many_subscriptions_at_once(
    broker: Broker, queue: int, names: int
) -> None:
    """Its queue of flushes is full only because the event loop gave it no turn."""
    async with (
        borrowing(broker.url, flusher_queue_size=queue) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        last, handler = collector()
        made = [await transport.subscribe(f"many.{number}", ignore) for number in range(names)]
        await transport.subscribe("many.last", handler)
        await transport.flush()
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("many.last", b"")
        await transport.flush()
        assert last == [("many.last", b"")]
        for subscription in made:
            await subscription.unsubscribe()
        assert len(watched(client)[-1]) == 2  # the last one, and the inbox
        assert reports.states == [DOWN, UP]


async def test_what_is_subscribed_to_while_a_link_breathes_comes_into_force(
    broker: Broker,
) -> None:
    async with (
        borrowing(broker.url, flusher_queue_size=10) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        for number in range(500):
            await transport.subscribe(f"many.{number}", ignore)
        late: dict[str, list[Message]] = {}
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        await asyncio.to_thread(broker.start)
        await eventually(lambda: client.is_connected)
        while reports.states == [DOWN]:
            await asyncio.sleep(0)
            for _ in range(3):
                subject = f"late.{len(late)}"
                late[subject], handler = collector()
                await transport.subscribe(subject, handler)
        for subject in late:
            await transport.publish(subject, b"")
        await transport.flush()
        assert [subject for subject in late if not late[subject]] == []


async def test_two_transports_may_borrow_one_client(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client) as (one, _),
        connected(client=client) as (other, _),
    ):
        await check_delivery(one)
        await check_delivery(other)
        await one.aclose()
        await check_delivery(other)


async def test_a_borrowed_client_that_reconnects(broker: Broker) -> None:
    async with (
        borrowing(broker.url) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        messages, handler = collector()
        await transport.subscribe("borrowed", handler)
        await asyncio.to_thread(broker.kill)
        await reports.until(DOWN)
        with pytest.raises(TransportError, match="not connected"):
            await transport.publish("borrowed", b"stale")
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        await transport.publish("borrowed", b"1")
        await transport.flush()
        assert messages == [("borrowed", b"1")]


async def test_a_reconnect_between_two_looks_is_reported(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=2) as (transport, reports),
    ):
        await client.force_reconnect()
        await eventually(lambda: client.stats["reconnects"] == 1)
        assert "reconnected" in (await reports.until(DOWN, UP), reports.all[0][1])[1]
        await check_delivery(transport)


async def test_a_borrowed_client_that_is_closed(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=0.1) as (transport, reports),
    ):
        await client.close()
        assert "closed for good; make a new NatsTransport" in await reports.until(DOWN)
        with pytest.raises(TransportError, match="not connected"):
            await transport.publish("x", b"")
        again = NatsTransport(client=client)
        with pytest.raises(TransportError, match="closed for good"):
            await again.connect(Reports())
        await again.aclose()


async def test_a_borrowed_client_with_a_dead_read_loop(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(client=client, probe_interval=0.1, probe_timeout=0.2) as (transport, reports),
    ):
        await transport.subscribe("raw2.*", ignore)
        await transport.flush()
        _, writer = await asyncio.open_connection("127.0.0.1", nats_broker.port)
        writer.write(b"CONNECT {}\r\nPUB raw2.\xff\xfe 0\r\n\r\n")
        assert "is stuck: reconnect it" in await reports.until(DOWN)
        await client.force_reconnect()
        await reports.until(DOWN, UP)
        await check_delivery(transport)
        writer.close()
        await writer.wait_closed()


async def test_a_borrowed_client_without_echo_is_refused(nats_broker: Broker) -> None:
    async with borrowing(nats_broker.url, no_echo=True) as client:
        transport = NatsTransport(client=client)
        with pytest.raises(TransportError, match="no_echo=True") as refusal:
            await transport.connect(Reports())
        assert refusal.value.permanent
        await transport.aclose()


async def test_missing_permissions_of_a_borrowed_client(restricted_broker: Broker) -> None:
    async with (
        borrowing(restricted_broker.url, user="some", password="some") as client,
        connected(client=client) as (transport, _),
    ):
        await transport.publish("Denied.Two", b"")
        with pytest.raises(TransportError, match=r"no permission to publish to 'Denied.Two'"):
            await transport.flush()


def nobody_listens(_state: LinkState, _reason: str) -> None:
    pass


async def test_a_failure_of_many_servers_has_the_same_words_each_time() -> None:
    """So that it is logged once, though each attempt goes through them in another order."""
    transport = NatsTransport(",".join(f"nats://127.0.0.1:{port}" for port in range(1, 5)))
    words: set[str] = set()
    for _ in range(20):
        with pytest.raises(TransportError) as failure:
            await transport.connect(nobody_listens)
        words.add(str(failure.value))
    assert len(words) == 1
    await transport.aclose()


async def test_a_heartbeat_that_is_too_large_is_told_once_and_not_counted(
    restricted_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"nats://all:p%40ss@127.0.0.1:{restricted_broker.port}"
    async with Registry(url, ttl=0.3) as registry:
        registration = await registry.register(
            "orders", "10.0.0.5:1", metadata={"x": "y" * 1500}, wait=False
        )
        await asyncio.sleep(0.5)
        assert registry.stats().announcements_sent == 0
        await registration.update(metadata={"x": "y"})
        assert registry.stats().announcements_sent == 1
    assert caplog.text.count("the broker refuses registry.register.orders") == 1
