"""What a run measures, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.figures import Figure


@dataclass(frozen=True)
class Plan:
    """How much is measured, and where.

    Attributes:
        rounds: how often each figure and its floor are measured, in turn.
        quick: whether a minute has to do for everything.
        brokers: the URLs of the running brokers, by kind: `nats` and `redis`.
    """

    rounds: int
    quick: bool
    brokers: dict[str, str]


Benchmark = Callable[[Plan], Iterator[Figure]]
