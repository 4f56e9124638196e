"""Others who know who is there, asked the same questions in turn with aioregistry over NATS.

What stands in the column of the floor is the peer's figure, so a ratio below one is in our
favour. A peer whose package or server is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure
from benchmarks.latency import EventsLost, milliseconds, quantile
from benchmarks.peers import ours, servers
from benchmarks.plan import Plan
from benchmarks.processes import Part

_PAUSE = 0.002


@dataclass(frozen=True)
class Peer:
    """Another system.

    Attributes:
        title: its name in the table.
        module: of this package.
        package: what has to be importable.
        server: starts what it needs besides; None: it uses the NATS server of the run, or
            nothing.
        many: how many instances it is asked to bring across.
        lives: how often it is asked for the latency of one.
        silent: why it has no events, if it has none.
        keeps_nothing: why it has no cached lookups, if it has none.
        blind: why it does not see crashes, if it does not.
    """

    title: str
    module: str
    package: str
    server: Callable[[], AbstractContextManager[str]] | None = None
    many: tuple[int, ...] = (1_000, 10_000)
    lives: int = 200
    silent: str = ""
    keeps_nothing: str = ""
    blind: str = ""


PEERS = (
    Peer(
        "zeroconf",
        "zeroconf",
        "zeroconf",
        many=(100, 1_000),
        lives=5,
        blind="zeroconf: not seen before its records are 2 to 75 minutes old",
    ),
    Peer(
        "nats.micro",
        "micro",
        "nats.micro",
        many=(1_000,),
        silent="nats.micro: tells nobody, has to be asked",
        keeps_nothing="nats.micro: keeps nothing, asks each time",
    ),
    Peer(
        "etcd",
        "etcd",
        "aetcd",
        servers.etcd,
        keeps_nothing="etcd: aetcd keeps nothing, asks each time",
    ),
    Peer("ZooKeeper", "zookeeper", "kazoo", servers.zookeeper),
)


class _Pair:
    """Both ends of a system."""

    def __init__(self, stack: contextlib.ExitStack, module: Any, url: str) -> None:
        self.provider = stack.enter_context(Part(module.Provider, url=url))
        self.knower = stack.enter_context(Part(module.Knower, url=url))
        self.knower.call("open")
        self.provider.call("open")


def peers(plan: Plan) -> Iterator[Figure]:
    """All that are there."""
    for peer in PEERS:
        try:
            importlib.import_module(peer.package)
            with (
                peer.server()
                if peer.server
                else contextlib.nullcontext(plan.brokers["nats"]) as url
            ):
                yield from _compare(peer, url, plan)
        except ImportError as error:
            print(f"peers: {peer.title} left out: {error}; make bench installs it", flush=True)
        except servers.NotInstalled as error:
            print(f"peers: {peer.title} left out: {error}", flush=True)


def _compare(peer: Peer, url: str, plan: Plan) -> Iterator[Figure]:
    module = importlib.import_module(f"{__name__}.{peer.module}")
    rounds = 1 if plan.quick else 3
    for question in (_latency, _cold, _many, _crash):

        def pairs(stack: contextlib.ExitStack) -> tuple[_Pair, _Pair]:
            return _Pair(stack, ours, plan.brokers["nats"]), _Pair(stack, module, url)

        try:
            yield from question(peer, pairs, rounds)
        except RuntimeError as error:  # a process of it ended and has said why, or events got lost
            print(f"peers: {peer.title} gave up: {error}", flush=True)


_Pairs = Callable[[contextlib.ExitStack], tuple[_Pair, _Pair]]


def _latency(peer: Peer, pairs: _Pairs, rounds: int) -> Iterator[Figure]:
    def once(pair: _Pair, whose: str = "aioregistry") -> list[float]:
        pair.knower.call("expect")
        started = pair.provider.call("lives", count=peer.lives, pause=_PAUSE)
        seen = pair.knower.call("seen", count=peer.lives)
        try:
            return milliseconds(started, seen, f"peers: {whose}")
        except EventsLost as error:
            # What comes and goes while the watcher waits for a core leaves no event, and should
            # not: where a peer leaves none to wait for, there is nothing to compare.
            raise RuntimeError(str(error)) from error

    title = f"peers: register to event, beside {peer.title}"
    with contextlib.ExitStack() as stack:
        mine, theirs = pairs(stack)
        if peer.silent:
            own = [once(mine) for _ in range(rounds)]
            yield Figure(
                f"{title}, p50", "ms", [quantile(each, 50) for each in own], (), peer.silent
            )
            return
        both = [(once(mine), once(theirs, peer.title)) for _ in range(rounds)]
    for percent in (50, 99) if peer.lives >= 100 else (50,):
        yield Figure(
            f"{title}, p{percent}",
            "ms",
            [quantile(own, percent) for own, _ in both],
            [quantile(other, percent) for _, other in both],
            peer.title,
        )


def _cold(peer: Peer, pairs: _Pairs, rounds: int) -> Iterator[Figure]:
    count = peer.lives
    with contextlib.ExitStack() as stack:
        both = pairs(stack)
        names = [f"svc{number:05d}" for number in range(count * rounds)]
        for pair in both:
            pair.provider.call("names", names=names)
        took: list[list[list[float]]] = []
        for first in range(0, len(names), count):
            some = names[first : first + count]
            took.append([pair.knower.call("cold", names=some, pause=_PAUSE) for pair in both])
    for percent in (50, 99) if count >= 100 else (50,):
        yield Figure(
            f"peers: cold lookup, beside {peer.title}, p{percent}",
            "ms",
            [quantile(own, percent) for own, _ in took],
            [quantile(other, percent) for _, other in took],
            peer.title,
        )


def _many(peer: Peer, pairs: _Pairs, rounds: int) -> Iterator[Figure]:
    def once(pair: _Pair, count: int) -> float:
        pair.provider.begin("many", count=count)
        known: float = pair.knower.call("know", count=count)
        started: float = pair.provider.result()
        return known - started

    for count in peer.many:
        took: list[list[float]] = []
        cached: list[list[float]] = []
        memory: list[list[float]] = []
        for _ in range(rounds):
            with contextlib.ExitStack() as stack:
                both = pairs(stack)
                took.append([once(pair, count) for pair in both])
                memory.append([pair.knower.call("memory") for pair in both])
                asked = both[:1] if peer.keeps_nothing else both
                cached += [[pair.knower.call("time_cached") for pair in asked] for _ in range(3)]
        beside = f"beside {peer.title}"
        yield _figure(f"peers: {count:,} registered and known, {beside}", "s", took, peer.title)
        yield _figure(f"peers: process that knows {count:,}, {beside}", "MB", memory, peer.title)
        yield _figure(
            f"peers: cached lookup of {count:,}, {beside}",
            "ns",
            cached,
            peer.keeps_nothing or peer.title,
        )


def _figure(name: str, unit: str, rounds: list[list[float]], floor: str) -> Figure:
    theirs = [each[1] for each in rounds if len(each) > 1]
    return Figure(name, unit, [each[0] for each in rounds], theirs, floor)


def _crash(peer: Peer, pairs: _Pairs, rounds: int) -> Iterator[Figure]:
    """Each provider has one instance, and is killed at any moment between its heartbeats."""
    took: list[list[float]] = []
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            both = pairs(stack)[: 1 if peer.blind else 2]
            for pair in both:
                pair.provider.call("many", count=1)
                pair.knower.call("know", count=1)
            time.sleep(random.uniform(4.0, 8.0))
            killed: list[float] = []
            for pair in both:
                killed.append(time.monotonic())
                pair.provider.kill()
                pair.knower.begin("gone", count=1)
            gone = [min(pair.knower.result().values()) for pair in both]
            took.append([end - start for start, end in zip(killed, gone, strict=True)])
    yield _figure(f"peers: kill -9 seen, beside {peer.title}", "s", took, peer.blind or peer.title)
