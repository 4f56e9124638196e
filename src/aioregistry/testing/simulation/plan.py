"""The plan of a simulation: how large the fleet is, and what befalls it when."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from aioregistry.testing.faults import Faults

__all__ = ["CHURN", "DRAWN", "FAULTS", "Plan", "Step", "schedule", "weather"]

CHURN: Final = ("register", "withdraw", "update", "close", "lookup")
"""What a fleet does by itself."""

FAULTS: Final = (
    "loss",
    "beats",
    "duplication",
    "reordering",
    "latency",
    "partition",
    "cut",
    "broker",
    "freeze",
    "crash",
    "restart",
    "observer",
    "skew",
)
"""What may befall it: lost messages; up to two announcements in a row that one observer misses
(`beats`); messages that arrive twice, in another order, late; a process cut off silently
(`partition`), or visibly and for less than two seconds (`cut`); the broker stopped; a process
frozen; a provider crashed, for good or restarted under its addresses; an observer crashed and
replaced; wall clocks that jump."""

DRAWN: Final = ("ttl", "heartbeat_interval", "look_interval", "per_process", "faults")
"""What `Plan.drawn` draws, unless it is given."""

_LOSSY: Final = ("loss", "beats", "partition")

MAX_DELAY: Final = 0.35
"""No message is held back for longer in one direction, in seconds."""

MAX_LATENCY: Final = 0.1

_SLOW: Final = 0.3
"""The share of plans with the longest heartbeat interval that is allowed, half a ttl."""

LOOK: Final = 0.25
"""How often the nodes are looked at where the broker is like Redis, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The size and the troubles of a simulated fleet.

    Attributes:
        instances: instances at the start.
        observers: processes that watch all of them.
        per_process: instances in one provider process at most.
        names: service names.
        duration: how long faults go on, in seconds of virtual time.
        ttl: the ttl of everybody, in seconds.
        heartbeat_interval: as for `Registry`, in seconds; None: a third of the ttl.
        look_interval: as for `SimulatedNetwork`, in seconds.
        faults: the kinds of `FAULTS` to draw from.
        churn: the kinds of `CHURN` to draw from.
        every: the mean time between two steps of faults and churn, in seconds.
    """

    instances: int = 12
    observers: int = 3
    per_process: int = 4
    names: int = 3
    duration: float = 60.0
    ttl: float = 6.0
    heartbeat_interval: float | None = None
    look_interval: float | None = None
    faults: tuple[str, ...] = FAULTS
    churn: tuple[str, ...] = CHURN
    every: float = 1.5

    def __post_init__(self) -> None:
        unknown = {*self.faults} - {*FAULTS} | {*self.churn} - {*CHURN}
        if unknown:
            raise ValueError(f"unknown kinds {sorted(unknown)}; there are {(*FAULTS, *CHURN)}")
        for name in ("instances", "observers", "per_process", "names"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)!r}")

    @classmethod
    def drawn(cls, seed: int, **given: Any) -> Plan:
        """A plan whose times are drawn from a seed too, unless they are given.

        Args:
            seed: the seed.
            given: attributes of the plan.
        """
        rng = random.Random(f"plan {seed}")
        lossless = tuple(kind for kind in FAULTS if kind not in _LOSSY)
        plan: dict[str, Any] = {
            "ttl": rng.choice((3.0, 6.0, 10.0)),
            "look_interval": rng.choice((None, LOOK)),
            "per_process": rng.choice((1, 4, 4, 24)),
            "faults": rng.choice((FAULTS, FAULTS, lossless)),
            **given,
        }
        if rng.random() < _SLOW:
            plan.setdefault("heartbeat_interval", plan["ttl"] / 2)
        return cls(**plan)

    @property
    def lossless(self) -> bool:
        """Whether no message of a process that is online gets lost."""
        return not {*self.faults} & {*_LOSSY}

    @property
    def interval(self) -> float:
        """The longest time between two announcements of an instance, in seconds."""
        return self.heartbeat_interval or self.ttl / 3


@dataclass(frozen=True)
class Step:
    """Something that befalls the fleet.

    Attributes:
        at: when, in seconds from the start of the faults.
        kind: what, of `FAULTS` or `CHURN`.
        length: how long it lasts, in seconds, where that makes sense.
        target: picks whom it befalls: 0 to 1, a place in the list of all.
        chance: decides whatever else there is to decide: 0 to 1.
    """

    at: float
    kind: str
    length: float
    target: float
    chance: float


def schedule(plan: Plan, rng: random.Random) -> list[Step]:
    """Draw the steps of a plan, in the order of time; all are over when it is."""
    steps: list[Step] = []
    kinds = (*plan.faults, *plan.churn)
    at = 0.0
    while kinds:
        at += rng.expovariate(1 / plan.every)
        if at >= plan.duration:
            break
        length = min(rng.choice((0.1, 0.5, 1.2, 2.5)) * rng.random() * plan.ttl, plan.duration - at)
        steps.append(Step(at, rng.choice(kinds), length, rng.random(), rng.random()))
    return steps


def weather(step: Step) -> Faults:
    """The faults of the network that a step of that kind brings."""
    share = 0.02 + 0.28 * step.chance
    return Faults(
        latency=MAX_LATENCY * step.chance if step.kind == "latency" else 0.0,
        loss=share if step.kind == "loss" else 0.0,
        duplication=share if step.kind == "duplication" else 0.0,
        reordering=share if step.kind == "reordering" else 0.0,
        delay=MAX_DELAY,
    )
