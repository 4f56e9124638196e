"""A site behind a NATS leaf node: what crosses the wide area, and what the site may see."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from aioregistry import Registry
from aioregistry.testing.brokers import nats_server, unused_port
from aioregistry.testing.proxy import TcpProxy
from tests.chaos.scene import serving
from tests.tools import eventually

# As in docs/scaling.md, where only the addresses and the prefixes are others.
HUB = """
leafnodes { listen: "127.0.0.1:%(leaf_port)d" }
authorization {
  users = [
    { user: hub, password: secret }
    {
      user: site, password: secret
      permissions: {
        # What the site may say to the hub, and hear from it: no inboxes, as the word that
        # nobody hears a question comes from the server that was asked.
        publish: "eu-1.>"
        subscribe: "eu-1.>"
      }
    }
  ]
}
"""
LEAF = """
leafnodes {
  remotes = [ { url: "nats://site:secret@127.0.0.1:%(leaf_port)d" } ]
}
"""

TTL = 1.2
OBSERVERS = 5
UNOBSERVED = 5
WINDOW = 3.0
LONG_TTL = 12.0


@dataclass
class Site:
    """A hub, and the leaf node of a site.

    Attributes:
        hub: where everything may be seen, with a user.
        leaf: where the site connects.
        hub_port: that of the hub, for who comes through a proxy.
        monitor: the port at which the hub tells what it has counted.
    """

    hub: str
    leaf: str
    hub_port: int
    monitor: int

    async def crossed(self) -> int:
        """How many messages have gone from the hub to the site."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.monitor)
        writer.write(b"GET /leafz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        (leaf,) = json.loads(answer.partition(b"\r\n\r\n")[2])["leafs"]
        count: int = leaf["out_msgs"]
        return count


@contextlib.contextmanager
def hub_and_leaf(folder: Path) -> Generator[Site]:
    monitor, leaf_port = unused_port(), unused_port()
    configs = {name: folder / f"{name}.conf" for name in ("hub", "leaf")}
    configs["hub"].write_text(HUB % {"leaf_port": leaf_port})
    configs["leaf"].write_text(LEAF % {"leaf_port": leaf_port})
    with (
        nats_server("--config", str(configs["hub"]), "--http_port", str(monitor)) as hub,
        nats_server("--config", str(configs["leaf"])) as leaf,
    ):
        yield Site(f"nats://hub:secret@127.0.0.1:{hub.port}", leaf.url, hub.port, monitor)


async def test_one_copy_crosses_and_only_of_what_the_site_observes(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(hub_and_leaf(tmp_path)))

        async def registry(url: str) -> Registry:
            return await stack.enter_async_context(Registry(url, prefix="eu-1.registry", ttl=TTL))

        provider, other = await registry(site.hub), await registry(site.hub)
        await provider.register("orders", "10.0.0.1:80")
        for number in range(UNOBSERVED):
            await other.register(f"unobserved-{number}", "10.0.0.2:80")
        observers = [await registry(site.leaf) for _ in range(OBSERVERS)]
        for observer in observers:
            await observer.observe("orders")
        await eventually(lambda: all(each.stats().instances == 1 for each in observers))
        sent, unobserved = provider.stats().announcements_sent, other.stats().announcements_sent
        crossed, heard = await site.crossed(), observers[0].stats().announcements_received
        await asyncio.sleep(WINDOW)
        crossed = await site.crossed() - crossed
        sent = provider.stats().announcements_sent - sent
        unobserved = other.stats().announcements_sent - unobserved
        heard = observers[0].stats().announcements_received - heard
        assert sent > 5
        assert abs(heard - sent) <= 2
        assert unobserved > 4 * sent
        # One copy for each of the five observers would be five times as many.
        assert sent - 2 <= crossed < 2 * sent


async def test_a_site_sees_no_prefix_but_its_own(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(hub_and_leaf(tmp_path)))

        async def registry(url: str, prefix: str, port: int) -> Registry:
            made = Registry(url, prefix=f"{prefix}.registry", ttl=TTL)
            await stack.enter_async_context(made)
            await made.observe("orders")
            await made.register("orders", f"10.0.0.1:{port}")
            return made

        ours = [
            await registry(url, "eu-1", port) for port, url in enumerate((site.hub, site.leaf), 1)
        ]
        theirs = [
            await registry(url, "eu-2", port) for port, url in enumerate((site.hub, site.leaf), 1)
        ]
        await eventually(lambda: all(each.stats().instances == 2 for each in ours))
        for each in theirs:
            assert len(await each.get_services("orders", minimum=2, timeout=2 * TTL)) == 1


async def test_a_crash_at_the_hub_is_seen_at_the_site_before_the_ttl(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(serving(hub_and_leaf(tmp_path)))
        proxy = await stack.enter_async_context(TcpProxy(site.hub_port))
        through = site.hub.replace(f":{site.hub_port}", f":{proxy.port}")
        doomed = await stack.enter_async_context(
            Registry(through, prefix="eu-1.registry", ttl=LONG_TTL)
        )
        await doomed.register("orders", "10.0.0.1:80")
        observer = await stack.enter_async_context(
            Registry(site.leaf, prefix="eu-1.registry", ttl=LONG_TTL)
        )
        await observer.observe("orders")
        await eventually(lambda: observer.stats().instances == 1)
        proxy.cut()
        await eventually(lambda: observer.stats().instances == 0, 0.75 * LONG_TTL)
