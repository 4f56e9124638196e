"""What comes over the wire, and what we put there."""

from __future__ import annotations

import bisect
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioregistry.limits import (
    MAX_METADATA_ENTRIES,
    MAX_PAYLOAD_BYTES,
    MAX_TTL,
    MIN_TTL,
    check_service,
)
from aioregistry.service import FrozenDict, Service, Status
from aioregistry.wire import (
    Announcement,
    Malformed,
    Subjects,
    decode,
    decode_ping,
    encode_announcement,
    encode_ping,
    encode_withdrawal,
    is_small,
)

RECORDED: list[dict[str, str]] = json.loads(
    (Path(__file__).parent.parent / "data" / "go_peer_messages.json").read_text("utf-8")
)["messages"]

ABOUT_INSTANCES = [message for message in RECORDED if ".ping." not in message["subject"]]
PINGS = [message for message in RECORDED if ".ping." in message["subject"]]

FULL = Service(
    name="svc-full",
    address="10.1.2.3:8080",
    network="tcp",
    url="http://10.1.2.3:8080/api?a=1&b=2",
    version="1.2.3",
    host="node-7",
    metadata={"alpha": "1", "empty": "", "role": "primary", "zone": "eu-1"},
)


def recorded(subject: str, action: str, broker: str) -> Announcement:
    """The first such message."""
    return next(
        decode(message["payload"].encode())
        for message in RECORDED
        if (message["subject"], message["action"], message["broker"]) == (subject, action, broker)
    )


def announced(**fields: Any) -> bytes:
    return json.dumps({"name": "orders", "add": "a:1"} | fields).encode()


def expected_service(fields: dict[str, Any]) -> Service:
    """The instance in a message of the Go peer, read in the plainest way."""
    return Service(
        name=fields["name"],
        address=fields.get("add", ""),
        network=fields.get("net", ""),
        url=fields.get("url", ""),
        version=fields.get("v", ""),
        host=fields.get("h", ""),
        metadata=fields.get("kv", {}),
        status=Status(fields.get("status", "passing")),
    )


class TestTheGoPeer:
    @pytest.mark.parametrize("message", ABOUT_INSTANCES, ids=lambda message: message["subject"])
    def test_every_recorded_message_is_read(self, message: dict[str, str]) -> None:
        fields = json.loads(message["payload"])
        decoded = decode(message["payload"].encode())
        assert decoded.service() == expected_service(fields)
        assert message["subject"].endswith("register." + decoded.name)
        assert decoded.describes(decoded.service())
        assert (decoded.id, decoded.seq, decoded.node) == ("", 0, "")
        assert (decoded.times is None) == (".unregister." in message["subject"])
        if decoded.times is not None:
            assert decoded.duration == fields["t"]["Duration"]
            assert decoded.times.registered == fields["t"]["Registered"]

    @pytest.mark.parametrize("message", PINGS, ids=lambda message: message["subject"])
    def test_every_recorded_ping_is_for_everybody(self, message: dict[str, str]) -> None:
        assert decode_ping(message["payload"].encode()) == ""

    @pytest.mark.parametrize("broker", ["nats", "redis"])
    def test_all_fields(self, broker: str) -> None:
        message = recorded("registry.register.svc-full", "Register", broker)
        assert message.service() == FULL
        assert message.ttl == 3600 * 1.5

    @pytest.mark.parametrize("broker", ["nats", "redis"])
    def test_unicode(self, broker: str) -> None:
        service = recorded("registry.register.café-服务-🚀", "Register", broker).service()
        assert service.name == "café-服务-🚀"
        assert service.address == "[::1]:8080"
        assert service.host == "hôte"
        assert service.metadata == {"emoji": "😀", "ключ": "значение"}

    @pytest.mark.parametrize("broker", ["nats", "redis"])
    def test_escapes(self, broker: str) -> None:
        service = recorded("registry.register.svc-esc", "Register", broker).service()
        assert service.metadata == {
            "ctl": "\x00\x01\b\f\n\r\t\x1f\x7f",
            "html": "<a&b>",
            "ls": "x\u2028y\u2029z",
            "q": "\"\\/'",
        }

    def test_the_status_of_a_change(self) -> None:
        message = recorded("registry.register.svc-full", "StatusChange", "nats")
        assert message.service().status is Status.WARNING

    def test_a_withdrawal_typed_by_hand(self) -> None:
        message = recorded("registry.unregister.svc-min", "Unregister", "nats")
        assert message.service() == Service("svc-min", "127.0.0.1:9001")


