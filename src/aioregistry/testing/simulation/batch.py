"""Many simulations, in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Generator, Iterable, Iterator
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

    def __call__(self) -> Report | str:
        """Make it; what it raises becomes text, so that the others are made all the same."""
        plan = Plan.drawn(self.seed, **self.given)
        try:
            return Simulation(self.seed, plan, keep_trace=self.keep_trace).run()
        except Exception:  # noqa: BLE001 - whatever it is, it is the result of this seed
            return traceback.format_exc()


def run_many(runs: Iterable[Run], jobs: int = 1) -> Iterator[Report | str]:
    """The reports of simulations, or the tracebacks of what they raised, in their order.

    Args:
        runs: the simulations.
        jobs: how many processes to use.
    """
    if jobs <= 1:
        yield from map(Run.__call__, runs)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        with _left_to_the_parent(signal.SIGINT):
            results = pool.map(Run.__call__, runs)
        yield from results


@contextlib.contextmanager
def _left_to_the_parent(signum: int) -> Generator[None]:
    """Processes started in the block never see a signal that a terminal sends to all of them.

    Ignored only once they run, it would kill those that are just starting, and the pool hang.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
