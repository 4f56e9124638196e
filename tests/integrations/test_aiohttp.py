"""What is special about aiohttp: redirects, WebSockets, TLS, other middlewares, the resolver."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from operator import attrgetter
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from aioregistry import LeastPending, Registry, Rendezvous
from aioregistry.integrations import resilience
from aioregistry.integrations.aiohttp import RegistryMiddleware, RegistryResolver, repeatable
from aioregistry.integrations.resilience import Policy
from aioregistry.testing.brokers import unused_port
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from tests.integrations.instance import (
    Behaviour,
    Instance,
    Received,
    add_a_slash,
    hang_up,
    never,
    response,
    running,
)
from tests.tools import eventually, no_new_tasks


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """Of the provider and the caller in one."""
    async with Registry(MemoryTransport(MemoryBroker()), lookup_timeout=0.5) as registry:
        yield registry


@pytest.fixture
async def two(registry: Registry) -> AsyncIterator[list[Instance]]:
    instances = [Instance("a"), Instance("b")]
    async with running(*instances):
        for each in instances:
            await registry.register("orders", each.address)
        yield instances


# ---- the middleware --------------------------------------------------------------------


async def test_redirects_and_cookies_are_those_of_the_service(registry: Registry) -> None:
    async def redirect(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/end":
            writer.write(response(b"there"))
            return
        target = f"location: http://{request.headers['host']}/end"
        cookie = "set-cookie: basket=7; Path=/"
        writer.write(response(b"", target, cookie, status="307 Temporary Redirect"))

    instances = [Instance("a", redirect), Instance("b", redirect)]
    async with running(*instances):
        for each in instances:
            await registry.register("orders", each.address)
        middleware = RegistryMiddleware(registry)
        async with (
            aiohttp.ClientSession(middlewares=[middleware]) as session,
            session.post("http://orders/begin", data=b"x") as got,
        ):
            assert str(got.url) == "http://orders/end"
            assert await got.read() == b"there"
    last = [r for each in instances for r in each.received if r.path == "/end"]
    assert last[0].headers["cookie"] == "basket=7"
    assert last[0].headers["host"] == "orders"


async def test_for_a_single_request(registry: Registry, two: list[Instance]) -> None:
    middleware = RegistryMiddleware(registry)
    async with (
        aiohttp.ClientSession() as session,
        session.get("http://orders/", middlewares=[middleware]) as got,
    ):
        assert got.status == 200
    assert sum(len(each.received) for each in two) == 1


async def test_with_other_middlewares(registry: Registry, two: list[Instance]) -> None:
    """Those before it see the service, those after it every attempt at an instance."""
    two[0].refuse()
    outside: list[str] = []
    inside: list[str] = []

    async def retrying(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        outside.append(str(request.url))
        (await handler(request)).close()
        outside.append(str(request.url))
        return await handler(request)

    async def looking(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        inside.append(f"{request.url.host}:{request.url.port}")
        return await handler(request)

    chain: list[aiohttp.ClientMiddlewareType] = [retrying, RegistryMiddleware(registry), looking]
    async with aiohttp.ClientSession(middlewares=chain) as session:
        await session.get("http://orders/")
    assert outside == ["http://orders/"] * 2
    assert Counter(inside) == {two[0].address: 1, two[1].address: 2}


async def test_an_inner_middlewares_own_failure_is_no_instances(
    registry: Registry, two: list[Instance]
) -> None:
    """It may need a token first, from a server that is down."""
    elsewhere = f"http://127.0.0.1:{unused_port()}/token"
    asked: list[str] = []

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.headers.get("Authorization") is None:
            asked.append(request.method)
            async with aiohttp.ClientSession() as own:
                await own.post(elsewhere)
        return await handler(request)

    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    async with aiohttp.ClientSession(middlewares=[middleware, authorize]) as session:
        for method in ("POST", "GET"):
            with pytest.raises(aiohttp.ClientConnectorError) as caught:
                await session.request(method, "http://orders/")
            assert f"{caught.value.host}:{caught.value.port}" in elsewhere
            assert "orders" not in str(caught.value)
        assert asked == ["POST", "GET"]
        for _ in range(10):
            await session.get("http://orders/", headers={"Authorization": "mine"})
    assert [len(each.received) for each in two] == [5, 5]


async def test_nor_is_it_where_the_connection_of_its_own_breaks_off(
    registry: Registry, two: list[Instance]
) -> None:
    elsewhere = Instance("token", hang_up)

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.headers.get("Authorization") is None:
            async with aiohttp.ClientSession() as own:
                await own.post(f"http://{elsewhere.address}/token")
        return await handler(request)

    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    async with (
        running(elsewhere),
        aiohttp.ClientSession(middlewares=[middleware, authorize]) as session,
    ):
        with pytest.raises(aiohttp.ServerDisconnectedError) as caught:
            await session.post("http://orders/")
        assert "orders" not in str(caught.value)
        assert len(elsewhere.received) == 1
        for _ in range(10):
            await session.get("http://orders/", headers={"Authorization": "mine"})
    assert [len(each.received) for each in two] == [5, 5]


async def test_least_pending_knows_what_an_inner_middleware_sends_again(
    registry: Registry,
) -> None:
    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        if "authorization" not in request.headers:
            writer.write(response(b"who?", status="401 Unauthorized"))
            return
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        (await handler(request)).release()
        request.headers["Authorization"] = "mine"
        return await handler(request)

    balancer = LeastPending()
    instance = Instance("x", drip)
    async with running(instance):
        service = (await registry.register("orders", instance.address)).service
        middleware = RegistryMiddleware(registry, balancer=balancer)
        async with aiohttp.ClientSession(middlewares=[middleware, authorize]) as session:
            async with session.get("http://orders/") as got:
                assert got.status == 200
                assert balancer.in_flight(service) == 1
            assert balancer.in_flight(service) == 0
    assert len(instance.received) == 2


async def test_a_body_that_waits_for_the_servers_word_is_sent_again(registry: Registry) -> None:
    """But not before that of the second instance, either."""
    heads: list[bytes] = []
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if len(heads) == 2:
            with contextlib.suppress(TimeoutError):
                bodies.append(await asyncio.wait_for(reader.read(1), 0.05))
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            bodies.append(await reader.readexactly(5))
            writer.write(response(b"done"))
            await writer.drain()
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(2):
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            await registry.register("orders", f"127.0.0.1:{port}")
        session = aiohttp.ClientSession(middlewares=[RegistryMiddleware(registry)])
        await stack.enter_async_context(session)
        with repeatable():
            async with session.post("http://orders/", data=b"hello", expect100=True) as got:
                assert await got.read() == b"done"
    assert [b"100-continue" in head for head in heads] == [True, True]
    assert bodies == [b"hello"]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_connection_that_comes_when_its_instance_has_gone_is_closed(
    before: int, others: int, registry: Registry
) -> None:
    async def late(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        await registry.unregister("orders", f"{request.url.host}:{request.url.port}")
        await eventually(lambda: len(registry.cached("orders")) == others)
        return await handler(request)

    instances = [Instance("a"), Instance("b")][: others + 1]
    middleware = RegistryMiddleware(registry)
    async with running(*instances), aiohttp.ClientSession(middlewares=[middleware]) as session:
        for each in instances:
            await registry.register("orders", each.address)
        for _ in range(before):
            await (await session.get("http://orders/")).read()
        opened = [each.connections for each in instances]
        async with session.get("http://orders/", middlewares=[middleware, late]) as got:
            assert got.status == 200
        assert sum(each.connections for each in instances) == sum(opened) + 1
        gone = {each.address for each in instances} - {
            each.address for each in registry.cached("orders")
        }
        [left] = [each for each in instances if each.address in gone]
        await eventually(lambda: left.open == 0)


async def test_websockets(registry: Registry) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{request.host} {message.data}")
        return socket

    app = web.Application()
    app.router.add_get("/ws", echo)
    balancer = LeastPending()
    async with TestServer(app) as server:
        await registry.register("chat", server.make_url("/").authority)
        service = await registry.get_service("chat")
        middleware = RegistryMiddleware(registry, balancer=balancer)
        async with aiohttp.ClientSession(middlewares=[middleware]) as session:
            for scheme in ("ws", "http"):
                async with session.ws_connect(f"{scheme}://chat/ws") as socket:
                    await socket.send_str("hello")
                    assert await socket.receive_str() == "chat hello"
                    assert balancer.in_flight(service) == 1
                assert balancer.in_flight(service) == 0


def contexts(name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server with a certificate for this name, and of a client that trusts it."""
    authority: Any = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return context, trusting


