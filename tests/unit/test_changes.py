"""Changes of one service that are under way at the same time, confirmed and dropped in any order."""

from __future__ import annotations

import random

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from aioregistry.changes import Change, Changes
from aioregistry.service import Service, Status

BASE = Service("orders", "10.0.0.5:1")


def asked(changes: Changes, **fields: object) -> Change:
    return changes.ask(msgspec.structs.replace(changes.content, **fields), fields)


def test_dropping_all_leaves_what_stood() -> None:
    changes = Changes(BASE, kept=True)
    made = [asked(changes, status=each) for each in (Status.WARNING, Status.CRITICAL)]
    for change in made:
        changes.drop(change)
    assert changes.content == BASE
    assert not changes.asked


def test_what_another_asks_for_too_stays() -> None:
    changes = Changes(BASE, kept=True)
    one, other = (asked(changes, status=Status.CRITICAL) for _ in range(2))
    changes.drop(one)
    changes.confirm(other)
    assert changes.content.status is Status.CRITICAL


def test_the_later_one_counts_whichever_is_confirmed_first() -> None:
    changes = Changes(BASE, kept=True)
    earlier, later = asked(changes, version="1"), asked(changes, version="2")
    changes.confirm(later)
    assert changes.asked
    changes.confirm(earlier)
    assert changes.content.version == "2"
    assert not changes.asked


def test_a_new_service_is_kept_from_when_one_call_succeeds() -> None:
    changes = Changes(BASE, kept=False)
    first, second = (changes.ask(BASE, BASE.__struct_fields__) for _ in range(2))
    changes.drop(first)
    assert changes.asked
    assert not changes.kept
    changes.confirm(second)
    assert changes.kept


@given(
    st.lists(st.tuples(st.sampled_from(["version", "host", "url"]), st.booleans()), max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_content_is_that_of_the_calls_that_were_not_dropped(
    calls: list[tuple[str, bool]], rng: random.Random
) -> None:
    changes = Changes(BASE, kept=True)
    made = [
        (asked(changes, **{field: f"x{number}"}), succeeds)
        for number, (field, succeeds) in enumerate(calls)
    ]
    expected = BASE
    for change, succeeds in made:
        if succeeds:
            expected = msgspec.structs.replace(expected, **change.fields)
    rng.shuffle(made)
    for change, succeeds in made:
        (changes.confirm if succeeds else changes.drop)(change)
    assert changes.content == expected
    assert not changes.asked
