"""The rules of the catalogue, one by one; time is a number here."""

from __future__ import annotations

import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from aioregistry.catalogue import (
    LAST_CALL,
    MASS,
    MAX_PREDICATES,
    OVERDUE,
    TOGETHER,
    Catalogue,
)
from aioregistry.choosing import all_of, metadata, not_critical, passing
from aioregistry.limits import MAX_ID, MAX_METADATA_BYTES
from aioregistry.service import EventType, Service, ServiceEvent, Status
from aioregistry.tombstones import LATE, MAX_TOMBSTONES, TOMBSTONE_TTL
from aioregistry.wire import Announcement, Times

TTL = 3.0


def announcement(
    name: str = "orders",
    address: str = "a:1",
    *,
    incarnation: str = "i1",
    seq: int = 1,
    ttl: float = TTL,
    node: str = "",
    **fields: Any,
) -> Announcement:
    duration = round(ttl / 1.5 * 1000)
    return Announcement(
        name=name, address=address, id=incarnation, seq=seq, node=node,
        times=Times(registered=1, duration=duration), **fields,
    )  # fmt: skip


def foreign(name: str = "orders", address: str = "a:1", **fields: Any) -> Announcement:
    """As peers announce that have neither ids nor numbers."""
    return announcement(name, address, incarnation="", seq=0, **fields)


def withdrawal(
    name: str = "orders", address: str = "a:1", *, incarnation: str = "i1"
) -> Announcement:
    return Announcement(name=name, address=address, id=incarnation)


def fleet(count: int, *, ttl: float = TTL, node: str = "") -> list[Announcement]:
    return [
        announcement(address=f"a:{number}", incarnation=f"i{number}", ttl=ttl, node=node)
        for number in range(1, count + 1)
    ]


def announced(catalogue: Catalogue, message: Announcement, now: float = 0.0) -> ServiceEvent:
    event = catalogue.announce(message, now)
    assert event is not None
    return event


def filled(*messages: Announcement, now: float = 0.0, **options: Any) -> Catalogue:
    catalogue = Catalogue(**options)
    for message in messages:
        announced(catalogue, message, now)
    return catalogue


def only(catalogue: Catalogue) -> Service:
    (service,) = catalogue
    return service


def pass_time(catalogue: Catalogue, until: float) -> list[ServiceEvent]:
    """Wake the catalogue whenever it wants to be woken."""
    events: list[ServiceEvent] = []
    while (due := catalogue.next_deadline()) is not None and due <= until:
        events += catalogue.expire(due)
    return events


class TestComing:
    def test_a_new_instance(self) -> None:
        catalogue = Catalogue()
        event = announced(catalogue, announcement(status="warning", metadata={"zone": "eu"}))
        service = Service("orders", "a:1", metadata={"zone": "eu"}, status=Status.WARNING, id="i1")
        assert event == ServiceEvent(EventType.REGISTERED, service)
        assert catalogue.services("orders") == (service,)
        assert list(catalogue) == [service]
        assert len(catalogue) == 1
        assert catalogue.names == ("orders",)

    def test_an_instance_is_its_name_and_its_address_or_else_its_url(self) -> None:
        catalogue = filled(
            announcement("orders", "a:1"),
            announcement("orders", "b:1", incarnation="i2"),
            announcement("billing", "a:1", incarnation="i3"),
            announcement("orders", "", url="http://c/", incarnation="i4"),
            announcement("orders", "", incarnation="i5"),
        )
        assert len(catalogue) == 5
        assert catalogue.announce(
            announcement("orders", "a:1", url="http://c/", seq=2), 0.0
        ) == ServiceEvent(
            EventType.UPDATED,
            Service("orders", "a:1", url="http://c/", id="i1"),
            Service("orders", "a:1", id="i1"),
        )
        assert len(catalogue) == 5

    def test_a_heartbeat_changes_nothing_but_the_deadline(self) -> None:
        catalogue = filled(announcement())
        before = only(catalogue)
        assert catalogue.announce(announcement(), 2.0) is None
        assert only(catalogue) is before
        assert pass_time(catalogue, 4.99) == []
        assert pass_time(catalogue, 5.0) != []

    def test_a_higher_number_updates_if_the_content_differs(self) -> None:
        catalogue = filled(announcement())
        before = only(catalogue)
        assert catalogue.announce(announcement(seq=2), 1.0) is None
        event = announced(catalogue, announcement(seq=3, status="critical"), 1.0)
        assert event == ServiceEvent(EventType.UPDATED, only(catalogue), before)
        assert only(catalogue).status is Status.CRITICAL

    @pytest.mark.parametrize("seq", [1, 2])
    def test_an_old_or_equal_number_only_refreshes(self, seq: int) -> None:
        catalogue = filled(announcement(seq=2))
        assert catalogue.announce(announcement(seq=seq, status="critical"), 2.0) is None
        assert only(catalogue).status is Status.PASSING
        assert pass_time(catalogue, 4.99) == []
        assert len(pass_time(catalogue, 5.0)) == 1

    def test_an_old_number_does_not_come_back_after_a_number_without_content(self) -> None:
        catalogue = filled(announcement(seq=1, version="1"))
        assert catalogue.announce(announcement(seq=3, version="1"), 0.0) is None
        assert catalogue.announce(announcement(seq=2, version="2"), 0.0) is None
        assert only(catalogue).version == "1"

    @pytest.mark.parametrize(
        "change",
        [
            {"status": "critical"},
            {"metadata": {"zone": "eu"}},
            {"version": "2"},
            {"host": "h2"},
            {"url": "http://a/"},
            {"network": "udp"},
        ],
        ids=repr,
    )
    def test_peers_without_numbers_are_compared_by_content(self, change: dict[str, Any]) -> None:
        catalogue = filled(foreign())
        before = only(catalogue)
        assert catalogue.announce(foreign(), 1.0) is None
        event = announced(catalogue, foreign(**change), 1.0)
        assert event == ServiceEvent(EventType.UPDATED, only(catalogue), before)
        assert catalogue.announce(foreign(**change), 1.0) is None
        assert announced(catalogue, foreign(), 1.0).service == before

    def test_a_new_ttl_counts_from_its_arrival(self) -> None:
        catalogue = filled(announcement(ttl=30.0))
        assert catalogue.announce(announcement(ttl=3.0), 1.0) is None
        assert pass_time(catalogue, 3.99) == []
        assert len(pass_time(catalogue, 4.0)) == 1

    def test_a_longer_ttl(self) -> None:
        catalogue = filled(foreign(ttl=3.0))
        assert catalogue.announce(foreign(ttl=30.0), 1.0) is None
        assert pass_time(catalogue, 30.99) == []
        assert len(pass_time(catalogue, 31.0)) == 1

    def test_a_ttl_that_goes_up_and_down_expires_once(self) -> None:
        catalogue = filled(foreign(ttl=12.0))
        catalogue.announce(foreign(ttl=3.0), 0.0)
        catalogue.announce(foreign(ttl=12.0), 0.0)
        assert [event.type for event in catalogue.expire(100.0)] == [EventType.EXPIRED]
        assert len(catalogue) == 0
        assert catalogue.expired == 1

    def test_equal_metadata_is_kept_once(self) -> None:
        catalogue = filled(*(each for each in fleet(2)))
        for message in fleet(2):
            message.seq, message.metadata = 2, {"zone": "eu"}
            announced(catalogue, message)
        first, second = catalogue
        assert first.metadata is second.metadata