async def test_tls_is_for_the_name_of_the_service(registry: Registry) -> None:
    context, trusting = contexts("orders")
    instance = Instance("x", context=context)
    async with running(instance):
        await registry.register("orders", instance.address)
        await registry.register("billing", instance.address)
        middleware = RegistryMiddleware(registry)
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as session:
            async with session.get("https://orders/") as got:
                assert got.status == 200
            with pytest.raises(
                aiohttp.ClientConnectorCertificateError, match=r"tried 127\.0\.0\.1"
            ):
                await session.get("https://billing/")
            async with session.get("https://billing/", server_hostname="orders") as got:
                assert got.status == 200


async def test_tls_is_for_the_host_of_an_announced_url(registry: Registry) -> None:
    context, trusting = contexts("web.example")
    instance = Instance("x", context=context)
    async with running(instance):
        await registry.register("orders", instance.address, url="https://web.example/api")
        middleware = RegistryMiddleware(registry)
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with (
            aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as session,
            session.get("http://orders/items") as got,
        ):
            assert got.status == 200
    assert instance.received[0].path == "/api/items"
    assert instance.received[0].headers["host"] == "web.example"


async def test_redirects_of_an_announced_url_keep_the_scheme_of_the_caller(
    registry: Registry,
) -> None:
    context, trusting = contexts("web.example")
    instance = Instance("x", add_a_slash, context=context)
    async with running(instance):
        await registry.register("orders", instance.address, url="https://web.example/api")
        middleware = RegistryMiddleware(registry)
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as session:
            for scheme in ("http", "https"):
                async with session.get(f"{scheme}://orders/items") as got:
                    assert await got.read() == b"there"
                    assert str(got.url) == f"{scheme}://orders/items/"
                    assert got.history[0].headers["Location"] == str(got.url)
    assert [each.path for each in instance.received] == ["/api/items", "/api/items/"] * 2


