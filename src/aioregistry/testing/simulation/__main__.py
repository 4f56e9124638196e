"""The command line of the simulation: one seed, or thousands of them.

python -m aioregistry.testing.simulation --seed 7 --trace
python -m aioregistry.testing.simulation --seeds 0:5000 --instances 200 --observers 20

The result of each portion is printed as soon as it is there. Whoever interrupts a long run has
the result of what was done, and is told where to go on.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable

from aioregistry.testing.simulation.batch import Run, run_many
from aioregistry.testing.simulation.plan import CHURN, FAULTS
from aioregistry.testing.simulation.report import Report

_SIZES = ("instances", "observers", "per_process", "names")
_TIMES = ("duration", "ttl", "heartbeat_interval", "look_interval", "every")
_KINDS = {"faults": FAULTS, "churn": CHURN}
_PLAN = (*_SIZES, *_TIMES, *_KINDS)


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds, print what came of them, and return 1 if one broke a promise."""
    options = _parser().parse_args(arguments)
    given = {name: getattr(options, name) for name in _PLAN if hasattr(options, name)}
    one: int | None = options.seed
    seeds: range = options.seeds if one is None else range(one, one + 1)
    runs = [Run(seed, given, keep_trace=options.trace) for seed in seeds]
    whole, portion = _Tally(seeds.start), _Tally(seeds.start)
    try:
        for seed, report in zip(seeds, run_many(runs, options.jobs), strict=True):
            failed = _failure(report)
            if failed:
                _say(f"FAILED seed {seed}: {failed}")
            whole.add(report, failed=bool(failed))
            portion.add(report, failed=bool(failed))
            if options.trace and isinstance(report, Report):
                _print_lines(report.trace)
            if portion.runs == options.portion and len(seeds) > options.portion:
                _say(f"seeds {portion.first}:{seed + 1}: {portion.summary}")
                portion = _Tally(seed + 1)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{whole.runs} of {len(runs)}, {whole.failed} failed ")
    except KeyboardInterrupt:
        _say(f"interrupted; go on with --seeds {seeds.start + whole.runs}:{seeds.stop}")
    _say(f"{whole.runs} seeds, {whole.summary}")
    _say(f"digest {whole.digest}")
    return 1 if whole.failed or whole.runs < len(runs) else 0


class _Tally:
    """What came of some seeds, added up.

    Attributes:
        first: the first of the seeds.
        runs: how many there were.
        failed: how many of them broke a promise.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.runs = self.failed = 0
        self._total = Counter[str]()
        self._digest = hashlib.blake2b(digest_size=16)
        self._started = time.perf_counter()

    def add(self, report: Report | str, *, failed: bool) -> None:
        self.runs += 1
        self.failed += failed
        if isinstance(report, Report):
            self._digest.update(report.digest.encode())
            self._total.update(report.messages)
            self._total.update(
                {
                    "seconds": round(report.seconds),
                    "lives": report.lives,
                    "expired": report.expired,
                    "held": report.held,
                }
            )

    @property
    def digest(self) -> str:
        """The same for the same seeds, plans and code."""
        return self._digest.hexdigest()

    @property
    def summary(self) -> str:
        total, took = self._total, time.perf_counter() - self._started
        return (
            f"{self.failed} failed: {total['seconds'] / 3600:.1f} virtual hours in"
            f" {took:.0f} s; {total['lives']} instances, {total['announcement']} announcements,"
            f" {total['withdrawal']} withdrawals, {total['ping']} pings, {total['delivery']}"
            f" deliveries, {total['loss']} losses, {total['expired']} expiries seen,"
            f" {total['held']} times held"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aioregistry.testing.simulation", description="Simulate a fleet."
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="one seed")
    which.add_argument("--seeds", type=_seeds, help="FIRST:END, the end not included")
    for name in _SIZES:
        _add_option(parser, name, int)
    for name in _TIMES:
        _add_option(parser, name, _seconds, "seconds")
    for name, kinds in _KINDS.items():
        _add_option(parser, name, _words, f"some of {','.join(kinds)}; or none")
    parser.add_argument("--trace", action="store_true", help="print every line of the trace")
    parser.add_argument("--jobs", type=int, default=1, help="so many processes at once")
    parser.add_argument("--portion", type=int, default=100, help="print results every so many")
    return parser


def _add_option(
    parser: argparse.ArgumentParser, name: str, kind: Callable[[str], object], text: str = ""
) -> None:
    flag = f"--{name.replace('_', '-')}"
    parser.add_argument(flag, type=kind, dest=name, default=argparse.SUPPRESS, help=text)


def _seeds(text: str) -> range:
    first, _, end = text.partition(":")
    return range(int(first), int(end))


def _words(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split(","))


def _seconds(text: str) -> float | None:
    return None if text == "none" else float(text)


def _failure(report: Report | str) -> str:
    """What was wrong, and how to run it again; empty if nothing was."""
    if isinstance(report, str):
        return report
    try:
        report.check()
    except AssertionError as error:
        return str(error)
    return ""


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _say(line)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
