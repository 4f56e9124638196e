"""The options, each with what it does not take."""

from __future__ import annotations

import random
import re
from decimal import Decimal
from typing import Any

import pytest

from aioregistry.choosing import RoundRobin, local, passing
from aioregistry.limits import MAX_TTL, MIN_TTL, check_duration
from aioregistry.registry import Registry
from aioregistry.service import Service
from aioregistry.settings import Settings


async def soon(_service: Service) -> bool:
    return False


class Slow:
    """A balancer that would have to be awaited."""

    async def choose(self, services: tuple[Service, ...], _scope: object) -> Service:
        return services[0]


NO_DURATION: list[Any] = [
    0,
    0.0,
    -1,
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
    True,
    "10",
    b"10",
    [],
    1j,
    Decimal(10),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("ttl", value) for value in [*NO_DURATION, None, 0.19, MAX_TTL + 1]],
        *[("heartbeat_interval", value) for value in [*NO_DURATION, 5.1, 10.0]],
        *[("lookup_timeout", value) for value in [*NO_DURATION, None]],
        *[("connect_timeout", value) for value in NO_DURATION],
        *[("prefix", value) for value in ["", "a b", "a.", "a.*", ">", "_all", "x" * 256, 5, None]],
        *[("max_instances", value) for value in [0, -1, 1.0, True, "1", None]],
        *[("where", value) for value in ["passing", 5, None, soon, local]],
        *[("accept", value) for value in ["passing", 5, soon, local]],
        *[("balancer", value) for value in ["random", passing, RoundRobin, Slow()]],
        *[("wall_clock", value) for value in [5, 1e9, None, soon]],
        *[("rng", value) for value in [5, "7", random, random.Random]],
        *[("hostname", value) for value in [5, b"h", "a\nb", "a\ud800", "x" * 2049]],
    ],
    ids=lambda value: re.sub(" at 0x.*", "", repr(value))[:30],
)
def test_what_is_wrong_is_named(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"{name}\b") as caught:
        Settings(**options)
    shown = value[:40] if isinstance(value, str) else repr(value)[:40]
    if shown.isprintable() and shown:
        assert shown in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(str(caught.value)[:40])):
        Registry("memory://", **options)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"where": "passing"}, "write one such as passing, or all_of() for everything"),
        ({"where": soon}, "everything would match; write a plain function"),
        ({"accept": local}, "write local(...)"),
        ({"balancer": RoundRobin}, "is a class; write RoundRobin(...)"),
        ({"wall_clock": 1e9}, "such as time.time"),
        ({"rng": 7}, "such as random.Random(7)"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_what_to_write_instead_is_said(options: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=re.escape(remedy)):
        Registry("memory://", **options)


def test_defaults() -> None:
    settings = Settings()
    assert settings.prefix == "registry"
    assert settings.ttl == 10.0
    assert settings.interval == pytest.approx(10 / 3)


@pytest.mark.parametrize(
    "options",
    [
        {"ttl": MIN_TTL},
        {"ttl": MAX_TTL},
        {"ttl": 10},
        {"heartbeat_interval": 5.0},
        {"heartbeat_interval": 0.001},
        {"prefix": "acme.prod"},
        {"connect_timeout": None},
        {"connect_timeout": 1},
        {"max_instances": 1},
        {"where": passing, "accept": passing},
        {"hostname": ""},
        {"hostname": "node-7.example"},
        {"rng": random.Random(1)},
    ],
    ids=",".join,
)
def test_what_is_fine(options: dict[str, Any]) -> None:
    settings = Settings(**options)
    for name, value in options.items():
        assert getattr(settings, name) == value


def test_a_third_of_the_ttl_unless_set() -> None:
    assert Settings(ttl=3).interval == 1
    assert Settings(ttl=3, heartbeat_interval=0.5).interval == 0.5


def test_the_host_is_this_machine_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    assert Settings().host == "node-7"
    assert Settings(hostname="").host == ""
    assert Settings(hostname="node-8").host == "node-8"


def test_each_registry_has_a_balancer_of_its_own() -> None:
    assert Settings().balancer is not Settings().balancer


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Settings().ttl = 5.0  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("value", [1, 0.001, 1e9])
def test_durations(value: float) -> None:
    check_duration("delay", value)


@pytest.mark.parametrize("value", NO_DURATION, ids=lambda value: repr(value)[:30])
def test_no_durations(value: object) -> None:
    with pytest.raises(ValueError, match=r"delay must be a positive number of seconds, not "):
        check_duration("delay", value)
