"""The director of a simulation: lets the steps of the plan happen to the fleet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Final, TypeVar

from aioregistry.service import Service, Status
from aioregistry.testing.faults import Faults, Message
from aioregistry.testing.network import SimulatedNetwork
from aioregistry.testing.process import SimulatedProcess
from aioregistry.testing.simulation.fleet import Host
from aioregistry.testing.simulation.ledger import Ledger, Note
from aioregistry.testing.simulation.plan import Plan, Step, weather
from aioregistry.testing.simulation.trace import Trace
from aioregistry.testing.simulation.view import View

__all__ = ["Director"]

_T = TypeVar("_T")

_STATUSES: Final = tuple(Status)
_WEATHER: Final = ("loss", "duplication", "reordering", "latency")
_HOUR: Final = 3600.0
_CUT: Final = 1.4

_AFTERMATH: Final = 3.0
"""For so many seconds after a storm, what it delayed may still be under way."""

_START: Final = 1.0
"""The fleet comes up within so many seconds."""


class Director:
    """Makes the processes, and lets things happen to them.

    Args:
        plan: what happens.
        network: where.
        ledger: the truth.
        trace: where it is noted.
        rng: decides what the plan leaves open.

    Attributes:
        hosts: the providing processes, also those that ended.
        views: the observing processes that have not crashed.
    """

    def __init__(
        self,
        plan: Plan,
        network: SimulatedNetwork,
        ledger: Ledger,
        trace: Trace,
        rng: random.Random,
    ) -> None:
        self.hosts: list[Host] = []
        self.views: list[View] = []
        self._plan = plan
        self._network = network
        self._ledger = ledger
        self._trace = trace
        self._rng = rng
        self._numbers = count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._weather: Step | None = None
        self._missed: dict[tuple[SimulatedProcess, str], int] = {}
        half = plan.names // 2
        self._names = [f"svc-{n}" if n < half else f"group.svc-{n}" for n in range(plan.names)]

    async def open(self) -> None:
        """Bring up the fleet, one process after the other."""
        for number in range(self._plan.observers):
            self._new_view(f"observer-{number + 1}")
        left = self._plan.instances
        while left:
            size = min(left, self._rng.randint(1, self._plan.per_process))
            self._new_host([self._new_service() for _ in range(size)])
            left -= size
            await asyncio.sleep(self._rng.random() * _START / self._plan.instances)

    def carry_out(self, step: Step) -> None:
        """Let a step happen now; what it does later happens by itself."""
        self._trace.add("STEP", step)
        if step.kind in _WEATHER:
            self._change_weather(step)
        else:
            getattr(self, f"_step_{step.kind}")(step)

    def calm(self) -> None:
        """End all faults: whoever lives can work from now on."""
        self._trace.add("CALM")
        self._network.faults, self._network.drop = Faults(), None
        self._ledger.stormy_until = self._network.now + _AFTERMATH
        for process in (*self._network.processes.values(),):
            process.heal()
            process.thaw()
        self._network.start()

    @property
    def all_online(self) -> bool:
        """Whether every process that lives has its link."""
        return all(process.online for process in self._running())

    def drain(self) -> None:
        """Let slow watchers take in what waits for them, now and then."""
        for view in self.views:
            if view.settled and not view.draining and self._rng.random() < 0.1:
                self._do(view.drain())

    async def close(self) -> None:
        """Close every registry that is left."""
        for host in self.hosts:
            if host.usable:
                await host.close()
        for view in self.views:
            await view.close()
        for task in self._tasks:
            if task.done():
                task.result()

    # ---- churn -------------------------------------------------------------------------

    def _step_register(self, step: Step) -> None:
        host = self._pick([host for host in self.hosts if host.usable], step)
        if host and len(host.registrations) < self._plan.per_process and step.chance < 0.7:
            self._do(host.add(self._new_service()))
        else:
            self._new_host([self._new_service()])

    def _step_withdraw(self, step: Step) -> None:
        host = self._pick([h for h in self.hosts if h.usable and h.registrations], step)
        if host:
            keys = list(host.registrations)
            self._do(host.withdraw(keys[int(step.chance * len(keys))]))

    def _step_update(self, step: Step) -> None:
        host = self._pick([h for h in self.hosts if h.usable and h.registrations], step)
        if host:
            keys = list(host.registrations)
            status = _STATUSES[int(step.chance * len(_STATUSES))]
            key = keys[int(step.chance * len(keys))]
            self._do(host.update(key, status, next(self._numbers)))

    def _step_close(self, step: Step) -> None:
        host = self._pick([host for host in self.hosts if host.usable], step)
        if host:
            services = [each.service for each in host.registrations.values()]
            self._do(host.close())
            self._later(step.length, self._new_host, services)

    def _step_lookup(self, step: Step) -> None:
        view = self._pick([view for view in self.views if view.settled], step)
        if view:
            name = self._names[int(step.chance * len(self._names))]
            self._do(view.look_up(name, self._rng))

    # ---- faults ------------------------------------------------------------------------

    def _step_beats(self, step: Step) -> None:
        view = self._pick(self.views, step)
        ids = [life.service.id for life in self._ledger.alive.values()]
        if view and ids:
            self._network.drop = self._misses
            self._missed[view.process, ids[int(step.chance * len(ids))]] = 2

    def _step_partition(self, step: Step) -> None:
        process = self._pick(self._running(), step)
        if process and not process.partitioned:
            process.partition()
            self._later(step.length, process.heal)

    def _step_cut(self, step: Step) -> None:
        process = self._pick(self._running(), step)
        if process and not process.partitioned:
            process.partition(noticed=True)
            self._later(min(step.length, _CUT), process.heal)

    def _step_broker(self, step: Step) -> None:
        if self._network.running:
            self._network.stop()
            self._later(step.length, self._network.start)

    def _step_freeze(self, step: Step) -> None:
        process = self._pick(self._running(), step)
        if process and not process.frozen:
            process.freeze()
            self._later(step.length, process.thaw)

    def _step_crash(self, step: Step) -> None:
        host = self._pick([h for h in self.hosts if not h.closed and not h.process.crashed], step)
        if host:
            services = host.crash(noticed=step.chance < 0.7)
            self._later(step.length, self._new_host, [self._new_service() for _ in services])

    def _step_restart(self, step: Step) -> None:
        host = self._pick([h for h in self.hosts if not h.closed and not h.process.crashed], step)
        if host:
            self._later(step.length, self._new_host, host.crash(noticed=step.chance < 0.7))

    def _step_observer(self, step: Step) -> None:
        view = self._pick(self.views, step)
        if view:
            self.views.remove(view)
            view.process.crash(noticed=step.chance < 0.7)
            self._new_view(f"observer-{next(self._numbers)}-again")

    def _step_skew(self, step: Step) -> None:
        process = self._pick(self._running(), step)
        if process:
            process.skew = (step.chance - 0.5) * 2 * _HOUR

    # ------------------------------------------------------------------------------------

    def _new_service(self) -> Service:
        number = next(self._numbers)
        return Service(self._names[number % len(self._names)], f"10.0.0.1:{1000 + number}")

    def _new_host(self, services: list[Service]) -> None:
        process = self._network.process(f"provider-{next(self._numbers)}")
        process.skew = self._rng.uniform(-_HOUR, _HOUR)
        host = Host(process, self._ledger, self._plan)
        self.hosts.append(host)
        self._do(host.run(services))

    def _new_view(self, name: str) -> None:
        process = self._network.process(name)
        process.skew = self._rng.uniform(-_HOUR, _HOUR)
        view = View(process, self._ledger, self._plan, self._trace)
        self.views.append(view)
        patterns = self._rng.choice(((">",), ("*", "group.*"), (*self._names,)))
        self._do(view.run(patterns))

    def _running(self) -> list[SimulatedProcess]:
        hosts = [host.process for host in self.hosts if not host.closed]
        processes = [*(view.process for view in self.views), *hosts]
        return [process for process in processes if not process.crashed]

    def _pick(self, choices: list[_T], step: Step) -> _T | None:
        return choices[int(step.target * len(choices))] if choices else None

    def _change_weather(self, step: Step) -> None:
        self._weather, self._network.faults = step, weather(step)
        self._ledger.stormy_until = float("inf")
        self._later(step.length, self._clear_up, step)

    def _clear_up(self, step: Step) -> None:
        if self._weather is step:
            self._network.faults = Faults()
            self._ledger.stormy_until = self._network.now + _AFTERMATH

    def _misses(self, message: Message, process: SimulatedProcess) -> bool:
        note = message.note
        if not isinstance(note, Note) or not note.announces:
            return False
        left = self._missed.get((process, note.id), 0)
        if left:
            self._missed[process, note.id] = left - 1
        return left > 0

    def _later(self, delay: float, action: Callable[..., None], *arguments: object) -> None:
        asyncio.get_running_loop().call_later(delay, action, *arguments)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))
