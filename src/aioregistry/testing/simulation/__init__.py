"""A simulated fleet under faults, checked against the truth.

python -m aioregistry.testing.simulation --seed 7
"""

from aioregistry.testing.simulation.ledger import Violation
from aioregistry.testing.simulation.plan import CHURN, FAULTS, Plan, Step, schedule
from aioregistry.testing.simulation.report import Report
from aioregistry.testing.simulation.run import Simulation

__all__ = ["CHURN", "FAULTS", "Plan", "Report", "Simulation", "Step", "Violation", "schedule"]
