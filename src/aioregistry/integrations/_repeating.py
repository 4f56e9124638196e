"""Which requests may be sent more than once."""

from __future__ import annotations

from collections.abc import Container, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

__all__ = ["IDEMPOTENT", "READ_AHEAD", "is_repeatable", "repeatable", "unrepeatable"]

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""The methods that RFC 9110 (section 9.2.2) calls idempotent."""

READ_AHEAD: Final = 65_536
"""A body up to so many bytes has to arrive before the response is handed out, if the request
may be sent again: then it can be, too, when the instance dies in the middle of it."""

_KEY: Final = "Idempotency-Key"
"""The header by which a client says that the server recognizes a repetition."""

_marked: ContextVar[bool | None] = ContextVar("aioregistry_repeatable", default=None)


@contextmanager
def repeatable() -> Generator[None]:
    """Requests made in this block may be sent again, whatever their method.

    with repeatable():
        await client.post("http://orders/reports", json=...)
    """
    token = _marked.set(True)
    try:
        yield
    finally:
        _marked.reset(token)


@contextmanager
def unrepeatable() -> Generator[None]:
    """Requests made in this block are sent once at most, whatever their method."""
    token = _marked.set(False)
    try:
        yield
    finally:
        _marked.reset(token)


def is_repeatable(method: str, headers: Container[str]) -> bool:
    """Whether a request may be sent more than once.

    The caller's word counts first (`repeatable`, `unrepeatable`); then an `Idempotency-Key`
    header; then the method.

    Args:
        method: in capitals.
        headers: their names, in any case.
    """
    marked = _marked.get()
    if marked is not None:
        return marked
    return method in IDEMPOTENT or _KEY in headers
