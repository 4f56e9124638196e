"""From a URL to a service, and from an instance to where it listens."""

from __future__ import annotations

import pytest

from aioregistry import Service
from aioregistry.integrations._repeating import is_repeatable, repeatable, unrepeatable
from aioregistry.integrations._targets import (
    Target,
    Unusable,
    check_domain,
    location_for,
    service_name,
    target_of,
)


@pytest.mark.parametrize(
    ("host", "port", "domain", "name"),
    [
        ("orders", None, None, "orders"),
        ("Orders", None, None, "orders"),
        ("billing.orders", None, None, "billing.orders"),
        ("orders.", None, None, "orders"),
        ("orders", 8080, None, None),
        ("localhost", None, None, None),
        ("10.0.0.5", None, None, None),
        ("::1", None, None, None),
        ("", None, None, None),
        ("orders.service", None, "service", "orders"),
        ("billing.orders.service", None, ".service", "billing.orders"),
        ("orders.service", 8080, "service", "orders"),
        ("orders", None, "service", None),
        ("service", None, "service", None),
        ("api.example.com", None, "service", None),
        ("orders.prod.example.com", None, "prod.example.com", "orders"),
    ],
)
def test_which_hosts_are_services(
    host: str, port: int | None, domain: str | None, name: str | None
) -> None:
    assert service_name(host, port, check_domain(domain)) == name


@pytest.mark.parametrize("domain", ["", ".", ".."])
def test_a_domain_has_a_name(domain: str) -> None:
    with pytest.raises(ValueError, match="domain="):
        check_domain(domain)


HERE = "orders"
PLAIN, TLS = (False, True)


@pytest.mark.parametrize(
    ("service", "secure", "target"),
    [
        (
            Service("orders", "10.0.0.5:8080"),
            PLAIN,
            Target(PLAIN, "10.0.0.5", 8080, "", "", HERE),
        ),
        (Service("orders", "10.0.0.5:8443"), TLS, Target(TLS, "10.0.0.5", 8443, "", "", HERE)),
        (Service("orders", "10.0.0.5"), PLAIN, Target(PLAIN, "10.0.0.5", 80, "", "", HERE)),
        (Service("orders", "10.0.0.5"), TLS, Target(TLS, "10.0.0.5", 443, "", "", HERE)),
        (Service("orders", "[::1]:8080"), PLAIN, Target(PLAIN, "::1", 8080, "", "", HERE)),
        (
            Service("orders", url="http://web.example/api/"),
            PLAIN,
            Target(PLAIN, "web.example", 80, "/api", "web.example", "web.example"),
        ),
        (
            Service("orders", url="https://web.example:8443"),
            PLAIN,
            Target(TLS, "web.example", 8443, "", "web.example:8443", "web.example"),
        ),
        (
            Service("orders", url="https://[::1]/x"),
            TLS,
            Target(TLS, "::1", 443, "/x", "[::1]", "::1"),
        ),
        (  # the address says where to connect, the URL who is there
            Service("orders", "10.0.0.5:443", url="https://web.example/api"),
            PLAIN,
            Target(TLS, "10.0.0.5", 443, "/api", "web.example", "web.example"),
        ),
        (
            Service("orders", "10.0.0.5:80", url="/api"),
            PLAIN,
            Target(PLAIN, "10.0.0.5", 80, "/api", "", HERE),
        ),
    ],
)
def test_where_requests_go(service: Service, target: Target, *, secure: bool) -> None:
    assert target_of(service, HERE, secure=secure) == target


@pytest.mark.parametrize(
    ("service", "secure", "why"),
    [
        (Service("orders", url="http://web.example"), TLS, "plain http"),
        (Service("orders", url="nats://web.example"), PLAIN, "announces nats"),
        (Service("orders", "/run/x.sock", network="unix"), PLAIN, "listens on unix"),
        (Service("orders", url="http://[::1"), PLAIN, "makes no sense"),
        (Service("orders", url="http://x:y/"), PLAIN, "makes no sense"),
        (Service("orders", url="orders/x"), PLAIN, "names a host"),
        (Service("orders", ":80", url="x"), PLAIN, "names a host"),
    ],
)
def test_instances_that_are_no_use(service: Service, why: str, *, secure: bool) -> None:
    with pytest.raises(Unusable, match=why):
        target_of(service, HERE, secure=secure)