class TestWhatOthersMaySend:
    def test_the_java_peer_writes_its_times_in_lower_case(self) -> None:
        message = decode(announced(t={"registered": 1_795_344_835_021, "duration": 5000}))
        assert message.duration == 5000
        assert message.ttl == 7.5

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"NAME":"orders","Add":"a:1","KV":{"Zone":"eu"},"T":{"REGISTERED":1,"DURATION":9000}}',
            b'{"Name":"orders","ADD":"a:1","kV":{"Zone":"eu"},"t":{"rEGISTERED":1,"Duration":9000}}',
        ],
    )
    def test_keys_in_any_case(self, payload: bytes) -> None:
        message = decode(payload)
        assert message.service() == Service("orders", "a:1", metadata={"Zone": "eu"})
        assert message.duration == 9000

    @pytest.mark.parametrize(
        "payload",
        [
            b'{"name":"a","name":"b"}',
            b'{"NAME":"a","name":"b"}',
            b'{"name":"a","NAME":"b"}',
            b'{"name":"a","name":"b","later":1}',
        ],
    )
    def test_the_last_of_repeated_keys_wins(self, payload: bytes) -> None:
        assert decode(payload).name == "b"

    @pytest.mark.parametrize(
        "times",
        [
            b'{"Duration":1000,"Duration":2000}',
            b'{"duration":1000,"Duration":2000}',
            b'{"DURATION":1000,"Duration":2000}',
        ],
    )
    def test_the_last_of_repeated_times_wins(self, times: bytes) -> None:
        assert decode(b'{"name":"a","t":' + times + b"}").duration == 2000

    def test_nulls_are_as_good_as_nothing(self) -> None:
        names = ["net", "url", "v", "h", "kv", "t", "status", "id", "seq", "node"]
        message = decode(announced(**dict.fromkeys(names)))
        assert message.service() == Service("orders", "a:1")
        assert message == decode(announced())

    def test_nulls_within(self) -> None:
        message = decode(announced(kv={"a": None}, t={"Registered": None, "Duration": 3000}))
        assert message.service().metadata == {"a": ""}
        assert message.duration == 3000

    def test_unknown_keys(self) -> None:
        message = decode(announced(later=[{"deep": 1.5}, None], t={"Duration": 3000, "Zone": "Z"}))
        assert message.service() == Service("orders", "a:1")
        assert message.duration == 3000

    @pytest.mark.parametrize("status", ["", "PASSING", "maintenance", "passing "])
    def test_unknown_status_reads_as_passing(self, status: str) -> None:
        message = decode(announced(status=status))
        assert message.service().status is Status.PASSING
        assert message.describes(Service("orders", "a:1"))
        assert not message.describes(Service("orders", "a:1", status=Status.WARNING))

    @pytest.mark.parametrize("status", Status)
    def test_known_status(self, status: Status) -> None:
        assert decode(announced(status=status.value)).service().status is status

    def test_white_space_around(self) -> None:
        assert decode(b' \r\n{ "name" : "a" }\t\n').name == "a"

    @pytest.mark.parametrize(
        ("times", "ttl"),
        [
            (None, MIN_TTL),
            ({}, MIN_TTL),
            ({"Duration": 0}, MIN_TTL),
            ({"Duration": -5}, MIN_TTL),
            ({"Duration": -(2**63) + 1}, MIN_TTL),
            ({"Duration": 1}, MIN_TTL),
            ({"Duration": 500}, 0.75),
            ({"Duration": 20_000}, 30.0),
            ({"Duration": 2**63 - 1}, MAX_TTL),
        ],
    )
    def test_ttl_is_one_and_a_half_intervals_within_limits(
        self, times: dict[str, int] | None, ttl: float
    ) -> None:
        assert decode(announced(t=times)).ttl == ttl

    def test_our_own_keys(self) -> None:
        message = decode(announced(id="i", seq=7, node="n"))
        assert (message.id, message.seq, message.node) == ("i", 7, "n")
        assert message.service().id == "i"

    def test_describes_looks_at_every_field(self) -> None:
        fields = {
            "net": "tcp", "add": "a:1", "url": "http://a/", "v": "1", "h": "h", "kv": {"a": "b"},
            "status": "warning",
        }  # fmt: skip
        service = decode(announced(**fields)).service()
        for field in fields:
            other = decode(announced(**{**fields, field: {} if field == "kv" else "critical"}))
            assert not other.describes(service), field

    def test_the_largest_payload(self) -> None:
        largest = announced(h="x" * (MAX_PAYLOAD_BYTES - len(announced(h=""))))
        assert len(largest) == MAX_PAYLOAD_BYTES
        assert decode(largest).name == "orders"
        with pytest.raises(Malformed, match="65537 bytes"):
            decode(largest + b" ")