async def test_redirects_stay_as_they_are_where_aiohttp_has_no_cache_of_headers(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one to come may be."""
    monkeypatch.setattr(aiohttp.ClientResponse, "headers", property(attrgetter("_headers")))
    context, trusting = contexts("localhost")
    instance = Instance("x", add_a_slash, context=context)
    async with running(instance):
        url = f"https://localhost:{instance.address.rpartition(':')[2]}/api"
        await registry.register("orders", url=url)
        middleware = RegistryMiddleware(registry)
        connector = aiohttp.TCPConnector(ssl=trusting)
        async with (
            aiohttp.ClientSession(connector=connector, middlewares=[middleware]) as session,
            session.get("http://orders/items") as got,
        ):
            assert str(got.url) == f"{url}/items/"


async def test_the_total_timeout_is_for_all_attempts(
    registry: Registry, two: list[Instance]
) -> None:
    for each in two:
        each.behaviour = never
    timeout = aiohttp.ClientTimeout(total=0.1)
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    async with aiohttp.ClientSession(middlewares=[middleware], timeout=timeout) as session:
        with pytest.raises(TimeoutError):
            await session.get("http://orders/")
        assert sum(len(each.received) for each in two) == 1


async def test_nobody_is_blamed_while_the_connector_has_no_connection_left(
    registry: Registry, two: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resilience, "_PATIENCE", 0.05)
    more = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        writer.write(response(b""))

    for each in two:
        each.behaviour = slow
    await registry.get_services("orders", minimum=2, timeout=5)
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    narrow = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=narrow, middlewares=[middleware]) as session:
        requests = [asyncio.create_task(session.post("http://orders/")) for _ in range(2)]
        await eventually(lambda: any(each.received for each in two))
        await asyncio.sleep(0.2)
        more.set()
        for request in requests:
            (await request).release()
    assert [len(each.received) for each in two] == [1, 1]


async def test_nor_while_others_have_all_its_connections(
    registry: Registry, two: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resilience, "_PATIENCE", 0.05)
    more = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        writer.write(response(b""))

    elsewhere = Instance("c", slow)
    await registry.get_services("orders", minimum=2, timeout=5)
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    narrow = aiohttp.TCPConnector(limit=1)
    async with (
        running(elsewhere),
        aiohttp.ClientSession(connector=narrow, middlewares=[middleware]) as session,
    ):
        direct = asyncio.create_task(session.get(f"http://{elsewhere.address}/"))
        await eventually(lambda: elsewhere.received)
        request = asyncio.create_task(session.post("http://orders/"))
        await asyncio.sleep(0.2)
        more.set()
        for each in (direct, request):
            (await each).release()
        monkeypatch.undo()
        for _ in range(9):
            (await session.post("http://orders/")).release()
    assert [len(each.received) for each in two] == [5, 5]


async def test_a_middleware_that_is_dropped_ends_its_work(
    registry: Registry, two: list[Instance]
) -> None:
    async with no_new_tasks():
        async with aiohttp.ClientSession(middlewares=[RegistryMiddleware(registry)]) as session:
            await session.get("http://orders/")
        del session
        gc.collect()
        await eventually(
            lambda: not [each for each in asyncio.all_tasks() if "departures" in each.get_name()]
        )


async def silent_after_some(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
    await never(request, writer)


async def silent_before_the_end(request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(response(b"0123456789")[:-5])
    await never(request, writer)


@pytest.mark.parametrize(
    ("behaviour", "whose"),
    [
        (never, "session"),
        (never, "request"),
        (silent_after_some, "session"),
        (silent_before_the_end, "session"),
    ],
)
async def test_an_instance_that_is_silent_until_the_total_timeout_is_set_aside(
    registry: Registry, two: list[Instance], behaviour: Behaviour, whose: str
) -> None:
    two[0].behaviour = behaviour
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    total, ample = aiohttp.ClientTimeout(total=0.2), aiohttp.ClientTimeout()
    of_session, of_request = (total, None) if whose == "session" else (ample, total)
    late = 0
    async with aiohttp.ClientSession(middlewares=[middleware], timeout=of_session) as session:
        for _ in range(8):
            try:
                async with session.get("http://orders/", timeout=of_request or of_session) as got:
                    await got.read()
            except TimeoutError:
                late += 1
    assert late == 1


async def test_but_not_while_the_caller_leaves_its_response_unread(
    registry: Registry, two: list[Instance], caplog: pytest.LogCaptureFixture
) -> None:
    async def long(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(bytes(10_000_000)))

    for each in two:
        each.behaviour = long
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    timeout = aiohttp.ClientTimeout(total=0.2)
    async with (
        aiohttp.ClientSession(middlewares=[middleware], timeout=timeout) as session,
        session.get("http://orders/") as got,
    ):
        await got.content.read(10)
        await asyncio.sleep(0.4)
    assert "set aside" not in caplog.text


async def test_nor_for_a_websocket_that_lasts_longer(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    async def until_closed(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/ws", until_closed)
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    timeout = aiohttp.ClientTimeout(total=0.2)
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(middlewares=[middleware], timeout=timeout) as session,
    ):
        for host in ("127.0.0.1", "localhost"):  # a single one is never set aside
            await registry.register("chat", f"{host}:{server.make_url('/').port}")
        await registry.get_services("chat", minimum=2, timeout=5)
        async with session.ws_connect("ws://chat/ws"):
            await asyncio.sleep(0.4)
    assert "set aside" not in caplog.text


@pytest.mark.parametrize(
    ("limit", "limit_per_host", "connect"),
    [(100, 1, None), (1, 0, 0.05)],
    ids=["limit_per_host", "connect"],
)
async def test_nobody_is_blamed_for_the_limits_of_the_connector(
    registry: Registry,
    two: list[Instance],
    limit: int,
    limit_per_host: int,
    connect: float | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(resilience, "_PATIENCE", 0.05)
    more = asyncio.Event()

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        await more.wait()
        writer.write(response(b""))

    for each in two:
        each.behaviour = slow
    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=limit, limit_per_host=limit_per_host),
        middlewares=[middleware],
        timeout=aiohttp.ClientTimeout(connect=connect),
    ) as session:
        requests = [asyncio.create_task(session.post("http://orders/")) for _ in range(4)]
        await eventually(lambda: any(each.received for each in two))
        await asyncio.sleep(0.3)
        more.set()
        for got in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(got, aiohttp.ClientResponse):
                got.release()
    assert "set aside" not in caplog.text


async def test_nor_for_a_wait_that_ends_with_that_of_another(
    registry: Registry, two: list[Instance], caplog: pytest.LogCaptureFixture
) -> None:
    """The only connection is being made, in vain; it is given up when the wait is over, too.

    aiohttp rounds what is above the threshold up to whole seconds.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        place = full.getsockname()
        with socket.create_connection(place):  # what comes now is not answered
            await registry.register("hole", f"{place[0]}:{place[1]}")
            await registry.get_service("hole")
            await registry.get_services("orders", minimum=2, timeout=5)
            middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1),
                middlewares=[middleware],
                timeout=aiohttp.ClientTimeout(connect=0.2, ceil_threshold=0.1),
            ) as session:
                await asyncio.gather(
                    session.post("http://hole/"),
                    session.post("http://orders/"),
                    return_exceptions=True,
                )
    assert "orders" not in caplog.text


