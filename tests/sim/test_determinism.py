"""The same seed gives the same trace, whatever the hash seed and the addresses in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from aioregistry.testing import Plan, Simulation

COMMAND = [sys.executable, "-m", "aioregistry.testing.simulation", "--seeds", "40:44"]


def run(hash_seed: str) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.timeout(300)
def test_same_trace_whatever_the_hash_seed() -> None:
    digests = {run(hash_seed) for hash_seed in ("0", "1", "4242")}
    assert len(digests) == 1, digests
    assert digests.pop().startswith("digest ")


def test_same_trace_twice_in_one_process_and_another_for_another_seed() -> None:
    first, again, other = (Simulation(seed, Plan(duration=20)).run() for seed in (3, 3, 4))
    assert first.trace == again.trace
    assert first.digest == again.digest != other.digest


def test_a_report_says_how_to_run_it_again() -> None:
    plan = Plan(duration=5, faults=("loss",), churn=())
    report = Simulation(3, plan).run()
    command = report.command.replace("python", sys.executable, 1)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "1 seeds, 0 failed" in done.stdout
    assert f"{report.messages['announcement']} announcements" in done.stdout
