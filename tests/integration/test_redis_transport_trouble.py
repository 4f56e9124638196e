"""The Redis transport in trouble: servers that die, freeze, refuse, or cut it off."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis
import redis.asyncio
import trustme
from redis.exceptions import ResponseError
from tests.tools import WITHOUT_RESP3

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker, redis_server
from aioregistry.testing.proxy import TcpProxy
from aioregistry.transports.base import LinkState
from aioregistry.transports.redis import RedisTransport

if TYPE_CHECKING:
    from pathlib import Path

UP, DOWN = LinkState.CONNECTED, LinkState.DISCONNECTED


class Inbox(list[str]):
    """A handler that keeps the subjects that it is given."""

    def __call__(self, subject: str, _payload: bytes) -> None:
        self.append(subject)


class States(list[LinkState]):
    """A state handler that keeps what it is told, and lets others wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: list[str] = []
        self._news = asyncio.Event()

    def __call__(self, state: LinkState, reason: str) -> None:
        self.append(state)
        self.reasons.append(reason)
        self._news.set()

    async def become(self, *expected: LinkState) -> None:
        async with asyncio.timeout(10):
            while len(self) < len(expected):
                self._news.clear()
                await self._news.wait()
        assert self == list(expected), self.reasons


@contextlib.asynccontextmanager
async def serving(*options: str, port: int | None = None) -> AsyncGenerator[Broker, None]:
    """A server of one's own; starting one blocks, so that is done in a thread."""
    server = redis_server(*options, port=port)
    broker = await asyncio.to_thread(server.__enter__)
    try:
        yield broker
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


@pytest.fixture(params=[True, False], ids=["resp3", "resp2"])
def resp3(request: pytest.FixtureRequest) -> bool:
    """Whether the server knows RESP3, so that one connection is enough."""
    return bool(request.param)


@pytest.fixture
async def broker(*, resp3: bool) -> AsyncIterator[Broker]:
    async with serving(*() if resp3 else WITHOUT_RESP3) as broker:
        yield broker


@pytest.fixture
async def admin(broker: Broker) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis(port=broker.port, protocol=2) as client:
        yield client


@contextlib.asynccontextmanager
async def connected(
    url: str, states: States | None = None, **options: Any
) -> AsyncGenerator[RedisTransport, None]:
    """A connected transport that is closed in time, and leaves no task."""
    before = asyncio.all_tasks()
    transport = RedisTransport(url, **options)
    try:
        await transport.connect(States() if states is None else states)
        yield transport
    finally:
        began = time.monotonic()
        await transport.aclose()
        assert time.monotonic() - began < 2

        async def nothing_left() -> bool:
            return asyncio.all_tasks() <= before

        await eventually(nothing_left)  # a TLS server of the test takes a moment to notice


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


async def hears(transport: RedisTransport, subject: str, inbox: Inbox) -> bool:
    """Whether a message of its own arrives, once."""
    before = len(inbox)
    await transport.publish(subject, b"")
    await transport.flush()
    return inbox[before:] == [subject]


# ---- no server, or not for us


async def test_no_server_and_then_one(broker: Broker) -> None:
    await asyncio.to_thread(broker.stop)
    transport = RedisTransport(broker.url)
    inbox, states = Inbox(), States()
    await transport.subscribe("patience", inbox)
    for _ in range(2):
        with pytest.raises(TransportError, match=f"no link to {broker.url}: ") as caught:
            await transport.connect(states)
        assert not caught.value.permanent
        with pytest.raises(TransportError, match=r"not connected to redis://[^:]+:\d+: Error"):
            await transport.publish("patience", b"")
    await asyncio.to_thread(broker.start)
    await transport.connect(states)
    assert await hears(transport, "patience", inbox)
    await transport.aclose()
    assert states == []


async def test_no_such_host() -> None:
    transport = RedisTransport("redis://no.such.host.invalid")
    with pytest.raises(TransportError, match=r"no link to redis://no\.such\.host\.invalid:6379: "):
        await transport.connect(States())
    await transport.aclose()


