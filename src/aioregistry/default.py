"""The registry of the process, for programs that need just one."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aioregistry.errors import RegistryClosed
from aioregistry.registry import Registry
from aioregistry.transports.base import Transport

__all__ = ["close_default", "connect", "get_default"]

_starting: asyncio.Task[Registry] | None = None
_asked_for: tuple[object, dict[str, Any]] = (None, {})


async def connect(target: str | Transport | None = None, **options: Any) -> Registry:
    """The registry of this process: made and started by the first call.

    Calls that come while it starts wait for the same start; when that fails, all of them
    raise, and the next call tries anew. Cancelling one call does not stop the start.

    Args:
        target: as for `Registry`; later calls leave it out or repeat it.
        options: as for `Registry`; later calls likewise. Functions and balancers count as repeated
            when they are of one kind: two made alike cannot be told from two that are not.

    Raises:
        TransportError: the broker cannot be reached.
        RegistryClosed: `close_default` was called meanwhile.
        ValueError: an option makes no sense, or a later call asks for something else than
            the first one did.
        RuntimeError: it lives in another event loop, in another thread.
    """
    global _starting, _asked_for  # noqa: PLW0603 - one per process is what this module is for
    current = _starting
    if current is not None and _is_over(current):
        current = None
    if current is None:
        registry = Registry(target, **options)
        current = _starting = asyncio.create_task(_start(registry), name="aioregistry.connect")
        _asked_for = (target, options)
    elif current.get_loop() is not asyncio.get_running_loop():
        raise RuntimeError(
            "the registry of this process lives in another event loop;"
            " make a Registry of your own for this one"
        )
    elif (target is not None or options) and _differs(target, options):
        raise ValueError(
            "the registry of this process was made already, with another target or options;"
            " call connect() without any, or make a Registry of your own"
        )
    try:
        return await asyncio.shield(current)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if current.cancelled() and not (caller and caller.cancelling()):
            raise RegistryClosed("this registry was closed while it started") from None
        raise


def get_default() -> Registry:
    """The registry of this process.

    Raises:
        RegistryClosed: `connect` has not been called, or has not finished, or the registry
            has been closed since.
    """
    if _starting is None or not _starting.done() or _is_over(_starting):
        raise RegistryClosed("no registry in this process yet; await aioregistry.connect() first")
    return _starting.result()


async def close_default() -> None:
    """Close the registry of this process, if there is one; the next `connect` makes another.

    As `Registry.aclose`: harmless when done twice, and not stopped half-way by cancellation.

    Raises:
        RuntimeError: it lives in another event loop, in another thread.
    """
    global _starting  # noqa: PLW0603 - as above
    current = _starting
    if current is None or current.get_loop().is_closed():
        _starting = None
        return
    if current.get_loop() is not asyncio.get_running_loop():
        raise RuntimeError(
            "the registry of this process lives in another event loop; close it there"
        )
    _starting = None
    if not current.done():
        current.cancel()
        await asyncio.wait([current])
    if not current.cancelled() and current.exception() is None:
        await current.result().aclose()


def _forget() -> None:
    """In a process that was forked: it has a registry of its own, or none."""
    global _starting  # noqa: PLW0603 - as above
    _starting = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


async def _start(registry: Registry) -> Registry:
    await registry.start()
    return registry


def _differs(target: object, options: dict[str, Any]) -> bool:
    """Whether this is not what the first call asked for."""
    first_target, first_options = _asked_for
    if target != first_target or options.keys() != first_options.keys():
        return True
    return any(not _same(options[name], first_options[name]) for name in options)


def _same(one: object, other: object) -> bool:
    """Whether they are equal, or of one kind that cannot tell: balancers, functions."""
    return one == other or (type(one) is type(other) and type(one).__eq__ is object.__eq__)


def _is_over(start: asyncio.Task[Registry]) -> bool:
    """Whether this start failed, or its registry was closed, or its event loop is gone."""
    if start.get_loop().is_closed():
        return True
    if not start.done():
        return False
    return start.cancelled() or start.exception() is not None or start.result().closed
