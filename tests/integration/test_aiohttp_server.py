"""aiohttp services over a real broker, served in this event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from tests.tools import eventually, no_new_tasks

from aioregistry import EventType, InvalidService, Registry, Service, Status, Watch, free_port
from aioregistry.integrations.aiohttp_server import (
    CLIENT,
    REGISTRY,
    HealthCheck,
    connect,
    get_client,
    get_registry,
    get_service,
    get_services,
    readiness,
    register,
    serve,
)
from aioregistry.testing.brokers import Broker

PREFIX = "aiohttp"


@pytest.fixture(autouse=True)
def by_default_there_is_no_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of these tests are about something else, and have nobody to wait for."""
    monkeypatch.setattr("aioregistry.integrations._presence.DRAIN", 0.0)


@pytest.fixture
async def registry(nats_broker: Broker) -> AsyncIterator[Registry]:
    """Somebody else, who watches."""
    async with Registry(nats_broker.url, prefix=PREFIX) as registry:
        yield registry


@pytest.fixture
def ours(nats_broker: Broker) -> Registry:
    """What the application is given."""
    return Registry(nats_broker.url, prefix=PREFIX)


@pytest.fixture
def anew(nats_broker: Broker) -> Callable[[], Registry]:
    """What it is given where it starts more than once, or where there are several."""

    def make() -> Registry:
        return Registry(nats_broker.url, prefix=PREFIX)

    return make


def application(*contexts: Any) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.extend(contexts)
    app.router.add_get("/ready", readiness())
    return app


@asynccontextmanager
async def served(app: web.Application, **options: Any) -> AsyncGenerator[asyncio.Event]:
    """Serve an application until the block ends; it gets the event that stops it."""
    stop = asyncio.Event()
    given: dict[str, Any] = {"host": "127.0.0.1", "port": 0, **options}
    task = asyncio.create_task(serve(app, stop=stop, **given))
    try:
        yield stop
        stop.set()
        await asyncio.wait_for(task, 10)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def next_event(watch: Watch) -> tuple[EventType, Service]:
    event = await asyncio.wait_for(anext(watch), 10)
    return event.type, event.service


async def get(service: Service | str, path: str = "/ready") -> tuple[int, Any]:
    address = service if isinstance(service, str) else service.address
    async with aiohttp.ClientSession() as client, client.get(f"http://{address}{path}") as response:
        return response.status, await response.json(content_type=None)


async def when_ready(service: Service) -> tuple[int, Any]:
    """The answer of the readiness route; observers may hear of it a moment before it knows."""
    async with asyncio.timeout(10):
        while (answer := await get(service))[0] != 200:  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # the route has no event to await
    return answer


async def until_nobody_listens(service: Service) -> None:
    """It does not connect: what is accepted just as the listener closes would be left open."""

    def is_closed() -> bool:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(service.hostname_port)
        except OSError:
            return False
        return True

    await eventually(is_closed)


