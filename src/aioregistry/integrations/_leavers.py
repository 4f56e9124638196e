"""Which instances have said that they leave: a rule without I/O, clock or task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from aioregistry import Service
from aioregistry.integrations.resilience import Incarnation, incarnation

__all__ = ["LEAVING", "Leavers", "header_of", "is_named"]

LEAVING: Final = "aioregistry-leaving"
"""The header by which an answer says that its server has withdrawn, and stops soon: the ids of
what it had announced.

A second way to hear of it, besides the broker: for callers that hear late, or that the broker
is away from. Envoy has such a header, too: `x-envoy-immediate-health-check-fail`
(https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter)."""


def header_of(ids: Iterable[str]) -> str:
    """What a server says in the header that had announced these."""
    return ", ".join(filter(None, ids))


def is_named(service: Service, header: str) -> bool:
    """Whether the header says that this instance leaves."""
    return bool(service.id) and service.id in header.split(", ")


class Leavers:
    """The instances of one service that have said so, for as long as they are known at all.

    What has withdrawn never comes back as it was: a restart is another incarnation.
    """

    def __init__(self) -> None:
        self._left: set[Incarnation] = set()
        self._known: tuple[Service, ...] = ()
        self._staying: tuple[Service, ...] = ()

    def add(self, service: Service) -> None:
        """Note that the instance leaves."""
        self._left.add(incarnation(service))
        self._known = ()

    def staying(self, services: tuple[Service, ...]) -> tuple[Service, ...]:
        """Those that do not leave, or all of them if all do.

        Args:
            services: the instances that are known; the same object until something changes.
        """
        if not self._left:
            return services
        if services is not self._known:
            self._left &= {incarnation(each) for each in services}
            self._known = services
            self._staying = services
            if self._left:
                staying = tuple(each for each in services if incarnation(each) not in self._left)
                self._staying = staying or services
        return self._staying