async def test_an_inner_middlewares_own_timeout_reaches_the_caller(registry: Registry) -> None:
    """With one instance there is no part of the time for it, and so no `patience` to tell."""

    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        async with asyncio.timeout(0.05):
            await asyncio.sleep(60)  # for a token
        return await handler(request)

    async with running(instance := Instance("a")):
        await registry.register("orders", instance.address)
        middleware = RegistryMiddleware(registry)
        async with aiohttp.ClientSession(middlewares=[middleware, authorize]) as session:
            with pytest.raises(TimeoutError):
                await session.get("http://orders/")


async def test_nor_is_one_that_comes_after_a_response_the_instances(
    registry: Registry, two: list[Instance], caplog: pytest.LogCaptureFixture
) -> None:
    async def authorize(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        (await handler(request)).release()
        async with asyncio.timeout(0.05):
            await asyncio.sleep(60)  # for a token
        return await handler(request)

    middleware = RegistryMiddleware(registry, policy=Policy(failures=1))
    async with aiohttp.ClientSession(middlewares=[middleware, authorize]) as session:
        with pytest.raises(TimeoutError):
            await session.get("http://orders/")
    assert sum(len(each.received) for each in two) == 1
    assert "set aside" not in caplog.text


# ---- the resolver ----------------------------------------------------------------------


def connector(resolver: RegistryResolver) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)


