"""The rules for instances that fail: exact, and for any course of events."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioregistry import Service
from aioregistry.integrations.resilience import (
    Attempts,
    Outliers,
    Policy,
    RetryBudget,
    incarnation,
)

POLICY = Policy(failures=3, set_aside=10.0, set_aside_at_most=25.0)


def instances(count: int) -> tuple[Service, ...]:
    return tuple(Service("orders", f"10.0.0.{n}:80", id=f"i{n}") for n in range(count))


def fail(outliers: Outliers, service: Service, among: tuple[Service, ...], now: float) -> None:
    for _ in range(POLICY.failures):
        outliers.failed(service, among, now)


# ---- outliers --------------------------------------------------------------------------


def test_failures_in_a_row_set_an_instance_aside() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    assert outliers.failed(known[0], known, 0) is False
    assert outliers.failed(known[0], known, 0) is False
    assert outliers.in_use(known, 0) is known
    assert outliers.failed(known[0], known, 0) is True
    assert outliers.in_use(known, 0) == known[1:]


def test_a_success_between_them_counts() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    for _ in range(10):
        outliers.failed(known[0], known, 0)
        outliers.failed(known[0], known, 0)
        outliers.succeeded(known[0])
    assert outliers.in_use(known, 0) is known


def test_it_comes_back_after_a_while_that_grows() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 100.0)
    now = 100.0
    for seconds in (10.0, 20.0, 25.0, 25.0):  # not beyond the longest
        assert outliers.in_use(known, now + seconds - 0.001) == known[1:]
        assert outliers.in_use(known, now + seconds) == known
        now += seconds
        assert outliers.failed(known[0], known, now)  # once is enough when it is back


def test_after_a_success_it_has_all_its_chances_again() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    outliers.succeeded(known[0])
    assert not outliers.failed(known[0], known, 10.0)
    assert outliers.in_use(known, 10.0) == known


def test_good_conduct_shortens_the_next_time() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)  # until 10
    assert outliers.failed(known[0], known, 10)  # until 30, the second time
    outliers.succeeded(known[0])
    fail(outliers, known[0], known, 45)  # one time was forgotten: the second time again
    assert outliers.in_use(known, 64.9) == known[1:]
    assert outliers.in_use(known, 65.0) == known
    outliers.succeeded(known[0])
    fail(outliers, known[0], known, 1000)  # everything was
    assert outliers.in_use(known, 1010) == known


def test_a_restart_begins_anew() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    restarted = (Service("orders", known[0].address, id="other"), *known[1:])
    assert outliers.in_use(restarted, 0) == restarted


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_never_more_than_half(count: int, most: int) -> None:
    known = instances(count)
    outliers = Outliers(POLICY)
    for service in known:
        fail(outliers, service, known, 0)
    assert len(outliers.in_use(known, 0)) == count - most


def test_when_the_others_leave_those_who_are_aside_help_out() -> None:
    known = instances(4)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    fail(outliers, known[1], known, 5)
    assert outliers.in_use(known[:2], 6) == known[:1]  # the one that would be back first
    assert outliers.in_use(known[:1], 6) == known[:1]
    assert outliers.in_use(known[1:2], 6) == known[1:2]


def test_requests_that_were_on_their_way_do_not_prolong_it() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    for _ in range(20):
        assert not outliers.failed(known[0], known, 5)
    assert outliers.in_use(known, 10) == known


def test_the_failures_of_those_that_are_gone_are_forgotten() -> None:
    stays, *_ = known = instances(3)
    outliers = Outliers(POLICY)
    outliers.failed(stays, known, 0)
    for life in range(1_000):
        gone = Service("orders", "10.0.1.1:80", id=f"life{life}")
        known = (*instances(3), gone)
        outliers.in_use(known, life)
        outliers.failed(gone, known, life)
    assert len(vars(outliers)["_records"]) == 2  # a failure for each of those that were there last
    assert not outliers.failed(stays, known, 1_000)
    assert outliers.failed(stays, known, 1_000)  # its third


def test_who_is_set_aside_stays_so_when_it_is_away_for_a_moment() -> None:
    known = instances(3)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    assert outliers.in_use(known[1:], 1) == known[1:]
    assert outliers.in_use(known, 2) == known[1:]
    assert outliers.in_use(known[1:], 10) == known[1:]
    assert outliers.in_use(known, 11) == known
    assert outliers.failed(known[0], known, 12)  # once is enough


def test_who_is_back_is_told_once() -> None:
    known = instances(4)
    outliers = Outliers(POLICY)
    fail(outliers, known[0], known, 0)
    fail(outliers, known[1], known, 0)
    outliers.in_use(known, 9)
    outliers.in_use(known[:1], 9)  # it helps out for a moment
    assert outliers.returned() == []
    outliers.in_use((known[0], *known[2:]), 10)  # the other one has left
    assert outliers.returned() == [known[0]]
    outliers.in_use(known, 11)
    assert outliers.returned() == []


EVENTS = st.lists(
    st.tuples(
        st.floats(0, 30),
        st.integers(0, 7),
        st.sampled_from(["failed", "succeeded", "left", "came", "restarted"]),
    ),
    max_size=200,
)


@given(EVENTS)
def test_whatever_happens_half_stay_in_use(events: list[tuple[float, int, str]]) -> None:
    everyone = instances(8)
    known = everyone
    outliers = Outliers(Policy(failures=1, set_aside=10.0))
    now = 0.0
    for wait, index, event in events:
        now += wait
        service = everyone[index]
        present = {each.key for each in known}
        if event == "left":
            known = tuple(each for each in known if each is not service)
        elif event == "came" and service.key not in present:
            known = (*known, service)
        elif event == "restarted" and service in known:
            service = Service("orders", service.address, id=f"again{now}")
            known = (*(each for each in known if each.key != service.key), service)
        elif event == "failed":
            outliers.failed(service, known, now)
        elif event == "succeeded":
            outliers.succeeded(service)
        in_use = outliers.in_use(known, now)
        assert set(in_use) <= set(known)
        assert 2 * len(in_use) >= len(known)
        assert in_use or not known
        assert outliers.in_use(known, now) is in_use
    # Everybody is given another chance in the end.
    assert set(outliers.in_use(known, now + 300)) == set(known)


# ---- the budget ------------------------------------------------------------------------


def test_a_share_of_the_requests_may_be_repeated() -> None:
    budget = RetryBudget(Policy(retry_ratio=0.1, retries_per_second=0, retry_window=10))
    for _ in range(100):
        budget.deposit(0)
    assert sum(budget.withdraw(0) for _ in range(100)) == 10
    assert not budget.withdraw(9.9)
    assert not budget.withdraw(10)  # the requests are forgotten, too


def test_a_few_are_free() -> None:
    budget = RetryBudget(Policy(retry_ratio=0, retries_per_second=2, retry_window=10))
    assert sum(budget.withdraw(0) for _ in range(100)) == 20
    assert not budget.withdraw(8)
    assert sum(budget.withdraw(10) for _ in range(100)) == 20


@given(
    st.floats(0, 1),
    st.floats(0, 5),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=300),
)
def test_no_window_has_more(ratio: float, free: float, calls: list[tuple[float, bool]]) -> None:
    policy = Policy(retry_ratio=ratio, retries_per_second=free, retry_window=10)
    budget = RetryBudget(policy)
    requests: list[float] = []
    retries: list[float] = []
    now = 0.0
    for wait, is_request in calls:
        now += wait
        if is_request:
            budget.deposit(now)
            requests.append(now)
        elif budget.withdraw(now):
            retries.append(now)
            # Time is counted in tenths of the window: 9 of them are counted for sure.
            lately = sum(each > now - 9 for each in retries)
            assert lately <= free * 10 + ratio * sum(each > now - 10 for each in requests) + 1e-9


# ---- where a request goes next ---------------------------------------------------------


def attempts(*, repeatable: bool, **numbers: float) -> Attempts:
    policy = Policy(**numbers)  # type: ignore[arg-type]  # the numbers of the test
    return Attempts(policy, RetryBudget(policy), repeatable=repeatable)


def test_what_was_not_sent_goes_to_each_of_the_others_once() -> None:
    known = instances(3)
    request = attempts(repeatable=False, retry_ratio=0, retries_per_second=0)
    assert request.candidates(known, known) is known
    for number in (1, 0, 2):
        assert known[number] in request.candidates(known, known)
        assert request.not_sent(known[number], "refused")
    assert request.candidates(known, known) == ()
    assert request.report("orders") == (
        "service 'orders': tried 10.0.0.1:80 (refused), 10.0.0.0:80 (refused),"
        " 10.0.0.2:80 (refused)"
    )


def test_an_end_of_trying() -> None:
    known = instances(50)
    request = attempts(repeatable=False)
    assert [request.not_sent(each, "refused") for each in known].index(False) == 9


def test_what_is_of_no_use_is_none_of_the_tries() -> None:
    request = attempts(repeatable=False)
    for each in (Service("orders"), *instances(50)):
        request.unusable(each, "no")
    assert request.not_sent(Service("orders", "10.0.1.1:80"), "refused")
    assert request.report("orders").startswith(
        "service 'orders': tried one without address (no), 10.0.0.0:80 (no), "
    )
    assert len(request.failures) == 11  # enough to see why


def test_what_is_set_aside_comes_last() -> None:
    known = instances(3)
    request = attempts(repeatable=False)
    request.not_sent(known[0], "refused")
    assert request.candidates(known[:2], known) == known[1:2]
    request.not_sent(known[1], "refused")
    assert request.candidates(known[:2], known) == known[2:]


def test_what_was_sent_is_sent_again_only_if_it_may_be() -> None:
    known = instances(3)
    assert not attempts(repeatable=False).sent(known[0], "reset", 0)
    assert attempts(repeatable=True).sent(known[0], "reset", 0)
    assert not attempts(repeatable=True).sent(known[0], "reset", 0, intact=False)


def test_a_bounded_number_of_times() -> None:
    known = instances(5)
    request = attempts(repeatable=True, attempts=3)
    assert [request.sent(each, "reset", 0) for each in known[:3]] == [True, True, False]


def test_within_the_budget() -> None:
    known = instances(5)
    request = attempts(repeatable=True, retry_ratio=0, retries_per_second=0)
    assert not request.sent(known[0], "reset", 0)


def test_a_single_instance_that_broke_off_is_tried_again() -> None:
    known = instances(1)
    request = attempts(repeatable=True)
    assert request.sent(known[0], "reset", 0)
    assert request.candidates(known, known) == known
    request.not_sent(known[0], "refused")
    assert request.candidates(known, known) == ()


def test_others_come_first() -> None:
    known = instances(2)
    request = attempts(repeatable=True)
    request.sent(known[0], "reset", 0)
    assert request.candidates(known, known) == known[1:]


def test_the_time_for_connecting_is_shared() -> None:
    request = attempts(repeatable=False)
    assert request.patience(None, 5) == 2.0
    assert request.patience(None, 1) is None
    assert request.patience(60.0, 5) == 2.0
    assert request.patience(3.0, 5) == 1.0
    assert request.patience(3.0, 2) == 1.5
    assert request.patience(6.0, 1) == 6.0


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=20), st.booleans())
def test_no_request_is_sent_more_often_than_it_may_be(
    course: list[tuple[int, bool]],
    repeatable: bool,  # noqa: FBT001 - Hypothesis passes it by position
) -> None:
    known = instances(5)
    request = attempts(repeatable=repeatable, attempts=3)
    sent = 0
    refused: set[Service] = set()
    for index, was_sent in course:
        candidates = request.candidates(known, known)
        assert refused.isdisjoint(candidates)
        if not candidates:
            break
        service = candidates[index % len(candidates)]
        if was_sent:
            sent += 1
            if not request.sent(service, "reset", 0):
                break
        else:
            refused.add(service)
            request.not_sent(service, "refused")
    assert sent <= (3 if repeatable else 1)


def test_incarnations() -> None:
    assert incarnation(Service("a", "b:1", id="c")) == ("a", "b:1", "c")
    assert incarnation(Service("a", url="http://b")) == ("a", "http://b", "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("failures", 0),
        ("set_aside", 0),
        ("set_aside_at_most", -1),
        ("set_aside", math.inf),
        ("attempts", 0),
        ("retry_ratio", -0.1),
        ("retries_per_second", math.nan),
        ("retry_window", 0),
    ],
)
def test_numbers_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        Policy(**{name: value})  # type: ignore[arg-type]  # that is the point
