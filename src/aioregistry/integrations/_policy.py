"""How patient a client is with the instances of a service."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Policy"]


@dataclass(frozen=True)
class Policy:
    """How patient a client is with the instances of a service.

    Attributes:
        failures: after so many failures in a row an instance is set aside.
        set_aside: for how long the first time, in seconds; each further time longer by this.
        set_aside_at_most: never longer than this, in seconds.
        bad_statuses: the responses that count as failures of the instance. They reach the
            caller as they are.
        attempts: how often one request is sent at most, if it may be sent again at all.
        retry_ratio: the share of the requests to a service that may be sent again.
        retries_per_second: so many may in any case, where there are few requests.
        retry_window: over how long that is counted, in seconds.

    Raises:
        ValueError: a number makes no sense; the text names it.
    """

    failures: int = 5
    set_aside: float = 10.0
    set_aside_at_most: float = 300.0
    bad_statuses: frozenset[int] = frozenset({502, 503, 504})
    attempts: int = 3
    retry_ratio: float = 0.2
    retries_per_second: float = 10.0
    retry_window: float = 10.0

    def __post_init__(self) -> None:
        least = {"failures": 1, "attempts": 1, "retry_ratio": 0, "retries_per_second": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if not bound <= value < math.inf:
                raise ValueError(f"{name}={value!r}: it is at least {bound}")
        for name in ("set_aside", "set_aside_at_most", "retry_window"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: a duration is in seconds, more than 0")
