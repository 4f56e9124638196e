"""An announcement that `accept` does not let in hides nobody who is let in."""

from __future__ import annotations

from aioregistry import version
from aioregistry.catalogue import Catalogue
from aioregistry.service import EventType
from aioregistry.tombstones import LATE
from aioregistry.wire import Announcement, Times


def said(incarnation: str, release: str) -> Announcement:
    return Announcement(
        name="orders",
        address="10.0.0.5:80",
        version=release,
        id=incarnation,
        seq=1,
        node=f"node-{incarnation}",
        times=Times(registered=1, duration=6667),
    )


def test_a_late_message_that_is_not_let_in_hides_its_successor_no_longer_than_any_other() -> None:
    """A killed 1.9 is replaced at its address by 2.0, and its last heartbeat comes late."""
    catalogue = Catalogue(accept=version(">=2"))
    assert catalogue.announce(said("old", "1.9"), 0.0) is None
    assert catalogue.announce(said("new", "2.0"), 1.0) is not None
    gone = catalogue.announce(said("old", "1.9"), 1.1)
    assert gone is not None
    assert gone.type is EventType.UNREGISTERED
    back = [
        now
        for now in (3.5, 6.0, 8.5, 30.0, 60.0, 115.0)
        if catalogue.announce(said("new", "2.0"), now) is not None
    ]
    assert back == [3.5], "the living instance was dropped as late for two minutes"
    assert 1.1 + LATE < 3.5
