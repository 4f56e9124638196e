"""Health to status: a check of the service's own decides what is announced about it.

    HealthCheck(database.ping, interval=5.0)

`Hysteresis` is the decision, without I/O, clock or task; `HealthCheck` runs the check.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aioregistry import NotRegistered, Registration, RegistryClosed, Status, TransportError
from aioregistry.integrations._logs import log
from aioregistry.limits import check_duration

__all__ = ["Check", "HealthCheck", "Hysteresis"]

Check = Callable[[], Awaitable[Status | bool | None]]
"""Says how the service is: a status; or True or None for passing and False for critical.
Raising is critical, too."""

_ORDER: Final = (Status.PASSING, Status.WARNING, Status.CRITICAL)


class Hysteresis:
    """Turns the outcomes of checks into a status that does not flutter.

    The first outcome counts at once. Afterwards the status gets worse or better only when
    enough outcomes in a row say so; a service that fails for a while goes from passing over
    warning to critical.

    Args:
        warn_after: so many outcomes in a row that are not passing make it WARNING.
        critical_after: so many critical outcomes in a row make it CRITICAL.
        pass_after: so many better outcomes in a row make it better.

    Attributes:
        status: the status so far; None before the first outcome.

    Raises:
        ValueError: a number is less than one, or `warn_after` exceeds `critical_after`.
    """

    def __init__(
        self, *, warn_after: int = 1, critical_after: int = 3, pass_after: int = 2
    ) -> None:
        given = {"warn_after": warn_after, "critical_after": critical_after}
        for name, number in {**given, "pass_after": pass_after}.items():
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} must be a positive integer, not {number!r}")
        if warn_after > critical_after:
            raise ValueError(f"{warn_after=} exceeds {critical_after=}: it would never warn")
        self.status: Status | None = None
        self._worsen_after = {Status.WARNING: warn_after, Status.CRITICAL: critical_after}
        self._pass_after = pass_after
        # How many outcomes in a row were at least so bad, and at most so bad.
        self._at_least = dict.fromkeys(_ORDER, 0)
        self._at_most = dict.fromkeys(_ORDER, 0)

    def take(self, outcome: Status) -> Status:
        """Take in the outcome of a check, and return the status that it leads to."""
        rank = _ORDER.index(outcome)
        for place, status in enumerate(_ORDER):
            self._at_least[status] = self._at_least[status] + 1 if rank >= place else 0
            self._at_most[status] = self._at_most[status] + 1 if rank <= place else 0
        self.status = outcome if self.status is None else self._next(_ORDER.index(self.status))
        return self.status

    def _next(self, current: int) -> Status:
        for status in reversed(_ORDER[current + 1 :]):
            if self._at_least[status] >= self._worsen_after[status]:
                return status
        for status in _ORDER[:current]:
            if self._at_most[status] >= self._pass_after:
                return status
        return _ORDER[current]


class HealthCheck:
    """A check of the service's own, run at an interval; it decides the announced status.

    A check that raises, or takes longer than `timeout`, is critical. One that does not even
    end when it is cancelled is left behind, and no further one is started before it ended.
    A check that blocks the event loop blocks everything, and is not helped by any timeout.

    Args:
        check: an async function without arguments; see `Check`.
        interval: the time from the end of one run to the next, in seconds.
        timeout: how long a run may take, in seconds.
        warn_after: so many runs in a row that do not pass make it WARNING.
        critical_after: so many critical runs in a row make it CRITICAL.
        pass_after: so many better runs in a row make it better.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        check: Check,
        *,
        interval: float = 5.0,
        timeout: float = 2.0,
        warn_after: int = 1,
        critical_after: int = 3,
        pass_after: int = 2,
    ) -> None:
        if not callable(check):
            raise ValueError(f"check must be an async function, not {check!r}")
        for name, seconds in (("interval", interval), ("timeout", timeout)):
            check_duration(name, seconds)
        self._check = check
        self._interval = interval
        self._timeout = timeout
        self._numbers = {
            "warn_after": warn_after,
            "critical_after": critical_after,
            "pass_after": pass_after,
        }
        Hysteresis(**self._numbers)
        self._left_behind: asyncio.Task[Status] | None = None

    async def outcome(self) -> tuple[Status, str]:
        """Run the check once.

        Takes at most `timeout`, and raises nothing; cancelling it cancels the check.

        Returns:
            What it says, and the reason in words where it did not say so itself.
        """
        if self._left_behind is not None and not self._left_behind.done():
            return Status.CRITICAL, "an earlier run has not ended yet, though it was cancelled"
        run = asyncio.create_task(_run(self._check), name="aioregistry health check")
        try:
            await asyncio.wait((run,), timeout=self._timeout)
        finally:
            if not run.done():
                run.cancel()
        if not run.done():
            self._left_behind = run
            run.add_done_callback(_forget)
            return Status.CRITICAL, f"no answer within {self._timeout:g} s"
        if run.cancelled():
            return Status.CRITICAL, "it was cancelled"
        error = run.exception()
        if error is not None:
            return Status.CRITICAL, f"it raised {error!r}"
        return run.result(), ""

    async def run(self, registration: Registration, first: Status | None = None) -> None:
        """Check for ever, and announce what comes of it.

        Meant for a task of its own. Cancelling it ends it, and the service stays registered;
        it ends by itself when it has a change to announce and the service was withdrawn.

        Args:
            registration: the service, as `Registry.register` returned it.
            first: the outcome of a run just made, if there was one; the next is then due
                after `interval`. None: the first run is due now.
        """
        hysteresis = Hysteresis(**self._numbers)
        if first is not None:
            hysteresis.take(first)
            await asyncio.sleep(self._interval)
        while True:
            outcome, reason = await self.outcome()
            status = hysteresis.take(outcome)
            try:
                if registration.service.status is not status:
                    await registration.set_status(status)
                    _tell(registration, status, reason)
            except (NotRegistered, RegistryClosed):
                return
            except TransportError as error:
                _log().warning("cannot announce that %s: %s", status.value, error)
            await asyncio.sleep(self._interval)


async def _run(check: Check) -> Status:
    answer: Any = check()
    if not inspect.isawaitable(answer):
        raise TypeError(f"the check returned {answer!r} without being awaited: make it async")
    said = await answer
    if isinstance(said, Status):
        return said
    if said is None or said is True:
        return Status.PASSING
    if said is False:
        return Status.CRITICAL
    raise TypeError(f"a check returns a Status, a bool or None, not {said!r}")


def _log() -> logging.Logger:
    return log("aioregistry.health")


def _forget(run: asyncio.Task[Status]) -> None:
    """Nobody waits any longer for what this run may raise."""
    if not run.cancelled():
        run.exception()


def _tell(registration: Registration, status: Status, reason: str) -> None:
    service = registration.service
    level = logging.INFO if status is Status.PASSING else logging.WARNING
    where = service.key[1]
    _log().log(
        level, "%s at %s is %s%s", service.name, where, status.value, reason and f": {reason}"
    )
