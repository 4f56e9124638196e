"""The drivers of the brokers, bare: what the floors are made of."""

from __future__ import annotations

from typing import Any

import nats
import redis.asyncio


async def nats_client(url: str) -> Any:
    """A connected client of nats-py, as it comes."""
    driver: Any = nats  # partly untyped
    return await driver.connect(url)


def redis_client(url: str) -> Any:
    """A client of redis-py, with the faster one of its protocols."""
    driver: Any = redis.asyncio  # partly untyped
    return driver.from_url(url, protocol=2)
