"""The Redis transport on a server that is well: what is delivered, to whom, and in what order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker, redis_server
from aioregistry.transports.base import LinkState, Subscription, Transport
from aioregistry.transports.redis import RedisTransport

if TYPE_CHECKING:
    from pathlib import Path

Message = tuple[str, bytes]
Connect = Callable[..., Awaitable[RedisTransport]]


class Inbox(list[Message]):
    """A handler that keeps what it is given."""

    def __call__(self, subject: str, payload: bytes) -> None:
        self.append((subject, payload))

    @property
    def subjects(self) -> list[str]:
        return [subject for subject, _ in self]


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while True:
            holds = condition()
            if holds is True or (holds is not False and await holds):
                return
            await asyncio.sleep(0.005)


async def deliver(sender: RedisTransport, receiver: RedisTransport) -> None:
    """Wait until everything that one has published has passed through the other's handlers."""
    await sender.flush()
    await receiver.flush()


@contextlib.asynccontextmanager
async def serving(*options: str) -> AsyncGenerator[Broker, None]:
    """A server of one's own; starting one blocks, so that is done in a thread."""
    server = redis_server(*options)
    broker = await asyncio.to_thread(server.__enter__)
    try:
        yield broker
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)


def ignore_state(_state: LinkState, _reason: str) -> None:
    pass


@pytest.fixture(scope="module", params=[True, False], ids=["resp3", "resp2"])
def resp3(request: pytest.FixtureRequest) -> bool:
    """Whether the server knows RESP3, so that one connection is enough."""
    return bool(request.param)


@pytest.fixture
def redis_broker(redis_broker: Broker, old_redis_broker: Broker, *, resp3: bool) -> Broker:
    return redis_broker if resp3 else old_redis_broker


@pytest.fixture
async def admin(redis_broker: Broker) -> AsyncIterator[Any]:
    async with redis.asyncio.Redis(port=redis_broker.port, protocol=2) as client:
        yield client


@pytest.fixture
async def connect(redis_broker: Broker, admin: Any) -> AsyncIterator[Connect]:
    """Makes connected transports, closes them, and sees that no socket and no task is left."""
    before = asyncio.all_tasks()
    opened: list[RedisTransport] = []
    sockets = await sockets_of(admin)

    async def connect(url: str | None = None, **options: Any) -> RedisTransport:
        if url is None and "client" not in options:
            url = redis_broker.url
        transport = RedisTransport(url, **options)
        opened.append(transport)
        await transport.connect(ignore_state)
        return transport

    yield connect
    for transport in opened:
        await transport.aclose()
    assert asyncio.all_tasks() - before == {asyncio.current_task()}

    async def all_closed() -> bool:
        return await sockets_of(admin) == sockets

    await eventually(all_closed)


async def sockets_of(admin: Any) -> int:
    clients: list[Any] = await admin.client_list()
    return len(clients)


async def channels_of(admin: Any, pattern: str = "*") -> list[bytes]:
    found: list[bytes] = await admin.pubsub_channels(pattern)
    return found


def test_it_is_a_transport() -> None:
    transport = RedisTransport("redis://localhost")
    assert isinstance(transport, Transport)
    assert repr(transport) == "<RedisTransport redis://localhost:6379>"


# ---- delivery


