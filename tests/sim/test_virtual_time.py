"""Virtual time jumps, and what stands still is noticed."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from aioregistry.testing import StandstillError, VirtualTimeLoop, run_virtual
from aioregistry.testing.strand import Strand


def test_an_hour_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        with anyio.move_on_after(1800):
            await anyio.sleep_forever()
        return asyncio.get_running_loop().time()

    assert run_virtual(main(), start=100.0) == pytest.approx(100 + 3600 + 1800)


def test_timers_fire_in_order_and_never_early() -> None:
    fired: list[tuple[float, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def fire(due: float) -> None:
            fired.append((due, loop.time()))

        for number in range(1000):
            due = 1e6 + (number * 7919 % 1000) / 997
            loop.call_at(due, fire, due)
        await asyncio.sleep(2e6)

    run_virtual(main())
    assert [due for due, _ in fired] == sorted(due for due, _ in fired)
    assert all(now >= due for due, now in fired)


def test_waiting_again_for_what_is_not_yet_due_ends() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        turns, due = 0, loop.time() + 0.1
        while loop.time() < due:
            turns += 1
            await asyncio.sleep(due - loop.time())
        return turns

    assert run_virtual(main(), start=1e9) <= 2


def test_a_deadlock_names_who_waits() -> None:
    async def wait_in_vain() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(wait_in_vain(), name="the waiter")

    with pytest.raises(StandstillError, match=r"deadlock.*the waiter"):
        run_virtual(main())


def test_a_livelock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioregistry.testing.virtual_time._SPIN", 100)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.sleep(1)

    with pytest.raises(StandstillError, match="livelock"):
        run_virtual(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="thread"):
        run_virtual(main())


def test_tasks_left_over_are_cancelled() -> None:
    ended: list[str] = []

    async def linger(name: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(name)

    async def main() -> None:
        stopped = Strand("stopped")
        stopped.spawn(linger("stopped"))
        asyncio.create_task(linger("free"))  # noqa: RUF006 - it is the loop that ends it
        await asyncio.sleep(1)
        stopped.stop()

    run_virtual(main())
    assert sorted(ended) == ["free", "stopped"]


class TestStrand:
    def test_its_timers_wait_while_it_is_stopped(self) -> None:
        beats: list[float] = []

        async def beat() -> None:
            while True:
                await asyncio.sleep(1)
                beats.append(asyncio.get_running_loop().time())

        async def main() -> None:
            strand = Strand("beating")
            strand.spawn(beat())
            await asyncio.sleep(2.5)
            strand.stop()
            await asyncio.sleep(10)
            strand.resume()
            await asyncio.sleep(1.2)

        run_virtual(main())
        assert beats == pytest.approx([1, 2, 12.5, 13.5])

    def test_what_it_spawns_belongs_to_it(self) -> None:
        async def main() -> bool:
            done = asyncio.Event()

            async def parent() -> None:
                loop = asyncio.get_running_loop()
                child = asyncio.create_task(asyncio.sleep(1))
                loop.call_later(2, done.set)
                await child

            strand = Strand("family")
            strand.spawn(parent())
            await asyncio.sleep(0.5)
            strand.stop()
            await asyncio.sleep(10)
            early = done.is_set()
            strand.resume()
            await done.wait()
            return early

        assert run_virtual(main()) is False

    def test_a_cancelled_timer_stays_cancelled(self) -> None:
        fired: list[str] = []

        async def main() -> None:
            loop, strand = asyncio.get_running_loop(), Strand("cancelling")
            timer = strand.context.run(loop.call_later, 1, fired.append, "timer")
            strand.stop()
            await asyncio.sleep(2)
            timer.cancel()
            strand.resume()
            await asyncio.sleep(1)

        run_virtual(main())
        assert fired == []


def test_the_loop_can_be_used_bare() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(asyncio.sleep(10))
        assert runner.get_loop().time() == pytest.approx(10)
