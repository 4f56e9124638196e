"""The pauses between attempts to bring a lost link up again."""

from __future__ import annotations

from aioregistry.transports._pauses import Pauses
from aioregistry.vigil import RECONNECTED


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def attempts(pauses: Pauses, clock: Clock, until: float) -> list[float]:
    """When the attempts begin, if each fails at once."""
    found: list[float] = []
    while clock.now < until:
        clock.now += pauses.next()
        found.append(clock.now)
    return found


def test_after_a_cut_of_two_seconds_the_next_attempt_comes_before_observers_give_up() -> None:
    for _ in range(100):
        clock = Clock()
        pauses = Pauses(clock)
        pauses.lost(since=0.0)
        lost = clock.now
        times = attempts(pauses, clock, lost + 2.5)
        gaps = [after - before for before, after in zip([lost, *times], times, strict=False)]
        assert max(gaps) < RECONNECTED - 2.0


def test_later_the_attempts_become_rare() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    pauses.lost(since=0.0)
    attempts(pauses, clock, clock.now + 60)
    assert len(attempts(pauses, clock, clock.now + 60)) <= 120
    assert pauses.next() <= 2.0


def test_a_link_that_hardly_lived_is_no_reason_for_haste() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    count = 0
    while clock.now < 160.0:
        clock.now += pauses.next()
        pauses.lost(since=clock.now)  # taken, and sent away at once
        count += 1
    assert count < 160


def test_no_two_wait_for_the_same_time() -> None:
    pauses = [Pauses(Clock()) for _ in range(20)]
    assert len({each.next() for each in pauses}) == 20
