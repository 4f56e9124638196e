"""What is announced, and when; time is a number here."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioregistry.announcer import ANSWER_BURST, ANSWER_COST, ANSWER_WINDOW, Announced, Announcer
from aioregistry.service import Service, Status

INTERVAL = 3.0
WINDOW = ANSWER_WINDOW + ANSWER_COST


def service(number: int = 1, name: str = "orders") -> Service:
    return Service(name, f"a:{number}", id=f"{name}-{number}")


def announcer(*services: Service, now: float = 0.0, seed: int = 1) -> Announcer:
    """One that has announced its services already."""
    made = Announcer(INTERVAL, random.Random(seed))
    for each in services:
        made.announce(each, now)
    assert sent(made.due(now)) == list(services)
    return made


def sent(found: Iterable[Announced]) -> list[Service]:
    return [each.service for each in found]


def run(subject: Announcer, until: float) -> list[tuple[float, Service]]:
    """Send whatever is due, whenever it is due."""
    log: list[tuple[float, Service]] = []
    while (due := subject.next_deadline()) is not None and due <= until:
        log += [(due, each) for each in sent(subject.due(due))]
    return log


class TestAnnouncing:
    def test_at_once(self) -> None:
        subject = Announcer(INTERVAL, random.Random(1))
        assert subject.next_deadline() is None
        assert subject.due(0.0) == []
        announced = subject.announce(service(), 5.0)
        assert subject.next_deadline() == 5.0
        assert subject.due(5.0) == [announced]
        assert subject.due(5.0) == []

    def test_a_change_goes_out_at_once_with_the_next_number(self) -> None:
        subject = announcer(service())
        changed = msgspec.structs.replace(service(), status=Status.CRITICAL)
        announced = subject.announce(changed, 1.0)
        assert (announced.seq, announced.service) == (2, changed)
        assert subject.due(1.0) == [announced]
        assert len(subject) == 1

    def test_the_same_again_goes_out_at_once_with_the_same_number(self) -> None:
        subject = announcer(service())
        announced = subject.announce(service(), 1.0)
        assert announced.seq == 1
        assert subject.due(1.0) == [announced]

    def test_two_changes_at_once_are_one_announcement(self) -> None:
        subject = announcer(service())
        for status in (Status.WARNING, Status.CRITICAL):
            announced = subject.announce(msgspec.structs.replace(service(), status=status), 1.0)
        assert subject.due(1.0) == [announced]
        assert announced.seq == 3

    def test_what_is_announced(self) -> None:
        subject = announcer(service(1), service(1, "mail"), service(2))
        assert subject.services == (service(1), service(1, "mail"), service(2))
        assert subject.names() == ("orders", "mail")
        announced = subject.get(service(2).key)
        assert announced is not None
        assert announced.service == service(2)
        assert subject.get(("orders", "b:1")) is None

    def test_withdrawing(self) -> None:
        subject = announcer(service(1), service(2))
        announced = subject.withdraw(service(1).key)
        assert announced is not None
        assert announced.service == service(1)
        assert subject.withdraw(service(1).key) is None
        assert subject.services == (service(2),)
        assert {each for _, each in run(subject, 100.0)} == {service(2)}
        assert subject.withdraw(service(2).key) is not None
        assert (len(subject), subject.names(), subject.next_deadline()) == (0, (), None)

    def test_withdrawing_what_is_due(self) -> None:
        subject = Announcer(INTERVAL, random.Random(1))
        subject.announce(service(), 0.0)
        subject.withdraw(service().key)
        assert subject.due(0.0) == []

    def test_announcing_again_after_a_withdrawal_starts_anew(self) -> None:
        subject = announcer(service())
        subject.announce(msgspec.structs.replace(service(), version="2"), 0.0)
        subject.withdraw(service().key)
        assert subject.announce(service(), 1.0).seq == 1

    def test_postponing(self) -> None:
        subject = announcer(service())
        announced = subject.announce(service(), 1.0)
        (found,) = subject.due(1.0)
        subject.postpone(found, 1.1)
        assert subject.next_deadline() == 1.1
        assert subject.due(1.1) == [announced]

    def test_postponing_what_was_withdrawn_meanwhile(self) -> None:
        subject = announcer(service())
        (found,) = subject.due(INTERVAL)
        subject.withdraw(service().key)
        subject.postpone(found, 5.0)
        assert subject.next_deadline() is None

    def test_announce_all(self) -> None:
        services = [service(number) for number in range(100)]
        subject = announcer(*services)
        subject.announce_all(1.0, spread=0.5)
        log = run(subject, 1.5)
        assert {each for _, each in log} == set(services)
        assert len(log) == 100
        assert len({when for when, _ in log}) > 10
        assert all(1.0 <= when <= 1.5 for when, _ in log)

    def test_announce_all_at_once(self) -> None:
        subject = announcer(service(1), service(2))
        subject.announce_all(1.0)
        subject.announce_all(1.0)
        assert sent(subject.due(1.0)) == [service(1), service(2)]


class TestHeartbeats:
    def test_come_within_the_interval(self) -> None:
        services = [service(number) for number in range(20)]
        log = run(announcer(*services), 100 * INTERVAL)
        for each in services:
            beats = [0.0, *(when for when, beaten in log if beaten == each)]
            gaps = [later - earlier for earlier, later in pairwise(beats)]
            assert len(gaps) >= 99
            assert max(gaps) <= INTERVAL
            assert min(gaps) >= INTERVAL / 2

    def test_are_jittered(self) -> None:
        services = [service(number) for number in range(20)]
        first = run(announcer(*services), INTERVAL)
        assert len({when for when, _ in first}) > 3
        assert run(announcer(*services, seed=2), INTERVAL) != first
        assert run(announcer(*services), INTERVAL) == first

    def test_those_due_within_a_moment_go_out_together(self) -> None:
        subject = announcer(service(1), service(2))
        for number, due in ((1, 1.0), (2, 1.01)):
            announced = subject.get(service(number).key)
            assert announced is not None
            subject.postpone(announced, due)
        assert subject.due(0.999) == []
        assert sent(subject.due(1.0)) == [service(1), service(2)]

    def test_an_announcement_in_between_counts_as_a_heartbeat(self) -> None:
        subject = announcer(service())
        subject.answer("orders", "", 0.5)
        assert sent(subject.due(0.5)) == [service()]
        due = subject.next_deadline()
        assert due is not None
        assert due >= 0.5 + INTERVAL / 2


class TestAnswers:
    def test_a_lone_ping_is_answered_at_once_by_every_instance(self) -> None:
        subject = announcer(service(1), service(2), service(1, "mail"))
        subject.answer("orders", "", 1.0)
        assert subject.next_deadline() == 1.0
        assert sent(subject.due(1.0)) == [service(1), service(2)]

    def test_pings_for_others(self) -> None:
        subject = announcer(service())
        before = subject.next_deadline()
        subject.answer("billing", "", 1.0)
        subject.answer("orders", "somebody-else", 1.0)
        subject.answer("billing", service().id, 1.0)
        assert subject.next_deadline() == before

    def test_the_first_pings_in_a_row_are_answered_at_once(self) -> None:
        subject = announcer(service())
        for number in range(ANSWER_BURST):
            now = 1.0 + number / 1000
            subject.answer("orders", "", now)
            assert sent(subject.due(now)) == [service()]
        now = 1.0 + ANSWER_BURST / 1000
        subject.answer("orders", "", now)
        due = subject.next_deadline()
        assert due is not None
        assert now < due <= now + WINDOW

    def test_a_storm_is_merged_into_one_answer_a_window(self) -> None:
        subject = announcer(service(1), service(2))
        log: list[tuple[float, Service]] = []
        for number in range(10_000):
            now = 1.0 + number / 10_000
            log += run(subject, now)
            subject.answer("orders", "", now)
        log += run(subject, 2.0 + WINDOW)
        for each in (service(1), service(2)):
            answers = sum(answered == each for _, answered in log)
            assert 1 / (WINDOW + ANSWER_COST) <= answers <= 1 / ANSWER_WINDOW + ANSWER_BURST + 1

    def test_quiet_fills_the_bucket_again(self) -> None:
        subject = announcer(service())
        for _ in range(100):
            subject.answer("orders", "", 1.0)
        run(subject, 1.5)
        subject.answer("orders", "", 1.5)
        assert subject.next_deadline() == 1.5

    def test_a_ping_just_after_a_burst_in_one_moment_is_answered_too(self) -> None:
        subject = announcer(service())
        for _ in range(ANSWER_BURST + 1):
            subject.answer("orders", "", 1.0)
        assert sent(subject.due(1.0)) == [service()]
        subject.answer("orders", "", 1.001)
        assert [each for _, each in run(subject, 1.001 + WINDOW)] == [service()]

    def test_names_do_not_share_a_bucket(self) -> None:
        subject = announcer(service(), service(1, "mail"))
        for _ in range(100):
            subject.answer("orders", "", 1.0)
        run(subject, 1.0)
        subject.answer("mail", "", 1.0)
        assert sent(subject.due(1.0)) == [service(1, "mail")]

    def test_many_instances_answer_a_storm_less_often(self) -> None:
        services = [service(number) for number in range(1000)]
        subject = announcer(*services)
        log: list[tuple[float, Service]] = []
        for number in range(1000):
            now = 1.0 + number / 1000
            log += run(subject, now)
            subject.answer("orders", "", now)
        assert len(log) <= 1.0 / ANSWER_COST + (ANSWER_BURST + 1) * len(services)

    def test_a_rescue_ping_is_for_one_incarnation(self) -> None:
        subject = announcer(service(1), service(2))
        subject.answer("orders", service(2).id, 1.0)
        assert sent(subject.due(1.0)) == [service(2)]

    def test_a_storm_of_rescue_pings_is_merged_too(self) -> None:
        subject = announcer(service())
        log: list[tuple[float, Service]] = []
        for number in range(1000):
            now = 1.0 + number / 1000
            log += run(subject, now)
            subject.answer("orders", service().id, now)
        assert 2 < len(log) <= 1.0 / ANSWER_WINDOW + 1

    def test_a_registration_after_the_ping_needs_no_answer(self) -> None:
        subject = Announcer(INTERVAL, random.Random(1))
        subject.answer("orders", "", 0.0)
        subject.announce(service(), 0.0)
        subject.answer("orders", "", 0.0)
        assert sent(subject.due(0.0)) == [service()]

    def test_only_what_was_announced_before_is_repeated(self) -> None:
        subject = announcer(service(1), service(2, "other"))
        subject.announce(service(3), 1.0)
        for each in subject.due(1.0):
            subject.sent(each, 1.0)
        subject.announce(service(4), 1.5)
        subject.sent(subject.announce(service(5), 1.5), 1.5)
        subject.repeat("orders", 1.5)
        subject.repeat("unknown", 1.5)
        assert sent(subject.due(1.5)) == [service(number) for number in (1, 3, 4, 5)]
        assert sent(subject.due(1.6)) == []

    def test_withdrawn_names_do_not_answer(self) -> None:
        subject = announcer(service())
        subject.answer("orders", "", 1.0)
        subject.withdraw(service().key)
        assert subject.next_deadline() is None
        assert subject.due(1.0) == []
        subject.answer("orders", "", 1.0)
        assert subject.next_deadline() is None

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.03, 1.0]),
                st.sampled_from(["ping", "rescue", "beat", "send"]),
                st.integers(1, 3),
            ),
            max_size=40,
        )
    )
    @settings(deadline=None, max_examples=300)
    def test_every_ping_is_answered_by_everybody_soon(
        self, steps: list[tuple[float, str, int]]
    ) -> None:
        subject = announcer(service(1), service(2), service(3))
        window = ANSWER_WINDOW + 3 * ANSWER_COST
        now, waiting = 0.0, dict[Service, float]()
        for pause, what, number in steps:
            for when, each in run(subject, now + pause):
                assert when <= waiting.pop(each, when) + 1e-9
            now += pause
            assert all(latest >= now - 1e-9 for latest in waiting.values())
            if what == "ping":
                subject.answer("orders", "", now)
                for each in subject.services:
                    waiting.setdefault(each, now + window)
            elif what == "rescue":
                subject.answer("orders", service(number).id, now)
                waiting.setdefault(service(number), now + window)
            elif what == "beat":
                subject.announce(service(number), now)
            else:
                for each in sent(subject.due(now)):
                    waiting.pop(each, None)
        for when, each in run(subject, now + window + 1e-9):
            assert when <= waiting.pop(each, when) + 1e-9
        assert not waiting


class TestTakingAnAnswer:
    """Whoever can send at once does not wait for what is due to be asked for."""

    def test_takes_it_from_what_is_due(self) -> None:
        subject = announcer(service(1), service(2), service(1, "billing"))
        subject.answer("orders", "", 1.0)
        assert subject.take_answer("billing", 1.0, most=2) == []
        assert sent(subject.take_answer("orders", 1.0, most=2)) == [service(1), service(2)]
        assert subject.take_answer("orders", 1.0, most=2) == []
        assert subject.due(1.0) == []
        assert INTERVAL / 2 < (subject.next_deadline() or 0) < INTERVAL
        assert len(run(subject, 1.0 + INTERVAL)) == 3

    def test_leaves_all_of_a_longer_one(self) -> None:
        subject = announcer(service(1), service(2))
        subject.answer("orders", "", 1.0)
        assert subject.take_answer("orders", 1.0, most=1) == []
        assert sent(subject.due(1.0)) == [service(1), service(2)]

    def test_leaves_what_is_to_wait(self) -> None:
        """In a storm of pings, one answer a window is enough."""
        subject = announcer(service())
        taken = 0
        for _ in range(100):
            subject.answer("orders", "", 1.0)
            taken += len(subject.take_answer("orders", 1.0, most=1))
        assert taken == ANSWER_BURST
        assert [when for when, _ in run(subject, 1.5)] == [pytest.approx(1.0 + WINDOW)]

    def test_nobody_provides_it(self) -> None:
        assert announcer(service()).take_answer("billing", 1.0, most=1) == []


class TestMemory:
    @pytest.mark.parametrize("kind", ["changes", "pings", "taken", "postponed", "registrations"])
    def test_nothing_piles_up(self, kind: str) -> None:
        subject = announcer(service())
        for number in range(20_000):
            now = number / 1000
            if kind == "changes":
                subject.announce(msgspec.structs.replace(service(), version=str(number)), now)
            elif kind == "pings":
                subject.answer("orders", "" if number % 2 else service().id, now)
            elif kind == "taken":
                subject.answer("orders", "", now)
                subject.take_answer("orders", now, most=1)
            elif kind == "postponed":
                (announced,) = subject.due(now + INTERVAL * (number + 1))
                subject.postpone(announced, 1e6 + number)
                subject.announce_all(now)
            else:
                subject.announce(service(2, f"name-{number}"), now)
                subject.answer(f"name-{number}", "", now)
                subject.withdraw(service(2, f"name-{number}").key)
        assert len(subject) == 1
        assert size(subject) < 30_000


def size(subject: object) -> int:
    """How many bytes the containers of an object take."""
    return sum(map(sys.getsizeof, vars(subject).values()))
