"""httpx: `client.get("http://orders/items")` goes to an instance of `orders`.

    transport = RegistryTransport(registry)
    async with httpx.AsyncClient(transport=transport) as client:
        response = await client.get("http://orders/items")

For httpx2 there is `aioregistry.integrations.httpx2`, which is the same.
"""

from __future__ import annotations

from importlib import import_module

from aioregistry.integrations._extras import missing
from aioregistry.integrations._httpx_streams import AnswerStream, BodyStream, Library
from aioregistry.integrations._httpx_transport import BalancingTransport
from aioregistry.integrations._repeating import repeatable, unrepeatable
from aioregistry.integrations.resilience import Policy

try:
    import httpx
except ModuleNotFoundError as error:
    raise missing(error, __name__, "httpx") from error

import_module("httpcore")  # httpx itself would import it in the middle of the first request

__all__ = ["Policy", "RegistryTransport", "repeatable", "unrepeatable"]


class _Answer(AnswerStream, httpx.AsyncByteStream):
    """The body of a response, as httpx wants it."""


class _Body(BodyStream, httpx.AsyncByteStream):
    """The body of a request, as httpx wants it."""


class RegistryTransport(
    BalancingTransport[httpx.Request, httpx.Response, httpx.AsyncBaseTransport],
    httpx.AsyncBaseTransport,
):
    """The transport for a `httpx.AsyncClient`; see `BalancingTransport` for what it takes."""

    _library = Library(httpx, _Answer, _Body)
