"""Tools for testing against aioregistry: brokers to start, contract checks, simulation, proxy.

A fleet whose hours take seconds, with faults of your choice::

    async def main() -> None:
        network = SimulatedNetwork(seed=1)
        shop, till = network.process("shop"), network.process("till")
        async with shop.registry() as provider, till.registry() as observer:
            await provider.register("orders", "10.0.0.5:8080")
            await observer.observe("orders")
            await asyncio.sleep(60)  # takes no time at all
            shop.crash()
            await asyncio.sleep(10)
            assert not observer.cached("orders")

    run_virtual(main())
"""

from aioregistry.testing.contract import TransportCheck, check_transport, transport_checks
from aioregistry.testing.faults import Faults, Message, NetworkMonitor
from aioregistry.testing.network import SimulatedNetwork
from aioregistry.testing.process import ProcessCrashed, SimulatedProcess
from aioregistry.testing.proxy import TcpProxy
from aioregistry.testing.simulation import Plan, Report, Simulation, Violation
from aioregistry.testing.transport import SimulatedTransport
from aioregistry.testing.virtual_time import StandstillError, VirtualTimeLoop, run_virtual

__all__ = [
    "Faults",
    "Message",
    "NetworkMonitor",
    "Plan",
    "ProcessCrashed",
    "Report",
    "SimulatedNetwork",
    "SimulatedProcess",
    "SimulatedTransport",
    "Simulation",
    "StandstillError",
    "TcpProxy",
    "TransportCheck",
    "Violation",
    "VirtualTimeLoop",
    "check_transport",
    "run_virtual",
    "transport_checks",
]
