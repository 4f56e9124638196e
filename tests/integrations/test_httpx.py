"""What is special about httpx and httpx2: mounts, hooks, redirects, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import trustme

from aioregistry import LeastPending, Registry, RoundRobin
from aioregistry.integrations import _httpx_pools
from aioregistry.integrations import httpx as for_httpx
from aioregistry.integrations import httpx2 as for_httpx2
from aioregistry.integrations.resilience import Policy
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from tests.integrations.instance import (
    Instance,
    Received,
    add_a_slash,
    never,
    response,
    running,
)
from tests.tools import eventually

LIBRARIES: dict[str, tuple[ModuleType, Any]] = {
    "httpx": (httpx, for_httpx.RegistryTransport),
    "httpx2": (httpx2, for_httpx2.RegistryTransport),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    return LIBRARIES[request.param][0]


@pytest.fixture
def transport(library: ModuleType) -> Any:
    return LIBRARIES[library.__name__][1]


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """Of the provider and the caller in one."""
    async with Registry(MemoryTransport(MemoryBroker()), lookup_timeout=0.5) as registry:
        yield registry


async def test_it_is_a_transport_of_its_library(library: Any, transport: Any) -> None:
    assert issubclass(transport, library.AsyncBaseTransport)


async def test_mounted_for_one_service_or_a_domain(
    library: Any, transport: Any, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance):
        await registry.register("orders", instance.address)
        for mount, url in (
            ("http://orders", "http://orders/items"),
            ("all://*.service", "http://orders.service/items"),
        ):
            domain = "service" if "service" in mount else None
            mounts = {mount: transport(registry, domain=domain)}
            async with library.AsyncClient(mounts=mounts, trust_env=False) as client:
                assert (await client.get(url)).json()["path"] == "/items"
                assert (await client.get(f"http://{instance.address}/")).json()["path"] == "/"


async def test_other_schemes_are_none_of_ours(
    library: Any, transport: Any, registry: Registry
) -> None:
    instance = Instance("x")
    async with running(instance), library.AsyncClient(transport=transport(registry)) as client:
        await registry.register("orders", instance.address)
        with pytest.raises(library.UnsupportedProtocol):
            await client.get("ftp://orders/")
        assert not instance.connections


async def test_one_transport_in_two_mounts_is_closed_twice(
    library: Any, transport: Any, registry: Registry
) -> None:
    both = transport(registry)
    async with library.AsyncClient(mounts={"http://a": both, "http://b": both}):
        pass


async def test_base_url_event_hooks_and_cookies(
    library: Any, transport: Any, registry: Registry
) -> None:
    seen: list[str] = []

    async def before(request: Any) -> None:
        seen.append(f"{request.method} {request.url}")

    async def after(got: Any) -> None:
        seen.append(f"{got.status_code} {got.url} {got.request.url}")

    async def answer(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"", "set-cookie: basket=7; Path=/"))

    instances = [Instance("a", answer), Instance("b", answer)]
    async with running(*instances):
        for each in instances:
            await registry.register("orders", each.address)
        async with library.AsyncClient(
            base_url="http://orders/api",
            transport=transport(registry, balancer=RoundRobin()),
            event_hooks={"request": [before], "response": [after]},
        ) as client:
            await client.get("/items")
            await client.get("/items")
    url = "http://orders/api/items"
    assert seen == [f"GET {url}", f"200 {url} {url}"] * 2
    cookies = sorted(r.headers.get("cookie", "") for each in instances for r in each.received)
    assert cookies == ["", "basket=7"]  # of the service, whichever instance set it


async def test_redirects_go_to_the_service(
    library: Any, transport: Any, registry: Registry
) -> None:
    async def redirect(request: Received, writer: asyncio.StreamWriter) -> None:
        if request.path == "/end":
            writer.write(response(b"there"))
            return
        host = request.headers["host"]
        target = "/end" if request.path == "/relative" else f"http://{host}/end"
        writer.write(response(b"", f"location: {target}", status="307 Temporary Redirect"))

    instances = [Instance("a", redirect), Instance("b", redirect)]
    async with running(*instances):
        for each in instances:
            await registry.register("orders", each.address)
        client = library.AsyncClient(transport=transport(registry), follow_redirects=True)
        async with client:
            for path in ("relative", "absolute"):
                got = await client.post(f"http://orders/{path}", content=b"x")
                assert str(got.url) == "http://orders/end"
                assert got.content == b"there"


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> tuple[ssl.SSLContext, list[str | None]]:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate: Any = authority.issue_cert(name)
    certificate.configure_cert(context)
    context.sni_callback = lambda _socket, asked, _context: names.append(asked)
    return context, names


def client_context(authority: Any) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls_is_for_the_name_of_the_service(
    library: Any, transport: Any, registry: Registry, authority: trustme.CA
) -> None:
    context, asked = server_context(authority, "orders")
    instance = Instance("x", context=context)
    trusting = client_context(authority)
    async with running(instance):
        await registry.register("orders", instance.address)
        await registry.register("billing", instance.address)
        async with library.AsyncClient(
            transport=transport(
                registry,
                make_transport=lambda: library.AsyncHTTPTransport(verify=trusting),
            )
        ) as client:
            assert (await client.get("https://orders/")).status_code == 200
            with pytest.raises(library.ConnectError, match=r"service 'billing'.*certificate"):
                await client.get("https://billing/")
            # The caller's word counts most.
            named = {"sni_hostname": "orders"}
            assert (await client.get("https://billing/", extensions=named)).status_code == 200
    assert asked == ["orders", "billing", "orders"]
    assert instance.received[0].headers["host"] == "orders"


async def test_tls_is_for_the_host_of_an_announced_url(
    library: Any, transport: Any, registry: Registry, authority: trustme.CA
) -> None:
    context, asked = server_context(authority, "localhost")
    instance = Instance("x", context=context)
    trusting = client_context(authority)
    async with running(instance):
        port = instance.address.partition(":")[2]
        await registry.register("orders", url=f"https://localhost:{port}/api")
        async with library.AsyncClient(
            transport=transport(
                registry,
                make_transport=lambda: library.AsyncHTTPTransport(verify=trusting),
            )
        ) as client:
            assert (await client.get("http://orders/items")).status_code == 200
    assert asked == ["localhost"]
    assert instance.received[0].path == "/api/items"
    assert instance.received[0].headers["host"] == f"localhost:{port}"


async def test_redirects_of_an_announced_url_keep_the_scheme_of_the_caller(
    library: Any, transport: Any, registry: Registry, authority: trustme.CA
) -> None:
    context, _ = server_context(authority, "localhost")
    instance = Instance("x", add_a_slash, context=context)
    trusting = client_context(authority)
    async with running(instance):
        port = instance.address.partition(":")[2]
        await registry.register("orders", url=f"https://localhost:{port}/api")
        make = partial(library.AsyncHTTPTransport, verify=trusting)
        async with library.AsyncClient(
            transport=transport(registry, make_transport=make), follow_redirects=True
        ) as client:
            for scheme in ("http", "https"):
                got = await client.get(f"{scheme}://orders/items")
                assert got.text == "there"
                assert str(got.url) == f"{scheme}://orders/items/"
                assert got.history[0].headers["Location"] == str(got.url)
    assert [each.path for each in instance.received] == ["/api/items", "/api/items/"] * 2


async def test_without_a_certificate_that_is_trusted(
    library: Any, transport: Any, registry: Registry, authority: trustme.CA
) -> None:
    context, _ = server_context(authority, "orders")
    instance = Instance("x", context=context)
    async with running(instance), library.AsyncClient(transport=transport(registry)) as client:
        await registry.register("orders", instance.address)
        with pytest.raises(library.ConnectError, match=f"tried {instance.address}"):
            await client.get("https://orders/")


async def test_a_mock_for_every_instance(library: Any, transport: Any, registry: Registry) -> None:
    """Tests of an application need no server."""

    def answer(request: Any) -> Any:
        return library.Response(200, text=f"{request.url} {request.headers['host']}")

    await registry.register("orders", "10.0.0.5:80")
    mocked = transport(registry, make_transport=lambda: library.MockTransport(answer))
    async with library.AsyncClient(transport=mocked) as client:
        assert (await client.get("http://orders/x")).text == "http://10.0.0.5/x orders"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("content", [{"json": {}}, {"content": b""}, {}, {"text": "x"}])
async def test_what_a_mock_answers_counts_as_from_a_server(
    library: Any, transport: Any, registry: Registry, method: str, content: dict[str, Any]
) -> None:
    """Its responses have been read already: nobody closes them."""

    def answer(request: Any) -> Any:
        got = library.Response(503 if request.url.port == 81 else 200, **content)
        got.headers.pop("content-length", None)
        return got

    for port in (81, 82, 83):
        await registry.register("orders", f"10.0.0.5:{port}")
    balancer = LeastPending()
    mocked = transport(
        registry, balancer=balancer, make_transport=lambda: library.MockTransport(answer)
    )
    async with library.AsyncClient(transport=mocked) as client:
        statuses = Counter(
            [(await client.request(method, "http://orders/")).status_code for _ in range(60)]
        )
        assert statuses == {200: 55, 503: 5}
        in_flight = [balancer.in_flight(each) for each in registry.cached("orders")]
        assert in_flight == [0, 0, 0]


async def test_a_transport_that_reads_its_responses(
    library: Any, transport: Any, registry: Registry
) -> None:
    """One that logs or caches them, for example."""

    class Reading:
        def __init__(self) -> None:
            self._own = library.AsyncHTTPTransport(verify=False)  # it reads no files then

        async def handle_async_request(self, request: Any) -> Any:
            got = await self._own.handle_async_request(request)
            await got.aread()
            return got

        async def aclose(self) -> None:
            await self._own.aclose()

    instance, balancer = Instance("x"), LeastPending()
    reading = transport(registry, balancer=balancer, make_transport=Reading)
    async with running(instance), library.AsyncClient(transport=reading) as client:
        await registry.register("orders", instance.address)
        for method in ("GET", "POST"):
            assert (await client.request(method, "http://orders/")).json()["tag"] == "x"
        assert balancer.in_flight(registry.cached("orders")[0]) == 0
        assert instance.connections == 1


class Full:
    """A transport whose connections have all been lost: nobody ever gets one."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    async def handle_async_request(self, request: Any) -> Any:
        await asyncio.sleep(request.extensions["timeout"]["pool"])
        raise self._error("")

    async def aclose(self) -> None:
        pass


