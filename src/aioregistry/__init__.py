"""Service registration and discovery for asyncio, over the NATS or Redis you already run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioregistry.choosing import (
    Balancer,
    LeastPending,
    Predicate,
    Random,
    Rendezvous,
    RoundRobin,
    Weighted,
    all_of,
    any_of,
    local,
    metadata,
    negate,
    not_critical,
    passing,
    version,
)
from aioregistry.default import close_default, connect, get_default
from aioregistry.errors import (
    InvalidService,
    NoFreePort,
    NotRegistered,
    RegistryClosed,
    RegistryError,
    ServiceNotFound,
    TransportError,
)
from aioregistry.ports import (
    advertised_address,
    find_free_address,
    find_free_port,
    free_address,
    free_port,
)
from aioregistry.registration import Registration
from aioregistry.registry import Registry
from aioregistry.service import EventType, Service, ServiceEvent, Status
from aioregistry.stats import Stats
from aioregistry.transports.base import Transport
from aioregistry.watch import Watch

if TYPE_CHECKING:
    from aioregistry.transports.memory import MemoryTransport
    from aioregistry.transports.nats import NatsTransport
    from aioregistry.transports.redis import RedisTransport

__all__ = [
    "Balancer",
    "EventType",
    "InvalidService",
    "LeastPending",
    "MemoryTransport",
    "NatsTransport",
    "NoFreePort",
    "NotRegistered",
    "Predicate",
    "Random",
    "RedisTransport",
    "Registration",
    "Registry",
    "RegistryClosed",
    "RegistryError",
    "Rendezvous",
    "RoundRobin",
    "Service",
    "ServiceEvent",
    "ServiceNotFound",
    "Stats",
    "Status",
    "Transport",
    "TransportError",
    "Watch",
    "Weighted",
    "advertised_address",
    "all_of",
    "any_of",
    "close_default",
    "connect",
    "find_free_address",
    "find_free_port",
    "free_address",
    "free_port",
    "get_default",
    "local",
    "metadata",
    "negate",
    "not_critical",
    "passing",
    "version",
]

_TRANSPORTS = {"MemoryTransport": "memory", "NatsTransport": "nats", "RedisTransport": "redis"}


def __getattr__(name: str) -> Any:
    """Import a transport, and with it its driver, only when somebody names it."""
    if name not in _TRANSPORTS:
        raise AttributeError(f"module 'aioregistry' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - as above

    return getattr(import_module(f"aioregistry.transports.{_TRANSPORTS[name]}"), name)
