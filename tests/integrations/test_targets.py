"""From a URL to a service, and from an instance to where it listens."""

from __future__ import annotations

import pytest

from aioregistry import Service
from aioregistry.integrations._repeating import is_repeatable, repeatable, unrepeatable
from aioregistry.integrations._targets import (
    Target,
    Unusable,
    check_domain,
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
