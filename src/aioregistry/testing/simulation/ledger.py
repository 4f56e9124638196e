"""The ground truth of a simulation: who lives, who was online when, and what got lost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from aioregistry import wire
from aioregistry.service import Service
from aioregistry.testing.faults import Message, NetworkMonitor
from aioregistry.testing.process import SimulatedProcess
from aioregistry.testing.simulation.trace import Trace

__all__ = ["Inbox", "Ledger", "Life", "Note", "Uptime", "Violation"]

_REGISTER: Final = "registry.register."
_UNREGISTER: Final = "registry.unregister."
_PING: Final = "registry.ping."
_RECENT: Final = 200


@dataclass(frozen=True)
class Violation:
    """A promise that was broken.

    Attributes:
        at: when, in seconds of virtual time.
        invariant: which: sound, complete, convergent, consistent or bounded.
        text: how.
    """

    at: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.at:.3f} s: {self.invariant}: {self.text}"


class Uptime:
    """When a process was online.

    Attributes:
        since: from when on it has been online, in seconds; None: it is not.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self._outages: list[tuple[float, float]] = []
        self._left = 0.0

    def note(self, now: float, *, online: bool) -> None:
        """It is online now, or is not."""
        if online and self.since is None:
            self._outages.append((self._left, now))
            self.since = now
        elif not online and self.since is not None:
            self.since, self._left = None, now

    @property
    def resumed(self) -> int:
        """How often it came online."""
        return len(self._outages)

    def offline(self, since: float, now: float) -> float:
        """For how many seconds it was offline from `since` until `now`."""
        total = sum(max(0.0, end - max(start, since)) for start, end in self._outages[-50:])
        return total if self.since is not None else total + now - max(self._left, since)


@dataclass(eq=False)
class Life:
    """One incarnation of an instance.

    Attributes:
        service: its content now.
        process: where it lives.
        versions: its contents so far, the oldest first.
        born: when it was registered, in seconds.
        sent: when it was announced, in seconds.
        died: when it ended, in seconds; None: it lives.
        how: `withdrawn`, `crashed`, or `crashed unnoticed`.
        withdrawal_lost: whether its withdrawal was lost on the way to the broker.
    """

    service: Service
    process: SimulatedProcess
    versions: list[Service]
    born: float
    sent: list[float]
    died: float | None = None
    how: str = ""
    withdrawal_lost: bool = False

    def missing(self, heard: float, now: float, interval: float, uptime: Uptime) -> int:
        """How many announcements in a row have not arrived since the one sent at `heard`.

        Those that could not even be sent count, too.
        """
        outage = uptime.offline(heard, now)
        unsent = 0 if outage <= 0 else 1 + int(outage / interval)
        return len(self.sent) - bisect_right(self.sent, heard) + unsent


@dataclass(eq=False)
class Ping:
    """A question of an observer.

    Attributes:
        at: when it was asked, in seconds.
        name: after which name.
        id: after which incarnation; empty: all.
        lost: whether it got lost somewhere.
    """

    at: float
    name: str
    id: str
    lost: bool = False


@dataclass(eq=False)
class Inbox:
    """What has reached one observing process.

    Attributes:
        heard: by id, when the newest announcement that arrived was sent.
        arrived: by id, when the last announcement arrived.
        withdrawn: the ids whose withdrawal it has read.
        missed: the ids whose withdrawal was lost on the way to it.
        connected: when its link came up last.
        pings: what it asked.
    """

    heard: dict[str, float] = field(default_factory=dict[str, float])
    arrived: dict[str, float] = field(default_factory=dict[str, float])
    withdrawn: set[str] = field(default_factory=set[str])
    missed: set[str] = field(default_factory=set[str])
    connected: float = 0.0
    pings: list[Ping] = field(default_factory=list[Ping])

    def unanswered(self, life: Life, since: float, now: float, lag: float) -> bool:
        """Whether its question for an instance was lost, or is on its way still."""
        service = life.service
        return any(
            ping.at > since
            and ping.name == service.name
            and ping.id in ("", service.id)
            and (ping.lost or now - ping.at < lag)
            for ping in self.pings[-_RECENT:]
        )


class Note(NamedTuple):
    """What a message is about: whether it is an announcement, and of which incarnation."""

    announces: bool
    id: str


