"""Simulation: a fleet of real registries on a simulated network, checked all the time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

from aioregistry.service import Service, Status
from aioregistry.testing.faults import Faults, Message
from aioregistry.testing.network import SimulatedNetwork
from aioregistry.testing.process import EPOCH, SimulatedProcess
from aioregistry.testing.simulation.fleet import Host
from aioregistry.testing.simulation.invariants import LAG, check_dead
from aioregistry.testing.simulation.ledger import Ledger, Violation
from aioregistry.testing.simulation.plan import Plan, Step, schedule, weather
from aioregistry.testing.simulation.trace import Trace
from aioregistry.testing.simulation.view import View
from aioregistry.testing.virtual_time import run_virtual

__all__ = ["Report", "Simulation"]

TICK: Final = 0.25
"""The invariants that are not checked event by event are checked this often, in seconds."""

_MAX_VIOLATIONS: Final = 20
