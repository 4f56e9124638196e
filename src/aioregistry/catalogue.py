"""What is known: a state machine without I/O, clock or task.

Time is an argument everywhere: seconds of one monotonic clock, the receiver's. No peer's
clock is ever compared with ours, so clocks may be hours off.

Deadlines sit in a heap with lazy deletion (as in python-zeroconf's cache): a heartbeat only
notes when it was heard, and an entry that the heap brings up too early goes back in.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import weakref
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

import msgspec

from aioregistry.choosing import Predicate, why_no_predicate
from aioregistry.limits import (
    MAX_ID,
    MAX_INSTANCES_PER_NAME,
    is_name,
    texts_fit,
)
from aioregistry.service import EventType, Service, ServiceEvent
from aioregistry.sharing import Sharing
from aioregistry.tombstones import Tombstones
from aioregistry.wire import Announcement

__all__ = ["Catalogue", "Question", "Selection"]

SOON: Final = 0.1
"""Within so many seconds a replaced incarnation that may be alive after all is asked: until it
answers, nobody finds it."""

MAX_PREDICATES: Final = 64
"""Predicates per name whose matches are kept: a lambda made per call must not fill memory."""

OVERDUE: Final = 0.8 / 3
"""The share of its ttl after which a silent instance's node is looked at. Heartbeats come
after 0.76 of a third of it at the latest."""

TOGETHER: Final = 0.005
"""That look is put off until a multiple of this share of the ttl, so that many are done at once:
each would wake up the process by itself otherwise."""

LAST_CALL: Final = 0.8
"""The share of its ttl after which a silent instance is asked whether it lives."""

TOO_LATE: Final = 0.85
"""Who is asked after that share of its ttl may not have the time to answer."""

MASS: Final = 10
"""So many instances falling silent together may mean that the path is broken, not they."""

_NEVER: Final = float("-inf")
_HEARTBEAT: Final = 1 / 3
_SCAN_COST: Final = 2e-6


class Question(NamedTuple):
    """Does this incarnation still live? Its name, its address or else URL, and its id.

    And for how long, in seconds, the asking may be put off, so that not all ask at once.
    """

    name: str
    place: str
    id: str
    patience: float


class Selection:
    """The instances of one name that one predicate lets through.

    The object stays while its content changes, until the predicate was not used for a while.

    Attributes:
        scope: stands for it in what a balancer remembers, and does not keep it.
        services: all of them.
        trusted: those to choose from: without the ones whose nodes are in doubt, as long as
            half of them remain (Envoy's panic threshold): with fewer than that, the doubt is
            more likely to be wrong than they are gone, or the rest would be overrun.
    """

    __slots__ = ("__weakref__", "scope", "services", "stale", "trusted", "used")

    def __init__(self) -> None:
        self.scope: Hashable = weakref.ref(self)
        self.services: tuple[Service, ...] = ()
        self.trusted: tuple[Service, ...] = ()
        self.stale = True
        self.used = False


class _Entry(msgspec.Struct, gc=False, eq=False):
    """One instance, and what decides how long it stays.

    A struct that the garbage collector passes over, since nothing in it refers to an entry:
    that saves memory, and a hundred thousand objects to look through.
    """

    service: Service
    order: int
    seq: int = 0
    duration: int = 0
    ttl: float = 0.0
    heard: float = 0.0
    due: float = 0.0
    called: float = _NEVER
    node: str = ""
    predecessor: str = ""

    def __lt__(self, other: _Entry) -> bool:
        return self.order < other.order


class _Look(msgspec.Struct, gc=False, order=True):
    """When an entry is next looked at: an item of the heap."""

    due: float
    entry: _Entry


class _View:
    """The instances of one name, by address or else URL."""

    __slots__ = ("entries", "selections")

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self.selections: dict[Predicate, Selection] = {}

    def make_room(self) -> None:
        """Forget a selection that was not used since it was passed over the last time."""
        selections = self.selections
        while len(selections) >= MAX_PREDICATES:  # the clock algorithm: a second chance for each
            predicate = next(iter(selections))
            selection = selections.pop(predicate)
            if selection.used:
                selection.used = False
                selections[predicate] = selection

    def changed(self) -> None:
        for selection in self.selections.values():
            selection.stale = True


_NOTHING: Final = Selection()
_NOTHING.stale = False


class Catalogue:
    """The instances that this process knows, and the rules by which they come and go.

    Attributes:
        late: messages of incarnations that were already gone.
        rejected: announcements that `accept` did not let in.
        refused: announcements beyond a limit.
        refusal: why the last of them was.
        ignored: announcements that said something and were not believed: those `late` or `refused`.
        expired: instances that fell silent.
        held: instances kept, for one more ttl or until their ttl is over, because too many fell
            silent or vanished together; each once.
        sooner: whether `next_deadline` has moved forward since this was last set to False.
    """

    def __init__(self, *, accept: Predicate | None = None, max_instances: int = 100_000) -> None:
        self.late = self.rejected = self.refused = self.expired = self.held = self.ignored = 0
        self.refusal = ""
        self.sooner = False
        self._accept = accept
        self._max_instances = max_instances
        self._views: dict[str, _View] = {}
        self._nodes: dict[str, int] = {}
        self._spared: dict[str, float] = {}
        self._doubted: AbstractSet[str] = frozenset()
        self._size = 0
        self._order = 0
        self._heap: list[_Look] = []
        self._forgiven = self._floor = _NEVER
        self._scan_after = _NEVER
        self._tombstones = Tombstones()
        self._shared = Sharing()
        self._overdue: set[str] = set()
        self._questions: set[Question] = set()

    # ---- what comes in -----------------------------------------------------------------

    def announce(self, message: Announcement, now: float) -> ServiceEvent | None:
        """Take in an announcement that arrived at `now`.

        Returns:
            What it changed; None for a heartbeat, and for what is not let in.
        """
        view = self._views.get(message.name)
        entry = view and view.entries.get(message.address or message.url)
        if not view or not entry:
            return self._add(message, now)
        if entry.service.id != message.id:
            return self._restart(view, entry, message, now)
        if entry.seq == message.seq and message.seq and entry.duration == message.duration:
            entry.heard = now  # a heartbeat: the path that has to be cheap
            return None
        return self._refresh(view, entry, message, now)

    def withdraw(self, message: Announcement, now: float) -> ServiceEvent | None:
        """Take in a withdrawal that arrived at `now`, and return what it changed."""
        if message.id:
            if len(message.id) > MAX_ID:
                self._refuse(f"its id has more than {MAX_ID} characters")
                return None
            self._tombstones.bury(message.id, now)
        view = self._views.get(message.name)
        entry = view and view.entries.get(message.address or message.url)
        if not entry:
            return None
        if message.id not in ("", entry.service.id):
            if message.id == entry.predecessor:
                entry.predecessor = ""  # it will not be back
            return None
        self._release(entry)
        return self._remove(entry, EventType.UNREGISTERED)

    def call_late(self, now: float) -> None:
        """Ask those that are silent and were not asked in time, and give them the time to answer.

        For a caller who may come late: on time, everybody is asked before its ttl is over.
        """
        for entry in self._take_silent(now):
            if entry.called == self._base(entry):
                heapq.heappush(self._heap, _Look(entry.due, entry))
            else:
                self._call(entry, in_time=True)
                self._queue(entry, now + entry.ttl * (1 - LAST_CALL))

    def silent(self, now: float) -> bool:
        """Whether `expire` would find anything that has been silent for its whole ttl."""
        silent = self._take_silent(now)
        for entry in silent:
            heapq.heappush(self._heap, _Look(entry.due, entry))
        return bool(silent)

    def expire(self, now: float) -> list[ServiceEvent]:
        """Remove what has been silent for its ttl, unless too much fell silent at once."""
        silent = self._take_silent(now)
        if silent and self._mass_silence(now):
            self.forgive(now)
            for entry in silent:
                self._queue(entry, self._base(entry) + entry.ttl * OVERDUE)
            return []
        self.expired += len(silent)
        for entry in silent:
            self._release(entry)
        return [self._remove(entry, EventType.EXPIRED) for entry in silent]

    def expel(
        self, nodes: Mapping[str, float], *, heard_since: float = _NEVER
    ) -> list[ServiceEvent]:
        """Remove the instances of dead nodes, unless that is most of what is known.

        Args:
            nodes: the nodes, and since when each is gone; what was heard later stays.
            heard_since: what was not heard since then stays, too: it has its ttl of grace.
        """
        gone = [
            entry
            for entry in self._entries()
            if entry.node in nodes and heard_since <= entry.heard <= nodes[entry.node]
        ]
        if self._is_mass(len(gone)):  # then it is rather the broker that is torn apart
            spared = self._spared
            self.held += sum(spared.get(entry.node, _NEVER) < entry.heard for entry in gone)
            spared.update((entry.node, nodes[entry.node]) for entry in gone)
            return []
        self.expired += len(gone)
        for entry in gone:
            self._release(entry)
        return [self._remove(entry, EventType.EXPIRED) for entry in gone]

    def doubt(self, nodes: Collection[str], *, heard_since: float = _NEVER) -> None:
        """Let nobody choose the instances of these nodes while there are others, and of no others.

        They stay in the catalogue: their nodes may be gone, or about to be back.

        Args:
            nodes: the nodes.
            heard_since: nodes that were not heard since then are not meant: they have their
                time of grace.
        """
        meant = [e for e in self._entries() if e.node in nodes and e.heard >= heard_since]
        doubted = {entry.node for entry in ([] if self._is_mass(len(meant)) else meant)}
        changed, self._doubted = doubted ^ self._doubted, doubted
        for view in self._views.values():
            if any(entry.node in changed for entry in view.entries.values()):
                view.changed()

    def forgive(self, now: float, *, late: float = 0.0) -> None:
        """Give every instance a whole ttl, as after an outage of the broker.

        Args:
            now: the time; who has not spoken since then is not protected by the number of others
                who are silent.
            late: how much later that ttl begins, in seconds.
        """
        self._forgiven, self._floor = now, now + late

    def forget(self, names: Iterable[str]) -> list[ServiceEvent]:
        """Remove every instance of these names."""
        views = [view for name in names if (view := self._views.get(name)) is not None]
        entries = [entry for view in views for entry in view.entries.values()]
        return [self._remove(entry, EventType.UNREGISTERED) for entry in entries]

    def clear(self) -> None:
        """Forget everything, without events."""
        self._views.clear()
        self._nodes.clear()
        self._spared.clear()
        self._doubted = frozenset()
        self._heap.clear()
        self._size = 0

    # ---- what it wants to know ---------------------------------------------------------

    def next_deadline(self) -> float | None:
        """When `expire` has something to look at; None when there is nothing."""
        heap = self._heap
        while heap and heap[0].entry.due != heap[0].due:
            heapq.heappop(heap)
        return heap[0].due if heap else None

    def take_overdue(self) -> frozenset[str]:
        """The nodes whose heartbeats are late, once."""
        nodes, self._overdue = frozenset(self._overdue), set()
        return nodes

    def take_questions(self) -> frozenset[Question]:
        """The instances to be asked whether they live, once."""
        questions, self._questions = frozenset(self._questions), set()
        return questions

    def unanswered(self, question: Question, now: float) -> bool:
        """Whether a question is still open: the instance may live, and is as silent as before."""
        view = self._views.get(question.name)
        entry = view and view.entries.get(question.place)
        if not entry:
            return self._tombstones.get(question.id, now) <= now
        return entry.service.id == question.id and now >= entry.heard + entry.ttl * LAST_CALL

    # ---- what it knows -----------------------------------------------------------------

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Service]:
        return (entry.service for entry in self._entries())

    @property
    def names(self) -> tuple[str, ...]:
        """The names that have an instance."""
        return tuple(self._views)

    @property
    def nodes(self) -> Collection[str]:
        """The registries that announce instances, as far as they say who they are."""
        return self._nodes.keys()

    @property
    def doubted(self) -> AbstractSet[str]:
        """The nodes whose instances nobody should choose."""
        return self._doubted

    @property
    def tombstones(self) -> int:
        """How many incarnations are remembered as gone."""
        return len(self._tombstones)

    def services(self, name: str) -> tuple[Service, ...]:
        """Every instance of `name`."""
        view = self._views.get(name)
        return tuple(entry.service for entry in view.entries.values()) if view else ()

    def select(self, name: str, predicate: Predicate) -> Selection:
        """The instances of `name` that `predicate` lets through, kept until something changes."""
        try:
            selection = self._views[name].selections[predicate]
        except (KeyError, TypeError):
            return self._select_first(name, predicate)
        selection.used = True
        if selection.stale:
            self._fill(selection, name, predicate)
        return selection

    def _select_first(self, name: str, predicate: Predicate) -> Selection:
        if reason := why_no_predicate(predicate):
            raise TypeError(f"where={reason}")
        view = self._views.get(name)
        if view is None:
            return _NOTHING
        selection = Selection()
        self._fill(selection, name, predicate)
        with contextlib.suppress(TypeError):  # an unhashable predicate works, without the cache
            hash(predicate)
            view.make_room()
            view.selections[predicate] = selection
        return selection

    def _fill(self, selection: Selection, name: str, predicate: Predicate) -> None:
        entries = self._views[name].entries.values()
        matching = [entry for entry in entries if predicate(entry.service)]
        selection.services = selection.trusted = tuple([entry.service for entry in matching])
        if self._doubted:
            trusted = tuple([e.service for e in matching if e.node not in self._doubted])
            if 2 * len(trusted) >= len(matching):
                selection.trusted = trusted
        selection.stale = False

    # ---- the rules ---------------------------------------------------------------------

    def _add(self, message: Announcement, now: float) -> ServiceEvent | None:
        if message.id in self._tombstones and self._drop_as_late(message.id, now):
            return None
        view = self._views.get(message.name)
        if self._size >= self._max_instances:
            self._refuse(f"{self._max_instances:,} instances are known (max_instances)")
            return None
        if view is not None and len(view.entries) >= MAX_INSTANCES_PER_NAME:
            self._refuse(f"{MAX_INSTANCES_PER_NAME:,} instances of its name are known")
            return None
        service = self._read(message)
        if service is None or not self._accepts(service):
            return None
        self._order += 1
        entry = _Entry(service, self._order)
        self._note(entry, message, now)
        self._move(entry, message.node)
        if view is None:
            view = self._views[service.name] = _View()
        view.entries[service.address or service.url] = entry
        view.changed()
        self._size += 1
        self._queue(entry, self._next_look(entry, now))
        return ServiceEvent(EventType.REGISTERED, service)

    def _restart(
        self, view: _View, entry: _Entry, message: Announcement, now: float
    ) -> ServiceEvent | None:
        """Another incarnation under the same key replaces the old one, unless it is the older."""
        if message.id in self._tombstones and self._drop_as_late(message.id, now):
            return None
        service = self._read(message)
        if service is None:
            return None
        if message.id and entry.service.id:
            self._tombstones.bury(entry.service.id, now)
            entry.predecessor = entry.service.id
        return self._replace(view, entry, service, message, now)

    def _refresh(
        self, view: _View, entry: _Entry, message: Announcement, now: float
    ) -> ServiceEvent | None:
        """The same incarnation: content counts when it is newer, or bears no number."""
        if message.seq > entry.seq or not message.seq:
            if not message.describes(entry.service):
                service = self._read(message)
                return (
                    None if service is None else self._replace(view, entry, service, message, now)
                )
            if message.seq:
                self._heard_from(view, entry, self._node_of(message))
            entry.seq = message.seq
        entry.heard = now
        if message.seq == entry.seq and message.duration != entry.duration:
            self._note(entry, message, now)
            self._queue(entry, self._next_look(entry, now))
        return None

    def _replace(
        self, view: _View, entry: _Entry, service: Service, message: Announcement, now: float
    ) -> ServiceEvent:
        if not self._accepts(service):
            self._release(entry)
            return self._remove(entry, EventType.UNREGISTERED)
        previous, entry.service = entry.service, service
        self._note(entry, message, now)
        self._move(entry, message.node)
        view.changed()
        self._queue(entry, self._next_look(entry, now))
        return ServiceEvent(EventType.UPDATED, service, previous)

    def _read(self, message: Announcement) -> Service | None:
        """The instance that the message describes; None when it is beyond a limit."""
        metadata = self._shared.metadata(message)
        if metadata is None:
            self._refuse("its metadata is too large")
            return None
        if len(message.id) > MAX_ID:
            self._refuse(f"its id has more than {MAX_ID} characters")
            return None
        service = message.service(metadata, self._shared.texts.__getitem__)
        if not texts_fit(service):
            self._refuse("one of its fields is too long, or holds a control character")
            return None
        if service.name not in self._views and not is_name(service.name):
            self._refuse("its name cannot be one")
            return None
        message.node = self._node_of(message)
        return service

    def _refuse(self, why: str) -> None:
        """Count an announcement that is beyond a limit."""
        self.refused += 1
        self.ignored += 1
        self.refusal = why

    def _node_of(self, message: Announcement) -> str:
        """The node that a message names; empty: none that could be asked for."""
        node = message.node
        if node not in self._nodes and (len(node) > MAX_ID or "." in node or not is_name(node)):
            return ""
        return node

    def _heard_from(self, view: _View, entry: _Entry, node: str) -> None:
        """The instance says by which node it is announced, or that none may be asked for."""
        if node != entry.node:
            self._move(entry, node)
            view.changed()

    def _note(self, entry: _Entry, message: Announcement, now: float) -> None:
        """Note what the message says apart from the content."""
        entry.seq = message.seq
        entry.duration, entry.ttl = self._shared.times(message)
        entry.heard = now

    def _accepts(self, service: Service) -> bool:
        if self._accept is None or self._accept(service):
            return True
        self.rejected += 1
        return False

    def _move(self, entry: _Entry, node: str) -> None:
        """Note which registry announces the instance; empty: none that is known."""
        nodes = self._nodes
        if entry.node:
            nodes[entry.node] -= 1
            if not nodes[entry.node]:
                del nodes[entry.node]
                self._spared.pop(entry.node, None)
        entry.node = self._shared.texts[node]
        if node:
            nodes[entry.node] = nodes.get(entry.node, 0) + 1

    def _remove(self, entry: _Entry, why: EventType) -> ServiceEvent:
        service = entry.service
        view = self._views[service.name]
        del view.entries[service.address or service.url]
        view.changed()
        if not view.entries:
            del self._views[service.name]
        self._size -= 1
        self._move(entry, "")
        entry.due = float("nan")
        return ServiceEvent(why, service, service)

    # ---- time --------------------------------------------------------------------------

    def _entries(self) -> Iterator[_Entry]:
        return (entry for view in self._views.values() for entry in view.entries.values())

    def _base(self, entry: _Entry) -> float:
        """From when the silence of an entry counts."""
        return max(entry.heard, self._floor)

    def _next_look(self, entry: _Entry, now: float) -> float:
        """When the entry is next looked at; notes what it gives reason to ask."""
        base, ttl = self._base(entry), entry.ttl
        if now >= base + ttl * LAST_CALL:
            self._call(entry, in_time=now < base + ttl * TOO_LATE)
            return base + ttl
        if not entry.node:
            return base + ttl * LAST_CALL
        if now >= base + ttl * OVERDUE:
            self._overdue.add(entry.node)  # and again: it may be heard now, and crash then
            return min(now + ttl * OVERDUE, base + ttl * LAST_CALL)
        due, grid = base + ttl * OVERDUE, ttl * TOGETHER
        return max(due, math.ceil(due / grid) * grid)  # rounding must not make it too early

    def _call(self, entry: _Entry, *, in_time: bool) -> None:
        """Have an instance asked whether it lives."""
        if in_time:
            entry.called = self._base(entry)
        self._questions.add(_question(entry))

    def _take_silent(self, now: float) -> dict[_Entry, None]:
        """Take off the heap what has been silent for its whole ttl, and look at what has not."""
        silent: dict[_Entry, None] = {}  # the heap may hold one twice: its ttl went up and down
        heap = self._heap
        while heap and heap[0].due <= now:
            look = heapq.heappop(heap)
            entry = look.entry
            if entry.due != look.due:
                continue  # removed, or queued again for another time
            if now >= self._base(entry) + entry.ttl:
                silent[entry] = None
            else:
                self._queue(entry, self._next_look(entry, now))
        return silent

    def _queue(self, entry: _Entry, due: float) -> None:
        if entry.due == due:
            return
        entry.due = due
        if len(self._heap) > 2 * self._size + 1000:  # churn left more dead than living
            self._heap = [_Look(e.due, e) for e in self._entries() if e is not entry]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, _Look(due, entry))
        if self._heap[0].entry is entry:
            self.sooner = True

    def _mass_silence(self, now: float) -> bool:
        """Whether more than half, and not just a few, fell silent together.

        Then the path is more likely to be broken than they are. Who was given another ttl
        once (`forgive`) and stayed silent is not counted again, so this holds nobody twice.
        """
        if now < self._scan_after:
            return False
        self._scan_after = now + self._size * _SCAN_COST
        silent = [
            entry
            for entry in self._entries()
            if entry.heard >= self._forgiven
            and self._base(entry) + entry.ttl * (1 - _HEARTBEAT) <= now
        ]
        if not self._is_mass(len(silent)):
            return False
        self.held += len(silent)
        self._questions.update(map(_question, silent))
        return True

    def _is_mass(self, number: int) -> bool:
        return number >= MASS and 2 * number > self._size

    # ---- incarnations that are gone ----------------------------------------------------

    def _release(self, entry: _Entry) -> None:
        """An incarnation is gone; the one that it replaced may be alive, so ask it.

        Then the message that seemed to replace it was a late one of an older incarnation, or both
        claimed the same address.
        """
        service, predecessor = entry.service, entry.predecessor
        if self._tombstones.loosen(predecessor):
            place = service.address or service.url
            self._questions.add(Question(service.name, place, predecessor, SOON))

    def _drop_as_late(self, incarnation: str, now: float) -> bool:
        """Whether an incarnation with a tombstone is still to stay dead; counts it then."""
        if self._tombstones[incarnation] <= now:
            return False
        self.late += 1
        self.ignored += 1
        return True


def _question(entry: _Entry) -> Question:
    service = entry.service
    patience = entry.ttl * (1 - LAST_CALL) / 2
    return Question(service.name, service.address or service.url, service.id, patience)
