"""What is observed: the standing interests of a registry, and whether the broker serves them.

On many links a subscription is only asked for, and its refusal comes later. So it counts as
*proven* once a flush that began after it has come back: by then every refusal is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Set as AbstractSet
from typing import Final

from aioregistry.errors import RegistryError, TransportError
from aioregistry.link import Link, end_of, unsubscribe_all
from aioregistry.subjects import covers, is_pattern
from aioregistry.transports.base import Handler, Subscription
from aioregistry.wire import Subjects

__all__ = ["Observations"]

_PROOFS: Final = 3
"""How often it is tried to learn whether something is refused. After that it comes into force, or
is refused, when the link allows it: nobody waits for that."""


class _Observation:
    """The standing interest in one pattern.

    Attributes:
        refusal: why the broker does not let us hear it.
        asked: how many flushes had begun when it was subscribed to: the next tells of a refusal.
    """

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.subscriptions: list[Subscription] = []
        self.refusal: TransportError | None = None
        self.asked = 0

    @property
    def complete(self) -> bool:
        """Whether both announcements and withdrawals are subscribed to, as far as is known."""
        return bool(self.subscriptions) and self.refusal is None


class Observations:
    """The names and patterns that are observed, each subscribed to unless a wider one brings it in.

    Args:
        link: the way to the broker.
        subjects: the subjects of the tenant.
        on_announcement: takes what is said about a new or living instance.
        on_withdrawal: takes what is said about one that leaves.

    Attributes:
        temporary: what is observed only because somebody looks it up, watches it, or did so, the
            longest ago first.
    """

    def __init__(
        self, link: Link, subjects: Subjects, on_announcement: Handler, on_withdrawal: Handler
    ) -> None:
        self.temporary: dict[str, None] = {}
        self._link = link
        self._subjects = subjects
        self._on_announcement = on_announcement
        self._on_withdrawal = on_withdrawal
        self._observed: dict[str, _Observation] = {}
        self._wildcards: list[str] = []
        self._fresh: dict[str, None] = {}

    @property
    def patterns(self) -> tuple[str, ...]:
        """The names and patterns."""
        return tuple(self._observed)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._observed

    def include(self, pattern: str) -> bool:
        """Whether one of them names all that a name or pattern names."""
        return pattern in self._observed or any(covers(each, pattern) for each in self._wildcards)

    # ---- more, and less ----------------------------------------------------------------

    async def add(self, *patterns: str, standing: bool = True) -> None:
        """Observe what the patterns name, from now on.

        Args:
            patterns: names or patterns.
            standing: until they are removed; or else they are temporary.

        Raises:
            TransportError: the broker refused.
        """
        for pattern in patterns:
            if standing:
                self.temporary.pop(pattern, None)
            elif pattern not in self:
                self.temporary[pattern] = None
            await self._subscribe_or_drop(pattern)
        await self._prove({each: self._observed[each] for each in patterns if each in self})
        if any(map(is_pattern, patterns)):
            await self._end_what_is_covered()

    async def look_at(self, name: str) -> None:
        """Observe a name because somebody looks it up; a refusal may become known later.

        What is observed anyway stays so, refused or not.

        Raises:
            TransportError: the broker refused.
        """
        if name not in self:
            if self._wildcards and self.is_proven(name):
                return  # by something wider
            self.temporary[name] = None
        if name in self.temporary:
            await self._subscribe_or_drop(name)
        else:
            await self._subscribe(name)

    def keep(self, name: str) -> None:
        """Somebody waits for news of a name: it outlives what brings it in."""
        if name not in self and self._covered(name):
            self.temporary[name] = None
            self._observed[name] = _Observation()

    async def remove(self, *patterns: str) -> None:
        """Observe these no longer.

        A cancellation is let through when what relied on them is in force by itself.
        """
        given_up = {each: self._observed[each] for each in patterns if each in self}
        wider = any(map(is_pattern, given_up))
        relying = self._observed if wider else ()
        unheard = {each for each in relying if not self.is_proven(each)}
        for pattern, observation in given_up.items():
            self._drop(pattern, observation)
        try:
            if wider:
                await end_of(asyncio.create_task(self._stand_alone(unheard)))
        finally:
            await _end(*given_up.values())

    def take_fresh(self) -> list[str]:
        """What was subscribed to late, so that who is there has to be asked; once."""
        fresh = list(self._fresh)
        self._fresh.clear()
        return fresh

    # ---- what the broker says to them --------------------------------------------------

    def resume(self) -> None:
        """The link is up: every one was tried again."""
        for observation in self._observed.values():
            observation.refusal = None
            observation.asked = self._link.begun
        if not all(each.subscriptions for each in self._observed.values()):
            self._link.retry_soon()  # what is refused at once was not tried

    def deny(self, error: TransportError) -> None:
        """The broker refuses the subjects of the error."""
        for pattern, observation in self._observed.items():
            if not error.subscriptions.isdisjoint(self._routes(pattern)):
                observation.refusal = error
                if is_pattern(pattern):
                    self._link.retry_soon()  # what relied on it may be allowed

    async def retry(self, *, refused: bool, held: AbstractSet[str] = frozenset()) -> list[str]:
        """Subscribe to what is observed and not subscribed to; return what has to be asked for.

        Args:
            refused: also to what was refused: perhaps it is allowed by now. But names that were
                only looked up are let go: the next lookup tries them.
            held: what somebody watches.

        Raises:
            TransportError: the link failed.
        """
        for name in tuple(self.temporary):
            observation = self._observed.get(name) if name in self.temporary else None
            if observation is not None and observation.refusal is not None and name not in held:
                self._drop(name, observation)
                await _end(observation)
        await self._complete(self._fresh, refused=refused)
        await self._end_what_is_covered()
        return self.take_fresh()

    async def prove(self, name: str) -> None:
        """See to it that a refusal to let us hear about `name` is known, if the broker answers."""
        relied_on = self._relied_on(name)
        if relied_on and not self.is_proven(name):
            await self._link.check(max(each.asked for each in relied_on))

    def is_proven(self, pattern: str) -> bool:
        """Whether the broker lets us hear what it names, and has had the time to refuse."""
        checked = self._link.checked
        return any(each.complete and each.asked < checked for each in self._relied_on(pattern))

    def is_refused(self, pattern: str) -> bool:
        """Whether it is refused as such, and nothing else brings in what it names."""
        observation = self._observed.get(pattern)
        return (
            observation is not None
            and observation.refusal is not None
            and not self._covered(pattern)
        )

    def is_deaf(self, name: str) -> bool:
        """Whether a refusal is why nothing that a name stands for arrives, and none is tried."""
        if name in self:
            return self.is_refused(name)
        relied_on = self._relied_on(name)
        refused = any(each.refusal is not None for each in relied_on)
        return refused and not any(each.complete for each in relied_on)

    # ------------------------------------------------------------------------------------

    async def _subscribe(self, pattern: str) -> bool:
        """Subscribe to what a pattern names; False if that was done before."""
        observation = self._observed.get(pattern)
        if observation is None:
            observation = self._observed[pattern] = _Observation()
            if is_pattern(pattern):
                self._wildcards.append(pattern)
        if observation.complete or self._covered(pattern):
            return False
        async with observation.lock:
            if observation.refusal is not None:  # perhaps it is allowed by now
                observation.refusal = None
                await _end(observation)
            try:
                if not observation.subscriptions:
                    observation.subscriptions = await self._link.subscribe_all(
                        self._routes(pattern)
                    )
                    observation.asked = self._link.begun
            except TransportError as error:
                if error.subjects:
                    observation.refusal = error
                raise
            finally:
                if self._observed.get(pattern) is not observation:  # given up meanwhile
                    await _end(observation)
        return True

    async def _subscribe_or_drop(self, pattern: str) -> None:
        """As `_subscribe`; what it fails for is not observed."""
        try:
            await self._subscribe(pattern)
        except TransportError:
            if pattern in self:
                self._drop(pattern, self._observed[pattern])
            raise

    async def _stand_alone(self, unheard: AbstractSet[str]) -> None:
        """Subscribe to what relied on a pattern that is given up, and wait until it is in force.

        Args:
            unheard: what it had not brought in: only of that it has to be asked who is there.
        """
        done: dict[str, None] = {}
        try:
            await self._complete(done)
        except RegistryError:  # that of the link, or the end of everything
            self._link.retry_soon()
        finally:
            self._fresh.update({each: None for each in done if each in unheard})
        asked = [each.asked for each in self._observed.values() if each.complete]
        if asked:
            await self._link.check(max(asked))

    async def _complete(self, done: dict[str, None], *, refused: bool = False) -> None:
        """Subscribe to what is observed and not subscribed to, and note in `done` what that is."""
        for pattern, observation in tuple(self._observed.items()):
            if pattern in self and (refused or observation.refusal is None):
                try:
                    if await self._subscribe(pattern):
                        done[pattern] = None
                except TransportError as error:
                    if not error.subjects:
                        raise

    async def _prove(self, observations: dict[str, _Observation]) -> None:
        """Learn whether the broker lets us hear these.

        Raises:
            TransportError: it does not; then they are not observed.
        """
        for _ in range(_PROOFS):
            unproven = [
                pattern
                for pattern, observation in observations.items()
                if self._observed.get(pattern) is observation and not self.is_proven(pattern)
            ]
            if not unproven or not self._link.connected:
                return
            for pattern in unproven:  # what it relied on may have been refused
                await self._subscribe_or_drop(pattern)
            with contextlib.suppress(TransportError):  # trouble with the link: maybe it is over
                await self._link.flush()
            refusals = {
                pattern: observation.refusal
                for pattern, observation in observations.items()
                if observation.refusal is not None and not self._covered(pattern)
            }
            for pattern in refusals:
                self._drop(pattern, observations[pattern])
                await _end(observations[pattern])
            if refusals:
                raise next(iter(refusals.values())).again()

    async def _end_what_is_covered(self) -> None:
        """End the subscriptions to what would come twice: something wider brings it in, too."""
        checked = self._link.checked
        twice = [
            observation
            for pattern, observation in self._observed.items()
            if observation.subscriptions
            and any(each.complete and each.asked < checked for each in self._wider(pattern))
        ]
        await _end(*twice)

    def _routes(self, pattern: str) -> dict[str, Handler]:
        return {
            self._subjects.register(pattern): self._on_announcement,
            self._subjects.unregister(pattern): self._on_withdrawal,
        }

    def _covered(self, pattern: str) -> bool:
        """Whether something wider brings in what a pattern names."""
        return bool(self._wildcards) and any(each.complete for each in self._wider(pattern))

    def _relied_on(self, pattern: str) -> list[_Observation]:
        """What brings in what a pattern names: itself, and everything wider."""
        own = self._observed.get(pattern)
        wider = self._wider(pattern)
        return wider if own is None else [own, *wider]

    def _wider(self, pattern: str) -> list[_Observation]:
        return [
            self._observed[each]
            for each in self._wildcards
            if each != pattern and covers(each, pattern)
        ]

    def _drop(self, pattern: str, observation: _Observation) -> None:
        if self._observed.get(pattern) is observation:
            del self._observed[pattern]
            self.temporary.pop(pattern, None)
            if pattern in self._wildcards:
                self._wildcards.remove(pattern)


async def _end(*observations: _Observation) -> None:
    """End the subscriptions of these observations, whatever comes in between."""
    subscriptions = [each for observation in observations for each in observation.subscriptions]
    for observation in observations:
        observation.subscriptions = []
    await unsubscribe_all(subscriptions)
