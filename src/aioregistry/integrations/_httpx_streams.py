"""The bodies of requests and responses on their way, for httpx and httpx2."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any, NamedTuple

from aioregistry.integrations._httpx_pools import Lease

__all__ = ["AnswerStream", "BodyStream", "Library"]


class AnswerStream:
    """The body of a response.

    Args:
        stream: the library's own.
        lease: given back when the response is closed.
        translate: makes what the client gets to see of an error of the transport.
        errors: which those are.
        answered: called when the response is closed, unless there was such an error.
    """

    def __init__(
        self,
        stream: Any,
        lease: Lease,
        translate: Callable[[Any], Exception],
        errors: type[Exception],
        answered: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._lease = lease
        self._translate = translate
        self._errors = errors
        self._answered: Callable[[], None] | None = answered

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._stream:
                yield chunk
        except BaseException as error:
            self._lease.release(answered=True)  # nobody has to close it: its connection is gone
            if not isinstance(error, self._errors):
                raise
            self._answered = None
            raise self._translate(error) from error

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self._lease.release(answered=True)
            answered, self._answered = self._answered, None
            if answered is not None:
                answered()


class BodyStream:
    """The body of a request that can be read only once.

    Attributes:
        begun: whether somebody has begun to.
        error: what it has raised: of the caller's own, whatever kind it is.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.begun = False
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        try:
            async for chunk in self._stream:
                yield chunk
        except Exception as error:
            self.error = error
            raise

    async def aclose(self) -> None:
        await self._stream.aclose()


class Library(NamedTuple):
    """The module, httpx or httpx2, and our streams as subclasses of its own."""

    module: ModuleType
    answer: Callable[..., Any]
    body: Callable[..., Any]