async def test_a_message_reaches_the_subscribers_of_its_subject_only(connect: Connect) -> None:
    sender, receiver = await connect(), await connect()
    orders, billing = Inbox(), Inbox()
    await receiver.subscribe("registry.ping.orders", orders)
    await receiver.subscribe("registry.ping.billing", billing)
    await receiver.flush()

    await sender.publish("registry.ping.orders", b"\x00\xff\r\n")
    await deliver(sender, receiver)

    assert orders == [("registry.ping.orders", b"\x00\xff\r\n")]
    assert billing == []


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("a.b", ["a.b"], ["a.c", "a.b.c", "a"]),
        ("a.*", ["a.b", "a.*"], ["a.b.c", "a", "ab"]),
        ("a.>", ["a.b", "a.b.c", "a.>"], ["a", "ab.c"]),
        ("*.b", ["a.b"], ["a.a.b", "b"]),
        ("*.*.c", ["a.b.c"], ["a.c", "a.b.b.c"]),
        ("a.*.c.>", ["a.b.c.d", "a.b.c.d.e"], ["a.b.c", "a.b.b.c.d"]),
        ("*", ["a"], ["a.b"]),
        (">", ["a", "a.b"], []),
        ("a*.>", ["a*.b"], ["ab.b", "a.b"]),
        ("a?.*", ["a?.b"], ["ab.b"]),
        ("[ab].*", ["[ab].x"], ["a.x", "b.x"]),
        ("a^b.*", ["a^b.x"], ["ab.x"]),
        ("[^a].*", ["[^a].x"], ["b.x"]),
        (r"a\.*", [r"a\.b"], ["a.b"]),
        (r"\*.*", [r"\*.b"], ["*.b"]),
        ("a]-.*", ["a]-.b"], ["a.b"]),
        ("größe.*", ["größe.ü"], ["grosse.u"]),
        ("a*", ["a*"], ["ab", "a"]),
        ("a.>.b", ["a.>.b"], ["a.x.b", "a.x"]),
    ],
)
async def test_patterns_mean_what_they_mean_on_nats(
    connect: Connect, pattern: str, matching: list[str], others: list[str]
) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe(pattern, inbox)
    for subject in [*matching, *others]:
        await transport.publish(subject, b"")
    await transport.flush()
    assert inbox.subjects == matching


async def test_each_subscription_gets_each_message_once(connect: Connect) -> None:
    transport = await connect()
    patterns = ["a.b", "a.b", "a.*", "a.>", "a.>", "*.b", "*.*", ">"]
    inboxes = [Inbox() for _ in patterns]
    for pattern, inbox in zip(patterns, inboxes, strict=True):
        await transport.subscribe(pattern, inbox)
    await transport.publish("a.b", b"x")
    await transport.flush()
    assert inboxes == [[("a.b", b"x")]] * len(patterns)


async def test_one_handler_subscribed_twice_is_called_twice(connect: Connect) -> None:
    transport = await connect()
    inbox = Inbox()
    first = await transport.subscribe("twice", inbox)
    await transport.subscribe("twice", inbox)
    await transport.publish("twice", b"1")
    await transport.flush()
    assert len(inbox) == 2
    await first.unsubscribe()
    await transport.publish("twice", b"2")
    await transport.flush()
    assert [payload for _, payload in inbox] == [b"1", b"1", b"2"]


async def test_equal_globs_share_one_redis_subscription(connect: Connect, admin: Any) -> None:
    transport = await connect()
    one_token, rest = Inbox(), Inbox()
    narrow = await transport.subscribe("shared.*", one_token)
    wide = await transport.subscribe("shared.>", rest)
    await transport.flush()
    assert await admin.pubsub_numpat() == 1

    await transport.publish("shared.a", b"")
    await transport.publish("shared.a.b", b"")
    await transport.flush()
    assert one_token.subjects == ["shared.a"]
    assert rest.subjects == ["shared.a", "shared.a.b"]

    await narrow.unsubscribe()
    await transport.flush()
    assert await admin.pubsub_numpat() == 1
    await wide.unsubscribe()
    await transport.flush()
    assert await admin.pubsub_numpat() == 0


async def test_the_last_to_leave_ends_the_redis_subscription(connect: Connect, admin: Any) -> None:
    transport = await connect()
    left, kept = Inbox(), Inbox()
    leaving = await transport.subscribe("leaving", left)
    staying = await transport.subscribe("leaving", kept)

    await leaving.unsubscribe()
    await leaving.unsubscribe()
    await transport.publish("leaving", b"")
    await transport.flush()
    assert (len(left), len(kept)) == (0, 1)

    await staying.unsubscribe()
    await transport.flush()
    assert await channels_of(admin, "leaving") == []
    await transport.subscribe("leaving", left)
    await transport.publish("leaving", b"")
    await transport.flush()
    assert (len(left), len(kept)) == (1, 1)


