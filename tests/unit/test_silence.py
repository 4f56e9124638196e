"""Who has been silent for a whole ttl is only found; the link has to answer before it goes."""

from __future__ import annotations

import pytest

from aioregistry.catalogue import Catalogue
from aioregistry.service import EventType
from aioregistry.wire import Announcement, Times

TTL = 3.0


@pytest.fixture
def catalogue() -> Catalogue:
    catalogue = Catalogue()
    times = Times(registered=1, duration=round(TTL / 1.5 * 1000))
    for number in range(3):
        message = Announcement(name="x", address=f"a:{number}", id=f"i{number}", seq=1, times=times)
        assert catalogue.announce(message, now=float(number))
    return catalogue


def test_looking_for_the_silent_removes_nothing(catalogue: Catalogue) -> None:
    assert not catalogue.silent(TTL - 0.01)
    for _ in range(3):
        assert catalogue.silent(TTL + 1.0)
    assert len(catalogue) == 3
    deadline = catalogue.next_deadline()
    assert deadline is not None
    assert deadline <= TTL + 1.0
    assert [event.type for event in catalogue.expire(TTL + 1.0)] == [EventType.EXPIRED] * 2
    assert not catalogue.silent(TTL + 1.0)


def test_who_speaks_after_all_is_not_silent(catalogue: Catalogue) -> None:
    assert catalogue.silent(TTL + 2.0)
    catalogue.forgive(TTL + 2.0)
    assert not catalogue.silent(TTL + 2.0)
    assert catalogue.expire(TTL + 2.0) == []


def test_looking_still_takes_note_of_who_is_late(catalogue: Catalogue) -> None:
    assert not catalogue.silent(TTL - 0.5)
    assert {question.id for question in catalogue.take_questions()} == {"i0"}
