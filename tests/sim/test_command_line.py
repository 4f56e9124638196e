"""What the command line of the simulation prints, and returns."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aioregistry.catalogue import Catalogue
from aioregistry.testing.simulation.__main__ import main

SHORT = ["--duration", "5", "--instances", "4"]
LONG = [sys.executable, "-m", "aioregistry.testing.simulation", "--seeds", "0:2000"]
MAKEFILE = Path(__file__).parents[2] / "Makefile"


def nothing(*_: object) -> None:
    pass


def run(*arguments: str) -> int:
    return main([*arguments, *SHORT])


def test_each_portion_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seeds", "10:15", "--portion", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" failed")[0] for line in lines[:-1]] == [
        "seeds 10:12: 0",
        "seeds 12:14: 0",
        "5 seeds, 0",
    ]
    told = [[int(n) for n in re.findall(r"(\d+) announcements", line)] for line in lines[:-1]]
    assert 0 < sum(number for [number] in told[:-1]) < told[-1][0]
    assert run("--seeds", "10:15") == 0
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]  # the same seeds, the same digest


def test_a_seed_that_fails_prints_the_line_that_reproduces_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "withdraw", nothing)
        assert run("--seeds", "0:4", "--churn", "withdraw", "--every", "0.5") == 1
        told = capsys.readouterr().out
        failures: list[tuple[str, str]] = re.findall(
            r"^FAILED seed (\d+): run again: (.*)$", told, re.MULTILINE
        )
        assert failures
        again = list[str]()
        assert f"4 seeds, {len(failures)} failed" in told
        for seed, line in failures:
            words = shlex.split(line)
            assert words[:3] == ["python", "-m", "aioregistry.testing.simulation"]
            assert words[3:5] == ["--seed", seed]
            again = [word for word in words[3:] if word != "--trace"]
            assert main(again) == 1
            assert told.partition(line)[2].splitlines()[1] in capsys.readouterr().out
    assert main(again) == 0  # without the bug


def test_an_error_is_the_failure_of_one_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("on purpose")

    monkeypatch.setattr(Catalogue, "select", broken)
    assert run("--seeds", "0:2", "--churn", "lookup", "--every", "0.5") == 1
    told = capsys.readouterr().out
    assert "2 seeds, 2 failed" in told
    assert "on purpose" in told
    for seed in range(2):
        assert f"run again: python -m aioregistry.testing.simulation --seed {seed} " in told


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_who_interrupts_has_the_result_so_far(jobs: str) -> None:
    command = [*LONG, "--portion", "1", "--jobs", jobs, *SHORT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("seeds 0:1: 0 failed")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        *_, where, whole, digest = process.stdout.read().splitlines()
    done = int(where.removeprefix("interrupted; go on with --seeds ").removesuffix(":2000"))
    assert done >= 1
    assert whole.startswith(f"{done} seeds, 0 failed")
    assert digest.startswith("digest ")
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for them in /proc")
def test_a_worker_that_starts_is_not_interrupted() -> None:
    """A terminal sends SIGINT to all processes, also to those that are not ready to ignore it."""
    command = [*LONG, "--seeds", "0:4", "--jobs", "2", *SHORT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        told: set[str] = set()
        while len(told) < 3 and process.poll() is None:  # the third is multiprocessing's own
            with contextlib.suppress(OSError):  # it has ended just now
                for child in set(children.read_text().split()) - told:
                    os.kill(int(child), signal.SIGINT)
                    told.add(child)
        assert process.stdout is not None
        assert "4 seeds, 0 failed" in process.stdout.read()
    assert process.returncode == 0


def test_the_long_run_may_be_made_in_portions() -> None:
    """`make soak SEEDS=100:200` goes on where `make soak SEEDS=0:100` ended."""
    dry = ["make", "--dry-run", "--always-make", "soak", "SEEDS=100:200", "JOBS=3"]
    done = subprocess.run(dry, cwd=MAKEFILE.parent, capture_output=True, text=True, check=True)
    assert "aioregistry.testing.simulation --seeds 100:200 --jobs 3" in done.stdout
