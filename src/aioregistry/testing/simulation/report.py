"""What came of a simulation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

from aioregistry.testing.simulation.ledger import Violation
from aioregistry.testing.simulation.plan import DRAWN, Plan

__all__ = ["Report", "command_line"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of one run.

    Attributes:
        seed: the seed.
        plan: the plan.
        digest: of the whole trace; the same for the same seed and plan.
        seconds: how much virtual time passed.
        violations: the promises that were broken, the first ones.
        messages: how many there were, by kind.
        lives: how many instances there ever were.
        expired: how many expiries observers saw.
        held: how often an observer's guard against mass silence acted.
        trace: the last lines of the trace, or all of them.
    """

    seed: int
    plan: Plan
    digest: str
    seconds: float
    violations: tuple[Violation, ...]
    messages: dict[str, int]
    lives: int
    expired: int
    held: int
    trace: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command line that runs it again."""
        return command_line(self.seed, self.plan)

    def check(self) -> None:
        """Make sure that every promise was kept.

        Raises:
            AssertionError: one was not; the text says which, and how to run it again.
        """
        if self.violations:
            lines = [f"  {violation}" for violation in self.violations]
            raise AssertionError("\n".join([f"run again: {self.command} --trace", *lines]))


def command_line(seed: int, plan: Plan) -> str:
    """The command line that runs a seed with a plan."""
    words = ["python -m aioregistry.testing.simulation --seed", str(seed)]
    for field in dataclasses.fields(Plan):
        value = getattr(plan, field.name)
        if value != field.default or field.name in DRAWN:
            words += [f"--{field.name.replace('_', '-')}", _word(value)]
    return " ".join(words)


def _word(value: object) -> str:
    """A value of a plan, as the command line takes it."""
    if not isinstance(value, tuple):
        return f"{value}".lower()
    return ",".join(map(str, cast("tuple[str, ...]", value))) or "none"