async def test_no_handler_is_called_once_unsubscribing_has_begun(connect: Connect) -> None:
    transport = await connect()
    inbox = Inbox()
    subscription = await transport.subscribe("ending", inbox)
    ending = asyncio.create_task(subscription.unsubscribe())
    await asyncio.sleep(0)
    for _ in range(100):
        await transport.publish("ending", b"")
    await ending
    await transport.flush()
    assert inbox == []


async def test_subscribed_and_flushed_means_in_force(connect: Connect) -> None:
    sender, receiver = await connect(), await connect()
    inbox = Inbox()

    async def subscribe_and_say_so(number: int) -> None:
        await receiver.subscribe(f"force.{number}", inbox)
        await receiver.flush()
        await sender.publish(f"force.{number}", b"")

    await asyncio.gather(*(subscribe_and_say_so(number) for number in range(500)))
    await deliver(sender, receiver)
    assert sorted(inbox.subjects) == sorted(f"force.{number}" for number in range(500))


async def test_concurrent_subscribes_travel_together(connect: Connect, admin: Any) -> None:
    transport = await connect()
    before = await reads_of(admin)
    await asyncio.gather(
        *(transport.subscribe(f"together.{number}", ignore) for number in range(1000))
    )
    await transport.flush()
    assert await reads_of(admin) - before < 50
    assert len(await channels_of(admin, "together.*")) == 1000


async def test_subscribed_before_connecting(redis_broker: Broker) -> None:
    transport = RedisTransport(redis_broker.url)
    inboxes = [Inbox(), Inbox(), Inbox()]
    dropped = await transport.subscribe("early.dropped", inboxes[0])
    await transport.subscribe("early.exact", inboxes[1])
    await transport.subscribe("early.>", inboxes[2])
    await dropped.unsubscribe()

    await transport.connect(ignore_state)
    try:
        await transport.publish("early.dropped", b"")
        await transport.publish("early.exact", b"")
        await transport.flush()
    finally:
        await transport.aclose()
    assert [inbox.subjects for inbox in inboxes] == [
        [],
        ["early.exact"],
        ["early.dropped", "early.exact"],
    ]


def raise_it(error: BaseException) -> Callable[[str, bytes], None]:
    def handler(_subject: str, _payload: bytes) -> None:
        raise error

    return handler


