"""Many simulations, in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from aioregistry.testing.simulation.plan import Plan
from aioregistry.testing.simulation.report import Report
from aioregistry.testing.simulation.run import Simulation

__all__ = ["Run", "run_many"]


@dataclass(frozen=True)
class Run:
    """One simulation to be made.

    Attributes:
        seed: the seed.
        given: what of the plan is not drawn from the seed.
        keep_trace: whether the report is to have the whole trace.
    """

    seed: int
    given: dict[str, Any]
    keep_trace: bool = False

    def __call__(self) -> Report:
        """Make it."""
        plan = Plan.drawn(self.seed, **self.given)
        return Simulation(self.seed, plan, keep_trace=self.keep_trace).run()


def run_many(runs: Iterable[Run], jobs: int = 1) -> Iterator[Report]:
    """The reports of simulations, in their order.

    Args:
        runs: the simulations.
        jobs: how many processes to use.
    """
    if jobs <= 1:
        yield from map(Run.__call__, runs)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(Run.__call__, runs, chunksize=2)
