"""What the command line prints of services and events."""

from __future__ import annotations

import json

import msgspec

from aioregistry import EventType, Service, ServiceEvent, Status
from aioregistry.cli.lines import event_json, event_line, service_json, table

ORDERS = Service(
    "orders",
    "10.0.0.5:8080",
    version="1.4",
    host="a",
    metadata={"zone": "eu", "tier": "gold"},
    id="1",
)
BILLING = Service("billing.invoices", url="https://billing/", status=Status.CRITICAL)


def without_time(line: str) -> str:
    return line.partition("  ")[2]


def changed(**changes: object) -> str:
    now = msgspec.structs.replace(ORDERS, **changes)
    return without_time(event_line(ServiceEvent(EventType.UPDATED, now, ORDERS)))


def test_a_table_is_sorted_and_aligned() -> None:
    assert table([ORDERS, BILLING]) == [
        "NAME              ADDRESS           STATUS    VERSION  HOST  METADATA",
        "billing.invoices  https://billing/  critical",
        "orders            10.0.0.5:8080     passing   1.4      a     tier=gold zone=eu",
    ]
    assert table([]) == ["NAME  ADDRESS  STATUS  VERSION  HOST  METADATA"]


def test_an_event_tells_what_is_different() -> None:
    known = without_time(event_line(ServiceEvent(EventType.REGISTERED, ORDERS)))
    assert known == "registered    orders  10.0.0.5:8080  passing"
    gone = without_time(event_line(ServiceEvent(EventType.EXPIRED, ORDERS, ORDERS)))
    assert gone == "expired       orders  10.0.0.5:8080"
    updated = "updated       orders  10.0.0.5:8080  "
    assert changed(status=Status.WARNING) == f"{updated}status passing -> warning"
    assert changed(id="2", version="") == f"{updated}restarted  version 1.4 -> -"
    assert changed(metadata={}) == f"{updated}metadata tier=gold zone=eu -> -"


def test_nothing_reaches_the_terminal_that_it_might_obey() -> None:
    hostile = Service(
        "a\u2028b", "c\x1b[2J:1", version="\u202e", host="\x9b", metadata={"\n": "\r"}
    )
    event = ServiceEvent(EventType.UPDATED, hostile, Service("a", "b"))
    for line in (*table([hostile]), event_line(event), service_json(hostile), event_json(event)):
        assert line.isprintable(), line


def test_json_has_every_field() -> None:
    told = json.loads(service_json(ORDERS))
    assert told == {
        "name": "orders",
        "address": "10.0.0.5:8080",
        "network": "",
        "url": "",
        "version": "1.4",
        "host": "a",
        "metadata": {"zone": "eu", "tier": "gold"},
        "status": "passing",
        "id": "1",
    }
    event = json.loads(event_json(ServiceEvent(EventType.REGISTERED, ORDERS)))
    assert event.keys() == {"time", "type", "service", "previous"}
    assert (event["type"], event["service"], event["previous"]) == ("registered", told, None)
