"""Run the benchmarks: one table, and one JSON file."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
import traceback
from pathlib import Path

from aioregistry.testing.brokers import nats_server, redis_server
from benchmarks import (
    cold,
    crash,
    fanout,
    http,
    ingest,
    latency,
    lookup,
    machine,
    memory,
    peers,
    registering,
    scaling,
    shape,
    startup,
    traffic,
)
from benchmarks.figures import Figure, row, table
from benchmarks.plan import Benchmark, Plan

BENCHMARKS: dict[str, Benchmark] = {
    "lookup": lookup.lookups,
    "ingest": ingest.heartbeats,
    "growth": ingest.growth,
    "shape": shape.shape,
    "registering": registering.registering,
    "latency": latency.changes,
    "cold": cold.cold_lookups,
    "fanout": fanout.fan_out,
    "wire": traffic.on_the_wire,
    "living": traffic.living,
    "memory": memory.memory,
    "startup": startup.start_up,
    "size": startup.installed_size,
    "crash": crash.crashes,
    "http": http.http_clients,
    "peers": peers.peers,
    "scaling": scaling.scaling,
}

SLOW = ("living", "crash", "http", "peers", "scaling")
"""These take no part in a quick run, unless they are asked for."""

_SPREAD = "median (least..most)"

# Else Redis cuts off whoever has 32 MB waiting: a fleet that speaks all at once.
_REDIS_OPTIONS = ("--client-output-buffer-limit", "pubsub 0 0 0")


def main() -> int:
    """Measure, or print again what was measured.

    1 if something failed, or grows as it must not; what was measured is kept all the same.
    """
    options = _options()
    if options.markdown:
        _print_again(options.json)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else brokers would stay behind
    names = options.only or [name for name in BENCHMARKS if not (options.quick and name in SLOW)]
    plan = Plan(options.rounds or (2 if options.quick else 7), options.quick, {})
    run = _Run(plan, machine.describe())
    try:
        run.measure(names)
    finally:
        run.write(options.json)
        run.print_table()
        print(f"written to {options.json}", flush=True)
    for figure in run.figures:
        if figure.misshapen:
            print(f"out of shape: {figure.name}", file=sys.stderr)
    for name in run.failed:
        print(f"failed: {name}", file=sys.stderr)
    return int(bool(run.failed) or any(figure.misshapen for figure in run.figures))


class _Run:
    """What has been measured so far.

    Attributes:
        figures: in the order in which they came.
        failed: the names of benchmarks that were not finished.
    """

    def __init__(self, plan: Plan, facts: dict[str, str]) -> None:
        self.figures: list[Figure] = []
        self.failed: list[str] = []
        self._plan = plan
        self._facts = facts
        self._started = time.monotonic()

    def measure(self, names: list[str]) -> None:
        """Measure one after the other; what fails does not keep the rest from being measured."""
        with contextlib.ExitStack() as stack:
            brokers = self._plan.brokers
            brokers["nats"] = stack.enter_context(nats_server()).url
            brokers["redis"] = stack.enter_context(redis_server(*_REDIS_OPTIONS)).url
            for kind, url in brokers.items():
                self._facts[f"{kind} broker"] = machine.describe_broker(url)
            print("\n".join(f"{name}: {value}" for name, value in self._facts.items()), flush=True)
            for name in names:
                started = time.monotonic()
                try:
                    for figure in BENCHMARKS[name](self._plan):
                        self.figures.append(figure)
                        print("  ".join(filter(None, row(figure, self._plan.rounds))), flush=True)
                except Exception:  # noqa: BLE001 - whatever it is, the others may be well
                    traceback.print_exc()
                    self.failed.append(name)
                print(f"({name}: {time.monotonic() - started:.0f} s)", flush=True)

    def write(self, file: Path) -> None:
        """All that was measured, as JSON."""
        report = {
            "facts": self._facts,
            "seconds": time.monotonic() - self._started,
            "rounds": self._plan.rounds,
            "quick": self._plan.quick,
            "failed": self.failed,
            "figures": [figure.to_json() for figure in self.figures],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(report, indent=2) + "\n")

    def print_table(self) -> None:
        """All that was measured, in Markdown."""
        seconds, rounds = time.monotonic() - self._started, self._plan.rounds
        print(f"\n{table(self.figures, rounds)}\n")
        print(f"{seconds:.0f} s, {rounds} rounds, where no other number is given: {_SPREAD}")


def _print_again(file: Path) -> None:
    """The facts and the table of an earlier run, in Markdown."""
    report = json.loads(file.read_text())
    for name, value in report["facts"].items():
        print(f"- {name}: {value}")
    print(f"- {report['rounds']} rounds in {report['seconds']:.0f} s: {_SPREAD}\n")
    print(table(map(Figure.from_json, report["figures"]), report["rounds"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="about a minute: smaller, fewer")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"))
    parser.add_argument(
        "--markdown", action="store_true", help="measure nothing: print the table of that file"
    )
    options = parser.parse_args()
    for name in options.only:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
