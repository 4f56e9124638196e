"""Lookups of names that memory cannot answer: ask once, wait for the answers, bounded."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from aioregistry.catalogue import Selection
from aioregistry.choosing import Predicate, name_of, not_critical
from aioregistry.errors import ServiceNotFound, TransportError
from aioregistry.inquiry import STALL, Inquiry
from aioregistry.link import Link
from aioregistry.observer import Observer
from aioregistry.service import Service

__all__ = ["Lookups"]

MAX_COMPLETE: Final = 10_000

DOUBT: Final = 0.02
"""A question without an answer after so many seconds may have been refused: the broker does
not tell before it is asked. Most are answered by then, and cost no round trip more."""


class _Deadline:
    """When a lookup ends.

    Time for which our event loop was blocked was no waiting, so it is given back, once.

    Args:
        now: the time, in seconds.
        timeout: how long to wait, in seconds.

    Attributes:
        at: the time when it ends.
    """

    __slots__ = ("_to_give_back", "at")

    def __init__(self, now: float, timeout: float) -> None:
        self._to_give_back = timeout
        self.at = now + timeout

    def is_over(self, now: float) -> bool:
        """Whether the time is up; it is put off where that is found out too late."""
        late = now - self.at
        if late > STALL and self._to_give_back:
            self.at, self._to_give_back = now + min(late, self._to_give_back), 0.0
        return now >= self.at


class Lookups:
    """Finds instances, asking the fleet where memory does not do.

    Args:
        observer: whose catalogue answers.
        link: the way to the broker.
        patience: for how long a ping serves those who come after it, in seconds.
        clock: the event loop's clock, in seconds.
    """

    def __init__(
        self, observer: Observer, link: Link, *, patience: float, clock: Callable[[], float]
    ) -> None:
        self._observer = observer
        self._catalogue = observer.catalogue
        self._link = link
        self._patience = patience
        self._clock = clock

    async def find(self, name: str, where: Predicate, *, timeout: float, wait: bool) -> Selection:  # noqa: ASYNC109 - each step has its own end
        """Wait until an instance of `name` matches.

        Args:
            name: the service.
            where: which instances do.
            timeout: for how long, in seconds.
            wait: False: only until it is known that nobody answers.

        Raises:
            ServiceNotFound: no instance matched in time.
            TransportError: there is no broker to ask, and nothing is known.
            RegistryError: the registry is closed before there is an answer.
        """
        deadline = _Deadline(self._clock(), timeout)
        with self._observer.inquiries.join(name) as inquiry:
            await self._ask(name, inquiry, deadline, wait=wait)
            while True:
                selection = self._catalogue.select(name, where)
                if selection.services:
                    return selection
                self._check_allowed(inquiry)
                now = self._clock()
                quiet_at = None if wait else inquiry.quiet_at
                if deadline.is_over(now) or self._hopeless(inquiry, wait=wait):
                    break
                if quiet_at is not None and now >= quiet_at:
                    break
                until = deadline.at
                await inquiry.news(until if quiet_at is None else min(until, quiet_at))
            await self._make_sure(name, inquiry, deadline.at)
        raise self._nothing(name, where, f"in {timeout:g} s" if wait else "at once")

    async def collect(
        self,
        name: str,
        where: Predicate,
        *,
        timeout: float,  # noqa: ASYNC109 - each step has its own end
        wait: bool,
        minimum: int,
    ) -> tuple[Service, ...]:
        """Every matching instance of `name`; of a cold name, those that answer a ping.

        Args:
            name: the service.
            where: which instances do.
            timeout: how long to wait at most, in seconds.
            wait: False: only until it is known that nobody answers.
            minimum: how many to wait for, whatever the silence.

        Raises:
            TransportError: there is no broker to ask, and nothing is known.
            RegistryError: the registry is closed before there is an answer.
        """
        if name in self._observer.complete:
            services = self._catalogue.select(name, where).services
            if len(services) >= minimum:
                return services
        deadline = _Deadline(self._clock(), timeout)
        with self._observer.inquiries.join(name) as inquiry:
            await self._ask(name, inquiry, deadline, wait=wait)
            while True:
                services = self._catalogue.select(name, where).services
                if not services:
                    self._check_allowed(inquiry)
                now, quiet_at = self._clock(), inquiry.quiet_at
                quiet = quiet_at is not None and now >= quiet_at
                waiting = wait and len(services) < minimum
                over = deadline.is_over(now)
                if over or self._hopeless(inquiry, wait=wait) or (quiet and not waiting):
                    break
                until = deadline.at
                await inquiry.news(until if quiet_at is None or waiting else min(until, quiet_at))
            if not services:
                await self._make_sure(name, inquiry, deadline.at)
        if not services and not self._link.connected and not self._catalogue.services(name):
            raise self._link.error()
        # Who was in a hurry has not heard everybody, nor has who did not get to ask.
        patient = quiet or inquiry.nobody or timeout >= self._patience
        if patient and inquiry.asked and self._link.connected:
            self._remember(name)
        return services

    # ------------------------------------------------------------------------------------

    async def _ask(self, name: str, inquiry: Inquiry, deadline: _Deadline, *, wait: bool) -> None:
        async def ask() -> None:
            await self._observer.look_at(name)
            await self._observer.asker.ping(name)
            if not wait and not self._observer.observations.is_proven(name):
                self._link.check_soon()  # so that `_make_sure` takes no round trip of its own
            asyncio.get_running_loop().call_later(DOUBT, self._doubt, inquiry)

        try:
            while True:
                try:
                    async with asyncio.timeout_at(deadline.at):
                        await inquiry.ask_once(ask, self._clock(), self._patience)
                        return
                except TimeoutError:
                    if deadline.is_over(self._clock()):
                        return
        except TransportError as error:
            if error.subjects:  # this very question is not allowed: no use in waiting
                raise

    async def _make_sure(self, name: str, inquiry: Inquiry, until: float) -> None:
        """Nobody is there; or are we not allowed to hear it?"""
        if inquiry.nobody:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._observer.observations.prove(name)
            self._check_allowed(inquiry)

    def _doubt(self, inquiry: Inquiry) -> None:
        if inquiry.users and inquiry.quiet_at is None:
            self._link.check_soon()

    def _check_allowed(self, inquiry: Inquiry) -> None:
        self._link.check_open()
        refusal = inquiry.refusal
        if refusal is not None:
            raise refusal.again()

    def _hopeless(self, inquiry: Inquiry, *, wait: bool) -> bool:
        return not wait and (inquiry.nobody or not self._link.connected)

    def _nothing(self, name: str, where: Predicate, when: str) -> Exception:
        known = self._catalogue.services(name)
        if not known:
            if not self._link.connected:
                return self._link.error()
            return ServiceNotFound(f"no instance of {name!r} is known, nobody answered {when}")
        critical = where is not_critical and not any(map(where, known))
        detail = "all critical" if critical else f"none matches {name_of(where)}"
        many = "instance" if len(known) == 1 else "instances"
        return ServiceNotFound(f"{len(known)} {many} of {name!r} known, {detail}")

    def _remember(self, name: str) -> None:
        complete = self._observer.complete
        if len(complete) >= MAX_COMPLETE:
            complete.clear()
        if self._observer.observations.include(name):
            complete[name] = None