KEYS = st.sampled_from(
    ["net", "add", "url", "name", "v", "h", "kv", "t", "status", "id", "seq", "node"]
).flatmap(lambda key: st.sampled_from([key, key.upper(), key.title()]))


def nested(opening: bytes, depth: int, closing: bytes) -> bytes:
    return b'{"name":"a","later":' + opening * depth + closing * depth + b"}"


class TestMalformed:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b" ",
            b"null",
            b"true",
            b"1",
            b'"text"',
            b"[]",
            b"{",
            b"}",
            b"{}x",
            b'{"name":"a"} {"name":"a"}',
            b"{'name':'a'}",
            b'{"name":"a",}',
            b'\xef\xbb\xbf{"name":"a"}',
            b'{"name":"\xff"}',
            b'{"name":"\xed\xa0\x80"}',
            b'{"later":"\xff"}',
            b'{"name":"\\ud800"}',
            b'{"later":"\\udc00"}',
            b'{"name":"a\x00"}',
            b'{"name":1}',
            b'{"add":["a:1"]}',
            b'{"status":1}',
            b'{"status":{}}',
            b'{"kv":[]}',
            b'{"kv":"a"}',
            b'{"kv":{"a":1}}',
            b'{"kv":{"a":{}}}',
            b'{"t":1}',
            b'{"t":[]}',
            b'{"t":"now"}',
            b'{"t":{"Duration":60000.0}}',
            b'{"t":{"Duration":6e4}}',
            b'{"t":{"Duration":"60000"}}',
            b'{"t":{"Duration":true}}',
            b'{"t":{"Registered":1.0}}',
            b'{"t":{"duration":60000.0}}',
            b'{"t":{"DURATION":60000.0}}',
            b'{"t":{"Duration":NaN}}',
            b'{"t":{"Duration":9223372036854775808}}',
            b'{"t":{"Registered":-99223372036854775808}}',
            b'{"t":{"duration":1e999}}',
            b'{"t":{"Duration":' + b"9" * 4000 + b"}}",
            b'{"t":{"Duration":' + b"9" * 60_000 + b"}}",
            b'{"later":1,"t":{"Duration":' + b"9" * 4000 + b"}}",
            b'{"seq":1.0}',
            b'{"seq":"1"}',
            b'{"seq":9223372036854775808}',
            b'{"id":1}',
            b'{"node":[]}',
            nested(b"[", 30_000, b"]"),
            nested(b"[", 60_000, b""),
            nested(b'{"a":', 10_000, b""),
            b"[" * 60_000,
        ],
        ids=lambda payload: repr(payload[:40]),
    )
    def test_is_refused_with_a_reason(self, payload: bytes) -> None:
        with pytest.raises(Malformed) as caught:
            decode(payload)
        assert 0 < len(str(caught.value)) < 200  # it is going to be logged

    @given(st.binary(max_size=200))
    @settings(deadline=None, max_examples=300)
    def test_arbitrary_bytes(self, payload: bytes) -> None:
        try_to_decode(payload)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text() | KEYS, inner),
            max_leaves=10,
        )
    )
    @settings(deadline=None, max_examples=200)
    def test_arbitrary_json(self, value: object) -> None:
        try_to_decode(json.dumps(value).encode())

    @given(
        st.dictionaries(
            KEYS,
            st.none()
            | st.text(max_size=5)
            | st.integers()
            | st.floats()
            | st.dictionaries(
                st.sampled_from(["Registered", "registered", "Duration", "DURATION", "x"]),
                st.none() | st.integers() | st.floats() | st.text(max_size=3),
            ),
        )
    )
    @settings(deadline=None, max_examples=300)
    def test_almost_messages(self, fields: dict[str, Any]) -> None:
        try_to_decode(json.dumps(fields).encode())

    @given(st.sampled_from(ABOUT_INSTANCES), st.integers(0, 300), st.binary(max_size=3))
    @settings(deadline=None, max_examples=200)
    def test_damaged_messages(self, message: dict[str, str], at: int, damage: bytes) -> None:
        payload = message["payload"].encode()
        try_to_decode(payload[:at] + damage + payload[at + len(damage) :])
        try_to_decode(payload[:at])