SHOP = Target(PLAIN, "10.0.0.5", 8080, "/api", "shop.example", "shop.example")


@pytest.mark.parametrize(
    ("location", "seen"),
    [
        ("http://shop.example/api/items/?q=%20a#b", "http://orders/items/?q=%20a#b"),
        ("HTTP://Shop.Example:80/api/b", "http://orders/b"),
        ("//shop.example/api/b", "http://orders/b"),
        ("http://shop.example/api", "http://orders"),
        ("http://shop.example/api?q", "http://orders?q"),
        ("/api/b?q", "/b?q"),
        ("/api", "/"),
        ("/api?q", "/?q"),
        ("/api//b.example/c", "http://orders//b.example/c"),
    ],
)
def test_redirects_to_an_instance_are_to_the_service(location: str, seen: str) -> None:
    for host in ("shop.example", "shop.example:80"):
        assert location_for(location, SHOP, host, scheme="http", authority="orders") == seen


@pytest.mark.parametrize(
    "location",
    [
        # beyond the path that it announces
        "http://shop.example/apis/b",
        "http://shop.example/b",
        "http://shop.example",
        "/apis/b",
        "/",
        # somewhere else
        "https://shop.example/api/b",
        "http://shop.example:8080/api/b",
        "http://user@shop.example/api/b",
        "//b.example/api/b",
        "ftp://shop.example/api/b",
        "mailto:b@shop.example",
        "http://[shop.example/api/b",
        # relative to the caller's URL as much as to its own
        "b/c",
        "../b",
        "?q",
        "",
    ],
)
def test_other_redirects_stay_as_they_are(location: str) -> None:
    seen = location_for(location, SHOP, "shop.example", scheme="http", authority="orders")
    assert seen == location


def test_redirects_to_a_host_that_the_caller_has_given() -> None:
    bare = Target(PLAIN, "10.0.0.5", 8080, "", "", HERE)
    for location, seen in (
        ("http://mine/b", "http://orders:8080/b"),
        ("http://orders:8080/b", "http://orders:8080/b"),
        ("/b", "/b"),
    ):
        got = location_for(location, bare, "mine", scheme="http", authority="orders:8080")
        assert got == seen


@pytest.mark.parametrize(
    ("scheme", "secure", "location", "seen"),
    [
        ("http", TLS, "https://shop.example/b", "http://orders/b"),
        ("http", TLS, "https://shop.example:443/b", "http://orders/b"),
        ("https", TLS, "https://shop.example/b", "https://orders/b"),
        ("http", TLS, "http://shop.example/b", "http://shop.example/b"),
        ("ws", TLS, "https://shop.example/b", "http://orders/b"),
        ("ws", PLAIN, "ws://shop.example/b", "ws://orders/b"),
        ("wss", TLS, "wss://shop.example/b", "wss://orders/b"),
    ],
)
def test_redirects_have_the_scheme_of_the_caller(
    scheme: str, location: str, seen: str, *, secure: bool
) -> None:
    target = Target(secure, "10.0.0.5", 8443, "", "shop.example", "shop.example")
    got = location_for(location, target, "shop.example", scheme=scheme, authority="orders")
    assert got == seen


def test_what_may_be_repeated() -> None:
    assert is_repeatable("GET", ())
    assert is_repeatable("DELETE", ())
    assert not is_repeatable("POST", ())
    assert not is_repeatable("PATCH", ())
    assert is_repeatable("POST", ("Idempotency-Key",))
    with repeatable():
        assert is_repeatable("POST", ())
        with unrepeatable():
            assert not is_repeatable("GET", ("Idempotency-Key",))
        assert is_repeatable("POST", ())
    assert not is_repeatable("POST", ())
