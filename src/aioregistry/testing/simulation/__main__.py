"""The command line of the simulation: one seed, or thousands of them.

python -m aioregistry.testing.simulation --seed 7 --trace
python -m aioregistry.testing.simulation --seeds 0:5000 --instances 200 --observers 20
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
    seeds = [options.seed] if options.seed is not None else options.seeds
    runs = [Run(seed, given, keep_trace=options.trace) for seed in seeds]
    started, total, failed = time.perf_counter(), Counter[str](), 0
    digest = hashlib.blake2b(digest_size=16)
    for number, report in enumerate(run_many(runs, options.jobs), 1):
        _add(total, report)
        digest.update(report.digest.encode())
        failed += _print_failure(report)
        if options.trace:
            _print_lines(report.trace)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number} of {len(runs)}, {failed} failed ")
    _print_summary(total, len(runs), failed, time.perf_counter() - started)
    _say(f"digest {digest.hexdigest()}")
    return 1 if failed else 0


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


def _add(total: Counter[str], report: Report) -> None:
    total.update(report.messages)
    total.update(
        {
            "seconds": round(report.seconds),
            "lives": report.lives,
            "expired": report.expired,
            "held": report.held,
        }
    )


def _print_failure(report: Report) -> bool:
    try:
        report.check()
    except AssertionError as error:
        _say(f"FAILED {error}")
        return True
    return False


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        _say(line)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _print_summary(total: Counter[str], runs: int, failed: int, took: float) -> None:
    _say(
        f"{runs} seeds, {failed} failed: {total['seconds'] / 3600:.1f} virtual hours in"
        f" {took:.0f} s; {total['lives']} instances, {total['announcement']} announcements,"
        f" {total['withdrawal']} withdrawals, {total['ping']} pings, {total['delivery']}"
        f" deliveries, {total['loss']} losses, {total['expired']} expiries seen,"
        f" {total['held']} times held"
    )


if __name__ == "__main__":
    sys.exit(main())