class TestRestarts:
    def test_another_id_replaces(self) -> None:
        catalogue = filled(announcement(incarnation="old", seq=9))
        before = only(catalogue)
        event = announced(catalogue, announcement(incarnation="new", seq=1))
        assert event == ServiceEvent(EventType.UPDATED, only(catalogue), before)
        assert only(catalogue).id == "new"
        assert len(catalogue) == 1

    def test_late_messages_of_the_old_id_are_ignored(self) -> None:
        catalogue = filled(announcement(incarnation="old", seq=9))
        announced(catalogue, announcement(incarnation="new"))
        assert catalogue.announce(announcement(incarnation="old", seq=10), 1.0) is None
        assert catalogue.withdraw(withdrawal(incarnation="old"), 1.0) is None
        assert only(catalogue).id == "new"
        assert catalogue.late == 1
        # ... and they are no sign of life of the new one
        assert len(pass_time(catalogue, TTL)) == 1

    def test_ids_may_interleave(self) -> None:
        catalogue = filled(announcement(incarnation="a"))
        for incarnation in ("b", "a", "c", "b", "a", "c"):
            catalogue.announce(announcement(incarnation=incarnation), 0.0)
        assert only(catalogue).id == "c"
        assert catalogue.late == 3

    def test_from_a_peer_without_ids_and_back(self) -> None:
        catalogue = filled(announcement(incarnation="ours"))
        assert announced(catalogue, foreign()).type is EventType.UPDATED
        assert only(catalogue).id == ""
        assert announced(catalogue, announcement(incarnation="ours")).type is EventType.UPDATED
        assert only(catalogue).id == "ours"

    def test_a_withdrawn_id_does_not_come_back(self) -> None:
        catalogue = filled(announcement())
        assert catalogue.withdraw(withdrawal(), 1.0) is not None
        assert catalogue.announce(announcement(), 1.0) is None
        assert catalogue.announce(announcement("elsewhere", "b:1"), 1.0) is None
        assert len(catalogue) == 0
        assert catalogue.late == 2

    def test_a_withdrawal_may_overtake_the_announcement(self) -> None:
        catalogue = Catalogue()
        assert catalogue.withdraw(withdrawal(), 0.0) is None
        assert catalogue.announce(announcement(), 0.0) is None
        assert len(catalogue) == 0

    def test_an_expired_instance_comes_back_when_it_speaks_again(self) -> None:
        catalogue = filled(announcement())
        assert len(pass_time(catalogue, 10.0)) == 1
        assert announced(catalogue, announcement(), 10.0).type is EventType.REGISTERED

    def test_of_two_at_one_address_the_older_comes_back_when_the_newer_is_gone(self) -> None:
        catalogue = filled(announcement(incarnation="old"), announcement(incarnation="new"))
        assert catalogue.announce(announcement(incarnation="old"), 1.0) is None
        assert catalogue.withdraw(withdrawal(incarnation="new"), 1.5)
        assert catalogue.announce(announcement(incarnation="old"), LATE - 0.1) is None  # maybe late
        back = announced(catalogue, announcement(incarnation="old"), LATE)
        assert back.type is EventType.REGISTERED
        assert catalogue.announce(announcement(incarnation="new"), LATE + 0.1) is None

    def test_the_one_that_was_replaced_is_asked_for_when_the_other_falls_silent(self) -> None:
        catalogue = filled(announcement(incarnation="old"), announcement(incarnation="new"))
        pass_time(catalogue, TTL - 0.01)
        catalogue.take_questions()
        assert [event.type for event in pass_time(catalogue, TTL)] == [EventType.EXPIRED]
        (question,) = catalogue.take_questions()
        assert (question.name, question.place, question.id) == ("orders", "a:1", "old")
        assert catalogue.unanswered(question, TTL)
        announced(catalogue, announcement(incarnation="old"), TTL)  # so it does live
        assert not catalogue.unanswered(question, TTL)

    def test_the_one_that_was_replaced_does_not_come_back_once_it_was_withdrawn(self) -> None:
        catalogue = filled(announcement(incarnation="old"), announcement(incarnation="new"))
        pass_time(catalogue, TTL - 0.01)
        assert catalogue.withdraw(withdrawal(incarnation="old"), TTL - 0.01) is None
        catalogue.take_questions()
        assert [event.type for event in pass_time(catalogue, TTL)] == [EventType.EXPIRED]
        assert catalogue.take_questions() == frozenset()
        assert catalogue.announce(announcement(incarnation="old"), TOMBSTONE_TTL) is None
        assert len(catalogue) == 0

    def test_tombstones_are_bounded_in_time(self) -> None:
        catalogue = filled(announcement())
        catalogue.withdraw(withdrawal(), 0.0)
        assert catalogue.announce(announcement(), TOMBSTONE_TTL - 0.001) is None
        assert announced(catalogue, announcement(), TOMBSTONE_TTL).type is EventType.REGISTERED

    def test_tombstones_of_the_past_are_cleared_away(self) -> None:
        catalogue = Catalogue()
        for number in range(100):
            catalogue.withdraw(withdrawal(incarnation=f"i{number}"), 0.0)
        assert catalogue.tombstones == 100
        catalogue.withdraw(withdrawal(incarnation="later"), TOMBSTONE_TTL)
        assert catalogue.tombstones == 1

    def test_tombstones_are_bounded_in_number(self) -> None:
        catalogue = Catalogue()
        for number in range(MAX_TOMBSTONES + 10):
            catalogue.withdraw(withdrawal(incarnation=f"i{number}"), 0.0)
        assert catalogue.tombstones == MAX_TOMBSTONES
        assert catalogue.announce(announcement(incarnation="i10"), 0.0) is None
        announced(catalogue, announcement(incarnation="i9"))

    def test_burying_again_prolongs(self) -> None:
        catalogue = Catalogue()
        catalogue.withdraw(withdrawal(), 0.0)
        catalogue.withdraw(withdrawal(), 100.0)
        assert catalogue.tombstones == 1
        assert catalogue.announce(announcement(), 100.0 + TOMBSTONE_TTL - 1) is None