@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError()])
async def test_a_handler_that_raises_harms_nobody(
    connect: Connect, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe("raise.*", raise_it(error))
    await transport.subscribe("raise.*", inbox)
    for number in range(3):
        await transport.publish(f"raise.{number}", b"")
    await transport.flush()
    assert len(inbox) == 3
    assert "the handler of <subscription to 'raise.*'> raised" in caplog.text


async def test_a_foreign_channel_that_is_not_utf8_is_dropped(
    connect: Connect, admin: Any, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe("foreign.>", inbox)
    await transport.flush()
    for _ in range(3):
        await admin.publish(b"foreign.\xff\xfe", b"\xff")
    await admin.publish("foreign.fine", b"\xff")
    await transport.flush()
    assert inbox == [("foreign.fine", b"\xff")]
    assert caplog.text.count("not UTF-8") == 1


# ---- publishing


@pytest.mark.parametrize("at_once", [True, False])
async def test_ten_thousand_publishes_keep_their_order_and_share_round_trips(
    connect: Connect, admin: Any, *, at_once: bool
) -> None:
    sender, receiver = await connect(), await connect()
    inbox = Inbox()
    await receiver.subscribe("many.>", inbox)
    await receiver.flush()
    sockets, before = await sockets_of(admin), await reads_of(admin)

    publishes = (sender.publish("many.one", b"%d" % number) for number in range(10_000))
    if at_once:
        await asyncio.gather(*publishes)
    else:
        for publish in publishes:
            await publish
    await deliver(sender, receiver)

    assert await sockets_of(admin) == sockets
    assert await reads_of(admin) - before < 1000
    assert [payload for _, payload in inbox] == [b"%d" % number for number in range(10_000)]


async def test_two_hundred_thousand_publishes_in_a_row_are_no_congestion(connect: Connect) -> None:
    transport = await connect()
    for number in range(200_000):
        await transport.publish("row", b"%d" % number)
    await transport.flush()


async def test_a_cancelled_flush_takes_nobody_along(connect: Connect) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe("cancel", inbox)
    for number in range(100):
        await transport.publish("cancel", b"%d" % number)
    flushes = [asyncio.create_task(transport.flush()) for _ in range(10)]
    await asyncio.sleep(0)
    for flush in flushes[::2]:
        flush.cancel()
    results = await asyncio.gather(*flushes, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, type(None)] * 5
    assert len(inbox) == 100


async def test_a_cancelled_subscribe_is_taken_back(
    connect: Connect, admin: Any, *, resp3: bool
) -> None:
    if resp3:
        pytest.skip("there it does not wait, so nothing is cancelled")
    transport = await connect()
    inbox = Inbox()
    cancelled = asyncio.create_task(transport.subscribe("taken.back", inbox))
    shared = asyncio.create_task(transport.subscribe("taken.shared", inbox))
    sharing = asyncio.create_task(transport.subscribe("taken.shared", inbox))
    await asyncio.sleep(0)
    cancelled.cancel()
    shared.cancel()
    await asyncio.wait([cancelled, shared])
    assert cancelled.cancelled()
    assert shared.cancelled()
    await sharing
    await transport.publish("taken.back", b"")
    await transport.publish("taken.shared", b"")
    await transport.flush()
    assert inbox.subjects == ["taken.shared"]
    assert await channels_of(admin, "taken.*") == [b"taken.shared"]


async def test_the_largest_payload(connect: Connect) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe("large", inbox)
    await transport.publish("large", b"x" * 2**20)
    with pytest.raises(TransportError, match="has 1048577 bytes; at most 1048576") as caught:
        await transport.publish("large", b"x" * (2**20 + 1))
    assert caught.value.subjects == {"large"}
    await transport.flush()
    assert [len(payload) for _, payload in inbox] == [2**20]


async def test_nobody_there_is_told_to_own_handlers_alone(connect: Connect) -> None:
    asking, other = await connect(), await connect()
    own_exact, own_pattern, unrelated, others = Inbox(), Inbox(), Inbox(), Inbox()
    await asking.subscribe("registry.register.orders", own_exact)
    await asking.subscribe("registry.register.>", own_pattern)
    await asking.subscribe("registry.unregister.>", unrelated)
    await other.subscribe("registry.register.>", others)
    await other.flush()

    await asking.publish("registry.ping.orders", b"", reply_to="registry.register.orders")
    await asking.flush()
    empty = [("registry.register.orders", b"")]
    assert (own_exact, own_pattern, unrelated) == (empty, empty, [])

    answered = Inbox()
    await other.subscribe("registry.ping.*", answered)
    await other.flush()
    await asking.publish("registry.ping.orders", b"", reply_to="registry.register.orders")
    await asking.publish("registry.ping.billing", b"")
    await deliver(asking, other)
    assert answered.subjects == ["registry.ping.orders", "registry.ping.billing"]
    assert (own_exact, own_pattern, others) == (empty, empty, [])


async def test_unheard_is_what_nobody_subscribes_to(connect: Connect) -> None:
    asking, other = await connect(), await connect()
    await other.subscribe("alive.500", ignore)
    await other.flush()
    await asking.subscribe("alive.7", ignore)
    subjects = [f"alive.{number}" for number in range(2500)]
    assert set(subjects) - await asking.unheard(subjects) == {"alive.500", "alive.7"}
    assert await asking.unheard(["alive.7"]) == frozenset()
    assert await asking.unheard([]) == frozenset()


async def test_unheard_minds_patterns_with_their_own_meaning(connect: Connect) -> None:
    asking, other = await connect(), await connect()
    seen = Inbox()
    star = await other.subscribe("by.*", seen)
    twin = await other.subscribe("by.*", seen)
    await other.subscribe("rest.>", seen)
    await other.flush()
    subjects = {"by.a", "by.a.b", "rest.a.b", "rest"}
    assert await asking.unheard(subjects) == {"by.a.b", "rest"}
    await star.unsubscribe()
    assert await asking.unheard(subjects) == {"by.a.b", "rest"}
    await twin.unsubscribe()
    await other.flush()
    assert await asking.unheard(subjects) == {"by.a", "by.a.b", "rest"}
    assert seen == [], "a look disturbs nobody"


async def test_a_monitor_of_everything_makes_nothing_heard(connect: Connect, admin: Any) -> None:
    transport = await connect()
    async with admin.pubsub() as monitor:
        await monitor.psubscribe("*")
        await monitor.get_message(timeout=5)
        assert await transport.unheard(["alive.gone"]) == {"alive.gone"}


async def test_a_channel_that_is_spelled_like_a_pattern(connect: Connect, admin: Any) -> None:
    transport = await connect()
    star, rest = Inbox(), Inbox()
    await transport.subscribe("spelled.*", star)
    await transport.subscribe("spelled.>", rest)
    await transport.flush()
    await admin.publish("spelled.*", "1")
    await admin.publish("spelled.>", "2")
    await transport.flush()
    assert star.subjects == rest.subjects == ["spelled.*", "spelled.>"]


async def test_unheard_forgets_a_crashed_subscriber(connect: Connect) -> None:
    asking, crashing = await connect(), await connect()
    await crashing.subscribe("alive.crashing", ignore)
    await crashing.flush()
    assert await asking.unheard({"alive.crashing"}) == frozenset()
    await crashing.aclose()  # to the server, the same as a crash

    async def unheard() -> bool:
        return "alive.crashing" in await asking.unheard({"alive.crashing"})

    await eventually(unheard)


async def test_flush_is_a_barrier_for_what_others_sent(connect: Connect) -> None:
    sender, receiver = await connect(), await connect()
    inbox = Inbox()
    await receiver.subscribe("barrier.>", inbox)
    await receiver.flush()
    for round_ in range(1, 11):
        await asyncio.gather(*(sender.publish("barrier.x", b"x" * 300) for _ in range(500)))
        await deliver(sender, receiver)
        assert len(inbox) == round_ * 500


async def test_flush_is_a_barrier_for_own_messages(connect: Connect) -> None:
    transport = await connect()
    inbox = Inbox()
    await transport.subscribe("own.>", inbox)
    for round_ in range(1, 11):
        for _ in range(500):
            await transport.publish("own.x", b"")
        await transport.flush()
        assert len(inbox) == round_ * 500


async def test_flush_without_any_subscription(connect: Connect) -> None:
    transport = await connect()
    await transport.flush()
    subscription = await transport.subscribe("flush", ignore)
    await transport.flush()
    await subscription.unsubscribe()
    await transport.flush()


# ---- addresses and clients


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://me:secret@10.0.0.5:7000/3", "redis://10.0.0.5:7000/3"),
        ("redis://:s%40cret@host/", "redis://host:6379"),
        ("redis://host?password=secret&username=me", "redis://host:6379"),
        ("rediss://me:secret@[fd00::1]:6380", "rediss://[fd00::1]:6380"),
        ("unix:///run/redis.sock?password=secret", "unix:///run/redis.sock"),
    ],
)
def test_the_address_shows_no_credentials(url: str, address: str) -> None:
    assert RedisTransport(url).address == address
    from_url = cast("Any", redis.asyncio.Redis).from_url
    assert RedisTransport(client=from_url(url)).address == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:6379",
        "redis://me:secret@host:port",
        "redis://me:secret@host:0",
        "redis://me:123#secret@host:6379",
        "redis://me:secret@host:70000",
        "redis://me:sec/ret@host:6379",
        "redis://me:secret@host/zero",
        "redis://me:secret@one:6379,two:6379",
        "redis://ho st?password=secret",
        "redis://host/0?password=secret&db=zero",
        "redis://host?password=secret&colour=blue",
        "unix://",
    ],
)
def test_a_malformed_url_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        RedisTransport(url)
    text = str(caught.value)
    assert "secret" not in text
    assert "sec/ret" not in text
    assert "url must be redis://" in text or "makes no sense" in text
    if "host" in url:
        assert "host" in text


