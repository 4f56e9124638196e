"""Services and events as lines of text, or of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from aioregistry.service import EventType, Service, ServiceEvent

__all__ = ["event_json", "event_line", "place", "service_json", "table"]

_HEADINGS = ("NAME", "ADDRESS", "STATUS", "VERSION", "HOST", "METADATA")


def place(service: Service) -> str:
    """Where it is reached."""
    return _printable(service.address or service.url)


def table(services: Iterable[Service]) -> list[str]:
    """A line of headings, and one for each service, in columns."""
    rows = [_HEADINGS, *sorted(map(_row, services))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [_aligned(row, widths) for row in rows]


def event_line(event: ServiceEvent) -> str:
    """When, what, who, where, and what is different."""
    service, before = event.service, event.previous
    parts = [_now(), f"{event.type.value:<12}", _printable(service.name), place(service)]
    if event.type is EventType.REGISTERED:
        parts.append(service.status.value)
    elif event.type is EventType.UPDATED and before is not None:
        parts.extend(_differences(before, service))
    return "  ".join(parts)


def service_json(service: Service) -> str:
    """All of its fields."""
    return _json(service)


def event_json(event: ServiceEvent) -> str:
    """The event, with the time."""
    told = {
        "time": _now(),
        "type": event.type,
        "service": event.service,
        "previous": event.previous,
    }
    return _json(told)


def _row(service: Service) -> tuple[str, ...]:
    told = (service.name, place(service), service.status.value, service.version, service.host)
    return (*map(_printable, told), _pairs(service))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def _pairs(service: Service) -> str:
    return _printable(" ".join(f"{key}={value}" for key, value in sorted(service.metadata.items())))


def _differences(before: Service, now: Service) -> list[str]:
    told = ["restarted"] if now.id != before.id else []
    for field in ("status", "version", "host", "network", "url"):
        old, new = getattr(before, field), getattr(now, field)
        if old != new:
            told.append(f"{field} {_text(old)} -> {_text(new)}")
    if before.metadata != now.metadata:
        told.append(f"metadata {_pairs(before) or '-'} -> {_pairs(now) or '-'}")
    return told


def _text(value: object) -> str:
    return _printable(str(getattr(value, "value", value))) or "-"


# Without anything that a terminal might obey: the texts come from whoever may publish.


def _printable(text: str) -> str:
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _json(value: object) -> str:
    text = msgspec.json.encode(value).decode()
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
