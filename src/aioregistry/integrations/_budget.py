"""How many requests may be sent again: a rule without I/O or clock."""

from __future__ import annotations

from collections import deque
from typing import Final

from aioregistry.integrations._policy import Policy

__all__ = ["RetryBudget"]

_SLICES: Final = 10


class RetryBudget:
    """How many requests to one service may be sent again: a share of those sent before.

    So a service that struggles gets at most that much more load, however many of its
    requests fail. As in Finagle's `RetryBudget` (a share of the requests of a window, and a
    small number that is always free), for the reason that gRPC's retry throttling gives:
    clients that repeat everything keep an overloaded service down (gRFC A6, "Throttling
    Retry Attempts and Hedged RPCs"). O(1), whatever the number of requests.

    Args:
        policy: has the numbers.
    """

    def __init__(self, policy: Policy) -> None:
        self._ratio = policy.retry_ratio
        self._free = policy.retries_per_second * policy.retry_window
        self._width = policy.retry_window / _SLICES
        self._slices: deque[list[int]] = deque()  # each: number, requests, retries
        self._requests = self._retries = 0

    def deposit(self, now: float) -> None:
        """Count a request that is sent for the first time."""
        self._requests += 1
        self._slice(now)[1] += 1

    def withdraw(self, now: float) -> bool:
        """Whether one may be sent again now; if so, it is counted."""
        current = self._slice(now)
        if self._retries + 1 > self._free + self._ratio * self._requests:
            return False
        self._retries += 1
        current[2] += 1
        return True

    def _slice(self, now: float) -> list[int]:
        number = int(now // self._width)
        slices = self._slices
        if slices and slices[-1][0] == number:
            return slices[-1]
        while slices and slices[0][0] <= number - _SLICES:
            _, requests, retries = slices.popleft()
            self._requests -= requests
            self._retries -= retries
        slices.append([number, 0, 0])
        return slices[-1]
