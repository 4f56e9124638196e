"""FastAPI and Starlette services over a real broker, with uvicorn in this event loop."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import multiprocessing
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Self

import httpx
import pytest
import uvicorn
from fastapi import Depends, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.routing import Route
from tests.tools import eventually, no_new_tasks

from aioregistry import (
    EventType,
    InvalidService,
    Registry,
    Service,
    Status,
    TransportError,
    Watch,
    free_port,
)
from aioregistry.integrations import starlette
from aioregistry.integrations.fastapi import (
    HealthCheck,
    RegistryDep,
    Server,
    connect,
    get_client,
    get_service,
    get_services,
    readiness,
    register,
)
from aioregistry.testing.brokers import Broker, nats_server

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

PREFIX = "fastapi"


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
def own_broker() -> Iterator[Broker]:
    """One to be killed."""
    with nats_server() as broker:
        yield broker


@pytest.fixture
def make_client() -> Callable[[FastAPI], TestClient]:
    """Starlette's, which warns about the client that it finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient  # noqa: PLC0415 - as above

    return TestClient


@asynccontextmanager
async def served(
    app: Any, kind: type[uvicorn.Server] = Server, **options: Any
) -> AsyncGenerator[uvicorn.Server]:
    """Run an application under uvicorn until the block ends."""
    options = {"port": 0, "log_config": None, **options}
    server = kind(uvicorn.Config(app, **options))
    task = asyncio.create_task(server.serve())
    try:
        yield server
        server.should_exit = True
        await asyncio.wait_for(task, 10)
    finally:
        server.should_exit = server.force_exit = True
        await asyncio.wait((task,))


async def next_event(watch: Watch) -> tuple[EventType, Service]:
    event = await asyncio.wait_for(anext(watch), 10)
    return event.type, event.service


async def get(service: Service | str, path: str = "/") -> httpx.Response:
    address = service if isinstance(service, str) else service.address
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(f"http://{address}{path}")