async def test_who_has_no_connection_free_moves_any_request_on(
    library: Any, transport: Any, registry: Registry
) -> None:
    """Nothing was sent, nobody is to blame, and the time for it is shared."""

    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    busy, other = Instance("busy", drip), Instance("other")
    limits = library.Limits(max_connections=1)
    make = partial(library.AsyncHTTPTransport, verify=False, limits=limits)
    balanced = transport(
        registry, balancer=RoundRobin(), policy=Policy(failures=1), make_transport=make
    )
    async with (
        running(busy, other),
        library.AsyncClient(transport=balanced, timeout=0.3) as client,
    ):
        await registry.register("orders", busy.address)
        async with client.stream("GET", "http://orders/"):
            with pytest.raises(library.PoolTimeout, match=f"tried {busy.address}"):
                await client.post("http://orders/")
            await registry.register("orders", other.address)
            for _ in range(4):
                assert (await client.post("http://orders/")).json()["tag"] == "other"
        assert busy.connections == 1  # the limit holds
        async with client.stream("GET", "http://orders/"), client.stream("GET", "http://orders/"):
            assert busy.connections == 2  # it is not set aside


async def test_when_all_connections_of_all_are_in_use_the_wait_is_as_long_as_it_was(
    library: Any, transport: Any, registry: Registry
) -> None:
    balanced = transport(registry, make_transport=partial(Full, library.PoolTimeout))
    async with library.AsyncClient(transport=balanced, timeout=0.3) as client:
        for number in range(4):
            await registry.register("orders", f"10.0.0.{number}:80")
        began = time.monotonic()
        with pytest.raises(library.PoolTimeout, match=r"(10\.0\.0\.\d:80 .*){4}"):
            await client.get("http://orders/")
        assert 0.3 <= time.monotonic() - began < 1.0  # and not that of each: 1.2


