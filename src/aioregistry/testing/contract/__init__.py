"""The contract of `Transport` as checks that run against a real broker.

    @pytest.mark.parametrize("check", transport_checks, ids=str)
    async def test_my_transport(check: TransportCheck) -> None:
        await check(lambda: MyTransport("my://localhost"))

Every check uses a random subject prefix, so the broker may be in use by others. It has to be
one server: between the servers of a cluster, no flush is a barrier.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aioregistry.testing.contract import absence, life, messages
from aioregistry.testing.contract.stage import Stage, is_cancelled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aioregistry.transports.base import Transport

__all__ = ["TransportCheck", "check_transport", "transport_checks"]

_CHECK_LIMIT: Final = 50.0  # seconds, for one check


class TransportCheck:
    """One clause of the contract.

    Attributes:
        name: for `check_transport(only=...)`, and what `str()` gives.
        clause: what the transport has to do, in words.
    """

    def __init__(self, run: Callable[[Stage], Awaitable[None]]) -> None:
        self.name = getattr(run, "__name__", str(run))
        self.clause = (run.__doc__ or "").strip()
        self._run = run

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<TransportCheck {self.name}: {self.clause}>"

    async def __call__(self, make: Callable[[], Transport]) -> None:
        """Check the clause on fresh transports, and close them.

        Args:
            make: makes one more transport to the same broker, not connected yet.

        Raises:
            AssertionError: the clause is broken; the text names it and says how.
        """
        stage = Stage(make)
        limit = asyncio.timeout(_CHECK_LIMIT)
        try:
            async with limit:
                await self._run(stage)
        except (Exception, asyncio.CancelledError) as error:
            if is_cancelled():
                raise
            text = f"not done within {_CHECK_LIMIT:g} s" if limit.expired() else _describe(error)
            raise AssertionError(f"{self.name}: {self.clause}\n  but: {text}") from error
        finally:
            await stage.clear()


async def check_transport(make: Callable[[], Transport], *, only: str | None = None) -> None:
    """Check a transport against the whole contract, or one clause of it.

    Args:
        make: makes one more transport to the same broker, not connected yet.
        only: the name of the one check to make.

    Raises:
        AssertionError: a clause is broken; the text names it and says how.
        ValueError: no check is called `only`.
    """
    wanted = [check for check in transport_checks if only in (None, check.name)]
    if not wanted:
        names = ", ".join(map(str, transport_checks))
        raise ValueError(f"no check is called {only!r}; there are: {names}")
    for check in wanted:
        await check(make)


transport_checks: Final[tuple[TransportCheck, ...]] = tuple(
    map(
        TransportCheck,
        (
            messages.is_a_transport,
            messages.address_has_no_credentials,
            messages.delivers_exact_subject,
            messages.payloads_are_bytes,
            messages.large_payload_harms_nobody,
            messages.keeps_order,
            messages.keeps_order_of_calls,
            messages.sends_now_or_says_no,
            messages.hears_itself,
            messages.star_is_one_token,
            messages.tail_is_one_or_more_tokens,
            messages.odd_characters_are_literal,
            messages.each_subscription_gets_its_own_copy,
            messages.one_handler_may_subscribe_twice,
            messages.subscription_is_in_place_at_once,
            messages.subscribing_takes_no_wait,
            messages.unsubscribe_stops_delivery,
            messages.subscribes_again,
            life.subscribes_before_connect,
            life.without_a_link_it_raises,
            life.first_success_is_not_reported,
            absence.nobody_there_answers_the_asker,
            absence.nobody_there_at_a_wildcard,
            absence.somebody_there_means_no_empty_message,
            absence.nobody_left_is_noticed,
            absence.unheard_tells_the_truth,
            absence.unheard_minds_wildcards,
            absence.unheard_takes_many_subjects,
            absence.unheard_notices_who_leaves,
            life.flush_is_a_barrier,
            life.raising_handler_harms_nobody,
            life.cancellation_leaves_it_usable,
            life.cancellation_concerns_nobody_else,
            life.cancelled_subscribe_leaves_nothing,
            life.tasks_may_change,
            life.many_tasks_at_once,
            life.closing_is_final,
            life.closing_is_prompt,
            life.closing_leaves_nothing,
            life.closing_concerns_nobody_else,
        ),
    )
)
"""Every clause of the contract, the simple ones first."""


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