def try_to_decode(payload: bytes) -> None:
    """Either a message, with all that one does with messages, or `Malformed`."""
    try:
        message = decode(payload)
    except Malformed:
        return
    service = message.service()
    assert message.describes(service)
    assert MIN_TTL <= message.ttl <= MAX_TTL
    assert isinstance(hash(service), int)
    assert all(type(value) is str for value in service.metadata.values())


def sent(
    service: Service, *, ttl: float = 10.0, seq: int = 1, now: float = 1.8e9
) -> dict[str, Any]:
    """Our announcement, as a peer's JSON reader sees it."""
    return json.loads(  # type: ignore[no-any-return]
        encode_announcement(service, ttl=ttl, registered=now, seq=seq, node="n0"),
        object_pairs_hook=without_repetition,
    )


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


class TestWhatWeSend:
    def test_all_fields(self) -> None:
        service = msgspec.structs.replace(FULL, status=Status.WARNING, id="i0")
        assert sent(service, seq=3) == {
            "net": "tcp",
            "add": "10.1.2.3:8080",
            "url": "http://10.1.2.3:8080/api?a=1&b=2",
            "name": "svc-full",
            "v": "1.2.3",
            "h": "node-7",
            "kv": {"alpha": "1", "empty": "", "role": "primary", "zone": "eu-1"},
            "t": {"Registered": 1_800_000_000_000, "Duration": 6667},
            "status": "warning",
            "id": "i0",
            "seq": 3,
            "node": "n0",
        }

    def test_empty_fields_and_passing_are_left_out(self) -> None:
        assert sent(Service("orders", "a:1")) == {
            "add": "a:1",
            "name": "orders",
            "t": {"Registered": 1_800_000_000_000, "Duration": 6667},
            "seq": 1,
            "node": "n0",
        }

    def test_registered_is_the_wall_clock_in_whole_milliseconds(self) -> None:
        times = sent(Service("orders", "a:1"), now=1_795_344_835.0219)["t"]
        assert times["Registered"] == 1_795_344_835_021
        assert type(times["Registered"]) is int

    @pytest.mark.parametrize(
        ("ttl", "duration"),
        [(30.0, 20_000), (10.0, 6667), (15, 10_000), (MIN_TTL, 133), (MAX_TTL, 57_600_000)],
    )
    def test_duration_is_two_thirds_of_the_ttl_in_whole_milliseconds(
        self, ttl: float, duration: int
    ) -> None:
        times = sent(Service("orders", "a:1"), ttl=ttl)["t"]
        assert times["Duration"] == duration
        assert type(times["Duration"]) is int

    def test_a_withdrawal_has_neither_times_nor_status(self) -> None:
        service = Service("orders", "a:1", status=Status.CRITICAL, id="i0")
        assert json.loads(encode_withdrawal(service, seq=4, node="n0")) == {
            "add": "a:1",
            "name": "orders",
            "id": "i0",
            "seq": 4,
            "node": "n0",
        }

    def test_the_go_peers_own_fields_come_back_as_it_wrote_them(self) -> None:
        for message in ABOUT_INSTANCES:
            fields = json.loads(message["payload"])
            again = sent(decode(message["payload"].encode()).service())
            assert {key: again[key] for key in again.keys() - {"t", "seq", "node"}} == {
                key: value for key, value in fields.items() if key != "t"
            }

    def test_a_rescue_ping_names_the_incarnation(self) -> None:
        assert json.loads(encode_ping("i0")) == {"id": "i0"}
        assert decode_ping(encode_ping("i0")) == "i0"

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"null",
            b"[]",
            b"ping",
            b"\xff",
            b'{"id":1}',
            b'{"id":"\\ud800"}',
            b'{"later":1}',
            b"[" * 60_000,
            b'{"id":"' + b"x" * MAX_PAYLOAD_BYTES + b'"}',
        ],
        ids=lambda payload: repr(payload[:20]),
    )
    def test_any_other_ping_asks_all(self, payload: bytes) -> None:
        assert decode_ping(payload) == ""

    @given(st.binary(max_size=100))
    @settings(deadline=None)
    def test_no_ping_raises(self, payload: bytes) -> None:
        decode_ping(payload)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