class Ledger(NetworkMonitor):
    """Knows what is true, and what a reliable registry could know.

    Args:
        clock: the virtual time, in seconds.
        trace: where everything is noted.

    Attributes:
        lives: every incarnation by id, dead ones included.
        alive: the living by key.
        dead: the ids of those that died, the oldest first.
        uptimes: by process.
        inboxes: by observing process.
        violations: the promises broken so far.
        messages: how many were sent, by kind.
        pinged: how many pings arrived, by process.
        sent_by: how many announcements were sent, by process.
        stormy_until: until when messages are late, or their being late still has effects.
        losses: how often a link was lost, as the processes noticed.
        times_held: how often an observer's guard against mass silence acted.
    """

    def __init__(self, clock: Callable[[], float], trace: Trace) -> None:
        self.lives: dict[str, Life] = {}
        self.alive: dict[tuple[str, str], Life] = {}
        self.dead: dict[str, Life] = {}
        self.uptimes: dict[SimulatedProcess, Uptime] = {}
        self.inboxes: dict[SimulatedProcess, Inbox] = {}
        self.violations: list[Violation] = []
        self.messages = {"announcement": 0, "withdrawal": 0, "ping": 0, "delivery": 0, "loss": 0}
        self.pinged: dict[SimulatedProcess, int] = {}
        self.sent_by: dict[SimulatedProcess, int] = {}
        self.losses = self.times_held = 0
        self.stormy_until = float("-inf")
        self._early: dict[str, list[float]] = {}
        self._clock = clock
        self._trace = trace

    def violated(self, invariant: str, text: str) -> None:
        """A promise is broken."""
        violation = Violation(self._clock(), invariant, text)
        self.violations.append(violation)
        self._trace.add("VIOLATION", invariant, text)

    # ---- who lives ---------------------------------------------------------------------

    def born(self, service: Service, process: SimulatedProcess) -> None:
        """An instance was registered."""
        life = Life(service, process, [service], self._clock(), self._early.pop(service.id, []))
        self.lives[service.id] = self.alive[service.key] = life
        self._trace.add("born", service.id, service.key, "at", process.name)

    def changed_content(self, service: Service) -> None:
        """An instance was given another content."""
        life = self.lives[service.id]
        life.service = service
        life.versions.append(service)
        self._trace.add("update", service.id, dict(service.metadata), service.status.value)

    def died(self, life: Life, how: str) -> None:
        """An instance ended."""
        if life.died is None:
            life.died, life.how = self._clock(), how
            self.dead[life.service.id] = life
            if self.alive.get(life.service.key) is life:
                del self.alive[life.service.key]
            self._trace.add(how, life.service.id, life.service.key)

    def uptime(self, process: SimulatedProcess) -> Uptime:
        """When a process was online."""
        return self.uptimes.setdefault(process, Uptime())

    def resumed(self, process: SimulatedProcess) -> int:
        """How often a process came online."""
        return self.uptime(process).resumed

    # ---- what the network tells --------------------------------------------------------

    def sent(self, message: Message) -> None:
        """See `NetworkMonitor.sent`."""
        subject = message.subject
        self._trace.add("send", message.number, message.sender.name, subject, message.payload)
        if subject.startswith(_REGISTER):
            self.messages["announcement"] += 1
            self.sent_by[message.sender] = self.sent_by.get(message.sender, 0) + 1
            incarnation = wire.decode(message.payload).id
            message.note = Note(announces=True, id=incarnation)
            life = self.lives.get(incarnation)
            sent = life.sent if life else self._early.setdefault(incarnation, [])
            sent.append(message.at)
        elif subject.startswith(_UNREGISTER):
            self.messages["withdrawal"] += 1
            message.note = Note(announces=False, id=wire.decode(message.payload).id)
        else:
            self._ping(message)

    def _ping(self, message: Message) -> None:
        self.messages["ping"] += 1
        name = message.subject.removeprefix(_PING)
        message.note = Ping(message.at, name, wire.decode_ping(message.payload))
        if message.sender in self.inboxes:
            self.inboxes[message.sender].pings.append(message.note)

    def lost(self, message: Message, process: SimulatedProcess | None) -> None:
        """See `NetworkMonitor.lost`."""
        self.messages["loss"] += 1
        self._trace.add("lost", message.number, process.name if process else "before the broker")
        note = message.note
        if isinstance(note, Ping):
            note.lost = True
        elif isinstance(note, Note) and not note.announces:
            if process is not None and process in self.inboxes:
                self.inboxes[process].missed.add(note.id)
            elif process is None and note.id in self.lives:
                self.lives[note.id].withdrawal_lost = True

    def arrived(self, message: Message, process: SimulatedProcess) -> None:
        """See `NetworkMonitor.arrived`."""
        self.messages["delivery"] += 1
        note, inbox = message.note, self.inboxes.get(process)
        if isinstance(note, Ping):
            self.pinged[process] = self.pinged.get(process, 0) + 1
        elif inbox is not None and isinstance(note, Note) and note.announces:
            inbox.arrived[note.id] = self._clock()
            inbox.heard[note.id] = max(message.at, inbox.heard.get(note.id, 0.0))

    def handled(self, message: Message, process: SimulatedProcess) -> None:
        """See `NetworkMonitor.handled`."""
        note, inbox = message.note, self.inboxes.get(process)
        if inbox is not None and isinstance(note, Note) and not note.announces:
            inbox.withdrawn.add(note.id)

    def changed(self, process: SimulatedProcess, what: str) -> None:
        """See `NetworkMonitor.changed`."""
        self._trace.add(process.name, "is", what)
        self.uptime(process).note(self._clock(), online=process.online)
        self.losses += what == "disconnected"
        if what == "connected" and process in self.inboxes:
            self.inboxes[process].connected = self._clock()
