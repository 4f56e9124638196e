"""What every client does: httpx, httpx2 and aiohttp, against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from aioregistry import LeastPending, Registry, Service, Status, free_port, metadata
from aioregistry.integrations.resilience import Policy
from aioregistry.testing.brokers import unused_port
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from tests.integrations.instance import (
    KINDS,
    Client,
    Instance,
    Kind,
    Received,
    half,
    hang_up,
    never,
    response,
    running,
    unwell,
)
from tests.tools import eventually, no_new_tasks

ITEMS = "http://orders/items"


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
async def world(broker: MemoryBroker) -> AsyncIterator[Registry]:
    """Where the instances register."""
    async with Registry(MemoryTransport(broker)) as registry:
        yield registry


@pytest.fixture
async def registry(broker: MemoryBroker) -> AsyncIterator[Registry]:
    """The caller's."""
    async with Registry(MemoryTransport(broker), lookup_timeout=0.5) as registry:
        yield registry


@pytest.fixture
async def three(world: Registry, registry: Registry) -> AsyncIterator[list[Instance]]:
    """Three instances of orders, known to the caller."""
    instances = [Instance(tag) for tag in "abc"]
    async with running(*instances):
        for each in instances:
            await world.register("orders", each.address)
        await registry.get_services("orders", minimum=3, timeout=5)
        yield instances


async def only(world: Registry, registry: Registry, *instances: Instance) -> None:
    for each in instances:
        await world.register("orders", each.address)
    await registry.get_services("orders", minimum=len(instances), timeout=5)


# ---- where requests go -----------------------------------------------------------------


