"""The one timer of a loop with many deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from aioregistry.alarm import Alarm


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def asleep(sleep: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that sleeps."""
    task = asyncio.ensure_future(sleep)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_sleeps_until_the_time() -> None:
    due = in_seconds(0.01)
    await Alarm().sleep_until(due)
    assert asyncio.get_running_loop().time() >= due - 0.001


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_the_past_is_no_sleep(seconds: float) -> None:
    await Alarm().sleep_until(in_seconds(seconds))


@pytest.mark.parametrize("seconds", [None, 1000.0])
async def test_waking(seconds: float | None) -> None:
    alarm = Alarm()
    task = await asleep(alarm.sleep_until(None if seconds is None else in_seconds(seconds)))
    alarm.wake()
    alarm.wake()
    await task


async def test_waking_before_the_sleep_counts_once() -> None:
    alarm = Alarm()
    alarm.wake()
    alarm.wake()
    await alarm.sleep_until(None)
    (await asleep(alarm.sleep_until(None))).cancel()


async def test_the_sleep_uses_up_what_woke_it() -> None:
    alarm = Alarm()
    task = await asleep(alarm.sleep_until(None))
    alarm.wake()
    await task
    (await asleep(alarm.sleep_until(None))).cancel()


async def test_only_an_earlier_time_wakes() -> None:
    alarm = Alarm()
    task = await asleep(alarm.sleep_until(in_seconds(1000)))
    alarm.wake_for(None)
    alarm.wake_for(in_seconds(1001))
    await asyncio.sleep(0)
    assert not task.done()
    alarm.wake_for(in_seconds(999))
    await task


async def test_any_time_wakes_from_an_endless_sleep() -> None:
    alarm = Alarm()
    task = await asleep(alarm.sleep_until(None))
    alarm.wake_for(in_seconds(1000))
    await task


async def test_the_same_after_a_sleep_that_ended() -> None:
    alarm = Alarm()
    await alarm.sleep_until(in_seconds(0.001))
    task = await asleep(alarm.sleep_until(in_seconds(1000)))
    alarm.wake_for(in_seconds(500))
    await task


async def test_a_cancelled_sleep_leaves_nothing_behind() -> None:
    alarm = Alarm()
    task = await asleep(alarm.sleep_until(in_seconds(0.001)))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.005)  # beyond the time of the cancelled sleep
    (await asleep(alarm.sleep_until(None))).cancel()
