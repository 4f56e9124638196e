"""Run the benchmarks: one table, and one JSON file."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator
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

# Else Redis cuts off whoever has 32 MB waiting: a fleet that speaks all at once.
_REDIS_OPTIONS = ("--client-output-buffer-limit", "pubsub 0 0 0")


def main() -> int:
    """Measure, or print again what was measured; 1 if something grows as it must not."""
    options = _options()
    if options.markdown:
        _print_again(options.json)
        return 0
    facts = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    started = time.monotonic()
    names = options.only or [name for name in BENCHMARKS if not (options.quick and name in SLOW)]
    plan = Plan(options.rounds or (2 if options.quick else 7), options.quick, {})
    figures: list[Figure] = []
    for figure in _measured(names, plan):
        figures.append(figure)
        print("  ".join(filter(None, row(figure))), flush=True)
    seconds = time.monotonic() - started
    report = {
        "facts": facts,
        "seconds": seconds,
        "rounds": plan.rounds,
        "quick": plan.quick,
        "figures": [figure.to_json() for figure in figures],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{table(figures)}\n\n{seconds:.0f} s, {plan.rounds} rounds: median (least..most)")
    print(f"written to {options.json}")
    for figure in figures:
        if figure.misshapen:
            print(f"out of shape: {figure.name}", file=sys.stderr)
    return int(any(figure.misshapen for figure in figures))


def _measured(names: list[str], plan: Plan) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        plan.brokers["nats"] = stack.enter_context(nats_server()).url
        plan.brokers["redis"] = stack.enter_context(redis_server(*_REDIS_OPTIONS)).url
        for name in names:
            started = time.monotonic()
            yield from BENCHMARKS[name](plan)
            print(f"({name}: {time.monotonic() - started:.0f} s)", flush=True)


def _print_again(file: Path) -> None:
    """The facts and the table of an earlier run, in Markdown."""
    report = json.loads(file.read_text())
    for name, value in report["facts"].items():
        print(f"- {name}: {value}")
    print(f"- {report['rounds']} rounds in {report['seconds']:.0f} s: median (least..most)\n")
    print(table(map(Figure.from_json, report["figures"])))


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