async def when_ready(service: Service) -> httpx.Response:
    """The answer of the readiness route; observers may hear of it a moment before it knows."""
    async with asyncio.timeout(10):
        while (response := await get(service, "/ready")).status_code != 200:  # noqa: ASYNC110 - see below
            await asyncio.sleep(0.01)  # another process: there is no event to await
    return response


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """Send a request over a connection that is to be kept; returns the head of the answer."""
    writer.write(b"GET /none HTTP/1.1\r\nhost: orders\r\n\r\n")
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode().lower()
    length = next(line for line in head.splitlines() if line.startswith("content-length"))
    await reader.readexactly(int(length.partition(":")[2]))
    return head


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
    @pytest.mark.parametrize("kind", [Server, uvicorn.Server])
    async def test_begins_when_it_serves_and_ends_before_it_stops(
        self, registry: Registry, ours: Registry, kind: type[uvicorn.Server]
    ) -> None:
        app = FastAPI(lifespan=register(ours, "orders", version="1.2", drain=60))
        app.add_route("/ready", readiness())
        async with registry.watch("orders") as watch:
            async with served(app, kind) as server:
                kind_of_event, service = await next_event(watch)
                assert kind_of_event is EventType.REGISTERED
                assert service.version == "1.2"
                assert service.hostname_port[0] == "127.0.0.1"
                ready = await when_ready(service)
                assert ready.json()["services"][0]["state"] == "announced"

                server.should_exit = True
                assert (await next_event(watch))[0] is EventType.UNREGISTERED
                ready = await get(service, "/ready")  # it is withdrawn, and still serves
                assert ready.status_code == 503
                assert ready.json()["services"][0]["state"] == "draining"
                server.force_exit = True
            with pytest.raises(httpx.ConnectError):
                await get(service)

    async def test_leaves_nothing_behind(self, registry: Registry, ours: Registry) -> None:
        app = FastAPI(lifespan=register(ours, "orders", drain=0.01))
        async with registry.watch("orders") as watch, no_new_tasks():
            async with served(app):
                await next_event(watch)
            assert (await next_event(watch))[0] is EventType.UNREGISTERED

    async def test_is_not_announced_before_it_serves(
        self, registry: Registry, ours: Registry
    ) -> None:
        slow, entered = asyncio.Event(), asyncio.Event()

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            entered.set()
            await slow.wait()
            yield

        await registry.observe("orders")
        async with served(FastAPI(lifespan=register(ours, "orders", lifespan=lifespan))):
            await entered.wait()
            assert registry.stats().announcements_received == 0
            slow.set()
            service = await registry.get_service("orders", timeout=10)
            assert (await get(service)).status_code == 404

    async def test_waits_for_what_makes_it_ready(self, registry: Registry, ours: Registry) -> None:
        warm = asyncio.Event()
        app = FastAPI(lifespan=register(ours, "orders", ready=warm.wait))
        app.add_route("/ready", readiness())
        async with served(app, port=(port := free_port())) as server:
            await eventually(lambda: server.started)
            response = await get(f"127.0.0.1:{port}", "/ready")
            assert response.status_code == 503
            assert response.json()["services"][0]["state"] == "waiting"
            warm.set()
            assert (await registry.get_service("orders", timeout=10)).port == port

    async def test_ends_at_the_maximum_of_requests_too(
        self, registry: Registry, ours: Registry
    ) -> None:
        app = FastAPI(lifespan=register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, served(app, limit_max_requests=1) as server:
            _, service = await next_event(watch)
            await get(service)
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            assert (await get(service)).status_code == 404
            server.force_exit = True

    async def test_a_second_ctrl_c_ends_the_drain(self, registry: Registry, ours: Registry) -> None:
        app = FastAPI(lifespan=register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, served(app) as server:
            await next_event(watch)
            server.should_exit = server.force_exit = True  # both come before uvicorn looks
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            await eventually(lambda: not server.servers[0].is_serving(), 5)

    async def test_a_second_ctrl_c_does_not_cut_short_the_lifespan(
        self, registry: Registry, ours: Registry
    ) -> None:
        closed = asyncio.Event()

        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
            yield
            closed.set()

        app = FastAPI(lifespan=register(ours, "orders", drain=60, lifespan=lifespan))
        async with registry.watch("orders") as watch, served(app) as server:
            await next_event(watch)
            server.should_exit = True
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            server.force_exit = True
        assert closed.is_set()

    @pytest.mark.parametrize("kind", [Server, uvicorn.Server])
    async def test_asks_callers_to_leave_while_it_drains(
        self, registry: Registry, ours: Registry, kind: type[uvicorn.Server]
    ) -> None:
        """Else their next request could meet the end of the connection."""
        app = FastAPI(lifespan=register(ours, "orders", drain=60))
        async with registry.watch("orders") as watch, served(app, kind) as server:
            _, service = await next_event(watch)
            reader, writer = await asyncio.open_connection(*service.hostname_port)
            assert "connection: close" not in await ask(reader, writer)
            server.should_exit = True
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            head = await ask(reader, writer)
            assert "connection: close" in head
            assert f"aioregistry-leaving: {service.id}" in head
            assert await reader.read() == b""
            writer.close()
            server.force_exit = True

    async def test_serves_those_who_had_connected_before_it_stops(
        self, registry: Registry, ours: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aioregistry.integrations._leaving._MOMENT", 60.0)
        app = FastAPI(lifespan=register(ours, "orders", drain=0.2))
        async with registry.watch("orders") as watch, served(app) as server:
            _, service = await next_event(watch)
            reader, writer = await asyncio.open_connection(*service.hostname_port)
            server.should_exit = True
            await until_nobody_listens(service)
            assert "connection: close" in await ask(reader, writer)
            writer.close()

    async def test_drains_by_default_except_when_it_reloads(
        self,
        registry: Registry,
        nats_broker: Broker,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("aioregistry.integrations._presence.DRAIN", 60.0)
        caplog.set_level(logging.INFO)

        def app() -> FastAPI:
            source = Registry(nats_broker.url, prefix=PREFIX)
            return FastAPI(lifespan=register(source, "orders"))

        async with registry.watch("orders") as watch:
            async with served(app(), reload=True):
                await next_event(watch)
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            assert "serving on" not in caplog.text
            async with served(app()) as server:
                await next_event(watch)
                server.should_exit = True
                await eventually(lambda: "withdrawn; serving on for 60 s" in caplog.text)
                server.force_exit = True

    async def test_does_not_outlive_a_server_that_cannot_listen(
        self, registry: Registry, ours: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        port = free_port()
        blocker = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", port)
        await registry.observe("orders")
        server = Server(
            uvicorn.Config(FastAPI(lifespan=register(ours, "orders")), port=port, log_config=None)
        )
        with pytest.raises(SystemExit):
            await server.serve()
        blocker.close()
        assert "address already in use" in caplog.text
        await registry.wait_connected()
        assert registry.cached("orders") == ()
        assert registry.stats().announcements_received == 0

    async def test_cancelled_while_it_drains(self, registry: Registry, ours: Registry) -> None:
        app = FastAPI(lifespan=register(ours, "orders", drain=60))
        server = Server(uvicorn.Config(app, port=0, log_config=None))
        async with registry.watch("orders") as watch, no_new_tasks():
            task = asyncio.create_task(server.serve())
            await next_event(watch)
            server.should_exit = True
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
            await eventually(
                lambda: any("Presence.drain" in str(each) for each in asyncio.all_tasks())
            )
            task.cancel()
            await asyncio.wait((task,))
            server.servers[0].close()  # uvicorn leaves both behind
            await server.lifespan.shutdown()

    async def test_in_another_thread(self, registry: Registry, ours: Registry) -> None:
        server = Server(
            uvicorn.Config(FastAPI(lifespan=register(ours, "orders")), port=0, log_config=None)
        )
        thread = threading.Thread(target=server.run)
        async with registry.watch("orders") as watch:
            thread.start()
            _, service = await next_event(watch)
            assert (await get(service)).status_code == 404
            server.should_exit = True
            assert (await next_event(watch))[0] is EventType.UNREGISTERED
        await asyncio.to_thread(thread.join)

    async def test_two_applications_in_one_event_loop(
        self, registry: Registry, nats_broker: Broker
    ) -> None:
        def app(name: str) -> FastAPI:
            return FastAPI(
                title=name, lifespan=register(Registry(nats_broker.url, prefix=PREFIX), name)
            )

        async with served(app("one")), served(app("two")):
            for name in ("one", "two"):
                service = await registry.get_service(name, timeout=10)
                assert (await get(service, "/openapi.json")).json()["info"]["title"] == name

    async def test_several_services_of_one_application(
        self, registry: Registry, nats_broker: Broker
    ) -> None:
        shared = Registry(nats_broker.url, prefix=PREFIX)
        app = Starlette(
            routes=[Route("/ready", starlette.readiness())],
            lifespan=starlette.register(shared, "a", lifespan=starlette.register(shared, "b")),
        )
        async with served(app):
            first = await registry.get_service("a", timeout=10)
            second = await registry.get_service("b", timeout=10)
            assert first.address == second.address
            names = {each["name"] for each in (await get(first, "/ready")).json()["services"]}
            assert names == {"a", "b"}
        await eventually(lambda: not registry.cached("a") + registry.cached("b"))


class TestTheAddress:
    async def test_of_every_interface_is_one_that_others_reach(
        self, registry: Registry, ours: Registry
    ) -> None:
        async with served(FastAPI(lifespan=register(ours, "orders")), host="0.0.0.0"):
            service = await registry.get_service("orders", timeout=10)
            assert service.hostname_port[0] != "0.0.0.0"
            assert (await get(service)).status_code == 404

    async def test_of_ipv6(self, registry: Registry, ours: Registry) -> None:
        async with served(FastAPI(lifespan=register(ours, "orders")), host="::1"):
            service = await registry.get_service("orders", timeout=10)
            assert service.address == f"[::1]:{service.port}"
            assert (await get(service)).status_code == 404

    async def test_as_given_with_the_port_of_the_server(
        self, registry: Registry, ours: Registry
    ) -> None:
        lifespan = register(ours, "orders", "localhost:0", url="http://{address}/api")
        async with served(FastAPI(lifespan=lifespan), port=(port := free_port())):
            service = await registry.get_service("orders", timeout=10)
            assert service.address == f"localhost:{port}"
            assert service.url == f"http://localhost:{port}/api"

    async def test_of_a_unix_socket(
        self, registry: Registry, ours: Registry, tmp_path: Any
    ) -> None:
        path = str(tmp_path / "orders.sock")
        async with served(FastAPI(lifespan=register(ours, "orders")), uvicorn.Server, uds=path):
            service = await registry.get_service("orders", timeout=10)
            assert (service.network, service.address) == ("unix", path)

    async def test_of_a_process_that_shares_its_socket(
        self, registry: Registry, ours: Registry
    ) -> None:
        app = FastAPI(lifespan=register(ours, "orders", own_port=True))
        async with served(app, port=(port := free_port())):
            service = await registry.get_service("orders", timeout=10)
            assert service.port != port
            assert (await get(service)).status_code == 404
            assert (await get(f"127.0.0.1:{port}")).status_code == 404
        with pytest.raises(httpx.ConnectError):
            await get(service)

    async def test_of_another_server_is_probed(self, registry: Registry, ours: Registry) -> None:
        """A server that is not uvicorn: announced when something accepts there."""
        address = f"127.0.0.1:{free_port()}"
        app = FastAPI(lifespan=register(ours, "orders", address))
        await registry.observe("orders")
        async with app.router.lifespan_context(app):
            listening = await asyncio.start_server(lambda _r, w: w.close(), *address.split(":"))
            assert (await registry.get_service("orders", timeout=10)).address == address
            listening.close()
        await eventually(lambda: not registry.cached("orders"))

    async def test_is_missing(self, ours: Registry, caplog: pytest.LogCaptureFixture) -> None:
        app = FastAPI(lifespan=register(ours, "orders"))
        async with app.router.lifespan_context(app):
            await eventually(lambda: caplog.messages)
        assert "no address to announce 'orders' at: the server was not found" in caplog.text
        assert "give address='host:port'" in caplog.text

    @pytest.mark.parametrize("supervisor", ["uvicorn", "gunicorn"])
    async def test_of_several_workers_cannot_be_the_same(
        self,
        ours: Registry,
        supervisor: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if supervisor == "uvicorn":
            worker = multiprocessing.get_context("spawn").Process()
            monkeypatch.setattr("multiprocessing.current_process", lambda: worker)
        else:
            monkeypatch.setitem(sys.modules, "gunicorn.arbiter", ModuleType("gunicorn.arbiter"))
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        app = FastAPI(lifespan=register(ours, "orders", "10.0.0.5:80"))
        server = Server(uvicorn.Config(app, port=0, log_config=None))
        with contextlib.suppress(SystemExit):  # as the version of uvicorn has it
            await server.serve()
        assert (
            "at '10.0.0.5:80' by each of 2 workers; each needs an address of its own" in caplog.text
        )

    async def test_of_a_process_that_serves_alone_whatever_its_environment_says(
        self, registry: Registry, ours: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Platforms set the variable; a program that runs a server has no workers from it."""
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
        app = FastAPI(lifespan=register(ours, "orders", "10.0.0.5:80"))
        async with served(app, uvicorn.Server) as server:
            assert server.config.workers == 4
            assert (await registry.get_service("orders", timeout=10)).address == "10.0.0.5:80"

    async def test_that_only_this_machine_reaches_is_doubted(
        self, ours: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def is_here(_host: str) -> bool:
            return False

        monkeypatch.setattr("aioregistry.integrations._address._is_here", is_here)
        async with served(FastAPI(lifespan=register(ours, "orders"))):
            await eventually(lambda: "which only this machine reaches" in caplog.text)

    def test_that_cannot_be_one_is_refused_at_once(self) -> None:
        with pytest.raises(InvalidService, match="IPv6 without brackets"):
            register(None, "orders", "::1:80")
        with pytest.raises(ValueError, match="drain must be a number of seconds, or 0, not -1"):
            register(None, "orders", drain=-1)


class TestDependencies:
    async def test_hand_out_what_there_is(self, registry: Registry, ours: Registry) -> None:
        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, str]]:
            assert ours.connected, "the registry is there before the application's own lifespan"
            yield {"mine": app.title}

        class Client:
            def __init__(self, registry: Registry) -> None:
                self.registry, self.open = registry, False

            async def __aenter__(self) -> Self:
                self.open = True
                return self

            async def __aexit__(self, *_: object) -> None:
                self.open = False

        clients: list[Client] = []

        def make(registry: Registry) -> Client:
            clients.append(Client(registry))
            return clients[-1]

        app = FastAPI(title="shop", lifespan=connect(ours, lifespan=lifespan, client=make))
        app.add_route("/ready", readiness())

        @app.get("/one")
        async def one(
            service: Annotated[Service, Depends(get_service("orders", wait=False))],
        ) -> str:
            return service.address

        @app.get("/all")
        async def every(
            services: Annotated[tuple[Service, ...], Depends(get_services("orders", minimum=2))],
        ) -> list[str]:
            return sorted(service.address for service in services)

        @app.get("/client")
        async def client(
            request: Request, client: Annotated[Any, Depends(get_client)], registry: RegistryDep
        ) -> Any:
            return [request.state.mine, client.open, client.registry is registry is ours]

        @app.websocket("/socket")
        async def socket(websocket: WebSocket, registry: RegistryDep) -> None:
            await websocket.accept()
            await websocket.send_json(registry is ours)
            await websocket.close()

        async with served(app) as server:
            await eventually(lambda: server.started)
            address = "{}:{}".format(*server.servers[0].sockets[0].getsockname())
            assert (await get(address, "/ready")).json()["ready"] is True
            response = await get(address, "/one")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert "no instance of 'orders' is known" in response.json()["detail"]
            for port in (1, 2):
                await registry.register("orders", f"10.0.0.5:{port}")
            assert (await get(address, "/all")).json() == ["10.0.0.5:1", "10.0.0.5:2"]
            assert (await get(address, "/one")).json() in ("10.0.0.5:1", "10.0.0.5:2")
            assert (await get(address, "/client")).json() == ["shop", True, True]
        assert [client.open for client in clients] == [False]

    def test_in_a_test_client(self, make_client: Callable[[FastAPI], TestClient]) -> None:
        """Where there is no server nothing is announced, and an application starts again."""
        app = FastAPI(lifespan=register(lambda: Registry("memory://testing"), "orders"))

        @app.get("/")
        async def root(registry: RegistryDep) -> int:
            return registry.stats().registered

        @app.websocket("/socket")
        async def socket(socket: WebSocket, registry: RegistryDep) -> None:
            await socket.accept()
            await socket.send_json(registry.connected)
            await socket.close()

        for _ in range(2):
            with make_client(app) as client:
                assert client.get("/").json() == 0
                with client.websocket_connect("/socket") as websocket:
                    assert websocket.receive_json() is True

    def test_without_a_lifespan(self, make_client: Callable[[FastAPI], TestClient]) -> None:
        app = FastAPI()

        @app.get("/")
        async def root(registry: RegistryDep) -> None: ...

        with pytest.raises(RuntimeError, match=r"lifespan=register\(...\) .* with TestClient"):
            make_client(app).get("/")

    async def test_a_lent_registry_stays_open(self, registry: Registry) -> None:
        app = FastAPI(lifespan=connect(registry))
        async with app.router.lifespan_context(app):
            pass
        assert registry.connected


class TestReadiness:
    async def test_is_the_truth_about_the_broker(
        self, own_broker: Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "aioregistry")
        app = FastAPI(lifespan=register(own_broker.url, "orders"))
        app.add_route("/ready", readiness())
        app.add_route("/strict", readiness(require_broker=True))
        async with served(app, port=(port := free_port())) as server:
            await eventually(lambda: server.started)
            address = f"127.0.0.1:{port}"

            async def until(path: str, code: int) -> dict[str, Any]:
                async with asyncio.timeout(10):
                    while (response := await get(address, path)).status_code != code:  # noqa: ASYNC110 - seen only from outside
                        await asyncio.sleep(0.02)
                body: dict[str, Any] = response.json()
                return body

            assert (await until("/strict", 200))["broker"]["connected"] is True
            await asyncio.to_thread(own_broker.kill)
            assert (await until("/strict", 503))["broker"]["connected"] is False
            body = (await get(address, "/ready")).json()
            assert (body["ready"], body["broker"]["connected"]) == (True, False)
            await asyncio.to_thread(own_broker.start)
            await until("/strict", 200)
        said = [each.getMessage() for each in caplog.records if own_broker.url in each.getMessage()]
        assert [line.partition(":")[0] for line in said] == [
            "broker nats",
            "lost nats",
            "broker nats",
        ]

    async def test_follows_the_health(self, registry: Registry, ours: Registry) -> None:
        answer: Status | bool = True

        async def check() -> Status | bool:
            return answer

        health = HealthCheck(check, interval=0.02, critical_after=2, pass_after=1)
        app = FastAPI(lifespan=register(ours, "orders", health=health))
        app.add_route("/ready", readiness())
        async with registry.watch("orders") as watch, served(app):
            _, service = await next_event(watch)
            assert service.status is Status.PASSING
            answer = False
            assert (await next_event(watch))[1].status is Status.WARNING
            assert (await next_event(watch))[1].status is Status.CRITICAL
            assert (await get(service, "/ready")).status_code == 503
            answer = True
            assert (await next_event(watch))[1].status is Status.PASSING
            await eventually(lambda: registry.cached("orders"))

    async def test_a_service_that_is_ill_from_the_start_is_announced_so(
        self, registry: Registry, ours: Registry, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def check() -> bool:
            raise ConnectionError("no database")

        app = FastAPI(lifespan=register(ours, "orders", health=HealthCheck(check)))
        async with registry.watch("orders") as watch, served(app):
            assert (await next_event(watch))[1].status is Status.CRITICAL
            await eventually(lambda: "as critical: it raised ConnectionError" in caplog.text)


async def test_no_broker() -> None:
    nowhere = Registry(f"nats://127.0.0.1:{free_port()}", connect_timeout=0.05)
    app = FastAPI(lifespan=register(nowhere, "orders"))
    with pytest.raises(TransportError, match="no broker at nats:"):
        async with app.router.lifespan_context(app):
            pass


async def test_two_processes_at_one_address(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The second is told when it comes, and the first too, if it observes the name."""
    first = Registry(nats_broker.url, prefix="rivals", hostname="host-a")
    second = Registry(nats_broker.url, prefix="rivals", hostname="host-b")
    async with first:
        await first.observe("orders")
        await first.register("orders", f"127.0.0.1:{(port := free_port())}", version="1.0")
        async with served(FastAPI(lifespan=register(second, "orders")), port=port):
            await eventually(lambda: len([m for m in caplog.messages if "two processes" in m]) == 2)
    told = sorted(m for m in caplog.messages if "two processes" in m)
    for message in told:
        assert f"two processes announce orders at 127.0.0.1:{port}" in message
        assert "host-a" in message
        assert "host-b" in message


async def test_a_restart_is_no_rival(nats_broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "aioregistry")
    port = free_port()
    for _ in range(2):
        registry = Registry(nats_broker.url, prefix="restarts")
        async with served(FastAPI(lifespan=register(registry, "orders")), port=port):
            await eventually(lambda: registry.registered)  # noqa: B023 - awaited within the round
    assert caplog.messages == []


def test_a_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing, module, extra in (
        ("fastapi", "fastapi", "fastapi"),
        ("uvicorn", "fastapi", "fastapi"),
        ("starlette.requests", "starlette", "fastapi"),
        ("aiohttp", "aiohttp_server", "aiohttp"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            patch.delitem(sys.modules, f"aioregistry.integrations.{module}", raising=False)
            with pytest.raises(ImportError) as caught:
                __import__(f"aioregistry.integrations.{module}")
        text = str(caught.value)
        assert f"aioregistry.integrations.{module} needs {missing}, which is not installed" in text
        assert f"pip install '.[{extra}]'" in text
        assert f"pip install 'aioregistry-discovery[{extra}]'" in text


def test_nothing_of_a_framework_is_imported_by_the_library() -> None:
    frameworks = {"fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "grpc", "faststream"}
    code = (
        "import sys, aioregistry, aioregistry.integrations.health;"
        " print({name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported: set[str] = ast.literal_eval(done.stdout)
    assert "aioregistry" in imported
    assert not imported & frameworks


async def test_of_a_descriptor_that_takes_ipv4_as_well_as_ipv6(
    registry: Registry, ours: Registry
) -> None:
    """What systemd hands over for `ListenStream=8000`; uvicorn takes it for a Unix socket."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
        app = FastAPI(lifespan=register(ours, "orders"))
        async with served(app, uvicorn.Server, fd=listening.fileno()):
            service = await registry.get_service("orders", timeout=10)
            assert ":" not in service.hostname_port[0]
            assert (await get(service)).status_code == 404


@pytest.mark.parametrize("address", ["", "localhost:0"])
async def test_of_several_workers_at_a_unix_socket_says_what_is_wrong(
    ours: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """`uvicorn --uds orders.sock --workers 4`: no advice that leads on to the next error."""
    app = FastAPI(lifespan=register(ours, "orders", address, own_port=True))
    async with served(app, uvicorn.Server, uds=f"{tmp_path}/orders.sock"):
        await eventually(lambda: "orders is not announced" in caplog.text)
    assert "server was not found" not in caplog.text
    assert "Unix socket" in caplog.text
