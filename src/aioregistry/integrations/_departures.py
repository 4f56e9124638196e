"""Tell when an instance has gone, so that the connections to it can be closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable
from contextvars import Context

from aioregistry import EventType, Registry, RegistryError

__all__ = ["Departures", "Key"]

Key = tuple[str, str]
"""The name of an instance, and its address or else URL."""

_logger = logging.getLogger("aioregistry")

_REMOVALS = (EventType.UNREGISTERED, EventType.EXPIRED)


class Departures:
    """Watches the services that a client calls, for as long as that client exists.

    A task for each name. They end when the registry closes, or the client does, or when
    nobody refers to it any longer.

    Args:
        registry: where the services are.
        changed: told the key of an instance that changed, and the id of who is there now;
            None: nobody. It is a method of the client, and does not keep that alive.
    """

    def __init__(self, registry: Registry, changed: Callable[[Key, str | None], None]) -> None:
        self._registry = registry
        self._changed = weakref.WeakMethod(changed)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        weakref.finalize(self, _cancel_from_anywhere, self._tasks)

    def watch(self, name: str) -> None:
        """Watch a name, if it is not watched yet. To be called where an event loop runs."""
        task = self._tasks.get(name)
        if task is None or task.done():
            # In a context of its own: not for ever in that of the request which came first.
            self._tasks[name] = asyncio.get_running_loop().create_task(
                _watch(self._registry, name, self._changed),
                name=f"aioregistry departures of {name}",
                context=Context(),
            )

    async def aclose(self) -> None:
        """End all watching. Cancelling it cancels that too."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(
    registry: Registry, name: str, changed: weakref.WeakMethod[Callable[[Key, str | None], None]]
) -> None:
    try:
        async with registry.watch(name) as changes:
            async for event in changes:
                tell = changed()
                if tell is None:
                    return
                service = event.service
                tell(service.key, None if event.type in _REMOVALS else service.id)
                del tell  # while it waits, the client may go
    except RegistryError as error:
        _logger.warning("the departures of %r are not watched any longer: %s", name, error)


def _cancel_from_anywhere(tasks: dict[str, asyncio.Task[None]]) -> None:
    """For the garbage collector, which may run in any thread."""
    for task in tasks.values():
        if not task.done():
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)
