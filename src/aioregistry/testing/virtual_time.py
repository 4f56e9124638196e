"""An asyncio event loop whose time is virtual: it jumps from timer to timer.

An hour of timeouts and heartbeats passes in the time that its work takes, and the same
program runs in the same order every time.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

from aioregistry.testing.strand import Gate, Strand, strand_of

__all__ = ["StandstillError", "VirtualTimeLoop", "run_virtual"]

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_SPIN: Final = 1_000_000
"""So many rounds of the event loop at one virtual moment mean that it will never end."""

_SHOWN: Final = 20


class StandstillError(RuntimeError):
    """Virtual time cannot go on: a deadlock, or work that never lets time pass."""


class _Clock(selectors.SelectSelector):
    """A selector that never polls: waiting moves the time forward, and nothing else.

    Args:
        start: the first time, in seconds.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.now = start
        self.waiting: Callable[[], str] = str
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or math.isinf(timeout):
            raise StandstillError(
                "deadlock: no timer is set and nothing is ready, so virtual time cannot go on"
                f" (threads and real sockets have no place in it); {self.waiting()}"
            )
        if timeout > 0:
            # Rounded up: a timer must not fire before its time, only to be set again.
            self.now = math.nextafter(self.now + timeout, math.inf)
            self._rounds = 0
        else:
            self._rounds += 1
            if self._rounds > _SPIN:
                self._rounds = 0
                raise StandstillError(
                    f"livelock: {_SPIN} rounds of the event loop without time passing"
                    f" at {self.now:.3f} s; {self.waiting()}"
                )
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time; `run_virtual` runs a coroutine in one.

    Everything of asyncio and anyio that waits for time, or for other tasks, works as it is.
    Threads, subprocesses and real sockets do not: they live in real time.

    Args:
        start: what `time()` begins with, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._clock = _Clock(start)
        super().__init__(self._clock)
        self._clock.waiting = self._waiting
        self._keeping: dict[Strand, None] = {}
        self._ending = False

    @property
    def _clock_resolution(self) -> float:
        """How early the base class lets timers fire, in seconds: not at all."""
        return math.ulp(self._clock.now)

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """The base class sets that of the real clock."""

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._clock.now

    def call_soon(
        self,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As in asyncio; what belongs to a stopped strand waits until that goes on."""
        strand = strand_of(context)
        if strand is None:
            return super().call_soon(callback, *args, context=context)
        gate = Gate(self, strand, callback, args, context=context, keep=self._keep)
        gate.handle = super().call_soon(gate, context=gate.context)
        return gate.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Ts], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As in asyncio; what belongs to a stopped strand waits until that goes on."""
        strand = strand_of(context)
        if strand is None:
            return super().call_at(when, callback, *args, context=context)
        gate = Gate(self, strand, callback, args, context=context, keep=self._keep)
        gate.handle = handle = super().call_at(when, gate, context=gate.context)
        return handle

    def run_in_executor(self, executor: object, func: object, *args: object) -> NoReturn:
        """Refuse.

        Raises:
            RuntimeError: always: a thread takes real time.
        """
        del executor, args
        raise RuntimeError(f"{func!r} wants a thread, and virtual time has none")

    def _keep(self, strand: Strand, gate: Gate) -> None:
        """Let the stopped strand keep a callback that came due."""
        self._keeping[strand] = None
        strand.hold(gate)
        if self._ending:
            strand.resume()

    def resume_all(self) -> None:
        """Let every stopped strand go on for good, so that its tasks can end."""
        self._ending = True
        keeping, self._keeping = self._keeping, {}
        for strand in keeping:
            strand.resume()

    def _waiting(self) -> str:
        stopped = [strand.name for strand in self._keeping if strand.stopped]
        tasks = sorted(
            f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', task.get_coro())})"
            for task in asyncio.all_tasks(self)
        )
        shown = ", ".join(tasks[:_SHOWN]) + (", ..." if len(tasks) > _SHOWN else "")
        text = f"tasks that wait: {shown or 'none'}"
        return f"{text}; stopped: {', '.join(stopped)}" if stopped else text


def run_virtual(main: Coroutine[Any, Any, _T], *, start: float = 0.0) -> _T:
    """Run `main` to its end in virtual time, as `asyncio.run` does in real time.

    Tasks that are left then are cancelled; those of stopped strands go on for that.

    Args:
        main: the coroutine.
        start: what the event loop's clock begins with, in seconds.

    Returns:
        What `main` returns.

    Raises:
        StandstillError: a deadlock, or a livelock; the text names the tasks that wait.
    """
    loop = VirtualTimeLoop(start)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            return runner.run(main)
        finally:
            loop.resume_all()
