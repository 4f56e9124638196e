"""Where an integration gets its registry from."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from aioregistry import Registry, RegistryClosed, Transport, TransportError

__all__ = ["RegistrySource", "open_registry"]

RegistrySource = Registry | Transport | Callable[[], Registry] | str | None
"""A URL, a transport or None, as for `Registry`; a registry; or a function that makes one."""


@asynccontextmanager
async def open_registry(source: RegistrySource) -> AsyncGenerator[Registry]:
    """A started registry. It is closed at the end, unless it was lent in its started state.

    Args:
        source: where it comes from. What is not a registry makes a new one each time, so
            that an application can start more than once in a process, as in tests.

    Raises:
        TransportError: no broker.
        ValueError: the URL cannot be one.
        RegistryClosed: the registry was closed before.
    """
    try:
        registry = _registry(source)
        borrowed = _is_started(registry)
        if not borrowed:
            await registry.start()
    except (TransportError, ValueError) as error:
        # Servers print the whole traceback; the text says it all, and would drown in it.
        raise error.with_traceback(None) from None
    if borrowed:
        yield registry
        return
    try:
        yield registry
    finally:
        await registry.aclose()


def _registry(source: RegistrySource) -> Registry:
    if isinstance(source, Registry):
        return source
    if source is None or isinstance(source, str | Transport):
        return Registry(source)
    return source()


def _is_started(registry: Registry) -> bool:
    try:
        registry.stats()
    except RegistryClosed:  # or it was closed: starting it says so
        return False
    return True
