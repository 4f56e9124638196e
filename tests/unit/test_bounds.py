"""Every limit on what others send, at its edge; and that the documentation names them all."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aioregistry import catalogue as catalogues
from aioregistry import limits, loglimit, observer, tombstones
from aioregistry.catalogue import Catalogue
from aioregistry.errors import InvalidService
from aioregistry.limits import (
    MAX_FIELD_BYTES,
    MAX_ID,
    MAX_INSTANCES_PER_NAME,
    MAX_METADATA_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_NAME_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PREFIX_BYTES,
    MAX_TTL,
    MIN_TTL,
    check_service,
)
from aioregistry.loglimit import MAX_LINES, PERIOD, LogLimiter
from aioregistry.service import EventType, Service
from aioregistry.settings import Settings
from aioregistry.sharing import Texts
from aioregistry.wire import Malformed, decode
from tests.templates import DOCUMENT


def payload(**fields: Any) -> bytes:
    return msgspec.json.encode(
        {"name": "a", "add": "b:1", "id": "i", "seq": 1, "t": {"Duration": 1000}} | fields
    )


def taken(**fields: Any) -> bool:
    """Whether a message gets into the catalogue; if not, it is counted."""
    catalogue = Catalogue()
    event = catalogue.announce(decode(payload(**fields)), 0.0)
    assert catalogue.refused == (event is None)
    assert len(catalogue) == (event is not None)
    return event is not None


# Sizes ------------------------------------------------------------------------------------


def test_payload() -> None:
    room = MAX_PAYLOAD_BYTES - len(payload(x=""))
    assert decode(payload(x="x" * room)).name == "a"
    with pytest.raises(Malformed, match="at most 65536"):
        decode(payload(x="x" * (room + 1)))


@pytest.mark.parametrize(
    ("largest", "beyond"),
    [
        ({"name": "n" * MAX_NAME_BYTES}, {"name": "n" * (MAX_NAME_BYTES + 1)}),
        ({"name": "é" * 127}, {"name": "é" * 128}),
        *(
            ({field: "x" * MAX_FIELD_BYTES}, {field: "x" * (MAX_FIELD_BYTES + 1)})
            for field in ("add", "net", "url", "v", "h")
        ),
        ({"id": "i" * MAX_ID}, {"id": "i" * (MAX_ID + 1)}),
        (
            {"kv": {str(each): "" for each in range(MAX_METADATA_ENTRIES)}},
            {"kv": {str(each): "" for each in range(MAX_METADATA_ENTRIES + 1)}},
        ),
        (
            {"kv": {"key": "x" * (MAX_METADATA_BYTES - 3)}},
            {"kv": {"key": "x" * (MAX_METADATA_BYTES - 2)}},
        ),
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_a_message_may_hold(largest: dict[str, Any], beyond: dict[str, Any]) -> None:
    assert taken(**largest)
    assert not taken(**beyond)


@pytest.mark.parametrize("field", ["add", "net", "url", "v", "h", "kv"])
def test_bytes_are_counted_and_not_characters(field: str) -> None:
    size = MAX_METADATA_BYTES if field == "kv" else MAX_FIELD_BYTES
    fits, beyond = "é" * (size // 2), "é" * (size // 2) + "x"
    if field == "kv":
        assert taken(kv={"": fits})
        assert not taken(kv={"": beyond})
    else:
        assert taken(**{field: fits})
        assert not taken(**{field: beyond})


def test_what_we_may_announce_is_what_others_take() -> None:
    metadata = {"k": "é" * (MAX_METADATA_BYTES // 2 - 1)}
    largest = Service("n" * MAX_NAME_BYTES, "h:1", version="é" * (MAX_FIELD_BYTES // 2))
    check_service(msgspec.structs.replace(largest, metadata=metadata))
    assert taken(name=largest.name, v=largest.version, kv=metadata)
    with pytest.raises(InvalidService):
        check_service(Service("a", "h:1", version="é" * (MAX_FIELD_BYTES // 2) + "x"))


def test_prefix() -> None:
    assert Settings(prefix="p" * MAX_PREFIX_BYTES).prefix
    with pytest.raises(ValueError, match="at most 128 bytes"):
        Settings(prefix="p" * (MAX_PREFIX_BYTES + 1))


@pytest.mark.parametrize(
    ("duration", "ttl"),
    [
        (0, MIN_TTL),
        (133, MIN_TTL),
        (134, 0.201),
        (57_600_000, MAX_TTL),
        (57_600_001, MAX_TTL),
        (2**62, MAX_TTL),
    ],
)
def test_ttl(duration: int, ttl: float) -> None:
    catalogue = Catalogue()
    catalogue.announce(decode(payload(t={"Duration": duration})), 0.0)
    assert _lifetime(catalogue) == pytest.approx(ttl)


def _lifetime(catalogue: Catalogue) -> float:
    while True:
        due = catalogue.next_deadline()
        assert due is not None
        if catalogue.expire(due):
            return due


# Numbers ----------------------------------------------------------------------------------


def announce(catalogue: Catalogue, **fields: Any) -> EventType | None:
    event = catalogue.announce(decode(payload(**fields)), 0.0)
    return None if event is None else event.type


@pytest.mark.parametrize("fields", [{}, {"name": "other"}])
def test_instances_in_all(fields: dict[str, str]) -> None:
    catalogue = Catalogue(max_instances=2)
    for address in ("h:1", "h:2"):
        assert announce(catalogue, add=address, id=address) is EventType.REGISTERED
    assert announce(catalogue, add="h:3", **fields) is None
    assert catalogue.refused == 1
    assert (
        announce(catalogue, add="h:2", id="h:2", v="2", seq=2) is EventType.UPDATED
    )  # it has its place
    assert announce(catalogue, add="h:1", id="restarted") is EventType.UPDATED
    catalogue.withdraw(decode(payload(add="h:1", id="")), 0.0)
    assert announce(catalogue, add="h:3", **fields) is EventType.REGISTERED


def test_instances_of_one_name() -> None:
    catalogue = Catalogue()
    for number in range(MAX_INSTANCES_PER_NAME):
        announce(catalogue, add=f"h:{number}", id=f"i{number}")
    assert len(catalogue) == MAX_INSTANCES_PER_NAME
    assert announce(catalogue, add="beyond:1") is None
    assert catalogue.refused == 1
    assert announce(catalogue, add="h:7", id="i7", v="2", seq=2) is EventType.UPDATED
    assert announce(catalogue, name="other") is EventType.REGISTERED
    assert len(catalogue.services("a")) == MAX_INSTANCES_PER_NAME


def test_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tombstones, "MAX_TOMBSTONES", 3)
    catalogue = Catalogue()
    for number in range(5):
        catalogue.withdraw(decode(payload(id=f"i{number}")), 0.0)
    assert catalogue.tombstones == 3
    assert announce(catalogue, id="i4") is None
    assert announce(catalogue, id="i1") is EventType.REGISTERED  # forgotten: the oldest two


def test_predicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogues, "MAX_PREDICATES", 3)
    catalogue = Catalogue()
    announce(catalogue)
    predicates: list[Callable[[Service], bool]] = [lambda _: True for _ in range(4)]
    kept = [catalogue.select("a", predicate) for predicate in predicates]
    assert catalogue.select("a", predicates[3]) is kept[3]
    assert catalogue.select("a", predicates[0]) is not kept[0]
    assert len(catalogue.select("a", predicates[0]).services) == 1


def test_what_is_shared() -> None:
    texts = Texts(3, 4)
    first = str(b"ab", "ascii")
    assert texts[first] is first
    assert texts[str(b"ab", "ascii")] is first
    for number in range(10):
        assert texts[str(number)] == str(number)
        assert len(texts) <= 3
    assert texts["abcde"] == "abcde"
    assert "abcde" not in texts


def test_what_is_large_is_not_kept_for_those_to_come() -> None:
    catalogue: Any = Catalogue()  # a look inside
    for number in range(200):
        announce(catalogue, add=f"h:{number}", id="", v="x" * 1000, kv={"k": f"{number:01100}"})
    assert len(catalogue) == 200
    assert len(catalogue._shared._metadata) == 0
    assert all(len(text) <= 128 for text in catalogue._shared.texts)


# Log lines --------------------------------------------------------------------------------


def test_log_lines_and_sources(caplog: pytest.LogCaptureFixture) -> None:
    limiter: Any = LogLimiter(logging.getLogger("aioregistry"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            limiter.warning("same", 0.0, "%s is bad", "same")
        assert len(caplog.records) == 1
        for number in range(10 * MAX_LINES):
            limiter.warning(f"source {number}", 1.0, "%s is bad", number)
        assert len(caplog.records) == MAX_LINES
        assert len(limiter._seen) == MAX_LINES
        limiter.warning("same", PERIOD - 0.1, "still the same minute")
        assert len(caplog.records) == MAX_LINES
        limiter.warning("same", PERIOD, "the next minute")
        assert [record.getMessage() for record in caplog.records[MAX_LINES:]] == [
            f"{2 + 10 * MAX_LINES - (MAX_LINES - 1) + 1} similar warnings were left out",
            "the next minute",
        ]
        assert len(limiter._seen) == 1


# The documentation ------------------------------------------------------------------------


def test_every_limit_is_documented_as_it_is() -> None:
    table = DOCUMENT.read_text("utf-8").partition("## Limits")[2].partition("\n## ")[0]
    numbers = {int(each.replace(",", "")) for each in re.findall(r"\b\d[\d,]*\b", table)}
    for module in (limits, catalogues, loglimit, observer, tombstones):
        for name, value in vars(module).items():
            if name.startswith("MAX_") and isinstance(value, int):
                assert f"`{name}`" in table, name
                assert value in numbers or value // 1024 in numbers, name
    assert int(MAX_TTL) == 24 * 3600
    assert "0.2 s to 1 day" in table
    assert MIN_TTL == 0.2
    assert f"for {tombstones.TOMBSTONE_TTL:.0f} s" in table
    assert Settings().max_instances in numbers
