"""A NATS cluster of three that loses a member."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

import pytest

from aioregistry.testing.brokers import Broker, nats_server, unused_port
from tests.chaos.scene import Scene, scene, serving

SIZE = 3


@contextlib.contextmanager
def cluster() -> Generator[list[Broker]]:
    ports = [unused_port() for _ in range(SIZE)]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                nats_server(
                    *("--cluster_name", "c", "--cluster", f"nats://127.0.0.1:{port}"),
                    # Untold of the others, the one that is to die does not move to them.
                    *("--routes", routes, "--no_advertise"),
                )
            )
            for port in ports
        ]


def losses(fleet: Scene) -> int:
    return sum(registry.stats().losses for registry in fleet.everybody)


async def test_a_member_is_killed() -> None:
    """Whoever was connected to it moves to another; nobody is given up meanwhile."""
    async with serving(cluster()) as members:
        url = ",".join(member.url for member in members)
        async with scene(members[0], url) as fleet:
            fleet.somebody_dies()  # with the member: it is connected to this very one
            await asyncio.to_thread(members[0].kill)
            await asyncio.sleep(0.5)
            await fleet.check_calls()
            await fleet.all_up()
            await fleet.check_aftermath(announced=False)


@pytest.mark.soak
async def test_each_member_in_turn() -> None:
    """A rolling restart: somebody is hit each time, and nobody is lost."""
    async with (
        serving(cluster()) as members,
        scene(members[0], ",".join(member.url for member in members)) as fleet,
    ):
        for member in members:
            await asyncio.to_thread(member.kill)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(member.start)
            await fleet.all_up()
            await asyncio.sleep(1)
        fleet.somebody_dies()
        await fleet.somebody_leaves()
        assert losses(fleet) > 0
        await fleet.check_aftermath(announced=False)
