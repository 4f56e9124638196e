"""The ports on which tests start their brokers."""

from __future__ import annotations

from aioregistry.testing.brokers import unused_port


def test_ports_for_servers_that_are_started_later_are_different_ones() -> None:
    ports = [unused_port() for _ in range(100)]
    assert len(set(ports)) == len(ports)
    assert all(10_000 <= port < 32_768 for port in ports)
