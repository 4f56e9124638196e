"""Brokers to break: each test has its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aioregistry.testing.brokers import Broker, nats_server, redis_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless `make soak-brokers` runs the tests."""
    if not os.environ.get("AIOREGISTRY_SOAK"):
        left_out = pytest.mark.skip(reason="a part of make soak-brokers")
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(left_out)


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A broker of the test's own, on either transport."""
    with nats_server() if request.param == "nats" else redis_server() as running:
        yield running