class TestGoing:
    def test_a_withdrawal(self) -> None:
        catalogue = filled(announcement())
        service = only(catalogue)
        event = catalogue.withdraw(withdrawal(), 1.0)
        assert event == ServiceEvent(EventType.UNREGISTERED, service, service)
        assert len(catalogue) == 0
        assert catalogue.names == ()
        assert catalogue.withdraw(withdrawal(), 1.0) is None
        assert catalogue.next_deadline() is None

    def test_a_withdrawal_without_an_id_goes_by_key(self) -> None:
        catalogue = filled(announcement())
        assert catalogue.withdraw(withdrawal(incarnation=""), 1.0) is not None
        assert announced(catalogue, announcement(), 1.0).type is EventType.REGISTERED

    @pytest.mark.parametrize("incarnation", ["i0", "i2"])
    def test_a_withdrawal_with_another_id_removes_nothing(self, incarnation: str) -> None:
        catalogue = filled(announcement())
        assert catalogue.withdraw(withdrawal(incarnation=incarnation), 1.0) is None
        assert len(catalogue) == 1

    def test_a_withdrawal_with_an_id_does_not_concern_peers_without(self) -> None:
        catalogue = filled(foreign())
        assert catalogue.withdraw(withdrawal(), 1.0) is None
        assert len(catalogue) == 1

    def test_a_withdrawal_by_url(self) -> None:
        catalogue = filled(announcement(address="", url="http://a/"))
        message = withdrawal(address="")
        assert catalogue.withdraw(message, 0.0) is None
        message = withdrawal(address="")
        message.url = "http://a/"
        assert catalogue.withdraw(message, 0.0) is not None

    def test_silence_for_a_ttl(self) -> None:
        catalogue = filled(announcement())
        service = only(catalogue)
        assert pass_time(catalogue, TTL - 0.001) == []
        assert catalogue.expire(TTL) == [ServiceEvent(EventType.EXPIRED, service, service)]
        assert catalogue.expired == 1
        assert catalogue.expire(TTL) == []

    def test_expiry_counts_from_receipt_whatever_the_peers_clock(self) -> None:
        catalogue = Catalogue()
        message = announcement()
        message.times = Times(registered=-(10**15), duration=2000)
        announced(catalogue, message, 1000.0)
        assert pass_time(catalogue, 1000.0 + TTL - 0.001) == []
        assert len(pass_time(catalogue, 1000.0 + TTL)) == 1

    def test_forget(self) -> None:
        catalogue = filled(
            announcement("orders"),
            announcement("orders", "b:1", incarnation="i2"),
            announcement("billing", incarnation="i3"),
        )
        events = catalogue.forget(["orders", "unknown"])
        assert [event.type for event in events] == [EventType.UNREGISTERED] * 2
        assert catalogue.names == ("billing",)
        # it is not dead: whoever observes it again sees it again
        assert announced(catalogue, announcement("orders")).type is EventType.REGISTERED

    def test_sooner_tells_that_the_next_deadline_has_moved_forward(self) -> None:
        catalogue = filled(foreign("orders", ttl=6.0))
        assert catalogue.sooner
        catalogue.sooner = False
        catalogue.announce(foreign("orders", ttl=6.0), 1.0)  # a heartbeat
        announced(catalogue, foreign("billing", ttl=9.0))
        assert not catalogue.sooner
        catalogue.announce(foreign("orders", ttl=3.0), 1.0)
        assert catalogue.sooner

    def test_clear(self) -> None:
        catalogue = filled(*fleet(3))
        catalogue.clear()
        assert (len(catalogue), catalogue.names, catalogue.next_deadline()) == (0, (), None)
        assert catalogue.expire(100.0) == []

    def test_next_deadline_is_none_only_when_empty(self) -> None:
        catalogue = Catalogue()
        assert catalogue.next_deadline() is None
        announced(catalogue, announcement())
        assert catalogue.next_deadline() is not None


