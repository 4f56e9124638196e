"""Use the configuration of the Redis client that the application already has.

    python examples/share_redis_client.py [REDIS_URL]

The registry opens a connection of its own (two before Redis 6), with the client's address,
credentials and TLS. It never closes the client.
"""

from __future__ import annotations

import asyncio
import sys

import redis.asyncio

from aioregistry import RedisTransport, Registry


async def main(url: str) -> None:
    async with redis.asyncio.from_url(url) as client:
        async with Registry(RedisTransport(client=client)) as registry:
            await registry.register("orders", "127.0.0.1:8080")
            service = await registry.get_service("orders")
            print(f"{service.name} is at {service.address}")
        alive = await client.ping()  # pyright: ignore[reportUnknownMemberType] - its options
        print(f"the registry is closed; the client answers: {alive}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "redis://localhost:6379"))
