"""Every example does what it says: over real brokers, in real processes, with real calls."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from aioregistry import EventType, Registry, ServiceEvent, Status, Watch, free_port
from aioregistry.testing.brokers import Broker, unused_port

if TYPE_CHECKING:
    from tests.examples.conftest import Program, Programs

BROKERS = ("nats_broker", "redis_broker")


async def get(url: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        return await client.get(url)


async def next_event(watch: Watch) -> ServiceEvent:
    event = await anext(watch)
    assert event.service.name == "greeter"
    return event


def start_caller(programs: Programs, framework: str) -> tuple[Program, str]:
    port = free_port()
    if framework == "aiohttp":
        caller = programs.example("aiohttp_caller.py", "--port", str(port))
    else:
        app = ("--app-dir", "examples", "fastapi_caller:app", "--port", str(port))
        caller = programs.python("-m", "uvicorn", *app)
    return caller, f"http://127.0.0.1:{port}/hello/Ada"


@pytest.mark.parametrize("programs", BROKERS, indirect=True)
@pytest.mark.parametrize("framework", ["fastapi", "aiohttp"])
async def test_web_services_find_each_other(programs: Programs, framework: str) -> None:
    caller, url = start_caller(programs, framework)
    response = await caller.serves(url)
    assert response.status_code == 503
    assert "no instance of 'greeter' is known" in response.json()["detail"]
    assert response.headers["retry-after"] == "1"

    async with Registry(programs.url) as registry, registry.watch("greeter") as watch:
        provider = programs.example(f"{framework}_service.py")
        event = await next_event(watch)
        assert event.type is EventType.REGISTERED
        address = event.service.address
        response = await get(url)
        assert response.status_code == 200
        assert response.json() == {"greeting": "Hello Ada", "from": address}

        provider.send(signal.SIGTERM)
        assert (await next_event(watch)).type is EventType.UNREGISTERED
        # It has withdrawn and still serves: whoever chose it just before gets an answer.
        assert (await get(f"http://{address}/greet/Bob")).status_code == 200
    assert await provider.wait() in (0, -signal.SIGTERM)

    assert (await get(url)).status_code == 503
    assert await caller.stop(signal.SIGTERM) in (0, -signal.SIGTERM)
    assert "Traceback" not in caller.output + provider.output


async def test_a_call_that_hits_a_dead_instance_goes_to_another(programs: Programs) -> None:
    async with Registry(programs.url) as registry, registry.watch("greeter") as watch:
        await registry.register("greeter", f"127.0.0.1:{unused_port()}")  # nobody listens there
        await next_event(watch)
        programs.example("aiohttp_service.py")
        await next_event(watch)
        for framework in ("fastapi", "aiohttp"):
            caller, url = start_caller(programs, framework)
            assert (await caller.serves(url)).status_code == 200
            for _ in range(4):
                assert (await get(url)).status_code == 200
            await caller.stop()


async def test_watcher(programs: Programs) -> None:
    watcher = programs.example("watcher.py", "billing.>")
    async with Registry(programs.url) as registry:
        billing = await registry.register("billing.invoices", "10.0.0.1:80")
        await registry.register("orders", "10.0.0.2:80")
        await watcher.writes("REGISTERED    billing.invoices  10.0.0.1:80")
        await registry.set_status("billing.invoices", Status.WARNING)
        await watcher.writes("UPDATED       billing.invoices  10.0.0.1:80  warning (was passing)")
        await billing.unregister()
        await watcher.writes("UNREGISTERED  billing.invoices  10.0.0.1:80")
    assert await watcher.stop(signal.SIGINT) == 0
    assert "orders" not in watcher.output
    assert len(watcher.output.splitlines()) == 3


async def test_a_nats_client_is_shared(programs: Programs) -> None:
    example = programs.example("share_nats_client.py", programs.url)
    assert await example.wait() == 0, example.output
    assert example.output.splitlines() == [
        "orders is at 127.0.0.1:8080",
        "the registry is closed; still connected: True",
    ]


async def test_a_redis_client_is_shared(programs: Programs, redis_broker: Broker) -> None:
    example = programs.example("share_redis_client.py", redis_broker.url)
    assert await example.wait() == 0, example.output
    assert example.output.splitlines() == [
        "orders is at 127.0.0.1:8080",
        "the registry is closed; the client answers: True",
    ]


async def test_choosing(programs: Programs) -> None:
    example = programs.example("choosing.py")
    assert await example.wait() == 0, example.output
    suitable, *fastest, ada, _bob, ada_again = example.output.splitlines()
    assert suitable == "suitable: 10.0.0.1:8001 10.0.0.2:8002"
    assert set(fastest[:2]) == {"fastest: 10.0.0.1:8001", "fastest: 10.0.0.2:8002"}
    assert set(fastest[2:]) == {"fastest: 10.0.0.1:8001"}
    assert ada == ada_again


async def test_the_tests_of_a_service(programs: Programs) -> None:
    """In an empty configuration: they depend on none of this project's."""
    file = "examples/test_my_service.py"
    tests = programs.python("-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", file)
    assert await tests.wait() == 0, tests.output
    assert "3 passed" in tests.output