async def test_each_request_goes_to_the_next_instance(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async with no_new_tasks(), kind.connect(registry) as client:
        tags = Counter([(await client.request("GET", ITEMS)).tag for _ in range(30)])
    assert tags == {"a": 10, "b": 10, "c": 10}
    assert [each.connections for each in three] == [1, 1, 1]  # kept alive, one pool for each


async def test_what_the_client_and_the_server_see(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async with kind.connect(registry) as client:
        answer = await client.request("POST", f"{ITEMS}?q=%20a&q=b", data=b"body")
    assert answer.url == f"{ITEMS}?q=%20a&q=b"
    [instance] = [each for each in three if each.received]
    assert answer.service == instance.address
    [received] = instance.received
    assert received.method == "POST"
    assert received.path == "/items?q=%20a&q=b"
    assert received.headers["host"] == "orders"
    assert received.body == b"body"


async def test_the_host_header_of_the_caller_stays(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async with kind.connect(registry) as client:
        await client.request("GET", ITEMS, headers={"Host": "shop.example"})
    [received] = [request for each in three for request in each.received]
    assert received.headers["host"] == "shop.example"


async def test_an_announced_url_brings_its_path_and_its_host(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance):
        port = instance.address.partition(":")[2]
        await world.register("orders", url=f"http://localhost:{port}/shop/v1/")
        async with kind.connect(registry) as client:
            await client.request("GET", ITEMS)
            await client.request("GET", "http://orders")
            await client.request("GET", ITEMS, headers={"Host": "mine"})
    assert [each.path for each in instance.received] == [
        "/shop/v1/items",
        "/shop/v1/",
        "/shop/v1/items",
    ]
    hosts = [each.headers["host"] for each in instance.received]
    assert hosts == [f"localhost:{port}", f"localhost:{port}", "mine"]


@pytest.mark.parametrize("form", ["http://{host}{path}/", "{path}/"])
async def test_redirects_of_an_announced_url_stay_with_the_service(
    form: str, kind: Kind, world: Registry, registry: Registry
) -> None:
    async def add_a_slash(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path.endswith("/"):
            writer.write(response(b"there"))
            return
        location = form.format(host=request.headers["host"], path=request.path)
        writer.write(response(b"", f"location: {location}", status="307 Temporary Redirect"))

    instance = Instance("x", add_a_slash)
    options = {} if kind.name == "aiohttp" else {"follow_redirects": True}
    async with running(instance), kind.connect(registry) as client:
        port = instance.address.partition(":")[2]
        await world.register("orders", url=f"http://localhost:{port}/shop")
        for headers in ({"Authorization": "mine"}, {"Authorization": "mine", "Host": "mine"}):
            got = await client.request("POST", ITEMS, headers=headers, data=b"x", **options)
            assert (got.body, got.url) == (b"there", f"{ITEMS}/")
    assert [each.path for each in instance.received] == ["/shop/items", "/shop/items/"] * 2
    assert {each.headers["authorization"] for each in instance.received} == {"mine"}


async def test_other_urls_are_called_directly(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    port = three[0].address.partition(":")[2]
    async with kind.connect(registry) as client:
        assert (await client.request("GET", f"http://{three[0].address}/")).tag == "a"
        assert (await client.request("GET", f"http://localhost:{port}/")).tag == "a"
    async with kind.connect(registry, domain="service") as client:
        for _ in range(3):
            await client.request("GET", "http://orders.service/x")
        assert (await client.request("GET", f"http://localhost:{port}/")).tag == "a"
    assert three[1].received[0].headers["host"] == "orders.service"


async def test_the_port_of_the_scheme_counts_as_none(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async with kind.connect(registry) as client:
        await client.request("GET", "http://orders:80/items")
    [received] = [request for each in three for request in each.received]
    assert received.headers["host"] == "orders"


async def test_ipv6(kind: Kind, world: Registry, registry: Registry) -> None:
    instance = Instance("x", host="::1")
    async with running(instance), kind.connect(registry) as client:
        await world.register("orders", instance.address)
        await world.register("billing", url=f"http://{instance.address}/api")
        assert (await client.request("GET", ITEMS)).tag == "x"
        assert (await client.request("GET", "http://billing/items")).tag == "x"
        assert (await client.request("GET", f"http://{instance.address}/")).tag == "x"
    hosts = [each.headers["host"] for each in instance.received]
    assert hosts == ["orders", instance.address, instance.address]


async def test_where_and_status(kind: Kind, world: Registry, registry: Registry) -> None:
    instances = [Instance(tag) for tag in "abc"]
    async with running(*instances):
        for each in instances:
            await world.register("orders", each.address, metadata={"zone": each.tag})
        await registry.get_services("orders", minimum=3, timeout=5)
        async with kind.connect(registry, where=metadata(zone="b")) as client:
            tags = {(await client.request("GET", ITEMS)).tag for _ in range(5)}
        assert tags == {"b"}
        await world.set_status("orders", Status.CRITICAL, instances[0].address)
        await eventually(lambda: len(registry.cached("orders")) == 2)
        async with kind.connect(registry) as client:
            tags = {(await client.request("GET", ITEMS)).tag for _ in range(6)}
        assert tags == {"b", "c"}


# ---- bodies ----------------------------------------------------------------------------


async def test_bodies_stream_both_ways(kind: Kind, world: Registry, registry: Registry) -> None:
    more = asyncio.Event()

    async def drip(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await more.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async def body() -> AsyncGenerator[bytes]:
        yield b"1"
        yield b"23"

    instance = Instance("x", drip)
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        async with client.stream(ITEMS) as chunks:
            assert await anext(chunks) == b"one"
            more.set()
            assert b"".join([chunk async for chunk in chunks]) == b"two"
        assert (await client.request("POST", ITEMS, data=body())).body == b"onetwo"
        assert instance.received[1].body == b"123"
        assert instance.connections == 1


async def test_responses_without_a_body(kind: Kind, world: Registry, registry: Registry) -> None:
    async def head(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.method == "HEAD":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    instance = Instance("x", head)
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        assert (await client.request("HEAD", ITEMS)).body == b""
        assert (await client.request("DELETE", ITEMS)).status == 204
        assert instance.connections == 1


# ---- instances that fail ---------------------------------------------------------------


async def test_refused_connections_move_any_request_on(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"once"

    three[0].refuse()
    three[1].refuse()
    async with kind.connect(registry) as client:
        for _ in range(3):
            assert (await client.request("POST", ITEMS, data=body())).tag == "c"
    assert [each.body for each in three[2].received] == [b"once"] * 3


async def test_nobody_accepts_connections(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        each.refuse()
    async with kind.connect(registry) as client:
        with pytest.raises(kind.not_connected) as caught:
            await client.request("POST", ITEMS)
    assert "service 'orders': tried " in str(caught.value)
    for each in three:
        assert each.address in str(caught.value)


async def test_what_breaks_off_is_repeated_if_it_may_be(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    three[0].behaviour = hang_up
    integration: Any = __import__(f"aioregistry.integrations.{kind.name}", fromlist=["*"])

    async def body() -> AsyncGenerator[bytes]:
        yield b"once"

    async with kind.connect(registry) as client:
        for _ in range(3):
            assert (await client.request("GET", ITEMS)).tag in "bc"
            assert (await client.request("PUT", ITEMS, data=b"x")).tag in "bc"
        key = {"Idempotency-Key": "1"}
        for _ in range(3):
            assert (await client.request("POST", ITEMS, headers=key)).tag in "bc"
            with integration.repeatable():
                assert (await client.request("POST", ITEMS, data=b"y")).tag in "bc"
        for each in three[1:]:
            each.behaviour = hang_up
        with integration.repeatable(), pytest.raises(kind.broken):
            await client.request("POST", ITEMS, data=body())  # it can be read only once
    assert sum(each.received[-1].body == b"once" for each in three) == 1


async def test_what_breaks_off_is_not_repeated_otherwise(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        each.behaviour = hang_up
    async with kind.connect(registry) as client:
        with pytest.raises(kind.broken, match="service 'orders': tried") as caught:
            await client.request("POST", ITEMS)
    [asked] = [each for each in three if each.received]
    assert asked.address in str(caught.value)
    assert len(asked.received) == 1


async def test_what_must_not_be_repeated_is_sent_once_whatever_its_method(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        each.behaviour = hang_up
    integration: Any = __import__(f"aioregistry.integrations.{kind.name}", fromlist=["*"])
    async with kind.connect(registry) as client:
        with integration.unrepeatable(), pytest.raises(Exception, match="'orders': tried"):
            await client.request("GET", ITEMS)
    assert sum(len(each.received) for each in three) == 1


class Body:
    """A body that fails the first time it is read, with an error of an HTTP client."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.read = 0

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        self.read += 1
        yield b"part one"
        if self.read == 1:
            raise self._error
        yield b"part two"


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
@pytest.mark.parametrize("error", ["ConnectError", "ConnectTimeout", "ReadError"])
async def test_what_a_body_raises_is_the_callers_own(
    name: str, error: str, registry: Registry, three: list[Instance]
) -> None:
    """A proxy may read it from somewhere else with the same library."""
    own: Exception = getattr(__import__(name), error)("of the caller's own")
    kind = KINDS[name]
    async with kind.connect(registry, policy=Policy(failures=1)) as client:
        for method in ("POST", "PUT"):
            body = Body(own)
            with pytest.raises(type(own)) as caught:
                await client.request(method, ITEMS, data=body)
            assert (caught.value, body.read) == (own, 1)
        tags = Counter([(await client.request("GET", ITEMS)).tag for _ in range(30)])
    assert tags == {"a": 10, "b": 10, "c": 10}


async def test_a_registry_that_is_closed_meanwhile_hides_no_error(
    kind: Kind, world: Registry, broker: MemoryBroker
) -> None:
    own = Registry(MemoryTransport(broker), lookup_timeout=0.5)

    async def close_it(_: Received, writer: asyncio.StreamWriter) -> None:
        await own.aclose()
        writer.close()

    instance = Instance("x", close_it)
    async with running(instance), own, kind.connect(own) as client:
        await only(world, own, instance)
        with pytest.raises(kind.broken):
            await client.request("POST", ITEMS)


async def test_a_response_that_breaks_off_is_repeated(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    three[0].behaviour = half
    async with kind.connect(registry) as client:
        for _ in range(6):
            assert (await client.request("GET", ITEMS)).tag in "bc"
    assert three[0].received


async def test_a_long_response_that_breaks_off_says_who_it_was(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    async def long(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"x" * 1_000_000)[:500_000])
        await writer.drain()
        writer.transport.abort()

    instance = Instance("x", long)
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        with pytest.raises((kind.payload, *kind.broken)):
            await client.request("GET", ITEMS)


async def test_a_single_instance_that_breaks_off_is_asked_again(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    async def at_last(_: Received, writer: asyncio.StreamWriter) -> None:
        if len(instance.received) % 3:
            writer.close()
        else:
            writer.write(response(b"at last"))

    instance = Instance("x", at_last)
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        assert (await client.request("GET", ITEMS)).body == b"at last"


async def test_the_number_of_repetitions_is_bounded(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        each.behaviour = hang_up
    async with kind.connect(registry, policy=Policy(attempts=2)) as client:
        with pytest.raises(kind.broken):
            await client.request("GET", ITEMS)
    # aiohttp itself starts an idempotent request once more after a disconnection.
    sent = sum(len(each.received) for each in three)
    assert sent == (4 if kind.name == "aiohttp" else 2)


async def test_an_instance_that_is_silent_is_not_waited_for_twice(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        each.behaviour = never
    async with kind.connect(registry) as client:
        began = time.monotonic()
        with pytest.raises(kind.late, match="service 'orders': tried"):
            await client.request("GET", ITEMS, timeout=0.1)
        assert time.monotonic() - began < 0.3
    assert sum(len(each.received) for each in three) == 1


async def test_an_instance_that_keeps_failing_is_set_aside(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    three[0].behaviour = unwell
    async with kind.connect(registry) as client:
        statuses = Counter([(await client.request("GET", ITEMS)).status for _ in range(60)])
    assert statuses == {200: 55, 503: 5}  # errors of the service reach the caller


async def test_an_instance_that_keeps_breaking_off_is_set_aside(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    """Also where it begins every response well."""

    async def half_a_stream(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    three[0].behaviour = half_a_stream
    failed = 0
    async with kind.connect(registry) as client:
        for _ in range(60):
            try:
                await client.request("GET", ITEMS)
            except (kind.payload, *kind.broken):
                failed += 1
    assert failed == 5


async def test_nobody_is_set_aside_for_what_the_caller_did(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"1"
        raise ZeroDivisionError("of the caller's own")

    broken: list[dict[str, Any]] = [{"data": body()} for _ in range(3)]
    if kind.name != "aiohttp":  # which looks at them before the middleware gets to see the request
        broken += [{"headers": {"x": "two\nlines"}}] * 3
    async with kind.connect(registry, policy=Policy(failures=1)) as client:
        for options in broken:
            with pytest.raises(Exception, match=r"of the caller's own|Illegal header value"):
                await client.request("POST", ITEMS, **options)
        tags = Counter([(await client.request("GET", ITEMS)).tag for _ in range(30)])
    assert tags == {"a": 10, "b": 10, "c": 10}
    assert all(each.connections <= 7 for each in three)


async def test_and_is_tried_again_later(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    three[0].behaviour = unwell
    async with kind.connect(registry, policy=Policy(failures=1, set_aside=0.2)) as client:
        while not three[0].received:
            await client.request("GET", ITEMS)
        three[0].behaviour = None

        async def came_back() -> None:
            while len(three[0].received) < 3:
                await client.request("GET", ITEMS)

        await asyncio.wait_for(came_back(), 20)


@contextlib.contextmanager
def black_hole(port: int = 0) -> Any:
    """A listening socket that lets nobody in: connecting to it takes for ever."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(0)
        for _ in range(8):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)  # noqa: FBT003 - so it is called
            filling.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_an_instance_that_swallows_packets_leaves_time_for_others(
    world: Registry, registry: Registry, kind: Kind
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        with black_hole() as address:
            await only(world, registry, instance)
            await world.register("orders", address)
            await eventually(lambda: len(registry.cached("orders")) == 2)
            be_patient_for_a_second(kind, client)
            for _ in range(2):
                assert (await client.request("POST", ITEMS)).tag == "x"


async def test_also_where_the_client_itself_would_wait_for_long(
    world: Registry, registry: Registry, kind: Kind
) -> None:
    """A deadline that nobody can see: of a single request with aiohttp, or around it all."""
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        if kind.name != "aiohttp":
            client.raw.timeout = None
        with black_hole() as address:
            await only(world, registry, instance)
            await world.register("orders", address)
            await eventually(lambda: len(registry.cached("orders")) == 2)
            for _ in range(2):
                async with asyncio.timeout(8):
                    assert (await client.request("POST", ITEMS)).tag == "x"


async def test_also_where_it_has_been_reached_before(
    world: Registry, registry: Registry, kind: Kind
) -> None:
    async def once(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "connection: close"))
        await writer.drain()
        writer.close()

    first, other = Instance("x", once), Instance("y", once)
    async with running(first, other), kind.connect(registry) as client:
        await only(world, registry, first, other)
        be_patient_for_a_second(kind, client)
        for _ in range(2):
            assert (await client.request("POST", ITEMS)).status == 200
        first.refuse()
        await eventually(lambda: first.open == 0)
        with black_hole(int(first.address.rpartition(":")[2])):
            for _ in range(2):
                assert (await client.request("POST", ITEMS)).status == 200
        assert [len(each.received) for each in (first, other)] == [1, 3]


async def test_also_where_its_connections_are_all_in_use(
    world: Registry, registry: Registry, kind: Kind
) -> None:
    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    first, other = Instance("x", drip), Instance("y")
    async with running(first, other), kind.connect(registry) as client:
        await only(world, registry, first)
        be_patient_for_a_second(kind, client)
        async with client.stream(ITEMS) as body:
            assert await anext(body) == b"one"
            first.refuse()
            await world.register("orders", other.address)
            await eventually(lambda: len(registry.cached("orders")) == 2)
            with black_hole(int(first.address.rpartition(":")[2])):
                for _ in range(2):
                    assert (await client.request("POST", ITEMS)).tag == "y"


def be_patient_for_a_second(kind: Kind, client: Any) -> None:
    if kind.name == "aiohttp":
        client.raw._timeout = __import__("aiohttp").ClientTimeout(total=1)
    else:
        client.raw.timeout = 1.0


async def test_nobody_is_registered(kind: Kind, registry: Registry) -> None:
    async with no_new_tasks(), kind.connect(registry, timeout=0.2) as client:
        began = time.monotonic()
        with pytest.raises(kind.not_connected, match="no instance of 'orders' is known"):
            await client.request("GET", ITEMS)
        assert 0.2 <= time.monotonic() - began < 2


async def test_who_answers_late_is_tried_before_giving_up(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    """The first to answer a question may be one that cannot be reached."""
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        await world.register("orders", f"127.0.0.1:{unused_port()}")
        request = asyncio.create_task(client.request("POST", ITEMS))
        await eventually(lambda: registry.cached("orders"))
        await asyncio.sleep(0.1)
        await world.register("orders", instance.address)
        assert (await request).tag == "x"


async def test_nobody_can_be_reached(kind: Kind, world: Registry, registry: Registry) -> None:
    address = f"127.0.0.1:{unused_port()}"
    await world.register("orders", address)
    async with kind.connect(registry) as client:
        text = rf"service 'orders': tried {address} \(\w+: [^:]+\)\]?$"
        with pytest.raises(kind.not_connected, match=text):
            await client.request("GET", ITEMS)


async def test_all_are_critical(
    kind: Kind, world: Registry, registry: Registry, three: list[Instance]
) -> None:
    for each in three:
        await world.set_status("orders", Status.CRITICAL, each.address)
    await eventually(lambda: not registry.cached("orders"))
    async with kind.connect(registry) as client:
        with pytest.raises(kind.not_connected, match="3 instances of 'orders' known, all critical"):
            await client.request("GET", ITEMS)


async def test_no_broker(kind: Kind) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    async with Registry(url, connect_timeout=None) as registry, kind.connect(registry) as client:
        with pytest.raises(kind.not_connected, match=r"127\.0\.0\.1"):
            await client.request("GET", ITEMS)


async def test_a_closed_registry(kind: Kind, broker: MemoryBroker) -> None:
    registry = Registry(MemoryTransport(broker))
    async with kind.connect(registry) as client:
        with pytest.raises(kind.not_connected, match="registry"):
            await client.request("GET", ITEMS)


async def test_an_instance_of_no_use_is_passed_over(
    kind: Kind, world: Registry, registry: Registry, three: list[Instance]
) -> None:
    await world.register(Service("orders", "/run/orders.sock", network="unix"))
    await eventually(lambda: len(registry.cached("orders")) == 4)
    async with kind.connect(registry) as client:
        tags = Counter([(await client.request("GET", ITEMS)).tag for _ in range(12)])
    assert set(tags) == {"a", "b", "c"}
    for each in three:
        await world.unregister("orders", each.address)
    await eventually(lambda: len(registry.cached("orders")) == 1)
    async with kind.connect(registry) as client:
        with pytest.raises(kind.not_connected, match=r"/run/orders.sock \(it listens on unix\)"):
            await client.request("GET", ITEMS)


@pytest.mark.parametrize(
    "place",
    [
        Service("orders", "a..b:80"),
        Service("orders", "999.1.1.1:80"),
        Service("orders", "[1::2::3]:80"),
        Service("orders", url="http://höst.example/"),
        Service("orders", url="http://host/pfäd"),
    ],
)
async def test_places_that_make_no_sense_are_passed_over(
    kind: Kind, place: Service, world: Registry, registry: Registry
) -> None:
    await world.register(place)
    async with kind.connect(registry) as client:
        with pytest.raises(kind.not_connected, match="makes no sense"):
            await client.request("GET", ITEMS)


async def test_any_number_of_instances_of_no_use_is_passed_over(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        for port in range(30):
            await world.register("orders", url=f"grpc://10.0.0.1:{port + 1}")
        await world.register("orders", instance.address)
        await registry.get_services("orders", minimum=31, timeout=5)
        for _ in range(10):
            assert (await client.request("GET", ITEMS)).tag == "x"


async def test_what_is_meant_to_be_encrypted_never_goes_out_in_the_clear(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        await world.register("orders", url=f"http://{instance.address}")
        with pytest.raises(kind.not_connected, match="announces plain http"):
            await client.request("GET", "https://orders/")
    assert instance.connections == 0


async def test_cancelling_a_request_leaves_nothing_behind(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    balancer = LeastPending()
    instance = Instance("x", never)
    async with running(instance), kind.connect(registry, balancer=balancer) as client:
        await only(world, registry, instance)
        service = registry.cached("orders")[0]
        request = asyncio.create_task(client.request("GET", ITEMS))
        await eventually(lambda: instance.received)
        assert balancer.in_flight(service) == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        assert balancer.in_flight(service) == 0
        await eventually(lambda: instance.open == 0)


async def test_the_registrys_own_least_pending_is_told_too(
    kind: Kind, world: Registry, broker: MemoryBroker
) -> None:
    balancer = LeastPending()
    instance = Instance("x", never)
    async with (
        running(instance),
        Registry(MemoryTransport(broker), lookup_timeout=0.5, balancer=balancer) as registry,
        kind.connect(registry) as client,
    ):
        await only(world, registry, instance)
        request = asyncio.create_task(client.request("GET", ITEMS))
        await eventually(lambda: instance.received)
        assert balancer.in_flight(registry.cached("orders")[0]) == 1
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


# ---- instances that go -----------------------------------------------------------------


async def test_connections_to_an_instance_that_withdraws_are_closed(
    kind: Kind, world: Registry, registry: Registry, three: list[Instance]
) -> None:
    async with kind.connect(registry) as client:
        for _ in range(6):
            await client.request("GET", ITEMS)
        assert [each.open for each in three] == [1, 1, 1]
        await world.unregister("orders", three[0].address)
        await eventually(lambda: three[0].open == 0)  # without any further request
        for _ in range(6):
            await client.request("GET", ITEMS)
        assert [each.connections for each in three] == [1, 1, 1]
        assert [each.open for each in three] == [0, 1, 1]


async def test_but_not_before_their_requests_are_done(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    more = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        writer.write(response(b"done"))

    instance = Instance("x", slow)
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        request = asyncio.create_task(client.request("GET", ITEMS))
        await eventually(lambda: instance.received)
        await world.unregister("orders", instance.address)
        await eventually(lambda: not registry.cached("orders"))
        await asyncio.sleep(0.02)
        assert instance.open == 1
        more.set()
        assert (await request).body == b"done"
        await eventually(lambda: instance.open == 0)


async def test_an_instance_that_says_it_leaves_gets_no_more(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    """In its answers, that is: the withdrawal may be late, or never come."""
    [service] = [each for each in registry.cached("orders") if each.address == three[0].address]

    async def leave(_: Received, writer: asyncio.StreamWriter) -> None:
        lines = ("connection: close", f"aioregistry-leaving: {service.id}")
        writer.write(response(b'{"tag": "a"}', *lines))
        await writer.drain()
        writer.close()

    three[0].behaviour = leave
    async with kind.connect(registry) as client:
        tags = Counter([(await client.request("POST", ITEMS)).tag for _ in range(21)])
    assert tags["a"] == 1
    assert abs(tags["b"] - tags["c"]) <= 2  # either may have come before it, and again after it


async def test_that_somebody_behind_it_leaves_says_nothing_about_an_instance(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    """A gateway passes on the headers of the answers that it has got."""

    async def pass_on(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b'{"tag": "a"}', "aioregistry-leaving: of-another"))

    three[0].behaviour = pass_on
    async with kind.connect(registry) as client:
        tags = Counter([(await client.request("GET", ITEMS)).tag for _ in range(30)])
    assert tags == {"a": 10, "b": 10, "c": 10}


async def test_closing_the_client_closes_those_to_an_instance_that_has_gone(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    balancer = LeastPending()
    instance = Instance("x", drip)
    async with running(instance):
        await only(world, registry, instance)
        [service] = registry.cached("orders")
        async with contextlib.AsyncExitStack() as late:
            async with kind.connect(registry, balancer=balancer) as client:
                chunks = await late.enter_async_context(client.stream(ITEMS))
                assert await anext(chunks) == b"one"
                await world.unregister("orders", instance.address)
                await eventually(lambda: not registry.cached("orders"))
                assert instance.open == 1
                assert balancer.in_flight(service) == 1
            await eventually(lambda: instance.open == 0)
            await chunks.aclose()
        assert balancer.in_flight(service) == 0


async def test_a_restart_gets_connections_of_its_own(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        await client.request("GET", ITEMS)
        await world.unregister("orders", instance.address)
        await world.register("orders", instance.address)
        await eventually(lambda: instance.open == 0)
        await client.request("GET", ITEMS)
        assert instance.connections == 2


def departures() -> list[str]:
    """The tasks that watch for instances that go."""
    names = (each.get_name() for each in asyncio.all_tasks())
    return [each for each in names if "departures" in each]


async def test_names_that_have_gone_leave_nothing_behind(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        for number in range(20):
            name = f"job-{number}"
            await world.register(name, instance.address)
            assert (await client.request("GET", f"http://{name}/")).tag == "x"
            assert departures() == [f"aioregistry departures of {name}"]
            await world.unregister(name, instance.address)
            await eventually(lambda: not departures())
            await registry.unobserve(name)
        assert registry.observed == ()
        assert registry.stats().watches == 0
        await eventually(lambda: instance.open == 0)


async def test_one_that_is_critical_has_not_gone(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        await only(world, registry, instance)
        await client.request("GET", ITEMS)
        await world.set_status("orders", Status.CRITICAL, instance.address)
        await eventually(lambda: not registry.cached("orders"))
        assert departures()
        assert instance.open == 1
        await world.unregister("orders", instance.address)
        await eventually(lambda: instance.open == 0)


async def test_when_a_name_comes_back_its_connections_are_watched_again(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), kind.connect(registry) as client:
        for _ in range(3):
            await only(world, registry, instance)
            await client.request("GET", ITEMS)
            assert instance.open == 1
            await world.unregister("orders", instance.address)
            await eventually(lambda: instance.open == 0)
        assert instance.connections == 3


async def test_all_instances_of_a_name_go_at_once(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    async with kind.connect(registry) as client:
        for _ in three:
            await client.request("GET", ITEMS)
        assert [each.open for each in three] == [1, 1, 1]
        await registry.unobserve("orders")
        await eventually(lambda: [each.open for each in three] == [0, 0, 0])
        await eventually(lambda: not departures())
        assert (await client.request("GET", ITEMS)).status == 200


async def test_a_response_that_is_closed_early_is_not_in_flight(
    kind: Kind, world: Registry, registry: Registry
) -> None:
    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    balancer = LeastPending()
    instance = Instance("x", drip)
    async with running(instance), kind.connect(registry, balancer=balancer) as client:
        await only(world, registry, instance)
        [service] = registry.cached("orders")
        async with client.stream(ITEMS) as chunks:
            assert await anext(chunks) == b"one"
            assert balancer.in_flight(service) == 1
            await chunks.aclose()
        assert balancer.in_flight(service) == 0
        await eventually(lambda: instance.open == 0)


async def test_least_pending_knows_what_is_in_flight(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    more = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await more.wait()
        writer.write(b"0\r\n\r\n")

    for each in three:
        each.behaviour = slow
    balancer = LeastPending()
    services = registry.cached("orders")
    async with kind.connect(registry, balancer=balancer) as client:
        requests = [asyncio.create_task(client.request("GET", ITEMS)) for _ in range(30)]
        await eventually(lambda: sum(len(each.received) for each in three) == 30)
        counts = [balancer.in_flight(each) for each in services]
        assert sum(counts) == 30
        assert counts == [len(each.received) for each in three]
        assert max(counts) - min(counts) <= 4  # at random they would be further apart
        more.set()
        await asyncio.gather(*requests)
        assert [balancer.in_flight(each) for each in services] == [0, 0, 0]


async def test_the_end_of_the_registry_ends_the_background_work(
    kind: Kind, world: Registry, broker: MemoryBroker
) -> None:
    instance = Instance("x")
    async with running(instance), no_new_tasks():
        registry = Registry(MemoryTransport(broker))
        await registry.start()
        await only(world, registry, instance)
        async with kind.connect(registry) as client:
            await client.request("GET", ITEMS)
            await registry.aclose()
            with pytest.raises(kind.not_connected, match="registry"):
                await client.request("GET", ITEMS)


async def test_clients_of_the_same_registry_are_independent(
    kind: Kind, registry: Registry, three: list[Instance]
) -> None:
    one: Client
    async with kind.connect(registry) as one:
        async with kind.connect(registry) as other:
            await other.request("GET", ITEMS)
        assert (await one.request("GET", ITEMS)).status == 200
    assert sum(len(each.received) for each in three) == 2
