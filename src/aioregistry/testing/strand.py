"""Strands: parts of a program in one event loop, each of which can be stopped and let go on.

A real process that is stopped (SIGSTOP, a blocked event loop, a paused machine) runs nothing:
its timers are late when it goes on. A strand gives that to code that shares one event loop
with others: whatever runs in its context, and all tasks and timers that come from there,
belongs to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

__all__ = ["Gate", "Strand", "neutral_context", "strand_of"]

_T = TypeVar("_T")


class Strand:
    """What can be stopped as a whole; works in a `VirtualTimeLoop` only.

    Args:
        name: for messages to people.

    Attributes:
        name: as given.
        context: belongs to the strand, for callbacks; tasks get copies of it.
        stopped: whether nothing of it runs.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self.context = copy_context()
        self.context.run(_current.set, self)
        self._held: list[Gate] = []

    def __repr__(self) -> str:
        return f"<Strand {self.name}{', stopped' if self.stopped else ''}>"

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run `work` as a task of this strand; anybody may await it."""
        loop = asyncio.get_running_loop()
        return loop.create_task(work, context=self.context.copy())

    def stop(self) -> None:
        """Run nothing of it from now on; what comes due is kept."""
        self.stopped = True

    def resume(self) -> None:
        """Go on: what came due meanwhile runs now, late, in the order in which it came due."""
        self.stopped = False
        held, self._held = self._held, []
        for gate in held:
            gate.again()

    def hold(self, gate: Gate) -> None:
        """Keep a callback that came due while the strand is stopped."""
        self._held.append(gate)


class Gate:
    """A callback of a strand, on its way through the event loop.

    Attributes:
        context: what the callback runs in.
        handle: what the event loop returned for it.
    """

    __slots__ = ("_args", "_callback", "_keep", "_loop", "_strand", "context", "handle")

    handle: asyncio.Handle

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        strand: Strand,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        *,
        context: Context | None,
        keep: Callable[[Strand, Gate], None],
    ) -> None:
        self._loop = loop
        self._strand = strand
        self._keep = keep
        self._callback = callback
        self._args = args
        self.context = copy_context() if context is None else context

    def __repr__(self) -> str:
        return f"<{self._callback!r} of {self._strand.name}>"

    def __call__(self) -> None:
        """Run the callback, or let the stopped strand keep it."""
        if self._strand.stopped:
            self._keep(self._strand, self)
        elif not self.handle.cancelled():  # it may have been while it was kept
            self._callback(*self._args)

    def again(self) -> None:
        """Queue the callback once more."""
        self._loop.call_soon(self, context=self.context)


_current: ContextVar[Strand | None] = ContextVar("aioregistry_strand", default=None)


def strand_of(context: Context | None) -> Strand | None:
    """The strand of a context, or of the running code."""
    return _current.get() if context is None else context.get(_current)


def neutral_context() -> Context:
    """A copy of the running context that belongs to no strand."""
    context = copy_context()
    context.run(_current.set, None)
    return context
