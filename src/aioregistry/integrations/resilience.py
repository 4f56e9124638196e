"""What a client does about instances that fail: pure rules, without I/O, clock or task.

Time is an argument everywhere: seconds of one monotonic clock, such as that of the event
loop. So the same rules serve every HTTP client, and run in virtual time. There are three:
which instances are set aside (`Outliers`), how much may be sent again (`RetryBudget`), and
where one request goes next (`Attempts`).
"""

from __future__ import annotations

from typing import Final

from aioregistry import Service
from aioregistry.integrations._budget import RetryBudget
from aioregistry.integrations._outliers import Incarnation, Outliers, incarnation
from aioregistry.integrations._policy import Policy

__all__ = ["Attempts", "Incarnation", "Outliers", "Policy", "RetryBudget", "incarnation"]

_MAX_INSTANCES: Final = 10
"""So many instances that cannot be reached are enough for one request."""

_PATIENCE: Final = 2.0
"""So long a connection is waited for at most while there are others to try, in seconds. A first
packet that is lost is sent again after one."""

_SHARES: Final = 3
"""In so many parts the time for connecting is divided, while there are others to try."""


class Attempts:
    """What one request has tried so far, and what it may try next.

    As long as no byte of it was sent, it may go to another instance, whatever its method:
    nobody can have acted on it. That costs the service nothing, so no budget limits it (gRFC
    A6 calls it a transparent retry). Once it was sent, only a request that may be repeated is
    sent again: a bounded number of times, and while the budget lasts.

    Args:
        policy: has the numbers.
        budget: that of the service.
        repeatable: whether the request may be sent more than once.
    """

    __slots__ = (
        "_again",
        "_budget",
        "_policy",
        "_repeatable",
        "_sent",
        "_tried",
        "_unreachable",
        "failures",
    )

    def __init__(self, policy: Policy, budget: RetryBudget, *, repeatable: bool) -> None:
        self._policy = policy
        self._budget = budget
        self._repeatable = repeatable
        self._sent = 0
        self._unreachable = 0
        self._tried: dict[Incarnation, bool] = {}  # whether it can be reached
        self._again = False
        self.failures: list[str] = []
        """What was tried, and what became of it, in order."""

    def not_sent(self, service: Service, why: str) -> bool:
        """Note that no byte of the request got to the instance.

        Returns:
            Whether another one may be tried.
        """
        self._tried[incarnation(service)] = False
        self._again = False
        self._unreachable += 1
        self.note(service, why)
        return self._unreachable < _MAX_INSTANCES

    def unusable(self, service: Service, why: str) -> None:
        """Note that the instance cannot take such a request: it is none of those to try."""
        self._tried[incarnation(service)] = False
        if len(self.failures) < _MAX_INSTANCES:
            self.note(service, why)

    def sent(self, service: Service, why: str, now: float, *, intact: bool = True) -> bool:
        """Note that the request was sent, at least in part, and got no answer.

        Args:
            service: the instance.
            why: what happened.
            now: the time, in seconds.
            intact: whether the request can be sent again at all: its body is still there.

        Returns:
            Whether it may be sent again.
        """
        self._tried.setdefault(incarnation(service), True)
        self.note(service, why)
        self._sent += 1
        self._again = (
            self._repeatable
            and intact
            and self._sent < self._policy.attempts
            and self._budget.withdraw(now)
        )
        return self._again

    def candidates(
        self, in_use: tuple[Service, ...], known: tuple[Service, ...]
    ) -> tuple[Service, ...]:
        """The instances to choose the next one from; empty when there is none.

        Those not tried yet, if possible not set aside. To one that broke off, a request may
        go again where there is no other: often just its idle connection was stale.

        Args:
            in_use: the instances that are not set aside.
            known: all of them.
        """
        if not self._tried:
            return in_use
        tried = self._tried
        for services in (in_use, known):
            fresh = tuple(each for each in services if incarnation(each) not in tried)
            if fresh:
                return fresh
        if not self._again:
            return ()
        return tuple(each for each in known if tried[incarnation(each)])

    @property
    def tried(self) -> frozenset[Incarnation]:
        """The instances that were tried."""
        return frozenset(self._tried)

    def patience(self, left: float | None, candidates: int) -> float | None:
        """How long to wait for a connection to the next instance, in seconds.

        An instance that swallows packets must not use up the time of all the others, nor
        that of a caller whose deadline is not known here.

        Args:
            left: how much time there is for connecting, in seconds; None: any.
            candidates: among how many instances it was chosen.
        """
        if candidates < 2:
            return left
        return _PATIENCE if left is None else min(_PATIENCE, left / min(candidates, _SHARES))

    def note(self, service: Service, why: str) -> None:
        """Note what became of an attempt, for the report."""
        self.failures.append(f"{service.key[1] or 'one without address'} ({why})")

    def report(self, name: str) -> str:
        """What was tried in vain, for the text of an error."""
        return f"service {name!r}: tried {', '.join(self.failures) or 'nothing'}"
