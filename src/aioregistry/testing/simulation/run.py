"""Simulation: a fleet of real registries on a simulated network, checked all the time."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aioregistry.testing.network import SimulatedNetwork
from aioregistry.testing.simulation.director import Director
from aioregistry.testing.simulation.fleet import Host
from aioregistry.testing.simulation.invariants import check_dead, check_living
from aioregistry.testing.simulation.ledger import Ledger
from aioregistry.testing.simulation.plan import Plan, schedule
from aioregistry.testing.simulation.report import Report, command_line
from aioregistry.testing.simulation.trace import Trace
from aioregistry.testing.simulation.view import View
from aioregistry.testing.virtual_time import run_virtual

__all__ = ["Simulation"]

TICK: Final = 0.25
"""What is not checked event by event is checked this often, in seconds."""

OFFSET: Final = 0.0037
"""So many seconds beside the times at which messages arrive."""

BACK: Final = 3.0
"""Every link is up again so many seconds after the faults stopped: those that were up before
sooner, those that never were after the longest pause between two attempts."""

SETTLED: Final = 1.0
"""All is known one ttl and so many seconds after that."""

_MAX_VIOLATIONS: Final = 20
_EARLIEST_BEAT: Final = 0.66
_TURNS: Final = 5


class Simulation:
    """One run of a fleet through the troubles of a plan, all drawn from a seed.

        Simulation(seed=7, plan=Plan(faults=("freeze", "broker"))).run().check()

    Args:
        seed: where all randomness comes from.
        plan: the size of the fleet and the kinds of trouble; None: `Plan.drawn(seed)`.
        keep_trace: whether the report has the whole trace, not only its last lines.
    """

    def __init__(self, seed: int, plan: Plan | None = None, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.plan = Plan.drawn(seed) if plan is None else plan
        self._keep = None if keep_trace else 200

    def run(self) -> Report:
        """Run in virtual time; a broken promise ends up in the report, and ends the run soon.

        Raises:
            StandstillError: the fleet is deadlocked.
            Exception: whatever a registry did not expect; it has a note that says how to run
                it again.
        """
        with _counted_log_lines() as lines:
            try:
                return run_virtual(self._run(lines))
            except Exception as error:
                error.add_note(f"run again: {command_line(self.seed, self.plan)}")
                raise

    async def _run(self, log_lines: list[str]) -> Report:
        trace = Trace(asyncio.get_running_loop().time, keep=self._keep)
        return await _Run(self.seed, self.plan, trace, log_lines).run()


class _Run:
    """What exists while a simulation runs."""

    def __init__(self, seed: int, plan: Plan, trace: Trace, log_lines: list[str]) -> None:
        clock = asyncio.get_running_loop().time
        self._seed = seed
        self._plan = plan
        self._trace = trace
        self._log_lines = log_lines
        self._rng = random.Random(f"simulation {seed}")
        self._ledger = Ledger(clock, trace)
        self._network = SimulatedNetwork(
            seed, monitor=self._ledger, look_interval=plan.look_interval
        )
        self._director = Director(plan, self._network, self._ledger, trace, self._rng)

    async def run(self) -> Report:
        await self._director.open()
        started = self._network.now
        for step in schedule(self._plan, self._rng):
            await self._go_on_until(started + step.at)
            if self._over:
                break
            self._director.carry_out(step)
        await self._go_on_until(started + self._plan.duration)
        if not self._over:
            self._director.calm()
            await self._settle()
        if not self._over:
            self._check_bounds()
            await self._director.close()
        return self._report()

    @property
    def _over(self) -> bool:
        return bool(self._ledger.violations)

    async def _go_on_until(self, time: float) -> None:
        """Let time pass, and check once a tick."""
        while not self._over:
            now = self._network.now
            tick = (int((now - OFFSET) / TICK + 1e-6) + 1) * TICK + OFFSET
            if tick > time:
                await asyncio.sleep(max(0.0, time - now))
                return
            await asyncio.sleep(tick - now)
            await self._check()

    async def _check(self) -> None:
        self._director.drain()
        for view in self._director.views:
            if not view.settled:
                continue
            mismatch = await self._mismatch(view)
            if mismatch:
                self._ledger.violated("consistent", mismatch)
            view.look_at_stats()
            check_dead(view, self._plan)
            check_living(view, self._plan)

    async def _mismatch(self, view: View) -> str:
        """How the catalogue differs from the events, once the watcher has taken them in."""
        mismatch = view.mismatch()
        for _ in range(_TURNS):
            if not mismatch or not view.settled:
                return ""
            await asyncio.sleep(0)
            mismatch = view.mismatch()
        return mismatch

    async def _settle(self) -> None:
        """Check that everybody soon knows the truth, and goes on knowing it."""
        ttl = self._plan.ttl
        calm = self._network.now
        while not (self._director.all_online or self._over):
            if self._network.now > calm + BACK:
                self._ledger.violated("convergent", f"not everybody is back after {BACK} s")
            await self._go_on_until(self._network.now + TICK)
        await self._go_on_until(self._network.now + ttl + SETTLED)
        if any(view.held() for view in self._director.views):
            await self._go_on_until(self._network.now + ttl)
        self._check_truth()
        await self._go_on_until(self._network.now + ttl)
        self._check_truth()

    def _check_truth(self) -> None:
        if self._over:
            return
        truth = {key: life.service for key, life in self._ledger.alive.items()}
        for view in self._director.views:
            difference = view.difference(truth)
            if difference:
                self._ledger.violated("convergent", f"{view.process.name} {difference} the truth")

    def _check_bounds(self) -> None:
        for host in self._director.hosts:
            sent, allowed = self._ledger.sent_by.get(host.process, 0), self._allowance(host)
            if sent > allowed:
                self._ledger.violated(
                    "bounded", f"{host.process.name} sent {sent} announcements, not {allowed:.0f}"
                )
        lines, reasons = len(self._log_lines), self._ledger.losses + len(self._director.hosts)
        reasons += 2 * self._ledger.times_held  # two guards may act between two looks at the stats
        if lines > reasons:
            self._ledger.violated("bounded", f"{lines} log lines for {reasons} reasons")

    def _allowance(self, host: Host) -> float:
        """How many announcements a process has reason to send."""
        lives = [each for each in self._ledger.lives.values() if each.process is host.process]
        now, beat = self._network.now, self._plan.interval * _EARLIEST_BEAT
        beats = sum(1 + ((each.died or now) - each.born) / beat for each in lives)
        asked = self._ledger.pinged.get(host.process, 0) + self._ledger.resumed(host.process)
        return beats + host.changes + asked * len(lives)

    def _report(self) -> Report:
        return Report(
            seed=self._seed,
            plan=self._plan,
            digest=self._trace.digest,
            seconds=self._network.now,
            violations=tuple(self._ledger.violations[:_MAX_VIOLATIONS]),
            messages=self._ledger.messages,
            lives=len(self._ledger.lives),
            expired=sum(view.expired for view in self._director.views),
            held=self._ledger.times_held,
            trace=tuple(self._trace.lines),
        )


class _Counter(logging.Handler):
    """Collects log lines, warnings and worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _counted_log_lines() -> Generator[list[str]]:
    """Take the log lines of the library, so that thousands of runs do not fill the screen."""
    logger, counter = logging.getLogger("aioregistry"), _Counter()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(counter)
    try:
        yield counter.lines
    finally:
        logger.removeHandler(counter)
        logger.propagate = propagate