services = st.builds(
    Service,
    name=st.lists(
        st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8),
        min_size=1,
        max_size=3,
    ).map(".".join),
    address=st.sampled_from(["", "10.0.0.1:80", "[::1]:8080", "orders.example:443"]),
    network=st.sampled_from(["", "tcp", "udp", "tcp4"]),
    url=st.sampled_from(["", "http://10.0.0.1:80/a?b=<&>", "grpc://é.example:1"]),
    version=texts,
    host=texts,
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), texts).map(
        FrozenDict
    ),
    status=st.sampled_from(Status),
    id=st.text("0123456789abcdef", max_size=16),
)


class TestRoundTrip:
    @given(services, st.floats(MIN_TTL, MAX_TTL), st.floats(0, 4e9), st.integers(1, 2**63 - 1))
    @example(Service("a", metadata={"\x00": "\u2028"}), MIN_TTL, 0.0, 1)
    @settings(deadline=None, max_examples=200)
    def test_announcement(self, service: Service, ttl: float, now: float, seq: int) -> None:
        check_service(service)
        payload = encode_announcement(service, ttl=ttl, registered=now, seq=seq, node="n")
        message = decode(payload)
        assert message.service() == service
        assert message.describes(service)
        assert message.ttl == pytest.approx(ttl, abs=0.001)
        assert (message.id, message.seq, message.node) == (service.id, seq, "n")
        assert None not in json.loads(payload).values()

    @given(services, st.integers(1, 2**63 - 1))
    @settings(deadline=None)
    def test_withdrawal(self, service: Service, seq: int) -> None:
        message = decode(encode_withdrawal(service, seq=seq, node="n"))
        assert message.service().key == service.key
        assert (message.id, message.seq, message.node) == (service.id, seq, "n")
        assert message.times is None

    def test_equal_metadata_can_be_shared(self) -> None:
        shared = FrozenDict({"a": "b"})
        assert decode(announced(kv={"a": "b"})).service(shared).metadata is shared


def test_subjects() -> None:
    subjects = Subjects("acme.prod")
    assert subjects.register("billing.orders") == "acme.prod.register.billing.orders"
    assert subjects.unregister("orders") == "acme.prod.unregister.orders"
    assert subjects.ping("orders") == "acme.prod.ping.orders"
    assert subjects.ping_everybody == "acme.prod.ping._all"
    assert subjects.alive("n0") == "acme.prod.alive.n0"


@pytest.mark.parametrize("character", ["a", '"', "\\", "\n", "\x01", "é", "\u2028", "🚀"])
@pytest.mark.parametrize("field", ["host", "metadata", "entries"])
def test_what_counts_as_small_is_not_too_large_whatever_it_holds(
    field: str, character: str
) -> None:
    """At the edge, where one character more no longer does."""

    def service(length: int) -> Service:
        if field == "host":
            return Service("a", "b:1", host=character * length)
        pairs = {"": character * length}
        if field == "entries":
            pairs |= {str(number): "" for number in range(MAX_METADATA_ENTRIES)}
        return Service("a", "b:1", metadata=pairs)

    lengths = range(MAX_PAYLOAD_BYTES)
    longest = bisect.bisect(lengths, 0, key=lambda length: not is_small(service(length))) - 1
    payload = encode_announcement(
        service(longest), ttl=MAX_TTL, registered=1e12, seq=2**62, node="n" * 64
    )
    assert 1000 < longest < lengths[-1]
    assert len(payload) < MAX_PAYLOAD_BYTES
