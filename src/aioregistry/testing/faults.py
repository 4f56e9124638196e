"""What a simulated network does to messages, and who gets to see it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioregistry.testing.process import SimulatedProcess

__all__ = ["Faults", "Message", "NetworkMonitor"]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How unreliable the way between a process and the broker is, in each direction.

    Attributes:
        latency: what every message takes, in seconds; the order stays.
        loss: the share of messages that vanish, 0 to 1.
        duplication: the share of messages that arrive twice.
        reordering: the share of messages that are held back, so that later ones overtake.
        delay: for how long a message is held back at most, in seconds; duplicates too.
    """

    latency: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    delay: float = 0.5

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1, not {getattr(self, name)!r}")
        for name in ("latency", "delay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a time in seconds, not {getattr(self, name)!r}")

    @property
    def uneven(self) -> bool:
        """Whether messages fare differently from each other."""
        return bool(self.loss or self.duplication or self.reordering)

    @property
    def longest(self) -> float:
        """How long a message may take in one direction, in seconds."""
        return self.latency + (self.delay if self.duplication or self.reordering else 0.0)

    def lags(self, rng: random.Random) -> tuple[float, ...]:
        """After how many seconds each copy of a message arrives; none when it is lost."""
        if rng.random() < self.loss:
            return ()
        held = rng.uniform(0, self.delay) if rng.random() < self.reordering else 0.0
        if rng.random() < self.duplication:
            return self.latency + held, self.latency + rng.uniform(0, self.delay)
        return (self.latency + held,)


@dataclass(eq=False, slots=True)
class Message:
    """One message on its way through the simulated network.

    Attributes:
        number: counts the messages of the network.
        at: when it was published, in seconds of the event loop's clock.
        sender: who published it.
        subject: its subject.
        payload: its content.
        reply_to: where an empty message goes when nobody hears the subject.
        note: whatever a monitor wants to remember of it.
    """

    number: int
    at: float
    sender: SimulatedProcess
    subject: str
    payload: bytes
    reply_to: str | None = None
    note: object = None


class NetworkMonitor:
    """Sees everything that a simulated network does; override what is of interest."""

    def sent(self, message: Message) -> None:
        """A process published a message; it has not yet reached the broker."""

    def lost(self, message: Message, process: SimulatedProcess | None) -> None:
        """A message was lost on its way to `process`, or (None) to the broker."""

    def arrived(self, message: Message, process: SimulatedProcess) -> None:
        """A message reached a process, which has not read it yet if it is frozen."""

    def handled(self, message: Message, process: SimulatedProcess) -> None:
        """A message has passed through a handler of a process."""

    def changed(self, process: SimulatedProcess, what: str) -> None:
        """A process or its link to the broker changed its state."""
