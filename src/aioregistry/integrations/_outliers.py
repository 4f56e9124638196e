"""Which instances are set aside because they keep failing: rules without I/O or clock."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from typing import Final

from aioregistry import Service
from aioregistry.integrations._policy import Policy

__all__ = ["Incarnation", "Outliers", "incarnation"]

Incarnation = tuple[str, str, str]
"""One life of one instance: its name, its address or else URL, and its id."""

_MAX_RECORDS: Final = 10_000


def incarnation(service: Service) -> Incarnation:
    """What tells this life of the instance from every other."""
    return (*service.key, service.id)


class _Record:
    """How one instance has been doing."""

    __slots__ = ("failures", "probation", "times", "until")

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.times = 0  # how often it was set aside, less what good conduct took off
        self.until = -math.inf  # until when it is, or was last, set aside
        self.probation = False  # it is back, and has not answered yet


class Outliers:
    """Which instances of one service are set aside, because they failed and failed again.

    Passive health checking, as in Envoy's outlier detection and gRFC A50: an instance that
    fails some times in a row gets no requests for a while, which grows with every time, and
    is then tried again. Here the first failure after its return sends it back at once, and
    for each `set_aside` seconds that it stayed away from trouble one time is forgotten.

    Never more than half of the instances are set aside, so that a fault which all of them
    share does not leave the rest with more than twice their load; and never the only one.

    Args:
        policy: has the numbers.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._records: dict[Incarnation, _Record] = {}
        self._away: dict[Incarnation, Service] = {}
        self._back: list[Service] = []
        self._known: tuple[Service, ...] = ()
        self._in_use: tuple[Service, ...] = ()
        self._valid_until = -math.inf

    def succeeded(self, service: Service) -> None:
        """Note that the instance has answered well."""
        record = self._records.get(incarnation(service)) if self._records else None
        if record is None:
            return
        record.failures = 0
        record.probation = False
        if not record.times:
            del self._records[incarnation(service)]

    def failed(self, service: Service, among: Iterable[Service], now: float) -> bool:
        """Note that the instance has failed.

        Args:
            service: the instance.
            among: all the instances that are known, this one included.
            now: the time, in seconds.

        Returns:
            Whether that set it aside.
        """
        record = self._record(service)
        record.failures += 1
        if record.until > now:
            return False  # a request that was on its way already
        if record.failures < self._policy.failures and not record.probation:
            return False
        if not self._has_room(among, now):
            return False
        self._set_aside(record, now)
        self._away[incarnation(service)] = service
        return True

    def standing(self, service: Service, now: float) -> tuple[int, float]:
        """How an instance does: its failures in a row, and how long it is set aside yet."""
        record = self._records.get(incarnation(service)) or _Record()
        return record.failures, max(0.0, record.until - now)

    def in_use(self, services: tuple[Service, ...], now: float) -> tuple[Service, ...]:
        """Those that are not set aside; the same tuple if none is.

        Args:
            services: the instances that are known; the same object until something changes.
            now: the time, in seconds.
        """
        if not self._records:
            return services
        if services is not self._known or now >= self._valid_until:
            self._look_again(services, now)
        return self._in_use

    def returned(self) -> list[Service]:
        """Those that `in_use` has had again since this was asked last."""
        if not self._back:
            return []
        back, self._back = self._back, []
        return back

    # ------------------------------------------------------------------------------------

    def _record(self, service: Service) -> _Record:
        key = incarnation(service)
        record = self._records.get(key)
        if record is None:
            if len(self._records) >= _MAX_RECORDS:
                del self._records[next(iter(self._records))]
            record = self._records[key] = _Record()
        return record

    def _has_room(self, among: Iterable[Service], now: float) -> bool:
        known = [incarnation(each) for each in among]
        return 2 * (len(self._aside(known, now)) + 1) <= len(known)

    def _aside(self, known: Iterable[Incarnation], now: float) -> dict[Incarnation, float]:
        """Until when each of these is set aside, of those that are."""
        records = ((key, self._records.get(key)) for key in known)
        return {key: record.until for key, record in records if record and record.until > now}

    def _set_aside(self, record: _Record, now: float) -> None:
        policy = self._policy
        if record.times:
            good = int((now - record.until) // policy.set_aside)
            record.times = max(0, record.times - max(0, good))
        record.times += 1
        record.until = now + min(policy.set_aside * record.times, policy.set_aside_at_most)
        record.probation = True
        self._valid_until = -math.inf

    def _look_again(self, services: tuple[Service, ...], now: float) -> None:
        known = {incarnation(service): service for service in services}
        self._note_returns(known, now)
        self._forget(known, now)
        aside = self._aside(known, now)
        # Where others have left meanwhile, those that would be back first are back now.
        first_back = sorted(aside, key=aside.__getitem__)
        for key in first_back[: max(0, len(aside) - len(known) // 2)]:
            del aside[key]
        self._known = services
        self._in_use = services
        if aside:
            self._in_use = tuple(each for key, each in known.items() if key not in aside)
        self._valid_until = min(aside.values(), default=math.inf)

    def _note_returns(self, known: Container[Incarnation], now: float) -> None:
        """Note whose time is over. Those who help out before that are not told."""
        for key in [key for key in self._away if key not in self._aside((key,), now)]:
            service = self._away.pop(key)
            if key in known:
                self._back.append(service)

    def _forget(self, known: Container[Incarnation], now: float) -> None:
        """Drop what is over: trouble so long ago that it would count for nothing.

        And a few failures of who has gone, most likely for ever. Who was set aside may be
        missing for a moment, and is no better when it is back.
        """
        policy = self._policy
        over = [
            key
            for key, record in self._records.items()
            if (
                now - record.until > policy.set_aside * record.times
                if record.times
                else key not in known
            )
        ]
        for key in over:
            del self._records[key]
