"""A simulated process: code that is frozen, crashes and loses its network as a whole."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aioregistry.registry import Registry
from aioregistry.testing.strand import Strand
from aioregistry.testing.transport import SimulatedTransport

if TYPE_CHECKING:
    from aioregistry.testing.faults import Faults
    from aioregistry.testing.network import SimulatedNetwork

__all__ = ["EPOCH", "ProcessCrashed", "SimulatedProcess"]

_T = TypeVar("_T")

EPOCH: Final = 1_700_000_000.0
"""What a wall clock without skew shows when the event loop's clock shows zero."""


class ProcessCrashed(Exception):
    """The process crashed before it could finish what was asked of it."""


class SimulatedProcess:
    """One process, or machine, of a simulated network; `SimulatedNetwork.process` makes it.

    What runs by `run`, `spawn` and `registry` belongs to the process, with all its tasks and
    timers: when it is frozen, nothing of it runs, and when it crashes, nothing ever again.

    Attributes:
        network: what it is connected to.
        name: as given.
        rng: its own random numbers.
        faults: what happens to its messages; None: what happens to everybody's.
        skew: by how much its wall clock is wrong, in seconds.
        frozen: whether it is stopped.
        crashed: whether it is gone.
        partitioned: whether its way to the broker is cut.
        context: what its callbacks run in.
        transports: those that are not closed.
    """

    def __init__(self, network: SimulatedNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.rng = random.Random(f"process {name} {network.seed}")
        self.faults: Faults | None = None
        self.skew = 0.0
        self.frozen = self.crashed = self.partitioned = False
        self._strand = Strand(name)
        self.context = self._strand.context
        self.transports: list[SimulatedTransport] = []
        self._loop = asyncio.get_running_loop()
        self._thaw: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] = self._loop.create_future()

    def __repr__(self) -> str:
        flags = ("frozen", "crashed", "partitioned")
        return f"<{' '.join((f'process {self.name}', *(f for f in flags if getattr(self, f))))}>"

    @property
    def reachable(self) -> bool:
        """Whether messages can get from it to the broker and back."""
        return self.network.running and not self.partitioned and not self.crashed

    @property
    def online(self) -> bool:
        """Whether it runs, and every transport of it has a sound link, and knows it."""
        return (
            self.reachable
            and not self.frozen
            and bool(self.transports)
            and all(each.connected and each.session for each in self.transports)
        )

    def wall_clock(self) -> float:
        """What its wall clock shows, in seconds since the epoch."""
        return EPOCH + self._loop.time() + self.skew

    def transport(self) -> SimulatedTransport:
        """A new transport of this process, not connected yet."""
        transport = SimulatedTransport(self)
        self.transports.append(transport)
        return transport

    def new_registry(self, **options: Any) -> Registry:
        """A registry for this process, to be started by `await process.run(registry.start())`.

        Args:
            options: those of `Registry`, except `target`.
        """
        given: dict[str, Any] = {
            "rng": self.rng,
            "wall_clock": self.wall_clock,
            "hostname": self.name,
            **options,
        }
        return Registry(self.transport(), **given)

    @asynccontextmanager
    async def registry(self, **options: Any) -> AsyncGenerator[Registry]:
        """A registry that runs in this process, started; it is closed unless it crashed.

        Args:
            options: those of `Registry`, except `target`.
        """
        registry = self.new_registry(**options)
        await self.run(registry.start())
        try:
            yield registry
        finally:
            if not self.crashed:
                await self.run(registry.aclose())

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run `work` as a task of this process; it never ends if the process crashes."""
        return self._strand.spawn(work)

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run `work` in this process, and wait for it; cancelling cancels it.

        Raises:
            ProcessCrashed: the process crashed meanwhile, or before.
        """
        task = self.spawn(work)
        try:
            await asyncio.wait((task, self._end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if self.crashed and not task.done():
            raise ProcessCrashed(self.name)
        return task.result()

    # ---- what befalls it ---------------------------------------------------------------

    def freeze(self) -> None:
        """Stop it, as SIGSTOP or a blocked event loop does: its connections stay."""
        if not self.frozen and not self.crashed:
            self.frozen = True
            self._thaw = self._loop.create_future()
            self._strand.stop()
            self.network.monitor.changed(self, "frozen")

    def thaw(self) -> None:
        """Let it go on: timers run late, and then it reads what arrived meanwhile."""
        if self.frozen and not self.crashed:
            self.frozen = False
            if self._thaw is not None:
                self._thaw.set_result(None)
            self._strand.resume()
            self.network.thawed(self)
            self.network.monitor.changed(self, "thawed")

    def crash(self, *, noticed: bool = True) -> None:
        """End it without a word.

        Args:
            noticed: whether the broker sees the connection close at once, as when a process
                is killed. False, as when a machine loses power: it finds out after a while.
        """
        if self.crashed:
            return
        self.network.died(self, noticed=noticed)
        self.crashed = True
        self._strand.stop()
        if not self._end.done():
            self._end.set_result(None)
        self.network.monitor.changed(self, "crashed" if noticed else "crashed unnoticed")

    def partition(self, *, noticed: bool = False) -> None:
        """Cut its way to the broker.

        Args:
            noticed: whether both ends see the connection break. False: nobody is told, and
                each finds out after a while.
        """
        if not self.partitioned:
            self.partitioned = True
            self.network.isolated(self, noticed=noticed)
            self.network.monitor.changed(self, "cut off" if noticed else "partitioned")

    def heal(self) -> None:
        """Give it back its way to the broker."""
        if self.partitioned:
            self.partitioned = False
            self.network.rejoined(self)
            self.network.monitor.changed(self, "healed")

    async def awake(self) -> None:
        """Wait until it is not frozen: for calls that come from outside."""
        while self.frozen and self._thaw is not None:
            await asyncio.shield(self._thaw)
