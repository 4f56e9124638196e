"""Registries of one tenant, on every transport, for the tests that ask for them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable

import pytest
from tests.tools import no_new_tasks

from aioregistry import Registry
from aioregistry.testing.brokers import Broker

MakeRegistry = Callable[..., Registry]


@pytest.fixture(params=["memory", "nats", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return f"memory://{secrets.token_hex(8)}"
    broker: Broker = request.getfixturevalue(f"{request.param}_broker")
    return broker.url


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
async def make(url: str, prefix: str) -> AsyncIterator[MakeRegistry]:
    """Makes registries of one tenant, and closes what the test left open."""
    made: list[Registry] = []

    def make_registry(**options: object) -> Registry:
        registry = Registry(url, **{"prefix": prefix, "lookup_timeout": 1.0, **options})  # type: ignore[arg-type]  # any option
        made.append(registry)
        return registry

    async with no_new_tasks():
        yield make_registry
        for registry in made:
            await registry.aclose()
