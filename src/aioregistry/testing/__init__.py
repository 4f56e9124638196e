"""Tools for testing against aioregistry: brokers to start, contract checks, simulation."""

from aioregistry.testing.contract import TransportCheck, check_transport, transport_checks

__all__ = ["TransportCheck", "check_transport", "transport_checks"]