class TestWhatIsNotLetIn:
    def test_accept(self) -> None:
        catalogue = Catalogue(accept=metadata(zone="eu"))
        assert catalogue.announce(announcement(), 0.0) is None
        assert (len(catalogue), catalogue.rejected) == (0, 1)
        announced(catalogue, announcement(metadata={"zone": "eu"}))
        assert len(catalogue) == 1

    def test_what_is_no_longer_accepted_leaves(self) -> None:
        catalogue = filled(announcement(metadata={"zone": "eu"}), accept=metadata(zone="eu"))
        service = only(catalogue)
        event = catalogue.announce(announcement(seq=2, metadata={"zone": "us"}), 0.0)
        assert event == ServiceEvent(EventType.UNREGISTERED, service, service)
        assert len(catalogue) == 0
        back = announced(catalogue, announcement(seq=3, metadata={"zone": "eu"}))
        assert back.type is EventType.REGISTERED

    def test_a_restart_that_is_not_accepted_ends_the_old_one(self) -> None:
        catalogue = filled(announcement(status="passing"), accept=passing)
        message = announcement(incarnation="i2", status="critical")
        event = catalogue.announce(message, 0.0)
        assert event is not None
        assert event.type is EventType.UNREGISTERED
        assert catalogue.announce(announcement(), 0.0) is None
        assert catalogue.late == 1

    def test_max_instances(self) -> None:
        catalogue = filled(*fleet(2), max_instances=2)
        assert catalogue.announce(announcement(address="more:1", incarnation="m"), 0.0) is None
        assert (len(catalogue), catalogue.refused) == (2, 1)
        assert announced(catalogue, announcement(seq=2, version="2")).type is EventType.UPDATED
        catalogue.withdraw(withdrawal(), 0.0)
        announced(catalogue, announcement(address="more:1", incarnation="m"))

    @pytest.mark.parametrize(
        "oversized",
        [
            {"metadata": {"a": "x" * MAX_METADATA_BYTES}},
            {"version": "x" * 3000},
            {"url": "http://a/\n"},
            {"incarnation": "i" * (MAX_ID + 1)},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_what_is_beyond_a_limit_is_dropped(self, oversized: dict[str, Any]) -> None:
        catalogue = Catalogue()
        assert catalogue.announce(announcement(**oversized), 0.0) is None
        assert (len(catalogue), catalogue.refused) == (0, 1)
        announced(catalogue, announcement())
        service = only(catalogue)
        # it neither changes nor removes what is known, and does not kill the incarnation
        update: dict[str, Any] = {"seq": 2} | oversized
        restart: dict[str, Any] = {"incarnation": "i2"} | oversized
        assert catalogue.announce(announcement(**update), 0.0) is None
        assert catalogue.announce(announcement(**restart), 0.0) is None
        assert only(catalogue) is service
        assert catalogue.refused == 3
        assert announced(catalogue, announcement(seq=3, version="3")).type is EventType.UPDATED

    def test_the_longest_id(self) -> None:
        catalogue = filled(announcement(incarnation="i" * MAX_ID))
        assert only(catalogue).id == "i" * MAX_ID

    def test_a_withdrawal_with_an_oversized_id_leaves_no_trace(self) -> None:
        catalogue = filled(announcement())
        assert catalogue.withdraw(withdrawal(incarnation="i" * (MAX_ID + 1)), 0.0) is None
        assert (len(catalogue), catalogue.tombstones, catalogue.refused) == (1, 0, 1)

    @pytest.mark.parametrize("name", ["", "a b", "a.*", ">", "_all", "x" * 256])
    def test_names_that_cannot_be(self, name: str) -> None:
        catalogue = Catalogue()
        assert catalogue.announce(announcement(name), 0.0) is None
        assert catalogue.withdraw(withdrawal(name), 0.0) is None
        assert (len(catalogue), catalogue.refused) == (0, 1)

    @pytest.mark.parametrize("node", ["a.b", "*", ">", "a b", "a\r\nPUB x", "n" * (MAX_ID + 1)])
    def test_nodes_that_cannot_be_are_not_asked_after(self, node: str) -> None:
        catalogue = filled(announcement(node=node))
        catalogue.announce(announcement(node=node, ttl=6.0), 0.0)
        catalogue.announce(announcement(seq=2, node=node, ttl=9.0), 0.0)
        announced(catalogue, announcement(seq=3, node=node, version="3"))
        assert len(pass_time(catalogue, 10.0)) == 1
        assert catalogue.take_overdue() == frozenset()


class TestTheSilent:
    def test_a_late_heartbeat_makes_its_node_overdue(self) -> None:
        catalogue = filled(announcement(node="n1"), announcement("b", incarnation="i2", node="n2"))
        catalogue.announce(announcement("b", incarnation="i2", node="n2"), 1.0)
        assert pass_time(catalogue, TTL * OVERDUE - 0.001) == []
        assert catalogue.take_overdue() == frozenset()
        pass_time(catalogue, TTL * (OVERDUE + TOGETHER))
        assert catalogue.take_overdue() == {"n1"}
        assert catalogue.take_overdue() == frozenset()

    def test_many_are_looked_at_together(self) -> None:
        """Whoever keeps the catalogue is woken up each time."""
        catalogue = Catalogue()
        for number in range(1000):
            message = announcement(
                address=f"a:{number}", incarnation=f"i{number}", node=f"n{number}"
            )
            catalogue.announce(message, number / 1000 * TTL / 6)
        looks = 0
        while (due := catalogue.next_deadline()) is not None and due <= TTL / 2:
            catalogue.expire(due)
            looks += 1
        assert len(catalogue.take_overdue()) == 1000
        assert looks <= 1 / 6 / TOGETHER + 2

    def test_heartbeats_in_time_raise_no_question(self) -> None:
        catalogue = filled(announcement(node="n1"))
        for beat in range(1, 20):
            catalogue.announce(announcement(node="n1"), beat * TTL / 4)
            assert pass_time(catalogue, (beat + 1) * TTL / 4) == []
        assert catalogue.take_overdue() == frozenset()
        assert catalogue.take_questions() == frozenset()

    @pytest.mark.parametrize("node", ["", "n1"])
    def test_the_silent_are_asked_before_they_expire(self, node: str) -> None:
        catalogue = filled(announcement(node=node))
        pass_time(catalogue, TTL * LAST_CALL - 0.001)
        assert catalogue.take_questions() == frozenset()
        pass_time(catalogue, TTL * LAST_CALL)
        (question,) = catalogue.take_questions()
        assert (question.name, question.place, question.id) == ("orders", "a:1", "i1")
        assert 0 < question.patience < TTL * (1 - LAST_CALL)
        assert catalogue.take_questions() == frozenset()
        assert catalogue.unanswered(question, TTL * LAST_CALL)
        catalogue.announce(announcement(node=node), TTL * LAST_CALL)
        assert not catalogue.unanswered(question, TTL * LAST_CALL)
        assert pass_time(catalogue, 5.0) == []
        assert len(catalogue) == 1

    def test_who_comes_late_asks_before_anything_expires(self) -> None:
        catalogue = filled(announcement(incarnation="i1"))
        catalogue.call_late(TTL + 1.0)  # blocked since before the last call was due
        assert [question.id for question in catalogue.take_questions()] == ["i1"]
        assert catalogue.expire(TTL + 1.0) == []
        answered = TTL + 1.0 + TTL * (1 - LAST_CALL)
        catalogue.call_late(answered)
        assert catalogue.take_questions() == frozenset()  # once is enough
        assert [event.type for event in catalogue.expire(answered)] == [EventType.EXPIRED]

    def test_who_was_asked_in_time_is_not_asked_again(self) -> None:
        catalogue = filled(announcement(incarnation="i1"))
        catalogue.expire(TTL * LAST_CALL)
        assert len(catalogue.take_questions()) == 1
        catalogue.call_late(TTL + 1.0)
        assert catalogue.take_questions() == frozenset()
        assert catalogue.silent(TTL + 1.0)
        assert [event.type for event in catalogue.expire(TTL + 1.0)] == [EventType.EXPIRED]

    def test_a_question_is_settled_when_the_instance_has_gone_or_restarted(self) -> None:
        catalogue = filled(announcement(address="", url="http://a/"))
        pass_time(catalogue, 2.9)
        (question,) = catalogue.take_questions()
        assert (question.name, question.place, question.id) == ("orders", "http://a/", "i1")
        announced(catalogue, announcement(address="", url="http://a/", incarnation="i2"), 2.9)
        assert not catalogue.unanswered(question, 2.9)
        catalogue.withdraw(withdrawal(address="http://a/", incarnation="i2"), 2.9)
        assert not catalogue.unanswered(question, 2.9)

    def test_who_was_asked_too_late_is_asked_again_before_it_expires(self) -> None:
        catalogue = filled(announcement())
        assert catalogue.expire(TTL - 0.1) == []  # the broker was slow to answer meanwhile
        assert len(catalogue.take_questions()) == 1
        catalogue.call_late(TTL)
        assert len(catalogue.take_questions()) == 1
        assert catalogue.expire(TTL) == []
        assert len(pass_time(catalogue, TTL + TTL * (1 - LAST_CALL))) == 1

    def test_expel_removes_what_dead_nodes_have_not_spoken_for_since(self) -> None:
        catalogue = filled(*fleet(2, node="dead"), announcement("b", incarnation="x", node="live"))
        catalogue.announce(fleet(2, node="dead")[1], 1.0)
        events = catalogue.expel({"dead": 0.5, "unknown": 9.0})
        assert [(event.type, event.service.id) for event in events] == [(EventType.EXPIRED, "i1")]
        assert catalogue.expired == 1
        assert {service.id for service in catalogue} == {"i2", "x"}
        assert catalogue.expel({"live": -1.0}) == []

    def test_expel_believes_no_broker_that_calls_most_of_them_dead(self) -> None:
        catalogue = filled(*fleet(MASS, node="n1"))
        for since in (1.0, 1.5):
            assert catalogue.expel({"n1": since}) == []
            assert (len(catalogue), catalogue.held, catalogue.expired) == (MASS, MASS, 0)
        catalogue.announce(fleet(MASS, node="n1")[0], 2.0)  # it was there meanwhile
        assert catalogue.expel({"n1": 2.5}) == []
        assert catalogue.held == MASS + 1
        others = [
            announcement("b", f"b:{number}", incarnation=f"o{number}") for number in range(MASS)
        ]
        for message in others:
            announced(catalogue, message)
        assert len(catalogue.expel({"n1": 2.5})) == MASS

    def test_who_is_announced_by_another_node_does_not_go_with_the_first(self) -> None:
        catalogue = filled(announcement(node="n1"), announcement("b", incarnation="i2", node="n1"))
        catalogue.announce(announcement(seq=2), 0.5)  # it may not be asked after any more
        assert [event.service.name for event in catalogue.expel({"n1": 1.0})] == ["b"]

    def test_who_is_in_doubt_is_not_chosen_while_half_are_left(self) -> None:
        catalogue = filled(
            *(announcement(address=f"a:{n}", incarnation=f"i{n}", node=f"n{n}") for n in range(4))
        )

        def trusted() -> set[str]:
            return {service.id for service in catalogue.select("orders", passing).trusted}

        everybody = {"i0", "i1", "i2", "i3"}
        assert trusted() == everybody
        catalogue.doubt({"n0", "unknown"})
        assert trusted() == {"i1", "i2", "i3"}
        assert {s.id for s in catalogue.select("orders", passing).services} == everybody
        catalogue.doubt({"n0", "n1"})
        assert trusted() == {"i2", "i3"}
        catalogue.doubt({"n0", "n1", "n2"})
        assert trusted() == everybody
        catalogue.doubt({"n3"})
        assert trusted() == {"i0", "i1", "i2"}
        announced(catalogue, announcement(address="a:3", incarnation="again", node="new"))
        assert trusted() == {"i0", "i1", "i2", "again"}
        catalogue.doubt(())
        assert catalogue.doubted == set()

    def test_a_doubt_asks_no_predicate_twice(self) -> None:
        catalogue = filled(
            *(announcement(address=f"a:{n}", incarnation=f"i{n}", node=f"n{n}") for n in range(4))
        )
        catalogue.doubt({"n0"})
        asked: list[str] = []

        def predicate(service: Service) -> bool:
            asked.append(service.id)
            return True

        assert len(catalogue.select("orders", predicate).trusted) == 3
        assert asked == ["i0", "i1", "i2", "i3"]

    def test_there_is_no_doubt_about_whom_nobody_could_have_heard(self) -> None:
        catalogue = filled(*fleet(2, node="n1"), announcement("b", incarnation="x", node="n2"))
        catalogue.announce(fleet(2, node="n1")[1], 1.0)
        catalogue.doubt({"n1", "n2"}, heard_since=0.5)
        assert catalogue.doubted == {"n1"}

    def test_most_of_all_cannot_be_in_doubt(self) -> None:
        catalogue = filled(*fleet(MASS, node="n1"), announcement("b", incarnation="x", node="n2"))
        catalogue.doubt({"n1"})
        assert catalogue.doubted == set()

    def test_nodes(self) -> None:
        catalogue = filled(*fleet(2, node="n1"), announcement("b", incarnation="x", node="n2"))
        assert set(catalogue.nodes) == {"n1", "n2"}
        catalogue.withdraw(withdrawal(), 0.0)
        assert set(catalogue.nodes) == {"n1", "n2"}
        announced(catalogue, announcement(address="a:2", incarnation="new", node="n3"))
        assert set(catalogue.nodes) == {"n2", "n3"}
        pass_time(catalogue, 2 * TTL)
        assert not catalogue.nodes

    def test_forgive_gives_everybody_a_whole_ttl(self) -> None:
        catalogue = filled(announcement(), announcement("b", incarnation="i2", ttl=6.0))
        catalogue.forgive(100.0)
        assert catalogue.expire(100.0) == []
        assert pass_time(catalogue, 102.999) == []
        assert [event.service.name for event in pass_time(catalogue, 103.0)] == ["orders"]
        assert [event.service.name for event in pass_time(catalogue, 106.0)] == ["b"]

    def test_forgiving_does_not_shorten(self) -> None:
        catalogue = filled(announcement(), now=5.0)
        catalogue.forgive(1.0)
        assert pass_time(catalogue, 7.999) == []
        assert len(pass_time(catalogue, 8.0)) == 1


class TestMassSilence:
    def test_a_silent_fleet_is_held_for_one_more_ttl(self) -> None:
        catalogue = filled(*fleet(MASS))
        assert pass_time(catalogue, TTL) == []
        assert catalogue.held == MASS
        assert pass_time(catalogue, 2 * TTL - 0.001) == []
        assert len(catalogue) == MASS
        assert len(pass_time(catalogue, 2 * TTL)) == MASS
        assert (catalogue.held, catalogue.expired) == (MASS, MASS)

    def test_the_held_are_asked_again(self) -> None:
        catalogue = filled(*fleet(MASS))
        pass_time(catalogue, TTL - 0.001)
        catalogue.take_questions()
        catalogue.expire(TTL)
        questions = catalogue.take_questions()
        assert len(questions) == MASS
        assert all(catalogue.unanswered(question, TTL) for question in questions)
        catalogue.announce(fleet(1)[0], TTL)
        assert sum(catalogue.unanswered(question, TTL) for question in questions) == MASS - 1

    def test_who_speaks_meanwhile_stays(self) -> None:
        catalogue = filled(*fleet(MASS))
        pass_time(catalogue, TTL)
        catalogue.announce(fleet(1)[0], TTL + 1)
        assert len(pass_time(catalogue, 2 * TTL)) == MASS - 1
        assert only(catalogue).id == "i1"
        assert len(pass_time(catalogue, 2 * TTL + 1)) == 1

    def test_silences_within_a_heartbeat_interval_count_together(self) -> None:
        catalogue = Catalogue()
        for number, message in enumerate(fleet(MASS)):
            announced(catalogue, message, number / MASS)  # over a third of the ttl
        assert pass_time(catalogue, TTL) == []
        assert catalogue.held == MASS

    def test_few_are_not_a_mass(self) -> None:
        catalogue = filled(*fleet(MASS - 1))
        assert len(pass_time(catalogue, TTL)) == MASS - 1
        assert catalogue.held == 0

    @pytest.mark.parametrize(("living", "held"), [(MASS - 1, MASS), (MASS, 0)])
    def test_half_of_the_catalogue_is_not_a_mass(self, living: int, held: int) -> None:
        catalogue = filled(*fleet(MASS))
        others = [
            announcement("other", f"b:{number}", incarnation=f"o{number}")
            for number in range(living)
        ]
        for message in others:
            announced(catalogue, message, 2.5)
        assert len(pass_time(catalogue, TTL)) == MASS - held
        assert catalogue.held == held

    def test_a_second_silence_is_held_too_after_life_in_between(self) -> None:
        catalogue = filled(*fleet(MASS))
        pass_time(catalogue, TTL)
        for message in fleet(MASS):
            catalogue.announce(message, 4.0)
        assert pass_time(catalogue, 9.999) == []
        assert catalogue.held == 2 * MASS
        assert len(pass_time(catalogue, 10.0)) == MASS

    def test_after_an_outage_nobody_is_held(self) -> None:
        catalogue = filled(*fleet(MASS))
        catalogue.forgive(2.0)
        assert len(pass_time(catalogue, 2.0 + TTL)) == MASS
        assert catalogue.held == 0

    def test_who_has_spoken_since_an_outage_is_held(self) -> None:
        """Though the ttl of grace may begin later: for those who are not back yet."""
        catalogue = filled(*fleet(MASS))
        catalogue.forgive(2.0, late=1.0)
        for message in fleet(MASS):
            catalogue.announce(message, 2.5)
        assert pass_time(catalogue, 3.0 + TTL) == []
        assert catalogue.held == MASS
        assert len(pass_time(catalogue, 3.0 + 2 * TTL)) == MASS


CHANGES: dict[str, Callable[[Catalogue], object]] = {
    "update": lambda catalogue: catalogue.announce(announcement(seq=2, version="2"), 0.0),
    "restart": lambda catalogue: catalogue.announce(announcement(incarnation="i9"), 0.0),
    "new": lambda catalogue: catalogue.announce(announcement(address="n:1", incarnation="n"), 0.0),
    "withdrawal": lambda catalogue: catalogue.withdraw(withdrawal(), 0.0),
    "expiry": lambda catalogue: catalogue.expire(TTL),
    "forget": lambda catalogue: catalogue.forget(list(catalogue.names)),
    "expel": lambda catalogue: catalogue.expel({"n1": 0.0}),
}


class TestSelecting:
    def test_the_matches(self) -> None:
        catalogue = filled(*fleet(3))
        announced(catalogue, announcement(seq=2, status="critical"))
        assert [each.id for each in catalogue.select("orders", not_critical).services] == [
            "i2",
            "i3",
        ]
        assert len(catalogue.select("orders", all_of()).services) == 3
        assert catalogue.select("billing", not_critical).services == ()

    def test_is_kept_until_something_changes(self) -> None:
        catalogue = filled(*fleet(3), announcement("billing", incarnation="b"))
        asked: list[Service] = []

        def predicate(service: Service) -> bool:
            asked.append(service)
            return True

        selection = catalogue.select("orders", predicate)
        services = selection.services
        catalogue.announce(announcement(), 1.0)  # a heartbeat
        announced(catalogue, announcement("billing", incarnation="b", seq=2, version="2"))
        catalogue.expire(1.5)
        assert catalogue.select("orders", predicate) is selection
        assert selection.services is services
        assert len(asked) == 3

    @pytest.mark.parametrize("change", CHANGES)
    def test_every_change_is_seen(self, change: str) -> None:
        catalogue = filled(*fleet(3, node="n1"))
        assert len(catalogue.select("orders", all_of()).services) == 3
        CHANGES[change](catalogue)
        assert catalogue.select("orders", all_of()).services == catalogue.services("orders")

    def test_equal_predicates_share(self) -> None:
        catalogue = filled(*fleet(3))
        first = catalogue.select("orders", metadata(zone="eu"))
        assert catalogue.select("orders", metadata(zone="eu")) is first

    def test_the_object_stays_while_its_content_changes(self) -> None:
        catalogue = filled(*fleet(3))
        selection = catalogue.select("orders", passing)
        catalogue.withdraw(withdrawal(), 0.0)
        assert catalogue.select("orders", passing) is selection

    def test_an_unhashable_predicate_works(self) -> None:
        class Unhashable:
            __hash__ = None  # type: ignore[assignment]  # the point of the test

            def __call__(self, service: Service) -> bool:
                return service.id != "i1"

        catalogue = filled(*fleet(3))
        predicate = Unhashable()
        assert len(catalogue.select("orders", predicate).services) == 2
        catalogue.withdraw(withdrawal(incarnation="i3", address="a:3"), 0.0)
        assert len(catalogue.select("orders", predicate).services) == 1

    def test_a_predicate_that_raises_leaves_nothing_half_done(self) -> None:
        catalogue = filled(*fleet(3))
        broken = True

        def predicate(service: Service) -> bool:
            if broken and service.id == "i2":
                raise KeyError(service.id)
            return True

        with pytest.raises(KeyError):
            catalogue.select("orders", predicate)
        broken = False
        assert len(catalogue.select("orders", predicate).services) == 3

    def test_predicates_made_per_call_do_not_fill_memory(self) -> None:
        catalogue = filled(*fleet(3))
        made: list[weakref.ref[Any]] = []

        def select_once() -> None:
            def predicate(_service: Service) -> bool:
                return True

            made.append(weakref.ref(predicate))
            assert len(catalogue.select("orders", predicate).services) == 3

        for _ in range(3 * MAX_PREDICATES):
            select_once()
        gc.collect()
        assert sum(reference() is not None for reference in made) == MAX_PREDICATES

    def test_predicates_made_per_call_do_not_push_out_the_one_in_use(self) -> None:
        catalogue = filled(*fleet(3))
        kept = catalogue.select("orders", not_critical)
        for number in range(3 * MAX_PREDICATES):
            catalogue.select("orders", metadata(number=str(number)))
            assert catalogue.select("orders", not_critical) is kept


def growth(work: Callable[[], object]) -> int:
    """How many bytes more are in use after some work."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


class TestMemory:
    """Everything that comes in from outside is bounded."""

    def test_registering_and_unregistering(self) -> None:
        catalogue = filled(*fleet(3))

        def churn() -> None:
            for number in range(100_000):
                incarnation = f"n{number}"
                announced(catalogue, announcement(address="n:1", incarnation=incarnation))
                message = withdrawal(address="n:1", incarnation=incarnation)
                assert catalogue.withdraw(message, 0.0) is not None

        gc.collect()
        before = len(gc.get_objects())
        churn()
        assert len(gc.get_objects()) < before + 5000
        assert len(pass_time(catalogue, 10.0)) == 3

    def test_a_ttl_that_goes_up_and_down(self) -> None:
        catalogue = filled(foreign())

        def churn() -> None:
            for number in range(20_000):
                catalogue.announce(foreign(ttl=3.0 + number % 7), number / 1e6)

        assert growth(churn) < 500_000
        assert len(pass_time(catalogue, 20.0)) == 1

    def test_restarts(self) -> None:
        catalogue = filled(announcement())

        def churn() -> None:
            for number in range(20_000):
                announced(catalogue, announcement(incarnation=f"n{number}"), number * 1.0)

        assert growth(churn) < 500_000
        assert len(catalogue) == 1

    def test_ever_new_metadata(self) -> None:
        catalogue = filled(foreign())

        def churn() -> None:
            for number in range(20_000):
                announced(catalogue, foreign(metadata={"load": str(number)}))

        assert growth(churn) < 4_000_000

    def test_ever_new_names(self) -> None:
        catalogue = Catalogue(max_instances=10)

        def churn() -> None:
            for number in range(20_000):
                catalogue.announce(foreign(f"name-{number}"), number * 1.0)
                catalogue.expire(number * 1.0)
                catalogue.take_questions()

        assert growth(churn) < 3_000_000  # the interpreter's table of interned strings
        assert len(catalogue) <= 10


def calls(work: Callable[[], object]) -> int:
    """How many functions some work calls, Python's own ones included."""
    count = 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


WORK: dict[str, Callable[[Catalogue], object]] = {
    "heartbeat": lambda catalogue: catalogue.announce(announcement(), 0.5),
    "select": lambda catalogue: catalogue.select("orders", not_critical),
    "next_deadline": lambda catalogue: catalogue.next_deadline(),
    "expire": lambda catalogue: catalogue.expire(0.5),
    "forgive": lambda catalogue: catalogue.forgive(0.5),
    "update": lambda catalogue: catalogue.announce(announcement(seq=2, version="2"), 0.5),
    "withdrawal": lambda catalogue: catalogue.withdraw(withdrawal(), 0.5),
    "len": len,
}


class TestCost:
    """What must not cost more because there are more instances."""

    @pytest.mark.parametrize("work", WORK)
    def test_one_or_ten_thousand(self, work: str) -> None:
        alone, crowded = filled(*fleet(1)), filled(*fleet(10_000))
        for catalogue in (alone, crowded):
            catalogue.select("orders", not_critical)
            catalogue.next_deadline()
        assert calls(lambda: WORK[work](crowded)) == calls(lambda: WORK[work](alone))

    def test_a_deadline_is_one_look_each(self) -> None:
        catalogue = filled(*fleet(2000))
        for message in fleet(2000):
            catalogue.announce(message, 1.0)
        looked = calls(lambda: catalogue.expire(TTL * LAST_CALL))
        assert looked < 20 * 2000
        assert calls(lambda: catalogue.expire(TTL * LAST_CALL + 0.01)) < 10
