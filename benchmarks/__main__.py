"""Run the benchmarks: one table, and one JSON file."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
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
    registering,
    startup,
)
from benchmarks.figures import Figure, row, table
from benchmarks.plan import Benchmark, Plan

BENCHMARKS: dict[str, Benchmark] = {
    "lookup": lookup.lookups,
    "ingest": ingest.heartbeats,
    "growth": ingest.growth,
    "registering": registering.registering,
    "latency": latency.changes,
    "cold": cold.cold_lookups,
    "fanout": fanout.fan_out,
    "memory": memory.memory,
    "startup": startup.start_up,
    "crash": crash.crashes,
    "http": http.http_clients,
}

# Else Redis cuts off whoever has 32 MB waiting: a fleet that speaks all at once.
_REDIS_OPTIONS = ("--client-output-buffer-limit", "pubsub 0 0 0")


def main() -> None:
    options = _options()
    facts = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    started = time.monotonic()
    figures: list[Figure] = []
    with contextlib.ExitStack() as stack:
        brokers = {
            "nats": stack.enter_context(nats_server()).url,
            "redis": stack.enter_context(redis_server(*_REDIS_OPTIONS)).url,
        }
        rounds = options.rounds or (3 if options.quick else 7)
        plan = Plan(rounds, options.quick, brokers)
        for name in options.only or BENCHMARKS:
            for figure in BENCHMARKS[name](plan):
                figures.append(figure)
                print("  ".join(filter(None, row(figure))), flush=True)
    seconds = time.monotonic() - started
    print(f"\n{table(figures)}\n\n{seconds:.0f} s, {plan.rounds} rounds: median (least..most)")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "facts": facts,
        "seconds": seconds,
        "rounds": plan.rounds,
        "quick": plan.quick,
        "figures": [figure.to_json() for figure in figures],
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="about a minute: smaller, fewer")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--json", type=Path, default=Path("build/benchmarks.json"))
    options = parser.parse_args()
    for name in options.only:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return options


if __name__ == "__main__":
    main()
