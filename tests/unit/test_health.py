"""Health to status: what a row of outcomes leads to, and checks that misbehave."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioregistry import Registry, Status
from aioregistry.integrations.health import HealthCheck, Hysteresis
from tests.tools import eventually

P, W, C = Status.PASSING, Status.WARNING, Status.CRITICAL
LETTERS = {"p": P, "w": W, "c": C}


def run(outcomes: str, **numbers: int) -> str:
    hysteresis = Hysteresis(**numbers)
    return "".join(hysteresis.take(LETTERS[letter]).value[0] for letter in outcomes)


@pytest.mark.parametrize(
    ("outcomes", "statuses"),
    [
        ("p", "p"),
        ("c", "c"),  # never seen healthy: the first outcome counts at once
        ("w", "w"),
        ("pcp", "pww"),  # a hiccup shows as a warning, until two runs have passed
        ("pcpp", "pwwp"),
        ("pccc", "pwwc"),
        ("pccpcc", "pwwwww"),  # never three in a row
        ("pcccp", "pwwcc"),
        ("pcccpp", "pwwccp"),
        ("pcccpw", "pwwccw"),  # better, but not well
        ("pcccww", "pwwccw"),
        ("pwwwwp", "pwwwww"),
        ("cpcpcpc", "ccccccc"),  # fluttering does not get through
    ],
)
def test_outcomes_lead_to_statuses(outcomes: str, statuses: str) -> None:
    assert run(outcomes) == statuses


def test_the_numbers_are_what_they_say() -> None:
    assert run("pccccpppp", warn_after=2, critical_after=4, pass_after=3) == "ppwwcccpp"
    assert run("pcp", warn_after=1, critical_after=1, pass_after=1) == "pcp"


@given(st.text("pwc", min_size=1, max_size=40))
def test_a_status_gets_worse_or_better_only_by_enough_outcomes_in_a_row(outcomes: str) -> None:
    order, statuses = "pwc", run(outcomes, warn_after=2, critical_after=3, pass_after=2)
    for now in range(1, len(outcomes)):
        before, after = order.index(statuses[now - 1]), order.index(statuses[now])
        ranks = [order.index(letter) for letter in outcomes[: now + 1]]
        if after > before:
            assert min(ranks[-(after + 1) :]) >= after
            assert len(ranks) > after
        if after < before:
            assert max(ranks[-2:]) <= after


@given(st.text("pwc", max_size=20), st.sampled_from("pwc"))
def test_steady_outcomes_win(outcomes: str, last: str) -> None:
    assert run(outcomes + 3 * last)[-1] == last


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"warn_after": 0}, "warn_after must be a positive integer, not 0"),
        ({"pass_after": True}, "pass_after must be a positive integer, not True"),
        ({"warn_after": 3, "critical_after": 2}, "it would never warn"),
    ],
)
def test_numbers_that_make_no_sense(numbers: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Hysteresis(**numbers)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"interval": 0}, "interval must be a positive number of seconds, not 0"),
        ({"interval": "1"}, "interval must be a positive number of seconds, not '1'"),
        ({"timeout": float("nan")}, "timeout must be a positive number"),
        ({"critical_after": 0}, "critical_after must be a positive integer"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], complaint: str) -> None:
    async def check() -> None: ...

    with pytest.raises(ValueError, match=complaint):
        HealthCheck(check, **options)


class TestOneRun:
    @pytest.mark.parametrize(
        ("answer", "outcome"), [(None, P), (True, P), (False, C), (W, W), (C, C)]
    )
    async def test_says_how_it_is(self, answer: Any, outcome: Status) -> None:
        async def check() -> Any:
            return answer

        assert await HealthCheck(check).outcome() == (outcome, "")

    async def test_raises(self) -> None:
        async def check() -> None:
            raise ConnectionError("no database")

        assert await HealthCheck(check).outcome() == (
            C,
            "it raised ConnectionError('no database')",
        )

    @pytest.mark.parametrize(("answer", "complaint"), [("fine", "not 'fine'"), (1, "not 1")])
    async def test_says_something_else(self, answer: Any, complaint: str) -> None:
        async def check() -> Any:
            return answer

        outcome, reason = await HealthCheck(check).outcome()
        assert outcome is C
        assert complaint in reason

    async def test_is_not_async(self) -> None:
        check: Any = lambda: True  # noqa: E731 - what a user may write
        outcome, reason = await HealthCheck(check).outcome()
        assert outcome is C
        assert "make it async" in reason

    async def test_hangs(self) -> None:
        ended: list[bool] = []

        async def check() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        assert await HealthCheck(check, timeout=0.01).outcome() == (C, "no answer within 0.01 s")
        await eventually(lambda: ended)

    async def test_does_not_even_end_when_cancelled(self) -> None:
        runs: list[int] = []
        release = asyncio.Event()

        async def check() -> None:
            runs.append(1)
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue

        health = HealthCheck(check, timeout=0.01)
        assert (await health.outcome())[0] is C
        assert await health.outcome() == (
            C,
            "an earlier run has not ended yet, though it was cancelled",
        )
        assert runs == [1], "no second run piles up behind the first"
        release.set()
        await asyncio.sleep(0.01)
        assert await health.outcome() == (P, "")

    async def test_is_cancelled_with_its_caller(self) -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def check() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.create_task(HealthCheck(check, timeout=60).outcome())
        await started.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        await asyncio.wait_for(ended.wait(), 5)


class TestDriving:
    async def test_the_status_follows_the_check(self, caplog: pytest.LogCaptureFixture) -> None:
        broken, runs = False, 0

        async def check() -> None:
            nonlocal runs
            runs += 1
            if broken:
                raise ConnectionError("no database")

        caplog.set_level(logging.INFO, "aioregistry")
        async with Registry("memory://driven") as registry, registry.watch("db") as watch:
            registration = await registry.register("db", "10.0.0.5:1")
            assert (await anext(watch)).service.status is P
            task = asyncio.create_task(HealthCheck(check, interval=0.01).run(registration))
            await eventually(lambda: runs)
            broken = True
            assert (await anext(watch)).service.status is W
            assert (await anext(watch)).service.status is C
            assert registry.cached("db") == (), "callers are not sent here"
            broken = False
            assert (await anext(watch)).service.status is P
            await eventually(lambda: "db at 10.0.0.5:1 is passing" in caplog.messages)
            task.cancel()
            await asyncio.wait((task,))
        assert "db at 10.0.0.5:1 is critical: it raised ConnectionError('no database')" in (
            caplog.messages
        )

    async def test_ends_with_the_service(self) -> None:
        async def check() -> bool:
            return False

        async with Registry("memory://driven") as registry:
            registration = await registry.register("db", "10.0.0.5:1")
            await registration.unregister()
            await asyncio.wait_for(HealthCheck(check).run(registration), 5)
            assert registry.registered == ()
