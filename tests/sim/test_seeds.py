"""Hundreds of fleets in mixed trouble, each drawn from a seed."""

from __future__ import annotations

import pytest

from aioregistry.testing import Plan, Simulation

CHUNK = 5


@pytest.mark.parametrize("first", range(0, 200, CHUNK))
def test_promises_hold(first: int) -> None:
    for seed in range(first, first + CHUNK):
        Simulation(seed).run().check()


@pytest.mark.parametrize("seed", range(2))
def test_promises_hold_in_a_large_fleet(seed: int) -> None:
    plan = Plan.drawn(seed, instances=200, observers=10, per_process=25, names=20, duration=20.0)
    report = Simulation(seed, plan).run()
    report.check()
    assert report.lives > 200