@pytest.mark.parametrize("at_once", [1, 10])
async def test_a_pool_whose_connections_are_lost_is_replaced(
    library: Any, transport: Any, registry: Registry, at_once: int
) -> None:
    instance = Instance("x")
    made: list[Any] = []

    def make() -> Any:
        own = partial(library.AsyncHTTPTransport, verify=False)  # it reads no files then
        made.append(own() if made else Full(library.PoolTimeout))
        return made[-1]

    balanced = transport(registry, make_transport=make)
    async with running(instance), library.AsyncClient(transport=balanced, timeout=0.05) as client:
        await registry.register("orders", instance.address)
        requests = [client.get("http://orders/") for _ in range(at_once)]
        errors = await asyncio.gather(*requests, return_exceptions=True)
        assert {type(each) for each in errors} == {library.PoolTimeout}
        assert (await client.get("http://orders/", timeout=5)).json()["tag"] == "x"
    assert len(made) == 2


async def test_connections_that_the_library_has_lost(
    library: Any, transport: Any, registry: Registry
) -> None:
    """httpx loses that of a request that is cancelled in the moment in which it gets one."""

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await more.wait()
        writer.write(b"0\r\n\r\n")

    more = asyncio.Event()
    instance = Instance("x")
    limits = library.Limits(max_connections=2, keepalive_expiry=0.0)
    make = partial(library.AsyncHTTPTransport, verify=False, limits=limits)
    balanced = transport(registry, make_transport=make)
    async with running(instance), library.AsyncClient(transport=balanced, timeout=0.2) as client:
        await registry.register("orders", instance.address)
        for steps in range(60):
            with contextlib.suppress(library.PoolTimeout):
                await client.get("http://orders/")
            request = asyncio.create_task(client.get("http://orders/"))
            for _ in range(steps):
                await asyncio.sleep(0)
            request.cancel()
            await asyncio.wait([request])
        instance.behaviour = slow
        answered = 0
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                with contextlib.suppress(library.PoolTimeout):
                    await stack.enter_async_context(client.stream("GET", "http://orders/"))
                    answered += 1
            more.set()
        assert answered == 2


