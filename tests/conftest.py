"""Real brokers for every test that asks for one, shared per test process."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from aioregistry.testing.brokers import Broker, redis_server
from tests.tools import WITHOUT_RESP3

pytest_plugins = ["aioregistry.testing.plugin"]


def pytest_configure() -> None:
    """Let programs that tests start hear SIGINT, and properties take their time.

    What a shell script runs in the background ignores it, and so does all that it starts.
    How long an example takes tells more of the machine than of the code.
    """
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def old_redis_broker() -> Iterator[Broker]:
    """Like `redis_broker`, and without RESP3, as before Redis 6."""
    with redis_server(*WITHOUT_RESP3) as broker:
        yield broker


@pytest.fixture(autouse=True)
def blocking_calls_are_errors() -> Iterator[BlockBuster]:
    """Raise where code of the library blocks the event loop."""
    with blockbuster_ctx("aioregistry") as guard:
        yield guard
