"""The values that the registry hands out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioregistry.service import (
    EventType,
    FrozenDict,
    Service,
    ServiceEvent,
    Status,
    freeze,
    split_address,
)


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("10.0.0.5:8080", ("10.0.0.5", 8080)),
            ("localhost:80", ("localhost", 80)),
            ("[::1]:8080", ("::1", 8080)),
            ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
            ("localhost", ("localhost", None)),
            ("[::1]", ("::1", None)),
            ("::1", ("::1", None)),
            ("2001:db8::1", ("2001:db8::1", None)),
            ("localhost:", ("localhost", None)),
            ("localhost:http", ("localhost", None)),
            ("localhost:８０", ("localhost", None)),
            (":8080", ("", 8080)),
            ("", ("", None)),
            (":", ("", None)),
            ("/run/orders.sock", ("/run/orders.sock", None)),
            ("localhost:" + "9" * 5000, ("localhost", None)),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_split(self, address: str, expected: tuple[str, int | None]) -> None:
        assert split_address(address) == expected

    @given(st.text() | st.text("[]:%.1a", max_size=10))
    @settings(deadline=None, max_examples=300)
    def test_split_never_raises(self, address: str) -> None:
        host, port = split_address(address)
        assert port is None or port >= 0
        assert len(host) <= len(address)

    @pytest.mark.parametrize(
        ("service", "expected"),
        [
            (Service("a", "h:1", url="http://other:2"), ("h", 1)),
            (Service("a", url="http://h:8080/api"), ("h", 8080)),
            (Service("a", url="http://h/api"), ("h", 80)),
            (Service("a", url="https://[::1]/"), ("::1", 443)),
            (Service("a", url="custom://h/"), ("h", None)),
            (Service("a", url="unix:///run/a.sock"), ("", None)),
            (Service("a", url="http://h:nonsense/"), ("", None)),
            (Service("a", url="http://[::1/"), ("", None)),
            (Service("a"), ("", None)),
        ],
    )
    def test_hostname_port(self, service: Service, expected: tuple[str, int | None]) -> None:
        assert service.hostname_port == expected
        assert service.port == expected[1]

    @given(st.text(), st.text())
    @settings(deadline=None)
    def test_hostname_port_never_raises(self, address: str, url: str) -> None:
        host, _ = Service("a", address, url=url).hostname_port
        assert isinstance(host, str)


class TestService:
    def test_the_key_is_the_name_and_the_address_or_else_the_url(self) -> None:
        assert Service("a", "h:1", url="http://h:1/x").key == ("a", "h:1")
        assert Service("a", url="http://h:1/x").key == ("a", "http://h:1/x")
        assert Service("a").key == ("a", "")

    def test_is_immutable(self) -> None:
        with pytest.raises(AttributeError):
            Service("a").status = Status.CRITICAL  # type: ignore[misc]  # the point of the test

    def test_equality_is_by_every_field(self) -> None:
        service = Service("a", "h:1", "tcp", "u", "1", "h", {"z": "1"}, Status.WARNING, "i")
        assert service == msgspec.structs.replace(service)
        changes: dict[str, Any] = {
            "name": "x", "address": "x", "network": "x", "url": "x", "version": "x", "host": "x",
            "metadata": {}, "status": Status.PASSING, "id": "x",
        }  # fmt: skip
        for field, value in changes.items():
            assert service != msgspec.structs.replace(service, **{field: value}), field

    def test_is_hashable_with_any_metadata(self) -> None:
        plain = Service("a", "h:1", metadata={"z": "1"})
        frozen = Service("a", "h:1", metadata=FrozenDict({"z": "1"}))
        assert plain == frozen
        assert hash(plain) == hash(frozen)

    def test_can_be_copied_and_pickled(self) -> None:
        service = Service("a", "h:1", metadata=FrozenDict({"z": "1"}), status=Status.WARNING)
        event = ServiceEvent(EventType.UPDATED, service, service)
        assert pickle.loads(pickle.dumps(event)) == event
        again = copy.deepcopy(service)
        assert again == service
        assert type(again.metadata) is FrozenDict


class TestFrozenDict:
    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("__setitem__", ("a", "2")),
            ("__delitem__", ("a",)),
            ("clear", ()),
            ("pop", ("a",)),
            ("popitem", ()),
            ("setdefault", ("b", "2")),
            ("update", ({"a": "2"},)),
            ("__ior__", ({"a": "2"},)),
        ],
    )
    def test_refuses_changes(self, method: str, arguments: tuple[object, ...]) -> None:
        frozen = FrozenDict({"a": "1"})
        with pytest.raises(TypeError, match=r"copy it with dict\(\.\.\.\)"):
            getattr(frozen, method)(*arguments)
        assert frozen == {"a": "1"}

    def test_hash_ignores_the_order(self) -> None:
        first, second = FrozenDict({"a": "1", "b": "2"}), FrozenDict({"b": "2", "a": "1"})
        assert first == second
        assert hash(first) == hash(second)

    def test_freeze_copies(self) -> None:
        plain = {"a": "1"}
        frozen = freeze(plain)
        plain["a"] = "2"
        assert frozen == {"a": "1"}
