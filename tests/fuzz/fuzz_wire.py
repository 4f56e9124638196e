"""Coverage-guided fuzzing of what comes over the wire: `make fuzz`, or

    python tests/fuzz/fuzz_wire.py -max_total_time=300 -dict=tests/fuzz/wire.dict [CORPUS]

It needs `pip install atheris`. An input is a sequence of messages, separated by zero bytes; the
first byte of each says what it is: an announcement, a withdrawal, a ping, or time that passes;
or a well-formed message of few possible values, so that many concern one instance.
Whatever it is, nothing may raise but `Malformed`, the events must add up to the catalogue, and
nothing may grow beyond its bound. What breaks that is written to a file `crash-*`, which is run
again when it is given in place of the corpus.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")  # untyped, and there only for `make fuzz`

with atheris.instrument_imports(include=["aioregistry"]):
    from aioregistry import tombstones, wire
    from aioregistry.catalogue import Catalogue
    from aioregistry.choosing import metadata, version
    from aioregistry.service import EventType, Service, ServiceEvent

MAX_INSTANCES = 20
MAX_LENGTH = 20_000
tombstones.MAX_TOMBSTONES = 10  # type: ignore[misc]  # a bound that inputs of this size can reach

_ADDING = (EventType.REGISTERED, EventType.UPDATED)


class Run:
    """One catalogue and what its events add up to."""

    def __init__(self) -> None:
        self.catalogue = Catalogue(max_instances=MAX_INSTANCES)
        self.now = 0.0
        self.seen: dict[tuple[str, str], Service] = {}

    def step(self, kind: int, payload: bytes) -> None:
        """Take in one message, or let time pass."""
        if kind >= 4:
            kind, payload = kind - 4, compose(payload)
        if kind == 3:
            self.now += len(payload) / 8
            self.catalogue.take_questions()
            self.catalogue.take_overdue()
            for expired in self.catalogue.expire(self.now):
                self.fold(expired)
            return
        if kind == 2:
            assert isinstance(wire.decode_ping(payload), str)
            return
        try:
            message = wire.decode(payload)
        except wire.Malformed:
            return
        take = self.catalogue.announce if kind == 0 else self.catalogue.withdraw
        event = take(message, self.now)
        if event is not None:
            self.fold(event)

    def fold(self, event: ServiceEvent) -> None:
        """Add up the events."""
        key = event.service.key
        assert (event.type is EventType.REGISTERED) == (key not in self.seen)
        if event.type in _ADDING:
            self.seen[key] = event.service
            use(event.service)
        else:
            del self.seen[key]

    def check(self) -> None:
        """Compare the sum with the catalogue, and look at the bounds."""
        catalogue = self.catalogue
        assert {service.key: service for service in catalogue} == self.seen
        assert len(catalogue) == len(self.seen) <= MAX_INSTANCES
        assert catalogue.tombstones <= tombstones.MAX_TOMBSTONES
        assert set(catalogue.names) == {name for name, _ in self.seen}
        assert (catalogue.next_deadline() is None) == (not self.seen)
        for event in catalogue.expire(self.now + 1e9):
            self.fold(event)


def compose(choices: bytes) -> bytes:
    """A message whose fields are chosen by one byte each."""
    picks = iter(choices)

    def pick(*values: Any) -> Any:
        return values[next(picks, 0) % len(values)]

    message = {
        "name": pick("a", "b", "a.b"),
        "add": pick("h:1", "h:2", ""),
        "id": pick("i1", "i2", "", "i3"),
        "seq": pick(1, 2, 0, 3),
        "v": pick("", "1", "2"),
        "t": {"Duration": pick(1000, 0, 30_000)},
        "node": pick("n1", "n2", "", "n.1", "*"),
        "status": pick("", "warning", "critical"),
        "kv": pick({}, {"zone": "eu"}, {"zone": "us"}),
    }
    return json.dumps(message).encode()


def use(service: Service) -> None:
    """Do what callers do with a service."""
    assert isinstance(hash(service), int)
    assert isinstance(repr(service), str)
    _, port = service.hostname_port
    assert port is None or port >= 0
    assert metadata(zone="eu")(service) in (True, False)
    assert version(">=1.2,<2")(service) in (True, False)


def test_one_input(data: bytes) -> None:
    """What atheris calls."""
    if len(data) > MAX_LENGTH:
        return
    run = Run()
    for part in data.split(b"\0"):
        if part:
            run.step(part[0] % 6, part[1:])
    run.check()


def sow(folder: Path) -> None:
    """Begin a corpus with what the Go peer sent, alone and in a row."""
    recorded = Path(__file__).parent.parent / "data" / "go_peer_messages.json"
    kinds = {".register.": b"B", ".unregister.": b"C", ".ping.": b"D"}
    seeds = [
        kind + message["payload"].encode()
        for message in json.loads(recorded.read_text("utf-8"))["messages"]
        for place, kind in kinds.items()
        if place in message["subject"]
    ]
    seeds += [b"E" * seconds for seconds in (8, 80, 800)]
    rng = random.Random(1)
    seeds += [b"FG"[each % 2 :][:1] + rng.randbytes(9) for each in range(40)]
    seeds += [b"\0".join(rng.sample(seeds, 12)) for _ in range(30)]
    for number, seed in enumerate(seeds):
        (folder / f"seed-{number}").write_bytes(seed)


def main() -> None:
    """Fuzz for as long as the options of libFuzzer say."""
    corpus = Path(sys.argv[-1])
    if corpus.is_dir() and not any(corpus.iterdir()):
        sow(corpus)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