async def test_the_resolver_balances_connections(registry: Registry, two: list[Instance]) -> None:
    async with aiohttp.ClientSession(connector=connector(RegistryResolver(registry))) as session:
        for _ in range(10):
            async with session.get("http://orders/") as got:
                assert got.status == 200
    assert [len(each.received) for each in two] == [5, 5]
    assert two[0].received[0].headers["host"] == "orders"


async def test_the_connector_goes_on_to_the_other_instance(
    registry: Registry, two: list[Instance]
) -> None:
    two[0].refuse()
    async with aiohttp.ClientSession(connector=connector(RegistryResolver(registry))) as session:
        for _ in range(4):
            async with session.post("http://orders/") as got:
                assert got.status == 200


async def test_the_resolver_takes_the_same_arguments(
    registry: Registry, two: list[Instance]
) -> None:
    resolver = RegistryResolver(
        registry, domain="service", balancer=Rendezvous("me"), where=lambda _: True, timeout=1
    )
    port = two[0].address.partition(":")[2]
    async with aiohttp.ClientSession(connector=connector(resolver)) as session:
        for _ in range(4):
            await (await session.get("http://orders.service/")).read()
        assert sorted(len(each.received) for each in two) == [0, 4]
        await (await session.get(f"http://localhost:{port}/")).read()


async def test_the_resolver_passes_over_those_with_another_scheme(registry: Registry) -> None:
    context, trusting = contexts("orders")
    plain, secure = Instance("plain"), Instance("secure", context=context)
    other = aiohttp.TCPConnector(
        resolver=RegistryResolver(registry), use_dns_cache=False, force_close=True, ssl=trusting
    )
    async with running(plain, secure), aiohttp.ClientSession(connector=other) as session:
        await registry.register("orders", url=f"https://{secure.address}")
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="announces https"):
            await session.get("http://orders/")
        await registry.register("orders", url=f"http://{plain.address}")
        for scheme in ("http", "https"):
            for _ in range(4):
                async with session.get(f"{scheme}://orders/") as got:
                    assert got.status == 200
        await registry.unregister("orders", f"https://{secure.address}")
        await eventually(lambda: len(registry.cached("orders")) == 1)
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="announces plain http"):
            await session.get("https://orders/")
    assert [len(each.received) for each in (plain, secure)] == [4, 4]
    assert plain.connections == 4


async def test_the_resolver_says_why_it_cannot(registry: Registry) -> None:
    async with aiohttp.ClientSession(connector=connector(RegistryResolver(registry))) as session:
        with pytest.raises(
            aiohttp.ClientConnectorDNSError, match="no instance of 'orders' is known"
        ):
            await session.get("http://orders/")
        await registry.register("orders", url="http://localhost/api")
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="path /api"):
            await session.get("http://orders/")
        await registry.register("files", url="ftp://localhost")
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="announces ftp"):
            await session.get("http://files/")
        await registry.register("far", "nowhere.invalid:80")
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await session.get("http://far/")


class Elsewhere(AbstractResolver):
    """Where the name of a host leads, by DNS."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        where = "127.0.0.1" if host == "orders" else host
        return [
            ResolveResult(hostname=host, host=where, port=port, family=family, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


async def test_the_resolver_calls_a_url_with_a_port_directly(
    registry: Registry, two: list[Instance]
) -> None:
    async with running(direct := Instance("direct")):
        port = direct.address.rpartition(":")[2]
        resolver = RegistryResolver(registry, resolver=Elsewhere())
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
        async with aiohttp.ClientSession(connector=connector) as session:
            (await session.get(f"http://orders:{port}/")).release()
    assert [len(each.received) for each in (direct, *two)] == [1, 0, 0]
