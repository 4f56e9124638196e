"""One ping for all who ask for a cold name."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioregistry.inquiry import MIN_QUIET, QUIET, STALL, Inquiries, Inquiry


class Asking:
    """Counts the pings, which take until they are let through."""

    def __init__(self, *, slow: bool = False) -> None:
        self.count = 0
        self.fails: Exception | None = None
        self.gate = asyncio.Event()
        if not slow:
            self.gate.set()

    async def __call__(self) -> None:
        self.count += 1
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def task_of(inquiry: Inquiry, ask: Asking, now: float = 0.0) -> asyncio.Task[None]:
    task = asyncio.ensure_future(inquiry.ask_once(ask, now, 0.1))
    await settle()
    return task


async def cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class TestAskingOnce:
    async def test_any_number_of_callers_ask_once(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking(slow=True)
        tasks = [await task_of(inquiry, ask) for _ in range(10)]
        assert ask.count == 1
        assert not any(task.done() for task in tasks)
        ask.gate.set()
        await asyncio.gather(*tasks)
        assert ask.count == 1

    async def test_a_ping_serves_those_who_come_soon_after(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking()
        await inquiry.ask_once(ask, 0.0, 0.1)
        await inquiry.ask_once(ask, 0.1, 0.1)
        assert ask.count == 1
        await inquiry.ask_once(ask, 0.11, 0.1)
        assert ask.count == 2

    async def test_when_the_asking_caller_is_cancelled_the_next_takes_over(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking(slow=True)
        first, second, third = [await task_of(inquiry, ask) for _ in range(3)]
        await cancelled(first)
        await settle()
        assert ask.count == 2
        await cancelled(second)
        await settle()
        assert ask.count == 3
        ask.gate.set()
        await third

    async def test_a_waiting_caller_may_be_cancelled(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking(slow=True)
        first, second = [await task_of(inquiry, ask) for _ in range(2)]
        await cancelled(second)
        ask.gate.set()
        await first
        assert ask.count == 1

    async def test_a_failure_is_its_callers_alone_and_the_next_takes_over(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking(slow=True)
        first, second = [await task_of(inquiry, ask) for _ in range(2)]
        ask.fails = OSError("no")
        ask.gate.set()
        with pytest.raises(OSError, match="no"):
            await first
        with pytest.raises(OSError, match="no"):
            await second
        assert ask.count == 2
        ask.fails = None
        await inquiry.ask_once(ask, 0.0, 0.1)
        assert ask.count == 3

    async def test_asking_again_forgets_that_nobody_was_there(self) -> None:
        inquiry, ask = Inquiries().join("orders"), Asking()
        await inquiry.ask_once(ask, 0.0, 0.1)
        inquiry.nobody = True
        await inquiry.ask_once(ask, 0.05, 0.1)
        assert inquiry.nobody
        await inquiry.ask_once(ask, 1.0, 0.1)
        assert not inquiry.nobody


class TestQuiet:
    async def test_unknown_before_the_first_answer(self) -> None:
        inquiry = Inquiries().join("orders")
        assert inquiry.quiet_at is None
        await inquiry.ask_once(Asking(), 1.0, 0.1)
        assert inquiry.quiet_at is None

    async def test_twice_what_the_first_answer_took_after_the_last(self) -> None:
        inquiry = Inquiries().join("orders")
        await inquiry.ask_once(Asking(), 1.0, 0.1)
        inquiry.heard(1.05)
        assert inquiry.quiet_at == pytest.approx(1.05 + QUIET * 0.05)
        inquiry.heard(1.08)
        assert inquiry.quiet_at == pytest.approx(1.08 + QUIET * 0.05)

    async def test_at_least_a_moment(self) -> None:
        inquiry = Inquiries().join("orders")
        await inquiry.ask_once(Asking(), 1.0, 0.1)
        inquiry.heard(1.0001)
        assert inquiry.quiet_at == pytest.approx(1.0001 + MIN_QUIET)

    async def test_asking_again_begins_anew(self) -> None:
        inquiry = Inquiries().join("orders")
        await inquiry.ask_once(Asking(), 1.0, 0.1)
        inquiry.heard(1.05)
        await inquiry.ask_once(Asking(), 2.0, 0.1)
        assert inquiry.quiet_at is None

    async def test_who_wakes_up_late_does_not_know(self) -> None:
        """While the event loop was blocked, more answers may have come."""
        clock = asyncio.get_running_loop().time
        inquiry = Inquiries().join("orders")
        await inquiry.ask_once(Asking(), clock(), 0.1)
        inquiry.heard(clock())
        quiet_at = inquiry.quiet_at
        assert quiet_at is not None
        waiting = asyncio.create_task(inquiry.news(quiet_at))
        await asyncio.sleep(0)
        time.sleep(MIN_QUIET + 2 * STALL)  # noqa: ASYNC251 - the very thing
        await waiting
        later = inquiry.quiet_at
        assert later is not None
        assert later > quiet_at + STALL

    async def test_without_a_question(self) -> None:
        inquiry = Inquiries().join("orders")
        inquiry.heard(1.0)
        assert inquiry.quiet_at is None


class TestNews:
    async def waiting(self, inquiry: Inquiry, seconds: float = 1000.0) -> asyncio.Task[None]:
        until = asyncio.get_running_loop().time() + seconds
        task = asyncio.ensure_future(inquiry.news(until))
        await settle()
        return task

    async def test_wakes_everybody(self) -> None:
        inquiry = Inquiries().join("orders")
        tasks = [await self.waiting(inquiry) for _ in range(3)]
        assert not any(task.done() for task in tasks)
        inquiry.wake()
        await asyncio.gather(*tasks)

    async def test_the_first_answer_wakes(self) -> None:
        inquiry = Inquiries().join("orders")
        task = await self.waiting(inquiry)
        inquiry.heard(1.0)
        await task

    @pytest.mark.parametrize("seconds", [0.005, 0.0, -1.0])
    async def test_ends_in_time(self, seconds: float) -> None:
        until = asyncio.get_running_loop().time() + seconds
        await Inquiries().join("orders").news(until)

    async def test_cancelling_one_does_not_disturb_the_others(self) -> None:
        inquiry = Inquiries().join("orders")
        first, second = await self.waiting(inquiry), await self.waiting(inquiry)
        await cancelled(first)
        inquiry.wake()
        await second


class TestInquiries:
    def test_lasts_until_the_last_has_left(self) -> None:
        inquiries = Inquiries()
        assert not inquiries
        with inquiries.join("orders") as first:
            with inquiries.join("orders") as second:
                assert first is second
                assert inquiries.get("orders") is first
            assert inquiries.get("orders") is first
            with inquiries.join("mail") as other:
                assert other is not first
        assert inquiries.get("orders") is None
        assert not inquiries

    def test_an_error_leaves_too(self) -> None:
        inquiries = Inquiries()
        with pytest.raises(KeyError), inquiries.join("orders"):
            raise KeyError
        assert not inquiries

    async def test_wake_all(self) -> None:
        inquiries = Inquiries()
        with inquiries.join("orders") as orders, inquiries.join("mail") as mail:
            until = asyncio.get_running_loop().time() + 1000
            tasks = [asyncio.ensure_future(each.news(until)) for each in (orders, mail)]
            await settle()
            inquiries.wake_all()
            await asyncio.gather(*tasks)