async def test_a_pool_whose_connections_are_all_in_use_is_kept(
    library: Any, transport: Any, registry: Registry
) -> None:
    """Also when many wait in vain: the limit is meant as one."""

    async def drip(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await never(request, writer)

    instance = Instance("x", drip)
    limits = library.Limits(max_connections=2)
    make = partial(library.AsyncHTTPTransport, verify=False, limits=limits)
    balanced = transport(registry, make_transport=make)
    async with running(instance), library.AsyncClient(transport=balanced, timeout=0.1) as client:
        await registry.register("orders", instance.address)
        async with client.stream("GET", "http://orders/"), client.stream("GET", "http://orders/"):
            for _ in range(2):
                requests = [client.get("http://orders/") for _ in range(20)]
                errors = await asyncio.gather(*requests, return_exceptions=True)
                assert {type(each) for each in errors} == {library.PoolTimeout}
        assert instance.connections == 2


async def test_a_pool_that_has_much_to_do_is_kept(registry: Registry) -> None:
    """With httpx it may lose connections even then."""

    async def slow(_: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(response(b"done", "connection: close"))
        await writer.drain()
        writer.close()

    made: list[httpx2.AsyncHTTPTransport] = []

    def make() -> httpx2.AsyncHTTPTransport:
        limits = httpx2.Limits(max_connections=2)
        made.append(httpx2.AsyncHTTPTransport(verify=False, limits=limits))
        return made[-1]

    instance = Instance("x", slow)
    transport = for_httpx2.RegistryTransport(registry, make_transport=make)
    async with running(instance), httpx2.AsyncClient(transport=transport) as client:
        await registry.register("orders", instance.address)
        timeout = httpx2.Timeout(5, pool=0.1)
        requests = [client.get("http://orders/", timeout=timeout) for _ in range(200)]
        done = await asyncio.gather(*requests, return_exceptions=True)
        failed = [each for each in done if isinstance(each, httpx2.PoolTimeout)]
        assert 0 < len(failed) < 200
    assert len(made) == 1


async def test_pools_that_nobody_uses_are_closed(
    library: Any, transport: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = [Instance("a"), Instance("b")]
    async with running(*instances), library.AsyncClient(transport=transport(registry)) as client:
        await registry.register("orders", instances[0].address)
        await registry.register("billing", instances[1].address)
        monkeypatch.setattr(_httpx_pools, "_IDLE", 0.05)
        await client.get("http://billing/")
        while instances[1].open:
            await client.get("http://orders/")
        await eventually(lambda: instances[1].open == 0)
        assert instances[0].open == 1


async def test_idle_connections_are_not_kept_for_as_long_as_servers_do(
    library: Any, transport: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn closes them after five seconds, and httpx uses them for as long."""
    assert vars(_httpx_pools)["_KEPT_ALIVE"] < 5.0
    monkeypatch.setattr(_httpx_pools, "_KEPT_ALIVE", 0.0)
    instance = Instance("a")
    async with running(instance), library.AsyncClient(transport=transport(registry)) as client:
        await registry.register("orders", instance.address)
        await client.get("http://orders/")
        await client.get("http://orders/")
    assert instance.connections == 2


@pytest.mark.parametrize("framework", ["httpx", "httpx2", "aiohttp"])
def test_without_the_framework_the_error_names_the_remedy(framework: str) -> None:
    program = f"""
import sys
import aioregistry
for loaded in ("httpx", "httpx2", "aiohttp", "httpcore", "httpcore2"):
    assert loaded not in sys.modules, loaded
sys.modules["{framework}"] = None
try:
    from aioregistry.integrations import {framework}
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert f"pip install '.[{framework}]'" in done.stdout
    assert f"pip install 'aioregistry-discovery[{framework}]'" in done.stdout
    assert f"aioregistry.integrations.{framework} needs {framework}" in done.stdout


@pytest.mark.parametrize("end", ["cancelled", "broken"])
@pytest.mark.parametrize(
    ("library", "kind"),
    [(httpx, for_httpx.RegistryTransport), (httpx2, for_httpx2.RegistryTransport)],
    ids=["httpx", "httpx2"],
)
async def test_a_stream_that_ends_with_an_error_is_not_in_flight(
    library: Any, kind: Any, end: str, registry: Registry
) -> None:
    """`StreamingResponse(answer.aiter_raw())`, and its client goes: nobody closes the answer.

    Without us, httpx has given the connection back by then.
    """

    async def begin(request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        if end == "broken":
            await asyncio.sleep(0.05)
            writer.transport.abort()
        else:
            await never(request, writer)

    balancer = LeastPending()
    async with running(instance := Instance("a", begin)):
        await registry.register("orders", instance.address)
        service = await registry.get_service("orders")
        transport = kind(registry, balancer=balancer)
        async with library.AsyncClient(transport=transport) as client:
            request = client.build_request("GET", "http://orders/")
            answer = await client.send(request, stream=True)
            assert balancer.in_flight(service) == 1
            with contextlib.suppress(TimeoutError, library.TransportError):
                async with asyncio.timeout(0.5):
                    async for _ in answer.aiter_raw():
                        pass
            await eventually(lambda: instance.open == 0)
            assert balancer.in_flight(service) == 0
            [pool] = transport._sender.pools._pools.values()
            assert not pool.leases
