"""What the `register` of an integration refuses where it is written, not in the log later."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from aioregistry import InvalidService, Service, Status
from aioregistry.integrations import aiohttp_server, fastapi, starlette
from aioregistry.integrations._presence import offered

Register = Callable[..., Any]

every_register = pytest.mark.parametrize(
    "register",
    [starlette.register, fastapi.register, aiohttp_server.register],
    ids=["starlette", "fastapi", "aiohttp"],
)


def hook() -> bool:
    return True


def shown(value: object) -> str:
    return re.sub(" at 0x.*", "", repr(value))[:40]


@every_register
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"service": "a b"}, "service name 'a b' must be tokens"),
        ({"service": ""}, "service name is empty"),
        ({"service": 5}, "service name must be a string, not 5"),
        ({"service": Service("a b")}, "service name 'a b' must be tokens"),
        ({"address": 8080}, "address of 'orders' must be a string, not 8080"),
        ({"address": "h" * 2048 + ":0"}, "is longer than 2048 bytes"),
        ({"metadata": {"a": 1}}, "must map strings to strings, not 'a': 1"),
        ({"metadata": [("a", "b")]}, "must be a mapping"),
        ({"version": 1}, "version of 'orders' must be a string, not 1"),
        ({"host": 4}, "host of 'orders' must be a string, not 4"),
        ({"network": 5}, "network of 'orders' must be a string, not 5"),
        ({"network": "t p"}, "network of 'orders' must be a word such as 'tcp'"),
        ({"url": "orders"}, "url of 'orders' must be absolute"),
        ({"url": "{address}/api"}, "url of 'orders' must be absolute"),
        ({"url": "{address}/api", "address": "h:0"}, "url of 'orders' must be absolute"),
        ({"status": "ill"}, "status must be one of 'passing', 'warning', 'critical', not 'ill'"),
        ({"status": ""}, "status must be one of"),
    ],
    ids=shown,
)
def test_a_value_that_makes_no_sense_is_refused_at_once(
    register: Register, given: dict[str, Any], text: str
) -> None:
    arguments: dict[str, Any] = {"service": "orders", **given}
    with pytest.raises(InvalidService, match=text):
        register(None, **arguments)


@every_register
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"health": hook}, r"health must be a HealthCheck, .*health=HealthCheck\(check\)"),
        ({"health": True}, "health must be a HealthCheck, not True"),
        ({"ready": 5}, "ready must be an async function without arguments, not 5"),
    ],
    ids=shown,
)
def test_hooks_of_the_wrong_kind_are_refused_at_once(
    register: Register, given: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        register(None, "orders", **given)


@every_register
@pytest.mark.parametrize("drain", [-1, float("inf"), float("nan"), "2"])
def test_a_drain_that_is_no_time_is_refused_at_once(register: Register, drain: Any) -> None:
    with pytest.raises(ValueError, match=f"drain must be a number of seconds, or 0, not {drain!r}"):
        register(None, "orders", drain=drain)


def test_what_is_not_known_yet_may_be_left_open() -> None:
    for service in (
        Service("orders"),
        Service("orders", "orders-1.internal:0"),
        Service("orders", url="https://{address}/api"),
        Service("orders", "[::1]:0", url="http://{address}/"),
        Service("orders", "/run/orders.sock", network="unix"),
    ):
        assert offered(service, "", status=None) == service


def test_a_status_may_be_given_as_text() -> None:
    given: Any = "critical"
    assert offered("orders", "10.0.0.5:80", status=given).status is Status.CRITICAL
    ill = Service("orders", status=Status.WARNING)
    assert offered(ill, "", status=None).status is Status.WARNING
