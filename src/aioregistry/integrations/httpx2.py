"""httpx2: `client.get("http://orders/items")` goes to an instance of `orders`.

    transport = RegistryTransport(registry)
    async with httpx2.AsyncClient(transport=transport) as client:
        response = await client.get("http://orders/items")

For httpx there is `aioregistry.integrations.httpx`, which is the same.
"""

from __future__ import annotations

from importlib import import_module

from aioregistry.integrations._extras import missing
from aioregistry.integrations._httpx_streams import AnswerStream, BodyStream, Library
from aioregistry.integrations._httpx_transport import BalancingTransport
from aioregistry.integrations._repeating import repeatable, unrepeatable
from aioregistry.integrations.resilience import Policy

try:
    import httpx2
except ModuleNotFoundError as error:
    raise missing(error, __name__, "httpx2") from error

import_module("httpcore2")  # httpx2 itself would import it in the middle of the first request

__all__ = ["Policy", "RegistryTransport", "repeatable", "unrepeatable"]


class _Answer(AnswerStream, httpx2.AsyncByteStream):
    """The body of a response, as httpx2 wants it."""


class _Body(BodyStream, httpx2.AsyncByteStream):
    """The body of a request, as httpx2 wants it."""


class RegistryTransport(
    BalancingTransport[httpx2.Request, httpx2.Response, httpx2.AsyncBaseTransport],
    httpx2.AsyncBaseTransport,
):
    """The transport for a `httpx2.AsyncClient`; see `BalancingTransport` for what it takes."""

    _library = Library(httpx2, _Answer, _Body)