def test_exactly_one_of_url_and_client() -> None:
    with pytest.raises(ValueError, match="either a url or a client"):
        RedisTransport()
    with pytest.raises(ValueError, match="either a url or a client"):
        RedisTransport("redis://localhost", client=redis.asyncio.Redis())
    with pytest.raises(ValueError, match=r"must be a redis\.asyncio\.Redis, not Redis"):
        RedisTransport(client=redis.Redis())  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the mistake
    with pytest.raises(ValueError, match="db: a client brings its own"):
        RedisTransport(client=redis.asyncio.Redis(), db=1)
    with pytest.raises(ValueError, match="colour"):
        RedisTransport("redis://localhost", colour="blue")


@pytest.mark.parametrize("name", ["probe_interval", "probe_timeout"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_durations_are_checked(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be a positive number of seconds, not"):
        RedisTransport("redis://localhost", **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode_responses": True},
        {"decode_responses": True, "encoding": "latin-1"},
        {"protocol": 2},
        {"protocol": 3, "decode_responses": True},
        {"retry": Retry(ConstantBackoff(5), 10), "retry_on_error": [redis.TimeoutError]},
        {"socket_timeout": 0.05, "health_check_interval": 1},
        {"single_connection_client": True},
        {"client_name": "application", "db": 3},
    ],
)
async def test_a_borrowed_client(
    connect: Connect, redis_broker: Broker, options: dict[str, Any], admin: Any, *, resp3: bool
) -> None:
    if not resp3:
        options = options | {"protocol": 2}
    async with redis.asyncio.Redis(port=redis_broker.port, **options) as client:
        await client.set("key", "value")
        sockets = await sockets_of(admin)
        one, other = await connect(client=client), await connect(client=client)
        ones, others = Inbox(), Inbox()
        await one.subscribe("borrowed.>", ones)
        await other.subscribe("borrowed.>", others)
        await other.flush()
        await one.publish("borrowed.x", b"\xff\xfe")
        await deliver(one, other)
        await other.publish("borrowed.y", b"")
        await deliver(other, one)
        assert ones == others == [("borrowed.x", b"\xff\xfe"), ("borrowed.y", b"")]

        await one.aclose()
        await other.publish("borrowed.z", b"")
        await other.flush()
        assert (len(ones), len(others)) == (2, 3)
        await other.aclose()
        assert await client.get("key") in ("value", b"value"), "the client is as before"

        async def as_before() -> bool:
            return await sockets_of(admin) == sockets

        await eventually(as_before)


async def test_a_unix_socket(tmp_path: Path, connect: Connect) -> None:
    path = str(tmp_path / "redis.sock")
    async with serving("--unixsocket", path):
        transport = await connect(f"unix://{path}")
        assert transport.address == f"unix://{path}"
        inbox = Inbox()
        await transport.subscribe("unix", inbox)
        await transport.publish("unix", b"")
        await transport.flush()
        assert inbox.subjects == ["unix"]


# ---- opening and closing


async def test_opened_and_closed_in_different_tasks(redis_broker: Broker) -> None:
    transport = RedisTransport(redis_broker.url)
    await asyncio.create_task(transport.connect(ignore_state))
    inbox = Inbox()
    await asyncio.ensure_future(transport.subscribe("tasks", inbox))
    await transport.publish("tasks", b"")
    await transport.flush()
    assert inbox.subjects == ["tasks"]
    await asyncio.create_task(transport.aclose())
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closing_in_a_cancelled_anyio_scope(redis_broker: Broker) -> None:
    transport = RedisTransport(redis_broker.url)
    with anyio.CancelScope() as scope:
        await transport.connect(ignore_state)
        scope.cancel()
        await transport.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_cancelled_closing_goes_on(redis_broker: Broker, connect: Connect) -> None:
    transport = await connect()
    closing = asyncio.create_task(transport.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await transport.aclose()


async def test_what_was_just_published_still_goes_out(connect: Connect) -> None:
    leaving, staying = await connect(), await connect()
    inbox = Inbox()
    await staying.subscribe("farewell", inbox)
    await staying.flush()
    for _ in range(1000):
        await leaving.publish("farewell", b"x" * 300)
    await leaving.aclose()
    await staying.flush()
    assert len(inbox) == 1000


async def test_closed_means_closed(redis_broker: Broker) -> None:
    transport = RedisTransport(redis_broker.url)
    await transport.connect(ignore_state)
    inbox = Inbox()
    subscription: Subscription = await transport.subscribe("closed", inbox)
    await transport.aclose()
    await transport.aclose()
    calls: list[Awaitable[object]] = [
        transport.connect(ignore_state),
        transport.publish("closed", b""),
        transport.subscribe("closed", inbox),
        transport.unheard(["closed"]),
        transport.flush(),
    ]
    for call in calls:
        with pytest.raises(TransportError, match=r"the transport to redis://.* is closed"):
            await call
    await subscription.unsubscribe()


async def test_closing_several_times_at_once(redis_broker: Broker) -> None:
    for turns in range(4):
        transport = RedisTransport(redis_broker.url)
        connecting = asyncio.ensure_future(transport.connect(ignore_state))
        if turns:
            await connecting
        closings = [asyncio.create_task(transport.aclose()) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        await transport.aclose()
        await asyncio.gather(*closings)
        await asyncio.wait([connecting])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert turns or isinstance(connecting.exception(), TransportError)


async def test_closing_what_was_never_opened() -> None:
    transport = RedisTransport("redis://localhost:1")
    await transport.aclose()
    await transport.aclose()
    with pytest.raises(TransportError, match="closed"):
        await transport.connect(ignore_state)


async def test_closing_ends_what_is_under_way(connect: Connect) -> None:
    transport = await connect()
    subscribe = asyncio.create_task(_subscribe(transport, "under.way"))
    flush = asyncio.create_task(transport.flush())
    unheard = asyncio.create_task(transport.unheard(["under.way"]))
    await asyncio.sleep(0)
    await transport.aclose()
    async with asyncio.timeout(1):
        under_way: list[Awaitable[object]] = [subscribe, flush, unheard]
        results = await asyncio.gather(*under_way, return_exceptions=True)
    for result in results:
        assert isinstance(result, TransportError) or result in (None, frozenset())


async def test_before_connecting_it_says_what_to_do() -> None:
    transport = RedisTransport("redis://localhost:1")
    calls: list[Awaitable[object]] = [
        transport.publish("x", b""),
        transport.unheard(["x"]),
        transport.flush(),
    ]
    for call in calls:
        with pytest.raises(TransportError, match=r"not connected to .*: await connect\(\) first"):
            await call


async def test_connecting_twice_is_refused(connect: Connect) -> None:
    transport = await connect()
    with pytest.raises(TransportError, match="was called already"):
        await transport.connect(ignore_state)
    await transport.flush()


async def test_it_opens_one_connection_if_that_is_enough(
    connect: Connect, admin: Any, *, resp3: bool
) -> None:
    before = await sockets_of(admin)
    transport = await connect()
    assert transport.ordered is resp3
    assert await sockets_of(admin) == before + (1 if resp3 else 2)


async def test_an_old_hiredis_needs_two_connections(
    connect: Connect, admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 3.2 it cannot tell messages from answers, where one connection carries both."""
    monkeypatch.setattr("aioregistry.transports._redis_wire.Push", None)
    before = await sockets_of(admin)
    transport = await connect()
    assert not transport.ordered
    assert await sockets_of(admin) == before + 2


async def test_peace_costs_two_commands_a_second(
    connect: Connect, admin: Any, *, resp3: bool
) -> None:
    transport = await connect(probe_interval=0.05)
    before, started = await commands_of(admin), time.monotonic()
    await asyncio.sleep(0.5)
    spent = time.monotonic() - started
    await transport.flush()
    each = 2 if resp3 else 3  # a sign of life of each connection, and the role
    assert await commands_of(admin) - before <= each * spent / 0.05 + 5


async def _subscribe(transport: RedisTransport, subject: str) -> None:
    await transport.subscribe(subject, ignore)


def ignore(_subject: str, _payload: bytes) -> None:
    pass


async def reads_of(admin: Any) -> int:
    """How often the server has read from any socket."""
    stats: dict[str, Any] = await admin.info("stats")
    return int(stats["total_reads_processed"])


async def commands_of(admin: Any) -> int:
    stats: dict[str, Any] = await admin.info("stats")
    return int(stats["total_commands_processed"])
