"""Brokers whose users may do only a little, and what is tried with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import redis.asyncio

from aioregistry import Registry
from aioregistry.testing.brokers import Broker, nats_server, redis_server
from aioregistry.transports import open_transport
from aioregistry.transports.base import Transport
from tests.templates import Template
from tests.tools import eventually

__all__ = ["BrokerWithUsers", "Stage", "broker_with_users"]


@contextmanager
def broker_with_users(kind: str, folder: Path) -> Generator[BrokerWithUsers]:
    """A broker of that kind, to which nobody was admitted yet."""
    if kind == "redis":
        with redis_server() as server:
            yield Redis(server)
    else:
        config, log = folder / "nats.conf", folder / "nats.log"
        config.write_text("")
        with nats_server("--config", str(config), "--log", str(log)) as server:
            yield Nats(server, config, log)


class Stage:
    """One tenant of a broker with one restricted user, and somebody who may do everything."""

    def __init__(self, broker: BrokerWithUsers, user: str, prefix: str) -> None:
        self.broker = broker
        self.user = user
        self.prefix = prefix
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def registry(self, user: str = "", **options: Any) -> Registry:
        """A registry of the restricted user, or of another one."""
        options = {"prefix": self.prefix, "ttl": 60.0, "lookup_timeout": 5.0, **options}
        registry = Registry(self.broker.url(user or self.user), **options)
        return await self._exits.enter_async_context(registry)

    async def transport(self, user: str) -> Transport:
        """A transport without a registry."""
        transport = open_transport(self.broker.url(user))
        self._exits.push_async_callback(transport.aclose)
        await transport.connect(lambda _state, _reason: None)
        return transport


class BrokerWithUsers:
    """A broker whose users have one template each; `admin` may do everything."""

    scheme = ""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def url(self, user: str) -> str:
        return f"{self.scheme}://{user}:word@127.0.0.1:{self.broker.port}"

    async def admit(self, users: dict[str, Template]) -> None:
        """Let these users in, and nobody else."""
        raise NotImplementedError

    async def subscriptions(self, user: str) -> tuple[int, int]:
        """How many channels and patterns a user is subscribed to."""
        raise NotImplementedError


class Nats(BrokerWithUsers):
    scheme = "nats"

    def __init__(self, broker: Broker, config: Path, log: Path) -> None:
        super().__init__(broker)
        self._config = config
        self._log = log

    async def admit(self, users: dict[str, Template]) -> None:
        entries = "\n".join(
            f"{{user: {user}, password: word, permissions: {{ {template.nats()} }} }}"
            for user, template in users.items()
        )
        self._config.write_text(
            f"authorization {{ users = [\n{{user: admin, password: word}}\n{entries}\n] }}"
        )
        before = self._reloads()
        os.kill(self.broker.pid, signal.SIGHUP)
        await eventually(lambda: self._reloads() > before)

    def _reloads(self) -> int:
        return self._log.read_text("utf-8").count("Reloaded server configuration")


class Redis(BrokerWithUsers):
    scheme = "redis"

    async def admit(self, users: dict[str, Template]) -> None:
        client: Any = redis.asyncio.Redis(port=self.broker.port)  # partly untyped
        async with client:
            execute = client.execute_command
            await execute("ACL", "SETUSER", "admin", "on", ">word", "+@all", "allchannels")
            for user, template in users.items():
                await execute("ACL", "SETUSER", user, "on", ">word", *template.redis())

    async def subscriptions(self, user: str) -> tuple[int, int]:
        client: Any = redis.asyncio.Redis(port=self.broker.port)  # partly untyped
        async with client:
            listed = await client.client_list()
        own = [entry for entry in listed if entry["user"] == user]
        return sum(int(each["sub"]) for each in own), sum(int(each["psub"]) for each in own)
