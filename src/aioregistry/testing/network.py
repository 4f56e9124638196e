"""A simulated network: one broker, any number of processes, and faults drawn from a seed.

Messages travel in buckets of ten milliseconds, so a fleet of thousands costs one timer a
bucket. Everything that happens is a function of the seed and of what the processes do.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final

from aioregistry.testing.faults import Faults, Message, NetworkMonitor
from aioregistry.testing.process import SimulatedProcess
from aioregistry.testing.routes import Routes
from aioregistry.testing.strand import neutral_context

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from aioregistry.testing.transport import Interest, SimulatedTransport

__all__ = ["BUCKET", "SimulatedNetwork"]

BUCKET: Final = 0.01
"""Messages are delivered at multiples of so many seconds."""

NOTICED: Final = 0.1
"""A link that breaks visibly (the broker's end says so) is noticed within so many seconds."""

PROBED: Final = (1.0, 2.0)
"""A link that just falls silent is found dead by its transport after between so many and so
many seconds."""

DROPPED: Final = (2.0, 6.0)
"""The broker drops a silent client after between so many and so many seconds."""

RECONNECT: Final = (0.05, 0.5)
"""A transport is back between so many and so many seconds after it can be."""


class SimulatedNetwork:
    """The broker, and the ways to it.

    Make it inside a running `VirtualTimeLoop`; then make processes, and registries in them:

        network = SimulatedNetwork(seed=1, faults=Faults(loss=0.05))
        async with network.process("shop").registry() as registry:
            ...

    Args:
        seed: where all randomness comes from.
        faults: what happens to messages; may be set anew at any time.
        monitor: sees everything.
        look_interval: as for `Transport`, in seconds: None makes it a broker like NATS,
            a number one like Redis.

    Attributes:
        seed: as given.
        faults: as given.
        monitor: as given.
        look_interval: as given.
        drop: which messages to lose on their way to which process, besides those that
            `faults` takes; None: none.
        running: whether the broker runs.
        processes: those made so far, by name; one of the same name replaces the older.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        faults: Faults | None = None,
        monitor: NetworkMonitor | None = None,
        look_interval: float | None = None,
    ) -> None:
        self.seed = seed
        self.faults = faults or Faults()
        self.monitor = monitor or NetworkMonitor()
        self.look_interval = look_interval
        self.drop: Callable[[Message, SimulatedProcess], bool] | None = None
        self.running = True
        self.processes: dict[str, SimulatedProcess] = {}
        self._rng = random.Random(f"network {seed}")
        self._loop = asyncio.get_running_loop()
        self._context = neutral_context()
        self._transports: dict[SimulatedTransport, None] = {}
        self._routes = Routes()
        self._buckets: dict[int, list[tuple[Callable[..., None], tuple[Any, ...]]]] = {}
        self._number = 0

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        return f"<SimulatedNetwork {self.seed}, broker {state}>"

    @property
    def address(self) -> str:
        """The address of the broker, for messages to people."""
        return f"simulated://{self.seed}"

    @property
    def now(self) -> float:
        """The virtual time, in seconds."""
        return self._loop.time()

    def process(self, name: str | None = None) -> SimulatedProcess:
        """A new process, running and connected to the network.

        Args:
            name: also where its random numbers come from; None: the next number.
        """
        name = f"process-{len(self.processes) + 1}" if name is None else name
        process = self.processes[name] = SimulatedProcess(self, name)
        return process

    # ---- the broker --------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the broker: all links break, and what is on its way is lost."""
        if not self.running:
            return
        self.running = False
        self._routes.clear()
        for actions in self._buckets.values():
            for action, arguments in actions:
                if action == self._route:
                    self.monitor.lost(arguments[0], None)
                elif action == self._hand_over:
                    for interest in arguments[1]:
                        self.monitor.lost(arguments[0], interest.transport.process)
        self._buckets = {
            slot: [each for each in actions if each[0] not in (self._route, self._hand_over)]
            for slot, actions in self._buckets.items()
        }
        for transport in self._transports:
            transport.break_off("the broker stopped", self._rng.uniform(0, NOTICED))

        self._tell("without broker")

    def start(self) -> None:
        """Start the broker again: the transports come back one after the other."""
        if not self.running:
            self.running = True
            self._tell("with broker")
            for transport in self._transports:
                transport.come_back(self._rng.uniform(*RECONNECT))

    # ---- the side of the processes -----------------------------------------------------

    def isolated(self, process: SimulatedProcess, *, noticed: bool) -> None:
        """A process lost its way to the broker, and both ends know or have to find out."""
        for transport in self._of(process):
            if noticed:
                transport.break_off("the connection broke", self._rng.uniform(0, NOTICED))
                continue
            transport.probe(self._rng.uniform(*PROBED))
            self._loop.call_later(
                self._rng.uniform(*DROPPED), self._drop, transport, context=self._context
            )

    def rejoined(self, process: SimulatedProcess) -> None:
        """A process has its way to the broker again."""
        for transport in self._of(process):
            if transport.session:
                self._restore(transport)
            else:
                transport.break_off("the broker hung up", self._rng.uniform(0, NOTICED))
                transport.come_back(self._rng.uniform(*RECONNECT))

    def thawed(self, process: SimulatedProcess) -> None:
        """A process goes on: what waits for it is read after the timers that are late."""
        for transport in self._of(process):
            self._enqueue(0.0, transport.read_backlog, ())

    def died(self, process: SimulatedProcess, *, noticed: bool) -> None:
        """A process is gone, and the broker knows at once, or finds out after a while."""
        for transport in self._of(process):
            del self._transports[transport]
            if noticed and not process.partitioned:
                self.detach(transport)
            else:
                self._loop.call_later(
                    self._rng.uniform(*DROPPED), self.detach, transport, context=self._context
                )

    # ---- the side of the transports ----------------------------------------------------

    def attach(self, transport: SimulatedTransport) -> None:
        """Let a transport in, with the interests that it has."""
        self._transports[transport] = None
        transport.session = True
        self._restore(transport)

    def detach(self, transport: SimulatedTransport) -> None:
        """Let a transport go, with its interests."""
        transport.session = False
        for interest in transport.interests:
            self._routes.remove(interest)

    def forget(self, transport: SimulatedTransport) -> None:
        """Let a transport go for good."""
        self.detach(transport)
        self._transports.pop(transport, None)

    def add(self, interest: Interest) -> None:
        """Route messages to an interest of a connected transport."""
        self._routes.add(interest)

    def remove(self, interest: Interest) -> None:
        """Route no more messages to an interest."""
        self._routes.remove(interest)

    def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """Those of `subjects` that nobody subscribes to."""
        return frozenset(each for each in subjects if not self._routes.receivers(each))

    def publish(
        self, transport: SimulatedTransport, subject: str, payload: bytes, reply_to: str | None
    ) -> None:
        """Take a message from a transport whose link looks sound."""
        process = transport.process
        self._number += 1
        message = Message(self._number, self._loop.time(), process, subject, payload, reply_to)
        self.monitor.sent(message)
        if not (transport.session and process.reachable):
            self.monitor.lost(message, None)
            return
        faults = process.faults or self.faults
        lags = faults.lags(self._rng) if faults.uneven else (faults.latency,)
        if not lags:
            self.monitor.lost(message, None)
        for lag in lags:
            due = self._enqueue(lag, self._route, (message, transport))
            transport.sent_until = max(transport.sent_until, due)

    def lag(self, process: SimulatedProcess) -> float:
        """How long a request travels now in one direction, in seconds; it is never lost."""
        faults = process.faults or self.faults
        held = self._rng.random() < faults.reordering
        return BUCKET + faults.latency + (self._rng.uniform(0, faults.delay) if held else 0.0)

    def come_back_later(self, transport: SimulatedTransport) -> None:
        """A transport has lost its link: it tries to come back, if there is a way."""
        if transport.process.reachable:
            transport.come_back(self._rng.uniform(*RECONNECT))

    # ------------------------------------------------------------------------------------

    def _of(self, process: SimulatedProcess) -> list[SimulatedTransport]:
        return [each for each in process.transports if each in self._transports]

    def _tell(self, what: str) -> None:
        for process in dict.fromkeys(each.process for each in self._transports):
            self.monitor.changed(process, what)

    def _drop(self, transport: SimulatedTransport) -> None:
        if transport.process.partitioned and transport.session:
            self.detach(transport)
            self.monitor.changed(transport.process, "dropped by the broker")

    def _restore(self, transport: SimulatedTransport) -> None:
        for interest in transport.interests:
            self._routes.add(interest)

    def _enqueue(
        self, lag: float, action: Callable[..., None], arguments: tuple[Any, ...]
    ) -> float:
        """Act in the first bucket after `lag` seconds, and return its time."""
        slot = int((self._loop.time() + lag) / BUCKET + 1e-6) + 1
        actions = self._buckets.get(slot)
        if actions is None:
            actions = self._buckets[slot] = []
            self._loop.call_at(slot * BUCKET, self._act, slot, context=self._context)
        actions.append((action, arguments))
        return slot * BUCKET

    def _act(self, slot: int) -> None:
        for action, arguments in self._buckets.pop(slot):
            action(*arguments)

    def _route(self, message: Message, sender: SimulatedTransport) -> None:
        """A message has reached the broker."""
        if not message.sender.reachable and not message.sender.crashed:
            self.monitor.lost(message, None)
            return
        receivers = self._routes.receivers(message.subject)
        if not receivers and message.reply_to is not None:
            self._nobody(message, sender, message.reply_to)
            return
        common: list[Interest] = []
        for interest in receivers:
            process = interest.transport.process
            if self.drop is not None and self.drop(message, process):
                self.monitor.lost(message, process)
                continue
            faults = process.faults or self.faults
            if not faults.uneven and not faults.latency:
                common.append(interest)
                continue
            lags = faults.lags(self._rng) if faults.uneven else (faults.latency,)
            if not lags:
                self.monitor.lost(message, process)
            for lag in lags:
                self._send_out(lag, message, (interest,))
        if common:
            self._send_out(0.0, message, tuple(common))

    def _nobody(self, message: Message, sender: SimulatedTransport, reply_to: str) -> None:
        receivers = tuple(
            each for each in self._routes.receivers(reply_to) if each.transport is sender
        )
        if receivers:
            answer = Message(message.number, message.at, message.sender, reply_to, b"")
            lag = (message.sender.faults or self.faults).latency
            self._send_out(lag, answer, receivers)

    def _send_out(self, lag: float, message: Message, receivers: tuple[Interest, ...]) -> None:
        due = self._enqueue(lag, self._hand_over, (message, receivers))
        for interest in receivers:
            interest.transport.due_until = max(interest.transport.due_until, due)

    def _hand_over(self, message: Message, receivers: tuple[Interest, ...]) -> None:
        """A message has reached the processes of its receivers."""
        for interest in receivers:
            transport = interest.transport
            if transport.session and transport.process.reachable:
                transport.receive(interest, message)
            else:
                self.monitor.lost(message, transport.process)
