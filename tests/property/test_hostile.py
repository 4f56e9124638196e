"""What a hostile peer may send, all the way into a registry and out to its callers."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aioregistry import (
    EventType,
    LeastPending,
    Random,
    Registry,
    Rendezvous,
    RoundRobin,
    Service,
    Watch,
    Weighted,
    all_of,
    local,
    metadata,
    version,
)
from aioregistry.limits import MAX_PAYLOAD_BYTES
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from aioregistry.wire import Malformed, decode

MAX_INSTANCES = 8
NAMES = ["a", "a.b", "x y", "*", ">", "_all", "é", "a\r\nb", ""]

Message = tuple[str, bytes]


class Target:
    """A registry that observes, announces and watches everything, and counts what it is sent."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.broker = MemoryBroker()
        self.seen: dict[tuple[str, str], Service] = {}
        self.runner.run(self._start())

    async def _start(self) -> None:
        self.registry = Registry(MemoryTransport(self.broker), max_instances=MAX_INSTANCES)
        self.peer = MemoryTransport(self.broker)
        await self.peer.connect(lambda _state, _reason: None)
        await self.registry.start()
        await self.registry.register("a", "10.0.0.1:1")
        self.watch: Watch = self.registry.watch()
        await self.drain()
        self.settled = await self.settle()

    def close(self) -> None:
        self.runner.run(self._close())
        self.runner.close()

    async def _close(self) -> None:
        await self.registry.aclose()
        await self.peer.aclose()

    def send(self, *messages: Message) -> int:
        """Send messages; returns how many were counted."""
        before, self.settled = self.settled, self.runner.run(self._send(messages))
        return self.settled - before

    async def _send(self, messages: tuple[Message, ...]) -> int:
        for subject, payload in messages:
            await self.peer.publish(f"registry.{subject}", payload)
        await self.peer.flush()
        return await self.settle()

    async def settle(self) -> int:
        """Let what is announced meanwhile arrive; returns what was counted then."""
        counted = self.counted()
        while True:
            for _ in range(10):
                await asyncio.sleep(0)
            before, counted = counted, self.counted()
            if counted == before:
                await self.drain()
                return counted

    async def drain(self) -> None:
        """Fold the events that the watch has."""
        while True:
            try:
                async with asyncio.timeout(0):
                    event = await anext(self.watch)
            except TimeoutError:
                return
            key = event.service.key
            assert (event.type is EventType.REGISTERED) == (key not in self.seen)
            if event.type in (EventType.REGISTERED, EventType.UPDATED):
                self.seen[key] = event.service
            else:
                del self.seen[key]

    def counted(self) -> int:
        """The messages of others that were counted: what pings it answers is its own."""
        stats = self.registry.stats()
        received = stats.announcements_received + stats.withdrawals_received
        return received + stats.malformed - stats.announcements_sent

    def check(self) -> None:
        """It lives, is consistent and bounded."""
        stats = self.registry.stats()
        assert stats.connected
        assert stats.instances <= MAX_INSTANCES
        catalogue = {
            service.key: service
            for name in self.registry.service_names
            for service in self.registry.cached(name, where=all_of())
        }
        assert catalogue == self.seen
        assert len(self.registry.registered) == 1


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


@pytest.fixture(autouse=True)
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A handler that raises is logged as an error by the transport."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


