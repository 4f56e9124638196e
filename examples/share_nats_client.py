"""Use the NATS connection that the application already has.

    python examples/share_nats_client.py [NATS_URL]

The registry neither configures nor closes it, and both use it side by side.
"""

from __future__ import annotations

import asyncio
import sys

import nats

from aioregistry import NatsTransport, Registry


async def main(url: str) -> None:
    client = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType] - its options
    try:
        async with Registry(NatsTransport(client=client)) as registry:
            await registry.register("orders", "127.0.0.1:8080")
            service = await registry.get_service("orders")
            print(f"{service.name} is at {service.address}")
        print(f"the registry is closed; still connected: {client.is_connected}")
    finally:
        await client.drain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "nats://localhost:4222"))
