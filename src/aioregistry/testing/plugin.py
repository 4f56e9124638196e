"""Fixtures for pytest: brokers for your own tests.

In a `conftest.py` at the root of the tests::

    pytest_plugins = ["aioregistry.testing.plugin"]

A registry is for the test to make, since an asynchronous fixture would depend on the plugin that
runs the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aioregistry.testing.brokers import Broker, nats_server, redis_server
from aioregistry.transports.memory import MemoryBroker

__all__ = ["memory_broker", "nats_broker", "redis_broker"]


@pytest.fixture
def memory_broker() -> MemoryBroker:
    """A broker in memory for each test: `Registry(MemoryTransport(memory_broker))`."""
    return MemoryBroker()


@pytest.fixture(scope="session")
def nats_broker() -> Iterator[Broker]:
    """A nats-server that lives as long as the test process: `Registry(nats_broker.url)`.

    Do not stop it; a test that wants to makes its own, with `nats_server()`. Give each test a
    `prefix` of its own.
    """
    with nats_server() as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_broker() -> Iterator[Broker]:
    """A Redis or Valkey server that lives as long as the test process; as `nats_broker`."""
    with redis_server() as broker:
        yield broker
