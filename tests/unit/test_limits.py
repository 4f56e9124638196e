"""What can be announced, what is taken in, and what the errors say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioregistry import limits
from aioregistry.catalogue import Catalogue
from aioregistry.errors import InvalidService
from aioregistry.limits import (
    EVERYBODY,
    MAX_FIELD_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_NAME_BYTES,
    check_name,
    check_pattern,
    check_service,
    is_name,
)
from aioregistry.service import Service
from aioregistry.subjects import matches
from aioregistry.wire import Announcement, decode, encode_announcement

GOOD_NAMES = [
    "orders",
    "billing.orders",
    "a.b.c.d",
    "Orders-2_x",
    "café-服务-🚀",
    "[ab]?\\^{}",
    "$SYS",
    "_all.orders",
    "_ALL",
    "x" * MAX_NAME_BYTES,
    "é" * 127 + "x",
    ".".join(["x"] * 128),
]

BAD_NAMES = [
    "",
    ".",
    ".a",
    "a.",
    "a..b",
    "a b",
    " a",
    "a\t",
    "a\n",
    "a\r\nPUB x",
    "a\x00",
    "a\x7f",
    "a\x85",
    "a\u00a0b",
    "a\u2028b",
    "a\u200bb",
    "\ufeffa",
    "a\u202eb",
    "a\ud800",
    "*",
    ">",
    "a.*",
    "a.>",
    "a*",
    "a>b",
    EVERYBODY,
    "x" * (MAX_NAME_BYTES + 1),
    "é" * 128,
]


class TestNames:
    @pytest.mark.parametrize("name", GOOD_NAMES, ids=ascii)
    def test_good(self, name: str) -> None:
        assert is_name(name)
        check_name(name)
        check_pattern(name)

    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_bad(self, name: str) -> None:
        assert not is_name(name)
        with pytest.raises(InvalidService):
            check_name(name)

    @pytest.mark.parametrize("name", [None, 5, b"orders", ["orders"]])
    def test_not_even_a_string(self, name: Any) -> None:
        with pytest.raises(InvalidService, match="must be a string, not"):
            check_name(name)
        with pytest.raises(InvalidService, match="must be a string, not"):
            check_pattern(name)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "service name is empty"),
            ("my service", r"service name 'my service' must be tokens joined by single dots"),
            ("a.*", r"service name 'a\.\*' must be .* such as 'orders'"),
            ("a\nb", r"service name 'a\\nb' must be"),
            ("_all", "service name '_all' is reserved; choose another"),
            ("x" * 256, r"service name 'x+\.\.\.' has 256 bytes; at most 255 are allowed"),
            ("é" * 128, "has 256 bytes; at most 255 are allowed"),
            ("a\ud800", r"service name 'a\\ud800' holds a lone surrogate"),
        ],
    )
    def test_the_error_names_the_value_and_the_remedy(self, name: str, text: str) -> None:
        with pytest.raises(InvalidService, match=text) as caught:
            check_name(name)
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()

    @given(st.text(max_size=20) | st.text("a.*> \n_é", max_size=8))
    @settings(deadline=None, max_examples=300)
    def test_a_name_is_safe_in_a_subject(self, name: str) -> None:
        if not is_name(name):
            with pytest.raises(InvalidService):
                check_name(name)
            return
        assert name.isprintable() or not name.isascii()
        assert not set(name) & set("*> \t\r\n\0")
        assert all(name.split("."))
        assert matches(f"registry.register.{name}", f"registry.register.{name}")


ODD = st.text("a1.:-[]/ \n\x00\x7fé\u2028\ud800", max_size=7)
ANYTHING = ODD | st.sampled_from([None, 5, b"a", ["a"]])
ADDRESSES = st.sampled_from(
    ["a:1", "a:0", "a:01", "a:59999", "a:60000", "a:65535", "a:65536", "a-b.c:80", ":80", "é:80"]
)


def take_the_long_look(_: Service) -> bool:
    return False


class TestTheQuickLook:
    @given(
        name=st.sampled_from(["orders", "a.b"]) | ANYTHING,
        address=ADDRESSES | ANYTHING,
        texts=st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("network", "url", "version", "host"), ANYTHING)
        ),
        metadata=st.dictionaries(ODD, ODD) | st.dictionaries(ODD, ANYTHING) | ANYTHING,
        length=st.sampled_from([0, 0, 100, MAX_FIELD_BYTES, MAX_METADATA_BYTES]),
    )
    @settings(max_examples=1000)
    def test_passes_nothing_that_the_long_one_would_not(
        self, name: Any, address: Any, texts: dict[str, Any], metadata: Any, length: int
    ) -> None:
        service = Service(name, address, metadata=metadata, **texts)
        if isinstance(service.metadata, dict):
            metadata["long"] = "é" * length
        quick = self.verdict(service)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "_is_plain", take_the_long_look)
            assert self.verdict(service) == quick

    def verdict(self, service: Service) -> str:
        try:
            check_service(service)
        except InvalidService as error:
            return str(error)
        return ""


class TestPatterns:
    @pytest.mark.parametrize(
        "pattern",
        ["*", ">", "a.*", "*.a", "a.>", "a.*.b.>", "*.*", "é.>", "a.b", f"{'x' * 253}.>"],
    )
    def test_good(self, pattern: str) -> None:
        check_pattern(pattern)

    @pytest.mark.parametrize(
        "pattern",
        [
            "",
            ".",
            "a.",
            "a..*",
            "a*",
            "*a",
            "**",
            ">.a",
            "a.>.b",
            "a>",
            ">>",
            "a b",
            "a\n",
            "*\n",
            "a\ud800.*",
            f"{'x' * 254}.>",
        ],
        ids=ascii,
    )
    def test_bad(self, pattern: str) -> None:
        with pytest.raises(InvalidService, match="pattern"):
            check_pattern(pattern)

    def test_the_error_names_the_value_and_the_remedy(self) -> None:
        with pytest.raises(InvalidService, match=r"pattern 'a\*' must be .*such as 'billing\.\*'"):
            check_pattern("a*")


def accept(**fields: Any) -> None:
    """Check a service that is sound but for some fields."""
    check_service(msgspec.structs.replace(Service("orders", "a:1"), **fields))


def refusal(**fields: Any) -> str:
    """Why such a service is not announced."""
    with pytest.raises(InvalidService) as caught:
        accept(**fields)
    return str(caught.value)


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        [
            "",
            "10.0.0.5:8080",
            "localhost:1",
            "orders.example.com:65535",
            "my_host-1:80",
            "bücher.example:80",
            "[::1]:8080",
            "[2001:db8::1]:80",
            "[fe80::1%eth0]:80",
            "[::ffff:10.0.0.1]:80",
        ],
    )
    def test_good(self, address: str) -> None:
        accept(address=address)

    @pytest.mark.parametrize(
        "address",
        [
            "8080",
            ":8080",
            "localhost",
            "localhost:",
            "localhost:http",
            "localhost:-1",
            "localhost:+1",
            "localhost:1_0",
            "localhost:８０",
            "localhost:²",
            "::1",
            "::1:8080",
            "[::1]",
            "[::1]:",
            "[]:80",
            "[x]:80",
            "[::1:80",
            "http://localhost:80",
            "user@localhost:80",
            "localhost:80/path",
            "local host:80",
            " localhost:80",
            "localhost:80 ",
            "a:1,b:2",
            "localhost:9999999999",
        ],
    )
    def test_bad(self, address: str) -> None:
        assert "address of 'orders' must be 'host:port'" in refusal(address=address)
        assert ascii(address) in refusal(address=address)

    @pytest.mark.parametrize("port", ["0", "65536", "999999999"])
    def test_bad_ports(self, port: str) -> None:
        assert "1 to 65535" in refusal(address=f"localhost:{port}")

    @pytest.mark.parametrize("network", ["unix", "unixgram"])
    def test_unix_sockets_are_paths(self, network: str) -> None:
        accept(address="/run/orders.sock", network=network)

    def test_a_path_without_a_network_is_no_address(self) -> None:
        assert "host:port" in refusal(address="/run/orders.sock")


class TestOtherFields:
    @pytest.mark.parametrize("network", ["", "tcp", "udp", "tcp6", "x" * 32])
    def test_good_networks(self, network: str) -> None:
        accept(network=network)

    @pytest.mark.parametrize("network", ["6tcp", "t cp", "tcp/ip", "x" * 33])
    def test_bad_networks(self, network: str) -> None:
        assert f"must be a word such as 'tcp', not {network!r}" in refusal(network=network)

    @pytest.mark.parametrize(
        "url",
        [
            "http://10.0.0.5:8080/api?a=1&b=2#c",
            "https://[::1]:80/",
            "unix:///run/orders.sock",
            "unix:/run/orders.sock",
            "redis+sentinel://a",
            "http://bücher.example/é",
        ],
    )
    def test_good_urls(self, url: str) -> None:
        accept(url=url)
        accept(url=url, address="")

    @pytest.mark.parametrize(
        "url",
        [
            "orders",
            "/api",
            "//host/api",
            "10.0.0.5:8080",
            "localhost:8080",
            "http:",
            "http://",
            "http://a:0/",
            "http://a:65536/",
            "http://a:b/",
            "http://[::1/",
            "http://a/b c",
            " http://a",
        ],
    )
    def test_bad_urls(self, url: str) -> None:
        message = refusal(url=url)
        assert "url of 'orders' must be absolute, such as 'http://" in message
        assert ascii(url) in message

    @pytest.mark.parametrize("field", ["address", "network", "url", "version", "host"])
    @pytest.mark.parametrize("value", ["a\nb", "a\x00", "a\x7f", "a\ud800"], ids=ascii)
    def test_control_characters(self, field: str, value: str) -> None:
        assert refusal(**{field: value}) == (
            f"{field} of 'orders' holds a control character: {value!a}"
        )

    @pytest.mark.parametrize("field", ["version", "host"])
    def test_the_longest_texts(self, field: str) -> None:
        accept(**{field: "x" * MAX_FIELD_BYTES})
        accept(**{field: "é" * (MAX_FIELD_BYTES // 2)})
        assert "longer than 2048 bytes" in refusal(**{field: "x" * (MAX_FIELD_BYTES + 1)})
        assert "longer than 2048 bytes" in refusal(**{field: "é" * (MAX_FIELD_BYTES // 2) + "x"})

    @pytest.mark.parametrize("field", ["address", "network", "url", "version", "host"])
    @pytest.mark.parametrize("value", [None, 5, b"x"])
    def test_not_even_a_string(self, field: str, value: Any) -> None:
        assert f"{field} of 'orders' must be a string, not {value!r}" in refusal(**{field: value})

    @pytest.mark.parametrize("value", ["critical", None, 1, []])
    def test_no_status(self, value: Any) -> None:
        assert refusal(status=value) == (
            f"status of 'orders' must be a Status such as Status.PASSING, not {value!r}"
        )

    def test_the_name_counts_too(self) -> None:
        assert "'my orders'" in refusal(name="my orders")


class TestMetadata:
    def test_any_strings(self) -> None:
        accept(metadata={"": "", "é\n\x00": "🚀"})

    def test_how_many(self) -> None:
        pairs = {f"key-{number}": "" for number in range(MAX_METADATA_ENTRIES)}
        accept(metadata=pairs)
        message = refusal(metadata=pairs | {"more": ""})
        assert "has 129 entries; at most 128 are allowed" in message

    def test_how_large(self) -> None:
        accept(metadata={"a": "x" * (MAX_METADATA_BYTES - 1)})
        accept(metadata={"é": "é" * (MAX_METADATA_BYTES // 2 - 1)})
        message = refusal(metadata={"a": "x" * MAX_METADATA_BYTES})
        assert "has 32769 bytes; at most 32768 are allowed" in message
        assert "bytes" in refusal(metadata={"a": "é" * (MAX_METADATA_BYTES // 2)})

    @pytest.mark.parametrize("pair", [("weight", 5), (5, "weight"), ("zone", None), ("a", b"b")])
    def test_only_strings(self, pair: tuple[Any, Any]) -> None:
        message = refusal(metadata=dict([pair]))
        assert f"must map strings to strings, not {pair[0]!r}: {pair[1]!r}" in message
        assert "write str(...) around the value" in message

    def test_lone_surrogates(self) -> None:
        assert "lone surrogate at 'zone'" in refusal(metadata={"zone": "\udc00"})
        assert r"lone surrogate at '\ud800'" in refusal(metadata={"\ud800": ""})


class TestIdentity:
    def test_the_key_cannot_change(self) -> None:
        service = Service("orders", "a:1", url="http://a:1/")
        check_service(service, key=("orders", "a:1"))
        with pytest.raises(InvalidService, match=r"known by 'b:2'.*cannot change to 'a:1'.*unreg"):
            check_service(service, key=("orders", "b:2"))


def _announced(service: Service) -> Announcement:
    return decode(encode_announcement(service, ttl=10, registered=0, seq=1, node=""))


class TestFromTheWire:
    """Whoever announced it meant it: only what could do harm is kept out."""

    @pytest.mark.parametrize(
        "service",
        [
            Service("orders"),
            Service("orders", "anything goes"),
            Service("orders", "localhost"),
            Service("orders", "/run/orders.sock"),
            Service("orders", url="not a url"),
            Service("orders", "a:1", metadata={"ctl": "\x00\n"}),
            Service("x" * MAX_NAME_BYTES, "a:1"),
            Service("orders", "x" * MAX_FIELD_BYTES),
            Service("orders", metadata={"a": "x" * (MAX_METADATA_BYTES - 1)}),
        ],
        ids=lambda service: repr(service)[:60],
    )
    def test_fits(self, service: Service) -> None:
        catalogue = Catalogue()
        assert catalogue.announce(_announced(service), 0.0) is not None
        assert catalogue.services(service.name) == (service,)

    @pytest.mark.parametrize(
        "service",
        [
            Service(""),
            Service("a b"),
            Service("a.*"),
            Service(EVERYBODY),
            Service("x" * (MAX_NAME_BYTES + 1)),
            Service("orders", "a:1\n"),
            Service("orders", url="http://a/\x00"),
            Service("orders", network="tcp\x7f"),
            Service("orders", version="1\x1b[2J"),
            Service("orders", host="a\nb"),
            Service("orders", id="a\nb"),
            Service("orders", "x" * (MAX_FIELD_BYTES + 1)),
            Service("orders", url="x" * (MAX_FIELD_BYTES + 1)),
            Service("orders", version="x" * (MAX_FIELD_BYTES + 1)),
            Service("orders", host="x" * (MAX_FIELD_BYTES + 1)),
            Service("orders", metadata={"a": "x" * MAX_METADATA_BYTES}),
            Service("orders", metadata={str(n): "" for n in range(MAX_METADATA_ENTRIES + 1)}),
        ],
        ids=lambda service: repr(service)[:60],
    )
    def test_does_not_fit(self, service: Service) -> None:
        catalogue = Catalogue()
        catalogue.announce(_announced(Service("orders", "a:80")), 0.0)
        assert catalogue.announce(_announced(service), 0.0) is None
        assert len(catalogue) == 1
        assert catalogue.refused == 1

    def test_what_fits_once_fits_again(self) -> None:
        """Metadata that was taken in once is known, and so is the name: both still count."""
        catalogue = Catalogue()
        pairs = {str(number): "" for number in range(MAX_METADATA_ENTRIES)}
        for number in range(3):
            service = Service("orders", f"a:{number + 1}", metadata=pairs)
            assert catalogue.announce(_announced(service), 0.0) is not None
            for version in ("1\n", "x" * (MAX_FIELD_BYTES + 1)):
                bad = msgspec.structs.replace(service, address="b:1", version=version)
                assert catalogue.announce(_announced(bad), 0.0) is None
        assert catalogue.refused == 6
