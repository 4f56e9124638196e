"""The long runs against real brokers: `make soak-brokers` prints what they gave as a table.

`python -m tests.chaos.soak kill cut` runs only the trials whose names contain these words.
"""

from __future__ import annotations

import asyncio
import logging
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from aioregistry.testing.brokers import Broker, nats_server, redis_server
from tests.chaos.scene import scene, serving
from tests.chaos.trials import LONGEST_CUT, crashes, reconnects

CRASHES = 20
CUTS = 100
AT_ONCE = 20
OUTAGE = 130.0
"""Longer than nats-py tries with its own settings (60 times 2 seconds), in seconds."""

PASSED_OVER = {"NATS": 5.0, "Redis": 2.0}
"""On NATS 1.5 heartbeat intervals."""

GIVEN_UP = {"NATS": 5.0, "Redis": 2.75}
"""On Redis as long as a cut of 2 seconds has to be borne, and a look that comes every quarter of
a second."""

Outcome = tuple[bool, str]
Trial = Callable[[str, Broker], Awaitable[Outcome]]


async def kills(name: str, broker: Broker) -> Outcome:
    made = await crashes(broker, CRASHES, AT_ONCE)
    over = sorted(each.passed_over.seconds for each in made)
    gone = sorted(each.expired.seconds for each in made)
    well = over[-1] <= PASSED_OVER[name] and gone[-1] <= GIVEN_UP[name]
    return well, f"passed over after {_range(over)}, given up after {_range(gone)}"


async def cuts(_name: str, broker: Broker) -> Outcome:
    made = await reconnects(broker, CUTS, AT_ONCE)
    back = [each.back.seconds for each in made]
    dead = sum(each.expired for each in made)
    return dead == 0, (
        f"{dead} of {len(made)} declared dead; back"
        f" {statistics.median(back):.2f} s after the cut, {max(back):.2f} s at most"
    )


async def longest_cuts(_name: str, broker: Broker) -> Outcome:
    cut = 0.9 * LONGEST_CUT
    made = await reconnects(broker, CUTS, AT_ONCE, cut=lambda: random.uniform(cut, LONGEST_CUT))
    dead = sum(each.expired for each in made)
    return dead == 0, f"{dead} of {len(made)} declared dead"


async def outage(_name: str, broker: Broker) -> Outcome:
    async with scene(broker) as fleet:
        await asyncio.to_thread(broker.kill)
        await fleet.all_down()
        fleet.somebody_dies()
        await fleet.somebody_leaves()
        await asyncio.sleep(OUTAGE)
        await fleet.check_calls()
        started = time.monotonic()
        await asyncio.to_thread(broker.start)
        await fleet.all_up()
        back = time.monotonic() - started
        await fleet.check_aftermath()
    return True, f"all back after {back:.1f} s, nobody lost, the dead gone within a ttl"


def _range(took: list[float]) -> str:
    return f"{took[0]:.2f} to {took[-1]:.2f} s, median {statistics.median(took):.2f} s"


TRIALS: dict[str, Trial] = {
    f"kill -9 of a provider, ttl 10 s, {CRASHES} times": kills,
    f"link of a living provider cut for 0 to {LONGEST_CUT:g} s": cuts,
    f"the same, cut for {0.9 * LONGEST_CUT:g} to {LONGEST_CUT:g} s": longest_cuts,
    f"broker gone for {OUTAGE:g} s": outage,
}
SERVERS: dict[str, Callable[[], AbstractContextManager[Broker]]] = {
    "NATS": nats_server,
    "Redis": redis_server,
}


async def main(words: list[str]) -> bool:
    """Run the trials on every broker; whether all was well."""
    well = True
    for what, trial in TRIALS.items():
        if words and not any(word in what for word in words):
            continue
        for name, server in SERVERS.items():
            async with serving(server()) as broker:
                try:
                    passed, text = await trial(name, broker)
                except AssertionError as error:
                    passed, text = False, f"failed: {str(error)[:200]}"
            well = well and passed
            line = f"{'ok' if passed else 'NO':4}{name:7}{what:48}{text}"
            print(line, flush=True)  # noqa: T201 - the table
    return well


if __name__ == "__main__":
    logging.getLogger("aioregistry").setLevel(logging.CRITICAL)  # losses are what this is about
    sys.exit(not asyncio.run(main(sys.argv[1:])))
