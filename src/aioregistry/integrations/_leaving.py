"""How a server stops without losing a request: what all servers have in common.

A request is lost when it is on its way over a connection that the server closes just then.
So callers are made to go first. The withdrawal tells those who hear it. The others are told
by the answers: while the server drains, each of them closes its connection (`Connection:
close`), as Envoy does it
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/operations/draining), so a
client never waits on one that is about to be closed; and tells our clients to go elsewhere, in
a header of its own (`_leavers`). Then the server stops to accept; for a
moment it still serves those who had connected already, and only then it closes what is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import Final, Protocol

__all__ = ["DRAIN", "Guest", "until_gone"]

DRAIN: Final = 2.0
"""How long a server goes on accepting after the withdrawal, in seconds, if nobody says more.

The withdrawal takes milliseconds to reach a caller; this is for those whose event loop is
busy, and for the connections that are used once in a while."""

_POLL: Final = 0.02
_MOMENT: Final = 0.5


class Guest(Protocol):
    """Somebody for whom a server waits before it stops."""

    @property
    def id(self) -> str:
        """The id of what it has announced; empty: nothing."""
        ...

    @property
    def draining(self) -> bool:
        """Whether `drain` has something to wait for."""
        ...

    async def withdraw(self) -> None:
        """Withdraw the service."""
        ...

    async def drain(self) -> None:
        """Give callers the time to move away."""
        ...


async def until_gone(connections: Callable[[], Sized]) -> None:
    """Wait until no connection is left, or half a second is over.

    For a server that accepts none any more: a request that follows its connection by a
    moment is served, and is not lost.
    """
    deadline = asyncio.get_running_loop().time() + _MOMENT
    while True:
        await asyncio.sleep(_POLL)  # first of all: those just accepted are not in there yet
        if not connections() or asyncio.get_running_loop().time() >= deadline:
            return
