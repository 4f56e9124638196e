"""Registries that frameworks enter in one task and leave in another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from fastapi import FastAPI
from httpx import ASGITransport, AsyncClient
from tests.tools import eventually, no_new_tasks

from aioregistry import EventType, Registry
from aioregistry.testing.brokers import Broker


@pytest.fixture(params=["nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    broker: Broker = request.getfixturevalue(f"{request.param}_broker")
    return broker.url


@pytest.fixture
async def registry(url: str) -> AsyncIterator[Registry]:
    """Set up in one task of pytest-asyncio, torn down in another."""
    async with Registry(url, prefix="fixture", lookup_timeout=5) as entered:
        yield entered


async def test_in_a_fixture(registry: Registry) -> None:
    await registry.register("x", "10.0.0.5:1")
    assert (await registry.get_service("x")).port == 1


async def test_in_an_aiohttp_server(url: str, registry: Registry) -> None:
    key = web.AppKey("registry", Registry)

    async def announced(app: web.Application) -> AsyncIterator[None]:
        async with Registry(url, prefix="fixture", lookup_timeout=5) as own:
            app[key] = own
            await own.register("orders", "10.0.0.5:8080")
            yield

    async def port(request: web.Request) -> web.Response:
        return web.json_response((await request.app[key].get_service("orders")).port)

    app = web.Application()
    app.cleanup_ctx.append(announced)
    app.router.add_get("/", port)
    async with registry.watch("orders") as watch, no_new_tasks():
        async with TestClient(TestServer(app)) as client:
            assert await (await client.get("/")).json() == 8080
            assert (await anext(watch)).type is EventType.REGISTERED
        assert (await anext(watch)).type is EventType.UNREGISTERED


async def test_in_a_fastapi_lifespan(url: str, registry: Registry) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[dict[str, Registry]]:
        async with Registry(url, prefix="fixture", lookup_timeout=5) as own:
            await own.register("orders", "10.0.0.5:8080")
            yield {"registry": own}

    app = FastAPI(lifespan=lifespan)
    async with app.router.lifespan_context(app):
        async with AsyncClient(transport=ASGITransport(app), base_url="http://x") as client:
            assert (await client.get("/")).status_code == 404
        assert (await registry.get_service("orders")).port == 8080
    await eventually(lambda: registry.cached("orders") == ())


async def test_entered_in_a_task_that_is_cancelled(url: str, registry: Registry) -> None:
    async def serve() -> None:
        async with Registry(url, prefix="fixture", lookup_timeout=5) as own:
            await own.register("orders", "10.0.0.5:8080")
            await asyncio.Event().wait()

    async with registry.watch("orders") as watch, no_new_tasks():
        task = asyncio.create_task(serve())
        assert (await anext(watch)).type is EventType.REGISTERED
        task.cancel()
        assert (await anext(watch)).type is EventType.UNREGISTERED
        await asyncio.wait([task])
        assert task.cancelled()


async def test_left_by_a_cancelled_scope_of_anyio(url: str, registry: Registry) -> None:
    async with registry.watch("orders") as watch, no_new_tasks():
        with anyio.CancelScope() as scope:
            async with Registry(url, prefix="fixture", lookup_timeout=5) as own:
                await own.register("orders", "10.0.0.5:8080")
                assert (await anext(watch)).type is EventType.REGISTERED
                scope.cancel()
                await anyio.sleep_forever()
        assert (await anext(watch)).type is EventType.UNREGISTERED


async def test_left_by_an_exception(url: str, registry: Registry) -> None:
    async def fail() -> None:
        async with Registry(url, prefix="fixture", lookup_timeout=5) as own:
            await own.register("orders", "10.0.0.5:8080")
            await registry.get_service("orders")
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await fail()
    await eventually(lambda: registry.cached("orders") == ())