hostile = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.sampled_from(
    [0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, 0.0, -0.0, 1.5, 1e308]
) | st.integers(0, 9)
texts = st.sampled_from(
    ["", "a", "10.0.0.1:1", "b:2", "é", "\x00", "\r\n", "\u2028", "*", ">"]
) | st.text(max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
pairs = st.tuples(
    st.sampled_from(
        [
            "net",
            "add",
            "url",
            "name",
            "v",
            "h",
            "kv",
            "t",
            "status",
            "id",
            "seq",
            "node",
            "NAME",
            "x",
        ]
    ),
    json_values
    | st.fixed_dictionaries({"Duration": numbers, "Registered": numbers})
    | st.sampled_from(["passing", "warning", "critical"]),
)


@st.composite
def almost_messages(draw: st.DrawFn) -> bytes:
    """A JSON object that may name a key several times, and begins like a good message."""
    name = draw(st.sampled_from(NAMES))
    good: list[tuple[str, Any]] = [("name", name), ("add", draw(texts)), ("id", draw(texts))]
    fields = good[: draw(st.integers(0, 3))] + draw(st.lists(pairs, max_size=8))
    body = ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in fields)
    return f"{{{body}}}".encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Something sensible with a few bytes replaced, dropped or put in."""
    payload = draw(almost_messages())
    at = draw(st.integers(0, len(payload)))
    return payload[:at] + draw(st.binary(max_size=4)) + payload[at + draw(st.integers(0, 4)) :]


def repeated(opening: bytes, times: int, tail: bytes) -> bytes:
    return (opening * times)[: MAX_PAYLOAD_BYTES + 1] + tail


huge = st.builds(
    repeated,
    st.sampled_from([b"[", b'{"a":', b'{"name":"a","kv":{"', b'"\\u0000', b"9", b" ", b"\xff"]),
    st.sampled_from([1, 1000, 30_000, 70_000]),
    st.sampled_from([b"", b"}", b"]", b'":"b"}}', b'"}']),
)
payloads = almost_messages() | damaged() | st.binary(max_size=64) | huge
subjects = st.builds(
    "{}.{}".format,
    st.sampled_from(["register", "unregister", "ping", "alive"]),
    st.sampled_from(NAMES),
)
messages = st.tuples(subjects, payloads)


@given(st.lists(messages, min_size=1, max_size=10))
@example(
    [("register.a", b'{"name":"a","add":"b:1"}'), ("unregister.a", b'{"name":"a","add":"b:1"}')]
)
@example([("register.a", b"[" * 60_000), ("ping.a", b"[" * 60_000)])
@example([("register.a", b'{"name":"a","add":"' + b"x" * 70_000 + b'"}')])
@hostile
def test_nothing_raises_and_everything_is_counted(target: Target, batch: list[Message]) -> None:
    counted = target.send(*batch)
    about_instances = [
        payload for subject, payload in batch if subject.startswith(("register.", "unregister."))
    ]
    # An empty payload on `register` is the broker's way to say that nobody hears a ping.
    empty = sum(1 for subject, payload in batch if subject.startswith("register.") and not payload)
    assert counted == len(about_instances) - empty
    target.check()


def test_an_impostor_does_not_take_the_registry_with_it(target: Target) -> None:
    """Somebody announces and withdraws under the very address of ours."""
    for _ in range(20):
        target.send(
            ("register.a", b'{"name":"a","add":"10.0.0.1:1","id":"impostor","seq":9}'),
            ("unregister.a", b'{"name":"a","add":"10.0.0.1:1"}'),
        )
    target.check()
    assert target.registry.registered[0].address == "10.0.0.1:1"


@given(payloads)
@hostile
def test_what_callers_do_with_what_got_in(payload: bytes) -> None:
    try:
        message = decode(payload)
    except Malformed:
        return
    service = message.service()
    host, port = service.hostname_port
    assert isinstance(host, str)
    assert port is None or 0 <= port < 10**9
    assert copy.deepcopy(service) == pickle.loads(pickle.dumps(service)) == service
    assert isinstance(repr(service), str)
    for predicate in (metadata(zone="eu"), version(">=1.2,<2"), local("h"), all_of()):
        assert predicate(service) in (True, False)
    services = (service, Service("a", "b:1", metadata={"weight": "1"}))
    for balancer in (RoundRobin(), Random(), LeastPending(), Weighted(), Rendezvous("key")):
        assert balancer.choose(services, "scope") in services


@given(st.sampled_from(["weight", "Weight"]), st.text(max_size=12) | numbers.map(str))
@example("weight", "nan")
@example("weight", "inf")
@example("weight", "-1")
@example("weight", "1e999")
@example("weight", "9" * 5000)
@hostile
def test_weights_that_make_no_sense(key: str, weight: str) -> None:
    services = (Service("a", "b:1", metadata={key: weight}), Service("a", "b:2"))
    for balancer in (Weighted(), Rendezvous("key")):
        assert balancer.choose(services, "scope") in services


@given(st.text(max_size=20) | st.sampled_from(["1" * 5000, "1." * 2000, "v1", "1!2", "\u0661"]))
@hostile
def test_versions_that_make_no_sense(text: str) -> None:
    service = Service("a", "b:1", version=text)
    for spec in (">=1.2,<2", "==1.*", "~=1.2", "!=3"):
        assert version(spec)(service) in (True, False)
