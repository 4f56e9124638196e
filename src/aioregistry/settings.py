"""The options of a registry: validated once, frozen afterwards."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from aioregistry.choosing import (
    Balancer,
    Predicate,
    RoundRobin,
    is_async,
    not_critical,
    why_no_balancer,
    why_no_predicate,
)
from aioregistry.errors import InvalidService
from aioregistry.limits import (
    MAX_PREFIX_BYTES,
    MAX_TTL,
    MIN_TTL,
    check_duration,
    check_field,
    check_name,
)

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of `Registry`, which documents them; durations are in seconds."""

    prefix: str = "registry"
    ttl: float = 10.0
    heartbeat_interval: float | None = None
    lookup_timeout: float = 0.1
    where: Predicate = not_critical
    accept: Predicate | None = None
    balancer: Balancer = field(default_factory=RoundRobin)
    hostname: str | None = None
    connect_timeout: float | None = 5.0
    max_instances: int = 100_000
    wall_clock: Callable[[], float] = time.time
    rng: random.Random | None = None

    def __post_init__(self) -> None:
        self._check_texts()
        check_duration("ttl", self.ttl)
        if not MIN_TTL <= self.ttl <= MAX_TTL:
            raise ValueError(f"ttl must be {MIN_TTL} to {MAX_TTL:g} seconds, not {self.ttl!r}")
        if self.heartbeat_interval is not None:
            check_duration("heartbeat_interval", self.heartbeat_interval)
            if self.heartbeat_interval > self.ttl / 2:
                raise ValueError(
                    f"heartbeat_interval {self.heartbeat_interval!r} is more than half of the ttl"
                    f" {self.ttl!r}: one lost heartbeat would expire the living; leave it out for"
                    " a third of the ttl"
                )
        check_duration("lookup_timeout", self.lookup_timeout)
        if self.connect_timeout is not None:
            check_duration("connect_timeout", self.connect_timeout)
        if type(self.max_instances) is not int or self.max_instances < 1:
            raise ValueError(
                f"max_instances must be a positive integer, not {self.max_instances!r}"
            )
        self._check_functions()
        if self.rng is not None and not isinstance(self.rng, random.Random):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
            raise ValueError(
                f"rng must be a random.Random, such as random.Random(7), not {self.rng!r}"
            )

    def _check_functions(self) -> None:
        _check_predicate("where", self.where)
        if self.accept is not None:
            _check_predicate("accept", self.accept)
        if reason := why_no_balancer(self.balancer):
            raise ValueError(f"balancer={reason}")
        clock = cast("object", self.wall_clock)  # what the caller gave, whatever it is
        if not callable(clock) or is_async(clock):
            raise ValueError(
                "wall_clock must be a function that gives seconds since the epoch, such as"
                f" time.time, not {clock!r}"
            )

    def _check_texts(self) -> None:
        try:
            check_name(self.prefix, "prefix")
            if len(self.prefix.encode()) > MAX_PREFIX_BYTES:
                raise ValueError(
                    f"prefix must have at most {MAX_PREFIX_BYTES} bytes, not {self.prefix!r}"
                )
            if self.hostname is not None:
                check_field("hostname", self.hostname)
        except InvalidService as error:
            raise ValueError(str(error)) from error

    @property
    def interval(self) -> float:
        """The longest time between two announcements of an instance, in seconds."""
        return self.ttl / 3 if self.heartbeat_interval is None else self.heartbeat_interval

    @property
    def host(self) -> str:
        """The name of this machine, as announced."""
        return socket.gethostname() if self.hostname is None else self.hostname


def _check_predicate(name: str, given: object) -> None:
    reason = why_no_predicate(given)
    if reason:
        raise ValueError(f"{name} must be a predicate: {reason}")