@contextlib.asynccontextmanager
async def listening(answer: bytes = b"") -> AsyncGenerator[tuple[int, list[bytes]], None]:
    """A server that says one thing at most; gives its port, and what it was sent."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        while chunk := await reader.read(65536):
            received.append(chunk)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], received
    finally:
        server.close()
        await server.wait_closed()


async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioregistry.transports._redis_keeper._CONNECT_TIMEOUT", 0.2)
    async with listening() as (port, received):
        transport = RedisTransport(f"redis://127.0.0.1:{port}")
        with pytest.raises(TransportError, match=r"no answer from redis://.* within 0\.2 s"):
            await transport.connect(States())
        assert received, "it was asked"
        await transport.aclose()


@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_connecting_is_given_up(leave: str) -> None:
    async with listening() as (port, received):
        transport = RedisTransport(f"redis://127.0.0.1:{port}")
        connecting = asyncio.create_task(transport.connect(States()))

        async def asked() -> bool:
            return bool(received)

        await eventually(asked)
        if leave == "cancel":
            connecting.cancel()
            await asyncio.wait([connecting])
            assert connecting.cancelled()
        else:
            await transport.aclose()
            with pytest.raises(TransportError, match="was closed meanwhile"):
                await connecting
        assert not [task for task in asyncio.all_tasks() if "aioregistry" in task.get_name()]
        await transport.aclose()


async def test_connecting_again_after_a_cancellation(broker: Broker) -> None:
    transport = RedisTransport(broker.url)
    connecting = asyncio.create_task(transport.connect(States()))
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    await transport.connect(States())
    await transport.flush()
    await transport.aclose()


async def test_something_else_than_redis() -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        transport = RedisTransport(f"redis://127.0.0.1:{port}")
        with pytest.raises(TransportError, match="no link to"):
            await transport.connect(States())
        await transport.aclose()


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("", "NOAUTH|Authentication required"),
        (":wrong-word@", "invalid username-password pair|WRONGPASS"),
        ("nobody:wrong-word@", "invalid username-password pair|WRONGPASS"),
    ],
)
async def test_wrong_credentials_are_permanent(
    broker: Broker, admin: Any, user: str, text: str
) -> None:
    await admin.config_set("requirepass", "right-word")
    transport = RedisTransport(f"redis://{user}127.0.0.1:{broker.port}")
    with pytest.raises(TransportError, match=text) as caught:
        await transport.connect(States())
    assert caught.value.permanent
    assert f"{broker.url} refuses this user" in str(caught.value)
    assert "check user name and password" in str(caught.value)
    assert "wrong-word" not in str(caught.value)
    await transport.aclose()
    async with connected(f"redis://:right-word@127.0.0.1:{broker.port}") as transport:
        await transport.flush()


async def test_a_full_server_is_not_permanent(broker: Broker, admin: Any) -> None:
    await admin.config_set("maxclients", 1)
    transport = RedisTransport(broker.url)
    with pytest.raises(TransportError, match="max number of clients") as caught:
        await transport.connect(States())
    assert not caught.value.permanent
    await admin.config_set("maxclients", 100)
    await transport.connect(States())
    await transport.aclose()


async def test_a_loading_server_is_not_permanent() -> None:
    async with listening(b"-LOADING Redis is loading the dataset in memory\r\n") as (port, _):
        transport = RedisTransport(f"redis://127.0.0.1:{port}")
        with pytest.raises(TransportError, match="loading the dataset") as caught:
            await transport.connect(States())
        assert not caught.value.permanent
        await transport.aclose()


# ---- rights


RIGHTS = [
    *("on", ">word", "resetchannels", "resetkeys", "-@all"),
    *("&registry.register.*", "&registry.ping.*", "&registry.alive.*"),
    *("+publish", "+subscribe", "+unsubscribe", "+psubscribe", "+punsubscribe", "+ping"),
    *("+pubsub|numsub", "+pubsub|channels"),
]


async def restrict(admin: Any, *changes: str) -> None:
    await admin.execute_command("ACL", "SETUSER", "app", *(changes or RIGHTS))


def app_url(broker: Broker) -> str:
    return f"redis://app:word@127.0.0.1:{broker.port}"


async def test_a_user_with_the_documented_rights(
    broker: Broker, admin: Any, *, resp3: bool
) -> None:
    await restrict(admin)
    async with connected(app_url(broker)) as transport:
        await transport.flush()
        everything, one = Inbox(), Inbox()
        await transport.subscribe("registry.register.>", everything)
        subscription = await transport.subscribe("registry.ping.orders", one)
        await transport.publish("registry.register.a.b", b"")
        await transport.publish("registry.ping.orders", b"")
        await transport.publish("registry.ping.nobody", b"", "registry.register.nobody")
        await transport.flush()
        assert sorted(everything) == ["registry.register.a.b", "registry.register.nobody"]
        assert one == ["registry.ping.orders"]
        assert await transport.unheard(["registry.alive.x"]) == {"registry.alive.x"}
        await subscription.unsubscribe()
    denied = [entry["object"] for entry in await admin.acl_log() if entry["username"] == "app"]
    assert denied == ([] if resp3 else ["role"])  # a server that has users has HELLO, too


async def test_a_refused_subscription(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    inbox, states = Inbox(), States()
    async with connected(app_url(broker), states) as transport:
        for pattern in ("other.x", "registry.register.*.x", "registry.>"):

            async def subscribe(pattern: str = pattern) -> None:
                await transport.subscribe(pattern, inbox)
                await transport.flush()

            with pytest.raises(
                TransportError, match=r"refuses the subscription to '.*ACL SETUSER"
            ) as refusal:
                await subscribe()
            assert refusal.value.subjects == {pattern}
        await transport.subscribe("registry.register.>", inbox)
        assert await hears(transport, "registry.register.x", inbox)
    assert states == []


async def test_refused_messages_are_told_by_the_flushes_that_cover_them(
    broker: Broker, admin: Any
) -> None:
    await restrict(admin)
    inbox, states = Inbox(), States()
    async with connected(app_url(broker), states) as transport:
        await transport.subscribe("registry.ping.>", inbox)
        for subject in ("registry.ping.a", "other.x", "registry.ping.b", "other.y"):
            await transport.publish(subject, b"")
        flushes = [asyncio.create_task(transport.flush()) for _ in range(3)]
        await asyncio.sleep(0)
        flushes[0].cancel()
        await transport.publish("registry.ping.c", b"")
        results = await asyncio.gather(*flushes, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        for error in results[1:]:
            assert isinstance(error, TransportError)
            assert error.subjects == {"other.x", "other.y"}
            assert "refuses messages to 'other.x', 'other.y': " in str(error)
        await transport.flush()
        assert inbox == ["registry.ping.a", "registry.ping.b", "registry.ping.c"]
    assert states == []


async def test_a_refused_look(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    await restrict(admin, "-pubsub|channels")
    async with connected(app_url(broker)) as transport:
        with pytest.raises(TransportError, match=r"refuses PUBSUB CHANNELS: .*ACL SETUSER"):
            await transport.unheard(["registry.alive.x"])
        await restrict(admin, "-pubsub|numsub")
        with pytest.raises(TransportError, match=r"refuses PUBSUB NUMSUB: .*ACL SETUSER"):
            await transport.unheard(["registry.alive.x"])
        await transport.flush()


async def test_a_user_without_ping(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    await restrict(admin, "-ping")
    transport = RedisTransport(app_url(broker))
    with pytest.raises(TransportError, match=r"'ping'.*ACL SETUSER") as caught:
        await transport.connect(States())
    assert caught.value.permanent
    await transport.aclose()


async def test_rights_that_go_and_come(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    inbox, states = Inbox(), States()
    async with connected(app_url(broker), states) as transport:
        await transport.subscribe("registry.register.>", inbox)
        await transport.flush()
        await restrict(admin, "resetchannels")  # the server cuts those who lost a right
        await states.become(DOWN, UP)

        async def refused() -> bool:
            try:
                await transport.flush()
            except TransportError as error:
                return "refuses the subscription" in str(error)
            return False

        await eventually(refused)
        await restrict(admin, *RIGHTS)
        await transport.subscribe("registry.register.>", Inbox())  # asked for once more
        assert await hears(transport, "registry.register.x", inbox)


async def refusals(transport: RedisTransport) -> frozenset[str]:
    """The subscriptions that a flush tells to be refused."""
    try:
        await transport.flush()
    except TransportError as error:
        return error.subscriptions
    return frozenset()


async def test_a_refusal_is_told_after_a_loss(broker: Broker, admin: Any) -> None:
    """As when a right is taken away while a message is on its way."""
    await restrict(admin)
    states = States()
    async with connected(app_url(broker), states) as transport:
        await transport.subscribe("registry.register.x", Inbox())
        await transport.flush()
        broker.freeze()
        restricting = asyncio.create_task(restrict(admin, "resetchannels"))
        await asyncio.sleep(0.05)
        await transport.publish("registry.ping.x", b"")
        await asyncio.sleep(0.05)
        broker.thaw()
        await restricting
        await states.become(DOWN, UP)
        # The first may tell that the message is lost instead.
        told = [await refusals(transport) for _ in range(3)]
        assert frozenset().union(*told) == {"registry.register.x"}
        assert told[2] == frozenset()


async def test_a_refusal_is_no_news_once_it_is_allowed(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    inbox, states = Inbox(), States()
    async with connected(app_url(broker), states) as transport:
        with contextlib.suppress(TransportError):  # at once, over two connections
            await transport.subscribe("other.x", inbox)
        await transport.unheard(["x"])  # the refusal has come by then
        await restrict(admin, "&other.*")
        await admin.client_kill_filter(user="app")
        await states.become(DOWN, UP)
        await transport.flush()


async def test_each_interest_in_a_channel_is_told(
    broker: Broker, admin: Any, *, resp3: bool
) -> None:
    if not resp3:
        pytest.skip("there each is told at once")
    await restrict(admin)
    async with connected(app_url(broker)) as transport:
        await transport.subscribe("other.x", Inbox())
        first = asyncio.create_task(refusals(transport))
        await asyncio.sleep(0)
        await transport.subscribe("other.x", Inbox())
        assert await first == {"other.x"}
        assert await refusals(transport) == {"other.x"}
        assert await refusals(transport) == set()


async def test_any_number_of_refusals_is_told(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    states = States()
    subjects = [f"registry.register.{number}" for number in range(12_000)]
    async with connected(app_url(broker), states) as transport:
        await asyncio.gather(*(transport.subscribe(subject, Inbox()) for subject in subjects))
        await transport.flush()
        await restrict(admin, "resetchannels")
        await states.become(DOWN, UP)
        assert await refusals(transport) == set(subjects)


async def test_a_refused_subscription_keeps_no_old_server_away(broker: Broker, admin: Any) -> None:
    """It was refused by a server with RESP3, which then is replaced."""
    await restrict(admin)
    states = States()
    async with connected(app_url(broker), states) as transport:
        with contextlib.suppress(TransportError):
            await transport.subscribe("other.x", Inbox())
        await asyncio.to_thread(broker.stop)
        async with (
            serving(*WITHOUT_RESP3, port=broker.port) as old,
            redis.asyncio.Redis(port=old.port, protocol=2) as its_admin,
        ):
            await restrict(its_admin)  # until then, its user is refused as such

            async def up() -> bool:
                return states[-1:] == [UP]

            await eventually(up)
            assert not transport.ordered


async def test_whoever_subscribes_to_thousands_lets_others_work(broker: Broker) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with connected(broker.url) as transport:
        turning = asyncio.create_task(turn())
        for number in range(5000):
            await transport.subscribe(f"many.{number}", Inbox())
        turning.cancel()
        assert turns > 3


# ---- TLS


@contextlib.asynccontextmanager
async def tls_in_front_of(broker: Broker, certificate: Path) -> AsyncGenerator[int, None]:
    """A TLS server that passes everything on to the broker; gives its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", broker.port)
        await asyncio.gather(pump(reader, ahead), pump(behind, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_tls(broker: Broker, tmp_path: Path) -> None:
    authority, certificate = trustme.CA(), tmp_path / "server.pem"
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    async with tls_in_front_of(broker, certificate) as port:
        url = f"rediss://localhost:{port}"
        transport = RedisTransport(url)
        with pytest.raises(TransportError, match=r"is not trusted: .*ssl_ca_certs") as caught:
            await transport.connect(States())
        assert caught.value.permanent
        await transport.aclose()

        inbox = Inbox()
        async with connected(url, ssl_ca_certs=str(tmp_path / "ca.pem")) as transport:
            assert transport.address == url
            await transport.subscribe("tls.*", inbox)
            assert await hears(transport, "tls.x", inbox)


# ---- links that are lost


async def test_killed_and_restarted(broker: Broker) -> None:
    states, exact, pattern, dropped, late = States(), Inbox(), Inbox(), Inbox(), Inbox()
    async with connected(broker.url, states) as transport:
        await transport.subscribe("lost.exact", exact)
        await transport.subscribe("lost.>", pattern)
        ended = await transport.subscribe("lost.exact", dropped)
        broker.kill()
        await states.become(DOWN)
        for call in (transport.publish("lost.exact", b""), transport.flush()):
            with pytest.raises(TransportError, match="not connected to"):
                await call
        with pytest.raises(TransportError, match="not connected to"):
            await transport.unheard(["lost.exact"])
        await ended.unsubscribe()
        await transport.subscribe("lost.late", late)

        await asyncio.to_thread(broker.start)
        await states.become(DOWN, UP)
        assert await hears(transport, "lost.exact", exact)
        assert await hears(transport, "lost.late", late)
        assert pattern == ["lost.exact", "lost.late"], "nothing was kept from before"
        assert dropped == []
        assert await transport.unheard(["lost.exact", "nobody"]) == {"nobody"}


async def test_every_restart_is_reported(broker: Broker) -> None:
    states, inbox = States(), Inbox()
    async with connected(broker.url, states) as transport:
        await transport.subscribe("again", inbox)
        for times in range(1, 4):
            await asyncio.to_thread(broker.stop)
            await asyncio.to_thread(broker.start)
            await states.become(*[DOWN, UP] * times)
            assert await hears(transport, "again", inbox)


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_one_connection_cut_means_all_are_rebuilt(
    broker: Broker, admin: Any, kind: str, *, resp3: bool
) -> None:
    if resp3 and kind == "normal":
        pytest.skip("it has one connection only")
    states, inbox = States(), Inbox()
    async with connected(broker.url, states) as transport:
        await transport.subscribe("cut.*", inbox)
        await transport.flush()
        await admin.client_kill_filter(_type=kind, skipme=True)
        await states.become(DOWN, UP)
        assert await hears(transport, "cut.x", inbox)
        assert len(await admin.client_list()) == (2 if resp3 else 3)


async def test_what_is_under_way_ends_with_the_link(broker: Broker) -> None:
    async with connected(broker.url) as transport:
        kept = Inbox()
        broker.freeze()
        subscribing = asyncio.ensure_future(transport.subscribe("kept", kept))
        calls: list[Awaitable[object]] = [
            asyncio.create_task(transport.unheard(["x"])),
            asyncio.create_task(transport.flush()),
        ]
        await asyncio.sleep(0)
        broker.kill()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [TransportError] * 2
        await subscribing
        await asyncio.to_thread(broker.start)

        async def back() -> bool:
            with contextlib.suppress(TransportError):
                return await hears(transport, "kept", kept)
            return False

        await eventually(back)


async def test_a_flush_tells_what_was_lost_with_the_link(broker: Broker) -> None:
    states = States()
    async with connected(broker.url, states) as transport:
        broker.freeze()
        await transport.publish("lost", b"")
        broker.kill()
        await asyncio.to_thread(broker.start)
        await states.become(DOWN, UP)
        with pytest.raises(TransportError, match="lost for a moment, and messages with it"):
            await transport.flush()
        await transport.flush()


async def test_frozen_for_longer_than_the_probe(broker: Broker) -> None:
    states, inbox = States(), Inbox()
    options = {"probe_interval": 0.1, "probe_timeout": 0.3}
    async with connected(broker.url, states, **options) as transport:
        await transport.subscribe("frozen.*", inbox)
        broker.freeze()
        began = time.monotonic()
        flush = asyncio.create_task(transport.flush())
        await states.become(DOWN)
        assert time.monotonic() - began < 1.5
        assert "no answer from" in states.reasons[0]
        with pytest.raises(TransportError):
            await flush
        broker.thaw()
        await states.become(DOWN, UP)
        assert await hears(transport, "frozen.x", inbox)


async def test_frozen_for_less_than_the_probe(broker: Broker) -> None:
    states, inbox = States(), Inbox()
    async with connected(broker.url, states, probe_interval=0.05, probe_timeout=2) as transport:
        await transport.subscribe("short", inbox)
        broker.freeze()
        await transport.publish("short", b"")
        flush = asyncio.create_task(transport.flush())
        await asyncio.sleep(0.5)
        assert not flush.done()
        broker.thaw()
        await flush
        assert inbox == ["short"]
    assert states == []


async def test_a_blocked_event_loop_is_no_silence(broker: Broker) -> None:
    states, inbox = States(), Inbox()
    async with connected(broker.url, states, probe_interval=0.05, probe_timeout=0.2) as transport:
        await transport.subscribe("blocked", inbox)
        for _ in range(5):
            await asyncio.sleep(0.06)  # so that some of the blocks fall into a probe
            time.sleep(0.5)  # noqa: ASYNC251 - the very thing
        assert await hears(transport, "blocked", inbox)
    assert states == []


@contextlib.asynccontextmanager
async def one_way_proxy(broker: Broker) -> AsyncGenerator[tuple[str, asyncio.Event], None]:
    """Passes everything on, towards the broker only while the event is set; gives its URL."""
    way_up, always, pumps = asyncio.Event(), asyncio.Event(), list[asyncio.Task[None]]()
    way_up.set()
    always.set()

    async def pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                await gate.wait()
                writer.write(chunk)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, ahead = await asyncio.open_connection("127.0.0.1", broker.port)
        pumps.append(asyncio.create_task(pump(reader, ahead, way_up)))
        pumps.append(asyncio.create_task(pump(behind, writer, always)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", way_up
    finally:
        way_up.set()
        server.close()
        await asyncio.wait(pumps)


async def test_messages_alone_are_no_sign_that_we_are_heard(
    broker: Broker, admin: Any, *, resp3: bool
) -> None:
    states, inbox = States(), Inbox()

    async def tick() -> None:
        while True:
            await admin.publish("tick", b"")
            await asyncio.sleep(0.01)

    async with (
        one_way_proxy(broker) as (url, way_up),
        connected(url, states, probe_interval=0.05, probe_timeout=0.1) as transport,
    ):
        await transport.subscribe("tick", inbox)
        await transport.flush()
        ticking = asyncio.create_task(tick())
        try:
            await asyncio.sleep(0.1)
            way_up.clear()
            began, before = time.monotonic(), len(inbox)
            await states.become(DOWN)
            took = time.monotonic() - began
            assert took < 3
            if resp3:  # over two connections, that for commands is silent
                assert took > 0.5, "messages may well be ahead of an answer"
                assert len(inbox) > before + 10
            way_up.set()
            await states.become(DOWN, UP)
        finally:
            way_up.set()
            ticking.cancel()


async def test_answers_are_a_sign_that_we_are_heard_however_late(broker: Broker) -> None:
    """The probe is behind much else that was sent, on a path that is slow."""
    states = States()
    async with (
        TcpProxy(broker.port) as proxy,
        connected(proxy.url("redis"), states, probe_interval=0.05, probe_timeout=0.1) as transport,
    ):
        proxy.slow(1_500_000)
        began = time.monotonic()
        for number in range(400):
            await transport.publish(f"late.{number}", b"x" * 10_000)
        await transport.flush()
        assert time.monotonic() - began > 1.5, "longer than messages alone would do"
        assert states == []


MANY = 8_000


async def subscribe_to_many(transport: RedisTransport, inbox: Inbox) -> None:
    await asyncio.gather(
        *(transport.subscribe(f"restored.{number}", inbox) for number in range(MANY))
    )
    await transport.flush()


async def test_restoring_takes_as_long_as_it_gets_on(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.transports._redis_keeper._CONNECT_TIMEOUT", 1.0)
    states, inbox = States(), Inbox()
    async with (
        TcpProxy(broker.port) as proxy,
        connected(proxy.url("redis"), states) as transport,
    ):
        await subscribe_to_many(transport, inbox)
        proxy.slow(200_000)
        began = time.monotonic()
        proxy.drop()
        await states.become(DOWN, UP)
        assert time.monotonic() - began > 1.5, "longer than an attempt to connect may take"
        proxy.slow()
        assert await hears(transport, f"restored.{MANY - 1}", inbox)
        assert await hears(transport, "restored.0", inbox)


async def test_restoring_that_gets_stuck_is_begun_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.transports._redis_keeper._CONNECT_TIMEOUT", 1.0)
    states, inbox = States(), Inbox()
    async with (
        TcpProxy(broker.port) as proxy,
        connected(proxy.url("redis"), states) as transport,
    ):
        await subscribe_to_many(transport, inbox)
        proxy.slow(200_000)
        proxy.drop()
        await asyncio.sleep(0.8)
        proxy.freeze()
        await asyncio.sleep(3)
        proxy.slow()
        proxy.thaw()
        await states.become(DOWN, UP)
        assert await hears(transport, f"restored.{MANY - 1}", inbox)


async def test_closing_while_restoring(broker: Broker) -> None:
    states = States()
    async with TcpProxy(broker.port) as proxy:
        async with connected(proxy.url("redis"), states) as transport:
            await subscribe_to_many(transport, Inbox())
            proxy.slow(100_000)
            proxy.drop()
            await asyncio.sleep(0.8)
            assert states == [DOWN]
            assert proxy.connections
        proxy.slow()

        async def nothing_open() -> bool:
            return not proxy.connections

        await eventually(nothing_open)


async def test_a_slow_consumer_that_was_cut_off(broker: Broker, admin: Any) -> None:
    await admin.config_set("client-output-buffer-limit", "pubsub 256kb 0 0")
    states, inbox = States(), Inbox()
    async with connected(broker.url, states) as transport:
        await transport.subscribe("slow", inbox)
        await transport.flush()
        # Synchronously: meanwhile nobody reads, as in a process that is busy.
        with cast("Any", redis).Redis(port=broker.port, protocol=2) as flood:
            while flood.publish("slow", b"x" * 500_000):
                pass
        await states.become(DOWN, UP)
        inbox.clear()
        assert await hears(transport, "slow", inbox)


async def test_a_state_handler_that_raises(
    broker: Broker, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls = asyncio.Queue[LinkState]()

    def raising(state: LinkState, _reason: str) -> None:
        calls.put_nowait(state)
        raise ValueError("mine")

    transport = RedisTransport(broker.url)
    await transport.connect(raising)
    await transport.subscribe("raising", Inbox())
    await admin.client_kill_filter(_type="pubsub", skipme=True)
    async with asyncio.timeout(5):
        assert [await calls.get(), await calls.get()] == [DOWN, UP]
    await transport.flush()
    await transport.aclose()
    assert "the state handler of redis://" in caplog.text


# ---- trouble that passes


@contextlib.asynccontextmanager
async def busy(broker: Broker, admin: Any) -> AsyncGenerator[None, None]:
    """A script keeps the server from doing anything else, as long as the block lasts."""
    await admin.config_set("lua-time-limit", 20)
    async with cast("Any", redis.asyncio.Redis(port=broker.port, protocol=2)) as other:
        script = asyncio.create_task(other.eval("while true do end", 0))

        async def has_begun() -> bool:
            try:
                await admin.ping()
            except ResponseError as error:
                return "BUSY" in str(error)
            return False

        try:
            await eventually(has_begun)
            yield
        finally:
            await admin.script_kill()
            await asyncio.wait([script])


async def test_a_busy_server_is_a_link_that_is_down(broker: Broker, admin: Any) -> None:
    states, inbox, later = States(), Inbox(), Inbox()
    async with connected(broker.url, states, probe_interval=0.05) as transport:
        await transport.subscribe("busy.*", inbox)
        await transport.flush()
        async with busy(broker, admin):
            await states.become(DOWN)  # nothing but a probe was asked
            assert "BUSY" in states.reasons[0]
            await transport.subscribe("busy.later", later)
            with pytest.raises(TransportError, match="BUSY") as caught:
                await transport.publish("busy.x", b"")
            assert not caught.value.permanent
            await asyncio.sleep(0.3)  # while it is busy, it cannot come back
            assert states == [DOWN]
        await states.become(DOWN, UP)
        assert await hears(transport, "busy.x", inbox)
        assert await hears(transport, "busy.later", later)


def nothing(_connection: object) -> None:
    """In place of what gives the stream of a connection: as with a driver that hides it."""


@pytest.mark.parametrize("hidden", [False, True])
async def test_what_a_busy_server_does_not_take_is_not_refused(
    broker: Broker, admin: Any, monkeypatch: pytest.MonkeyPatch, *, hidden: bool
) -> None:
    """The commands that meet it are told of the loss, and nothing of a refusal."""
    if hidden:
        monkeypatch.setattr("aioregistry.transports._redis_wire.stream_of", nothing)
    states = States()
    async with connected(broker.url, states, probe_interval=30) as transport:
        async with busy(broker, admin):
            subscribing = asyncio.ensure_future(transport.subscribe("busy.x", Inbox()))
            calls = [transport.publish("busy.y", b""), transport.unheard(["z"]), transport.flush()]
            results = await asyncio.gather(*calls, return_exceptions=True)
            await subscribing
            await states.become(DOWN)
        for error in results:
            if error is not None:
                assert isinstance(error, TransportError)
                assert not error.permanent
                assert not error.subjects
        assert isinstance(results[-1], TransportError)
        await states.become(DOWN, UP)
        for _ in range(2):
            assert await refusals(transport) == set()


async def test_a_server_that_cannot_save_is_well_enough(tmp_path: Path) -> None:
    """Then it answers PING with an error, and does all the rest that is asked of it."""
    folder, states, inbox = tmp_path / "gone", States(), Inbox()
    folder.mkdir()
    async with (
        serving("--dir", str(folder), "--save", "900 1") as broker,
        cast("Any", redis.asyncio.Redis(port=broker.port, protocol=2)) as admin,
        connected(broker.url, states, probe_interval=0.05) as transport,
    ):
        folder.rmdir()
        await admin.bgsave()

        async def has_failed() -> bool:
            try:
                return not await admin.ping()
            except ResponseError as error:
                return "MISCONF" in str(error)

        await eventually(has_failed)
        await transport.subscribe("unsaved", inbox)
        assert await hears(transport, "unsaved", inbox)
        await asyncio.sleep(0.2)  # some probes
        assert states == []
        async with connected(broker.url) as another:
            await another.flush()


# ---- replicas


@contextlib.asynccontextmanager
async def replica_of(
    primary: Broker, admin: Any, *options: str
) -> AsyncGenerator[tuple[Broker, Any], None]:
    """A server that follows another, and a client of it."""
    await admin.config_set("repl-diskless-sync-delay", 0)
    async with (
        serving(*options) as replica,
        cast("Any", redis.asyncio.Redis(port=replica.port, protocol=2)) as its_admin,
    ):
        await its_admin.replicaof("127.0.0.1", primary.port)

        async def follows() -> bool:
            return bool((await its_admin.info("replication"))["master_link_status"] == "up")

        await eventually(follows)
        yield replica, its_admin


@pytest.fixture
def options(*, resp3: bool) -> tuple[str, ...]:
    """Those of a server such as `broker`."""
    return () if resp3 else WITHOUT_RESP3


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_replica_is_refused(
    broker: Broker,
    admin: Any,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    *,
    hidden: bool,
) -> None:
    if hidden:
        monkeypatch.setattr("aioregistry.transports._redis_wire.stream_of", nothing)
    async with replica_of(broker, admin, *options) as (replica, its_admin):
        transport = RedisTransport(replica.url)
        with pytest.raises(TransportError, match=r"is a replica.*the primary") as caught:
            await transport.connect(States())
        assert not caught.value.permanent
        assert replica.url in str(caught.value)
        await its_admin.replicaof("NO", "ONE")
        await transport.connect(States())
        await transport.flush()
        await transport.aclose()


async def test_a_primary_that_becomes_a_replica(
    broker: Broker, admin: Any, options: tuple[str, ...]
) -> None:
    states, inbox = States(), Inbox()
    async with (
        connected(broker.url, states, probe_interval=0.05) as transport,
        replica_of(broker, admin, *options) as (_, its_admin),
    ):
        await transport.subscribe("role", inbox)
        await admin.execute_command("FAILOVER")
        await states.become(DOWN)
        assert "is a replica" in states.reasons[0]

        async def leads() -> bool:
            return bool((await its_admin.role())[0] == b"master")

        await eventually(leads)
        await its_admin.execute_command("FAILOVER")
        await states.become(DOWN, UP)
        assert await hears(transport, "role", inbox)


async def test_whoever_may_not_ask_for_the_role_goes_without(broker: Broker, admin: Any) -> None:
    await restrict(admin)
    states = States()
    async with connected(app_url(broker), states, probe_interval=0.02) as transport:
        await asyncio.sleep(0.2)
        await transport.flush()
    assert states == []
    denied = [entry for entry in await admin.acl_log() if entry["username"] == "app"]
    assert sum(int(entry["count"]) for entry in denied) <= 1


class FakeRedis:
    """A server that answers pings, and sends whatever a test wants it to."""

    def __init__(self, *, resp3: bool) -> None:
        self._resp3 = resp3
        self.writers: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[str, None]:
        """Gives its URL; the connections are closed by the end."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for writer in self.writers:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                words = [await self._word(reader) for _ in range(int(line[1:]))]
                if words[0] == b"PING":
                    writer.write(b"$%d\r\n%b\r\n" % (len(words[1]), words[1]))
                elif words[0] == b"SUBSCRIBE":
                    writer.write(self.confirmation(words[1]))
                elif self._resp3:
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                else:
                    writer.write(b"-ERR unknown command 'HELLO'\r\n")

    @staticmethod
    async def _word(reader: asyncio.StreamReader) -> bytes:
        size = int((await reader.readline())[1:])
        return (await reader.readexactly(size + 2))[:-2]

    def confirmation(self, channel: bytes) -> bytes:
        kind = b">" if self._resp3 else b"*"
        return kind + b"3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(channel), channel)


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_confirmation_that_nobody_asked_for_means_resync(
    *, at_once: bool, resp3: bool
) -> None:
    fake, states = FakeRedis(resp3=resp3), States()
    async with fake.serving() as url, connected(url, states) as transport:
        await transport.subscribe("channel", Inbox())
        await transport.flush()
        assert len(fake.writers) == (1 if resp3 else 2)
        feed = fake.writers[0]
        feed.write(fake.confirmation(b"channel"))
        if at_once:  # it then stands where the answer to something else should
            with pytest.raises(TransportError, match="a reply to something else"):
                await transport.flush()
        await states.become(DOWN, UP)
        assert "Redis sent a reply" in states.reasons[0]


async def test_what_is_no_answer_is_taken_for_none() -> None:
    """Other than messages, Redis 6 and later may tell whatever they like unasked."""
    fake, states = FakeRedis(resp3=True), States()
    async with fake.serving() as url, connected(url, states) as transport:
        fake.writers[0].write(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nx\r\n")
        await transport.flush()
        await transport.flush()
        assert states == []


# ---- congestion and closing


async def test_congested(broker: Broker) -> None:
    states = States()
    async with connected(broker.url, states) as transport:
        broker.freeze()
        for _ in range(60):
            await transport.publish("full", b"x" * 2**20)

        async def publish_on() -> None:
            for _ in range(100):
                await transport.publish("full", b"x" * 2**20)

        with pytest.raises(TransportError, match="is congested: the message for 'full' was not"):
            await publish_on()
        broker.thaw()
        await transport.flush()
        await transport.publish("full", b"")
    assert states == []


async def test_closing_while_frozen_with_full_buffers(broker: Broker, *, resp3: bool) -> None:
    async with connected(broker.url) as transport:
        broker.freeze()
        for _ in range(40):
            await transport.publish("full", b"x" * 2**20)
        calls: list[Awaitable[object]] = [
            asyncio.create_task(transport.flush()),
            asyncio.create_task(transport.unheard(["x"])),
        ]
        if not resp3:
            calls.append(asyncio.ensure_future(transport.subscribe("x", Inbox())))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        await asyncio.create_task(transport.aclose())
        assert time.monotonic() - began < 2
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {TransportError}
        assert all("is closed" in str(result) for result in results)
    broker.thaw()
    async with cast("Any", redis.asyncio.Redis(port=broker.port, protocol=2)) as admin:

        async def all_gone() -> bool:
            return len(await admin.client_list()) == 1

        await eventually(all_gone)


async def test_a_driver_that_hides_its_stream(
    broker: Broker, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.transports._redis_wire.stream_of", nothing)
    async with connected(broker.url) as transport:
        await transport.flush()

    async def both_gone() -> bool:
        return len(await admin.client_list()) == 1

    await eventually(both_gone)


async def test_closing_while_rebuilding(broker: Broker) -> None:
    states = States()
    async with connected(broker.url, states):
        broker.kill()
        await states.become(DOWN)
    assert states == [DOWN]


async def test_closing_while_the_new_link_hangs(broker: Broker) -> None:
    states = States()
    async with connected(broker.url, states, probe_interval=0.05, probe_timeout=0.1):
        broker.freeze()
        await states.become(DOWN)
        await asyncio.sleep(0.2)  # by now it waits for the frozen server's first answer
    broker.thaw()
    assert states == [DOWN]