class TestALife:
    async def test_begins_when_it_serves_and_ends_before_it_stops(
        self, registry: Registry, ours: Registry
    ) -> None:
        app = application(register(ours, "orders", version="1.2", drain=0.01))
        async with registry.watch("orders") as watch, no_new_tasks():
            async with served(app) as stop:
                kind, service = await next_event(watch)
                assert kind is EventType.REGISTERED
                assert (service.version, service.hostname_port[0]) == ("1.2", "127.0.0.1")
                status, body = await when_ready(service)
                assert (status, body["services"][0]["state"]) == (200, "announced")
                stop.set()
                assert (await next_event(watch))[0] is EventType.UNREGISTERED
            with pytest.raises(aiohttp.ClientConnectorError):
                await get(service)

    async def test_asks_callers_to_leave_while_it_drains(
        self, registry: Registry, ours: Registry
    ) -> None:
        """Else their next request could meet the end of the connection."""
        app = application(register(ours, "orders", drain=60))

        async def greet(request: web.Request) -> web.WebSocketResponse:
            response = web.WebSocketResponse()
            await response.prepare(request)
            await response.send_str("hello")
            await response.close()
            return response

        app.router.add_get("/socket", greet)
        async with registry.watch("orders") as watch, aiohttp.ClientSession() as client:
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            _, service = await next_event(watch)
            await when_ready(service)
            url = f"http://{service.address}"
            async with client.get(f"{url}/none") as response:
                assert "Connection" not in response.headers
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            async with client.get(f"{url}/none") as response:
                assert response.headers["Connection"] == "close"
                assert response.headers["aioregistry-leaving"] == service.id
            async with client.ws_connect(f"{url}/socket") as websocket:
                assert await websocket.receive_str(timeout=10) == "hello"
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(task, 10)

    async def test_serves_those_who_had_connected_before_it_stops(
        self, registry: Registry, ours: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioregistry.integrations._leaving._MOMENT", 60.0)
        app = application(register(ours, "orders", drain=0.2))
        async with registry.watch("orders") as watch, served(app) as stop:
            _, service = await next_event(watch)
            reader, writer = await asyncio.open_connection(*service.hostname_port)
            stop.set()
            await until_nobody_listens(service)
            writer.write(b"GET /none HTTP/1.1\r\nhost: orders\r\n\r\n")
            answer = await asyncio.wait_for(reader.read(), 10)
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"connection: close" in answer.lower()
            writer.close()

    async def test_two_signals(self, registry: Registry, ours: Registry) -> None:
        """Ctrl-C withdraws; the second one ends the drain."""
        app = application(register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, no_new_tasks():
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            await next_event(watch)
            os.kill(os.getpid(), signal.SIGINT)
            _, service = await next_event(watch)
            status, body = await get(service)  # it is withdrawn, and still serves
            assert (status, body["services"][0]["state"]) == (503, "draining")
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(task, 10)

    async def test_sigterm_again_does_not_shorten_the_drain(
        self, registry: Registry, ours: Registry
    ) -> None:
        app = application(register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch:
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            await next_event(watch)
            os.kill(os.getpid(), signal.SIGTERM)
            _, service = await next_event(watch)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await get(service))[0] == 503
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(task, 10)

    async def test_cancelled(self, registry: Registry, ours: Registry) -> None:
        app = application(register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, no_new_tasks():
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            await next_event(watch)
            task.cancel()
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            await asyncio.wait((task,))
            assert task.cancelled()

    async def test_cancelled_while_it_drains(self, registry: Registry, ours: Registry) -> None:
        app = application(register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, no_new_tasks():
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            await next_event(watch)
            os.kill(os.getpid(), signal.SIGTERM)
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            await eventually(
                lambda: any("Presence.drain" in str(each) for each in asyncio.all_tasks())
            )
            task.cancel()
            await asyncio.wait((task,))
            assert task.cancelled()

    async def test_says_what_goes_wrong_while_it_drains(
        self, registry: Registry, ours: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def stop(_site: web.TCPSite) -> None:
            monkeypatch.undo()
            raise OSError("the socket is gone")

        app = application(register(ours, "orders", drain=0.01))
        async with registry.watch("orders") as watch:
            task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
            await next_event(watch)
            monkeypatch.setattr(web.TCPSite, "stop", stop)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(OSError, match="the socket is gone"):
                await asyncio.wait_for(task, 10)

    async def test_a_port_that_is_taken(self, registry: Registry, ours: Registry) -> None:
        await registry.observe("orders")
        with (
            socket.create_server(("127.0.0.1", 0)) as blocker,
            pytest.raises(OSError, match="in use"),
        ):
            await serve(
                application(register(ours, "orders")),
                host="127.0.0.1",
                port=blocker.getsockname()[1],
            )
        assert registry.stats().announcements_received == 0

    async def test_under_a_runner_of_its_own(self, registry: Registry, ours: Registry) -> None:
        """As `web.run_app` has it: announced once it serves, withdrawn just after it stopped."""
        address = f"127.0.0.1:{free_port()}"
        released = asyncio.Event()

        async def slow(_request: web.Request) -> web.Response:
            await released.wait()
            return web.Response(text="1")

        app = application(register(ours, "orders", address))
        app.router.add_get("/slow", slow)
        runner = web.AppRunner(app)
        async with registry.watch("orders") as watch, no_new_tasks():
            await runner.setup()
            assert registry.cached("orders") == ()
            await web.TCPSite(runner, "127.0.0.1", int(address.split(":")[1])).start()
            assert (await next_event(watch))[1].address == address
            request = asyncio.create_task(get(address, "/slow"))
            await eventually(lambda: runner.server and runner.server.requests_count)
            ending = asyncio.create_task(runner.cleanup())
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            assert not request.done(), "the requests that are under way are not waited for"
            released.set()
            assert await request == (200, 1)
            await ending

    async def test_follows_the_health(self, registry: Registry, ours: Registry) -> None:
        async def check() -> Status:
            return Status.WARNING

        app = application(register(ours, "orders", health=HealthCheck(check)))
        async with registry.watch("orders") as watch, served(app):
            assert (await next_event(watch))[1].status is Status.WARNING

    async def test_waits_for_what_makes_it_ready(self, registry: Registry, ours: Registry) -> None:
        warm = asyncio.Event()
        app = application(register(ours, "orders", ready=warm.wait))
        with socket.create_server(("127.0.0.1", 0)) as sock:
            address = "{}:{}".format(*sock.getsockname())
            async with served(app, sock=sock):
                status, body = await get(address)
                assert (status, body["services"][0]["state"]) == (503, "waiting")
                warm.set()
                assert (await registry.get_service("orders", timeout=10)).address == address


class TestAnApplicationThatStartsAgain:
    async def test_is_announced_each_time(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        app = application(register(anew, "orders", client=lambda registry: nullcontext([registry])))
        async with registry.watch("orders") as watch, no_new_tasks():
            for _ in range(2):
                async with served(app) as stop:
                    _, service = await next_event(watch)
                    status, body = await when_ready(service)
                    assert (status, len(body["services"])) == (200, 1)
                    assert app[CLIENT] == [app[REGISTRY]]
                    assert app[REGISTRY].connected
                    stop.set()
                    assert (await next_event(watch))[0] is EventType.UNREGISTERED

    async def test_asks_callers_to_leave_each_time(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        app = application(register(anew, "orders", drain=60))
        async with registry.watch("orders") as watch, aiohttp.ClientSession() as client:
            for _ in range(2):
                task = asyncio.create_task(serve(app, host="127.0.0.1", port=0))
                _, service = await next_event(watch)
                await when_ready(service)
                url = f"http://{service.address}/none"
                async with client.get(url) as response:
                    assert "aioregistry-leaving" not in response.headers
                os.kill(os.getpid(), signal.SIGTERM)
                assert (await next_event(watch))[0] is EventType.UNREGISTERED
                async with client.get(url) as response:
                    assert response.headers["aioregistry-leaving"] == service.id
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.wait_for(task, 10)

    async def test_under_a_runner_of_its_own(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        """Before and after `serve`, too: it is announced at the address that it was given."""
        address = f"127.0.0.1:{(port := free_port())}"
        app = application(register(anew, "orders", address))
        async with registry.watch("orders") as watch:
            for by_serve in (False, False, True, False):
                if by_serve:
                    async with served(app):
                        assert (await next_event(watch))[1].address == address
                else:
                    runner = web.AppRunner(app)
                    await runner.setup()
                    assert registry.cached("orders") == ()
                    await web.TCPSite(runner, "127.0.0.1", port).start()
                    assert (await next_event(watch))[1].address == address
                    await runner.cleanup()
                assert (await next_event(watch))[0] is EventType.UNREGISTERED


async def ill() -> bool:
    return False


async def told(service: Service, path: str) -> tuple[int, list[str]]:
    """What a readiness route says, and of which services."""
    status, body = await get(service, path)
    return status, [each["name"] for each in body["services"]]


def under_a_prefix(main: web.Application, below: web.Application) -> None:
    main.add_subapp("/below", below)


def under_a_domain(main: web.Application, below: web.Application) -> None:
    main.add_domain("orders.example", below)


class TestASubApplication:
    @pytest.mark.parametrize("add", [under_a_prefix, under_a_domain])
    async def test_is_announced_under_a_runner_of_its_own(
        self,
        registry: Registry,
        ours: Registry,
        add: Callable[[web.Application, web.Application], None],
    ) -> None:
        address = f"127.0.0.1:{(port := free_port())}"
        main = web.Application()
        add(main, application(register(ours, "orders", address)))
        runner = web.AppRunner(main)
        async with registry.watch("orders") as watch, no_new_tasks():
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            assert (await next_event(watch))[1].address == address
            await runner.cleanup()
            assert (await next_event(watch))[0] is EventType.UNREGISTERED

    async def test_is_withdrawn_with_its_main_application(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        """Before the requests under way are waited for, which itself it could not."""
        released = asyncio.Event()

        async def slow(_request: web.Request) -> web.Response:
            await released.wait()
            return web.Response(text="1")

        address = f"127.0.0.1:{(port := free_port())}"
        main = application(connect(anew))
        main.router.add_get("/slow", slow)
        main.add_subapp("/below", application(register(anew, "orders", address)))
        runner = web.AppRunner(main)
        async with registry.watch("orders") as watch:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await next_event(watch)
            request = asyncio.create_task(get(address, "/slow"))
            await eventually(lambda: runner.server and runner.server.requests_count)
            ending = asyncio.create_task(runner.cleanup())
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            assert not request.done()
            released.set()
            assert await request == (200, 1)
            await ending

    async def test_is_served_with_its_main_application(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        """It has the address of the server, and is drained with it."""
        main = application(register(anew, "main"))
        main.add_subapp("/below", application(register(anew, "orders", drain=60)))
        async with registry.watch("orders") as watch:
            for _ in range(2):
                task = asyncio.create_task(serve(main, host="127.0.0.1", port=0))
                _, service = await next_event(watch)
                assert (await registry.get_service("main", timeout=10)).address == service.address
                os.kill(os.getpid(), signal.SIGTERM)
                assert (await next_event(watch))[0] is EventType.UNREGISTERED
                assert (await get(service, "/below/ready"))[0] == 503
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.wait_for(task, 10)

    async def test_counts_for_the_readiness_of_its_main_application(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        main = application(register(anew, "main"))
        main.add_subapp("/orders", application(register(anew, "orders", health=HealthCheck(ill))))
        main.add_subapp("/plain", application())
        async with served(main):
            service = await registry.get_service("orders", where=lambda _: True, timeout=10)
            assert await told(service, "/ready") == (503, ["main", "orders"])
            assert await told(service, "/plain/ready") == (503, ["main", "orders"])
            assert await told(service, "/orders/ready") == (503, ["orders"])

    async def test_counts_even_if_that_has_no_registry(
        self, registry: Registry, ours: Registry
    ) -> None:
        main = application()
        main.add_subapp("/orders", application(register(ours, "orders", health=HealthCheck(ill))))
        async with served(main):
            service = await registry.get_service("orders", where=lambda _: True, timeout=10)
            assert await told(service, "/ready") == (503, ["orders"])

    async def test_is_none_if_it_has_a_runner_of_its_own(
        self, registry: Registry, anew: Callable[[], Registry]
    ) -> None:
        """An application may serve another one elsewhere, such as for its administrators."""
        address = f"127.0.0.1:{(port := free_port())}"
        admin = application(register(anew, "admin", "127.0.0.1:0"), register(anew, "x", address))

        async def beside(_app: web.Application) -> AsyncIterator[None]:
            runner = web.AppRunner(admin)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            yield
            await runner.cleanup()

        async with served(application(beside, register(anew, "orders"))):
            service = await registry.get_service("orders", timeout=10)
            assert (await registry.get_service("x", timeout=10)).address == address
            _, body = await get(address)
            assert body["services"][0]["state"] == "failed"
            assert "give address='host:port'" in body["services"][0]["reason"]
            assert "run_app" in body["services"][0]["reason"]
            assert (await told(service, "/ready"))[1] == ["orders"]


class TestTheAddress:
    async def test_of_every_interface(self, registry: Registry, ours: Registry) -> None:
        async with served(application(register(ours, "orders")), host=None, port=free_port()):
            service = await registry.get_service("orders", timeout=10)
            assert service.hostname_port[0] not in ("0.0.0.0", "::")
            await when_ready(service)

    async def test_is_where_it_says_that_it_serves(
        self, registry: Registry, ours: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Any free port is another one for IPv6, and it is chance which of them comes first."""
        caplog.set_level(logging.INFO)
        async with served(application(register(ours, "orders")), host=None):
            service = await registry.get_service("orders", timeout=10)
            assert f"serving at http://0.0.0.0:{service.port} " in caplog.text

    async def test_of_ipv6(self, registry: Registry, ours: Registry) -> None:
        async with served(application(register(ours, "orders")), host="::1"):
            service = await registry.get_service("orders", timeout=10)
            assert service.address == f"[::1]:{service.port}"
            await when_ready(service)

    async def test_of_a_unix_socket(
        self, registry: Registry, ours: Registry, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "orders.sock")
        async with served(application(register(ours, "orders")), path=path):
            service = await registry.get_service("orders", timeout=10)
            assert (service.network, service.address) == ("unix", path)

    async def test_of_a_unix_socket_under_a_runner_of_its_own(
        self, registry: Registry, ours: Registry, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "orders.sock")
        runner = web.AppRunner(application(register(ours, "orders", path, network="unix")))
        await registry.observe("orders")
        await runner.setup()
        assert registry.cached("orders") == ()
        await web.UnixSite(runner, path).start()
        service = await registry.get_service("orders", timeout=10)
        assert (service.network, service.address) == ("unix", path)
        await runner.cleanup()

    @pytest.mark.parametrize("network", ["udp", "udp6", "unixgram"])
    async def test_without_connections_is_not_waited_for(
        self, registry: Registry, ours: Registry, network: str
    ) -> None:
        runner = web.AppRunner(application(register(ours, "orders", "[::1]:9", network=network)))
        await runner.setup()
        assert (await registry.get_service("orders", timeout=10)).network == network
        await runner.cleanup()

    async def test_is_missing(self, ours: Registry, caplog: pytest.LogCaptureFixture) -> None:
        async with TestClient(TestServer(application(register(ours, "orders")))) as client:
            await eventually(lambda: "give address='host:port'" in caplog.text)
            response = await client.get("/ready")
            assert response.status == 503
            body = await response.json()
            assert body["services"][0]["state"] == "failed"
            assert "give address='host:port'" in body["services"][0]["reason"]
            assert "run_app" in body["services"][0]["reason"]

    def test_that_cannot_be_one_is_refused_at_once(self) -> None:
        with pytest.raises(InvalidService, match="Windows path"):
            register(None, "orders", r"\\.\pipe\orders")


class TestRequests:
    async def test_get_what_there_is(self, registry: Registry, ours: Registry) -> None:
        @asynccontextmanager
        async def client_of(registry: Registry) -> AsyncGenerator[list[Registry]]:
            opened = [registry]
            yield opened
            opened.clear()

        async def one(request: web.Request) -> web.Response:
            return web.json_response((await get_service(request, "orders", wait=False)).address)

        async def every(request: web.Request) -> web.Response:
            found = await get_services(request, "orders", minimum=2)
            return web.json_response(sorted(service.address for service in found))

        async def same(request: web.Request) -> web.Response:
            found = (get_registry(request) is ours, get_client(request) == [ours])
            return web.json_response(found)

        app = application(connect(ours, client=client_of))
        below = web.Application()  # a sub-application has what its parent has
        below.router.add_get("/one", one)
        below.router.add_get("/all", every)
        below.router.add_get("/same", same)
        app.add_subapp("/below", below)
        async with TestClient(TestServer(app)) as client:
            assert app[REGISTRY] is ours
            kept = app[CLIENT]
            response = await client.get("/below/one")
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
            assert "no instance of 'orders' is known" in await response.text()
            for port in (1, 2):
                await registry.register("orders", f"10.0.0.5:{port}")
            addresses = ["10.0.0.5:1", "10.0.0.5:2"]
            assert await (await client.get("/below/all")).json() == addresses
            assert await (await client.get("/below/one")).json() in addresses
            assert await (await client.get("/below/same")).json() == [True, True]
            assert (await client.get("/ready")).status == 200
        assert kept == []

    async def test_an_application_without_a_registry(self) -> None:
        async def handler(request: web.Request) -> web.Response:
            for ask in (get_registry, get_client):
                with pytest.raises(RuntimeError, match="this application has no"):
                    ask(request)
            return web.Response()

        app = web.Application()
        app.router.add_get("/", handler)
        async with TestClient(TestServer(app)) as client:
            assert (await client.get("/")).status == 200
