"""What the processes of a simulated fleet do while other things happen to them."""

from __future__ import annotations

import asyncio

from aioregistry import Service, Status
from aioregistry.testing import Plan, SimulatedNetwork, run_virtual
from aioregistry.testing.simulation.fleet import Host
from aioregistry.testing.simulation.ledger import Ledger
from aioregistry.testing.simulation.trace import Trace


async def update_and_close() -> None:
    clock = asyncio.get_running_loop().time
    ledger = Ledger(clock, Trace(clock))
    host = Host(SimulatedNetwork(monitor=ledger).process("shop"), ledger, Plan())
    await host.run([Service("orders", "10.0.0.1:80")])
    await asyncio.sleep(1)
    [key] = host.registrations
    updating = asyncio.create_task(host.update(key, Status.WARNING, 1))
    await asyncio.sleep(0)
    assert not updating.done()
    await host.close()
    await updating


def test_a_registry_is_closed_while_a_change_waits_for_the_broker() -> None:
    """The call then tells so, which is no error of the simulation."""
    run_virtual(update_and_close())
