"""Tell when an instance has gone, so that the connections to it can be closed."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from contextvars import Context

from aioregistry import EventType, Registry, RegistryClosed, RegistryError, Service
from aioregistry.integrations._logs import log

__all__ = ["Departures", "Key"]

Key = tuple[str, str]
"""The name of an instance, and its address or else URL."""

_Changed = Callable[[Key, str | None], None]

_REMOVALS = (EventType.UNREGISTERED, EventType.EXPIRED)


class _Watched:
    """One service, and those of its instances that the client has connections to.

    Attributes:
        task: watches it.
    """

    def __init__(
        self, registry: Registry, name: str, changed: weakref.WeakMethod[_Changed]
    ) -> None:
        self.task: asyncio.Task[None] | None = None
        self._registry = registry
        self._name = name
        self._changed = changed
        self._used: dict[Key, str] = {}

    def use(self, service: Service) -> None:
        """Note that there is a connection. The instance may have gone while it was made."""
        key = service.key
        if self._used.get(key) != service.id:
            self._used[key] = service.id
            with contextlib.suppress(RegistryClosed):
                ids = (each.id for each in self._known() if each.key == key)
                self._note(key, next(ids, None))

    async def watch(self) -> None:
        """Tell of every change, until no instance is known."""
        async with self._registry.watch(self._name, include_current=False) as changes:
            self._compare()  # no event tells what went before it began
            if not self._known():
                return
            async for event in changes:
                gone = event.type in _REMOVALS
                self._note(event.service.key, None if gone else event.service.id)
                if gone and not self._known():
                    break
        self._compare()  # events that were not taken yet have ended with the watch

    def _known(self) -> tuple[Service, ...]:
        return self._registry.cached(self._name, _anyone)

    def _compare(self) -> None:
        known = {each.key: each.id for each in self._known()}
        for key in list(self._used):
            self._note(key, known.get(key))

    def _note(self, key: Key, identity: str | None) -> None:
        """Tell, if it is not the instance that the connections lead to."""
        if self._used.get(key, identity) != identity:
            del self._used[key]
            changed = self._changed()
            if changed is not None:
                changed(key, identity)


class Departures:
    """Watches the services that a client calls, each as long as an instance of it is known.

    A task for each name. They end when the registry closes, or the client does, or when
    nobody refers to it any longer.

    Args:
        registry: where the services are.
        changed: told the key of an instance that changed, and the id of who is there now;
            None: nobody. It is a method of the client, and does not keep that alive.
    """

    def __init__(self, registry: Registry, changed: _Changed) -> None:
        self._registry = registry
        self._changed = weakref.WeakMethod(changed)
        self._names: dict[str, _Watched] = {}
        weakref.finalize(self, _cancel_from_anywhere, self._names)

    def watch(self, service: Service) -> None:
        """Watch an instance: to be called for every request, once it has a connection.

        If the instance has gone already, that is told at once. An event loop has to run.
        """
        name = service.name
        watched = self._names.get(name)
        if watched is None:
            watched = self._names[name] = _Watched(self._registry, name, self._changed)
        watched.use(service)
        if watched.task is None or watched.task.done():
            # In a context of its own: not for ever in that of the request which came first.
            watched.task = asyncio.get_running_loop().create_task(
                _watch(watched, name, self._names),
                name=f"aioregistry departures of {name}",
                context=Context(),
            )

    async def aclose(self) -> None:
        """End all watching. Cancelling it cancels that too."""
        tasks = [each.task for each in self._names.values() if each.task is not None]
        self._names.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(watched: _Watched, name: str, names: dict[str, _Watched]) -> None:
    try:
        await watched.watch()
    except RegistryClosed:
        pass
    except RegistryError as error:
        log().warning("the departures of %r are not watched any longer: %s", name, error)
    else:
        names.pop(name, None)


def _anyone(_: Service) -> bool:
    """Whatever its status."""
    return True


def _cancel_from_anywhere(names: dict[str, _Watched]) -> None:
    """For the garbage collector, which may run in any thread."""
    for watched in names.values():
        task = watched.task
        if task is not None and not task.done():
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)
