"""One request of aiohttp on its way to an instance."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aioregistry import RegistryError, Service
from aioregistry.integrations._aiohttp_connections import Connections, Dispatch
from aioregistry.integrations._leavers import LEAVING
from aioregistry.integrations._repeating import IDEMPOTENT, READ_AHEAD, is_repeatable
from aioregistry.integrations._routing import Router
from aioregistry.integrations._targets import (
    SECURE,
    Target,
    Unusable,
    location_for,
    scheme_for,
    target_of,
)

__all__ = ["Exchange"]

_POOLED_BY_NAME: Final = "server_hostname" in ConnectionKey._fields
"""Whether the connector keeps TLS connections apart by the name that the certificate is for."""

_BROKEN: Final = (
    aiohttp.ClientOSError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError
)
"""What becomes of a connection that breaks off: the request may be sent again, if at all."""


class Exchange:
    """One request and its response, over one instance or several.

    Args:
        router: chooses the instances.
        connections: told which connections lead to which instance.
        request: the request, as aiohttp hands it to a middleware.
        handler: sends it.
        name: the service.
    """

    def __init__(
        self,
        router: Router,
        connections: Connections,
        request: aiohttp.ClientRequest,
        handler: aiohttp.ClientHandlerType,
        name: str,
    ) -> None:
        self._router = router
        self._connections = connections
        self._request = request
        self._handler = handler
        self._url = request.url
        self._host = request.headers.get("Host", "")
        self._server_name = request.server_hostname
        self._proxy_headers = request.proxy_headers
        self._secure = request.url.scheme in SECURE
        self._repeatable = is_repeatable(request.method, request.headers)
        self._call = router.call(name, repeatable=self._repeatable)
        self._now = asyncio.get_running_loop().time
        self._connecting_since = self._now()
        self._error: Exception | None = None

    async def run(self) -> aiohttp.ClientResponse:
        """Send it; see `RegistryMiddleware`."""
        try:
            while True:
                service = await self._choose()
                try:
                    target = self._target(service)
                except Unusable:
                    self._call.unusable(service, self._target)
                else:
                    response = await self._try(service, target)
                    if response is not None:
                        return response
        finally:
            self._restore()
            self._error = None  # else it and its traceback would refer to each other

    async def _choose(self) -> Service:
        try:
            service = await self._call.choose()
        except RegistryError as error:
            raise self._failure(str(error)) from error
        if service is None:
            raise self._failure() from self._error
        return service

    def _target(self, service: Service) -> Target:
        return target_of(service, self._url.host or "", secure=self._secure)

    async def _try(self, service: Service, target: Target) -> aiohttp.ClientResponse | None:
        """Send it to one instance; None: to another one, please."""
        self._address(target)
        patience, waiting = self._patience(service), None
        queued = self._is_full(service)
        dispatch = Dispatch(self._request, self._connections, service, self._router.counting)
        try:
            if patience is None:
                return await self._receive(service, target)
            async with asyncio.timeout(patience) as waiting:
                dispatch.connected = partial(waiting.reschedule, None)
                return await self._receive(service, target)
        except aiohttp.ClientError as error:
            self._error = failure = error
        except TimeoutError:
            if dispatch.sent and _is_late(self._request):
                self._call.failed(service)
            if dispatch.sent or waiting is None or not waiting.expired():
                raise  # it may be that of a middleware after us, which is no instance's
            text = f"no connection within {patience:.3g} s"
            self._error = failure = aiohttp.ConnectionTimeoutError(text)
        finally:
            dispatch.remove()
        if dispatch.sent:
            await self._sent(service, failure)
        else:
            self._not_sent(service, failure, queued=queued)
        return None

    async def _receive(self, service: Service, target: Target) -> aiohttp.ClientResponse:
        response = await self._handler(self._request)
        self._relocate(response, target)
        if self._repeatable and _is_small(response):
            try:
                await response.content.wait_eof()
            except BaseException:
                if _is_late(response):
                    self._call.failed(service)
                response.close()
                raise
        if LEAVING in response.headers:
            self._call.leaving(service, response.headers[LEAVING])
        if response.connection is None:
            self._ended(service, response)
        else:
            response.connection.add_callback(partial(self._ended, service, response))
        return response

    def _relocate(self, response: aiohttp.ClientResponse, target: Target) -> None:
        """Have a redirect to the instance lead to the service."""
        location = response.headers.get("Location")
        if location is not None:
            meant = location_for(
                location,
                target,
                self._request.headers["Host"],
                scheme=self._url.scheme,
                authority=self._url.host_port_subcomponent or "",
            )
            if meant != location:
                _show_location(response, meant)

    def _ended(self, service: Service, response: aiohttp.ClientResponse) -> None:
        # One that was closed early has an exception, too: of another kind.
        broken = isinstance(response.content.exception(), _BROKEN | aiohttp.ServerTimeoutError)
        if broken or (_is_late(response) and _is_waited_for(response)):
            self._call.failed(service)
        else:
            self._call.answered(service, response.status)

    # ---- the request as the instance gets it -------------------------------------------

    def _address(self, target: Target) -> None:
        request, url = self._request, self._url
        request.url = URL.build(
            scheme=scheme_for(url.scheme, secure=target.secure),
            host=f"[{target.host}]" if ":" in target.host else target.host,
            port=target.port,
            path=target.prefix + url.raw_path,
            query_string=url.raw_query_string,
            encoded=True,
        )
        request.headers["Host"] = self._host
        if target.authority and self._host == url.host_port_subcomponent:
            request.headers["Host"] = target.authority
        if target.secure:
            request.server_hostname = self._server_name or target.server_name
            if not _POOLED_BY_NAME and request.proxy is None:
                # Without a proxy they are sent to nobody, but they are in the pool's key.
                request.proxy_headers = CIMultiDict({"Host": request.server_hostname})

    def _restore(self) -> None:
        """Undo that, for whoever looks at the request next."""
        self._request.url = self._url
        self._request.headers["Host"] = self._host
        self._request.server_hostname = self._server_name
        self._request.proxy_headers = self._proxy_headers

    # ---- time --------------------------------------------------------------------------

    def _time_to_connect(self) -> float | None:
        """What is left of the session's time for connecting, in seconds; None: any."""
        given = self._request.session.timeout
        limits = (given.total, given.connect, given.sock_connect)
        limit = min((each for each in limits if each), default=None)
        return limit and max(0.0, limit - (self._now() - self._connecting_since))

    def _patience(self, service: Service) -> float | None:
        """How long to wait for a connection; None: aiohttp sees to it."""
        connections = self._connections
        if connections.lead_to(service) or connections.fill(self._request.session.connector):
            return None
        left = self._time_to_connect()
        patience = self._call.patience(left)
        return None if patience == left else patience

    # ---- failures ----------------------------------------------------------------------

    def _is_full(self, service: Service) -> bool:
        return self._connections.are_all_used(self._request.session.connector, service)

    def _not_sent(self, service: Service, error: Exception, *, queued: bool) -> None:
        if not isinstance(error, aiohttp.ClientConnectionError) or self._is_of_others(error):
            raise error
        # The last one may have been given back just now, or others have come before us.
        waited = isinstance(error, aiohttp.ConnectionTimeoutError)
        if waited and (queued or self._is_full(service)):
            goes_on = self._call.full(service, error)
        else:
            goes_on = self._call.not_sent(service, error)
        if not goes_on or self._time_to_connect() == 0:
            raise self._failure() from error

    async def _sent(self, service: Service, error: Exception) -> None:
        if not isinstance(error, _BROKEN):
            # The body that the caller gave has raised something: aiohttp makes this of it.
            ours = type(error) is aiohttp.ClientConnectionError
            self._call.broke_off(service, error, blame=not ours)
            raise self._failure() from error
        await self._request.close()  # its body is not being written any more
        if not self._call.sent(service, error, intact=self._make_intact()):
            raise self._failure() from error
        self._connecting_since = self._now()

    def _make_intact(self) -> bool:
        """Prepare the request to be sent again; whether it can be."""
        request = self._request
        if request.headers.get("Expect", "").lower() == "100-continue":
            # A new wait for the server's word: the last one was cancelled.
            again: Callable[[], object] | None = getattr(request, "update_expect_continue", None)
            if again is None:
                return False
            again()
        return _can_be_read_again(request.body)

    def _is_of_others(self, error: aiohttp.ClientConnectionError) -> bool:
        """Whether it was not the instance that could not be connected to.

        What stands after us in the list of middlewares may send requests of its own.
        """
        if self._request.proxy is not None:
            return False
        if not isinstance(error, aiohttp.ClientConnectorError):
            return not isinstance(error, aiohttp.ConnectionTimeoutError)
        url = self._request.url
        return (error.host, error.port) != (url.raw_host, url.port)

    def _failure(self, why: str = "") -> Exception:
        """What the client gets: the kind of the last error, and everything in its text."""
        self._restore()
        tried = self._call.report() if self._call.attempts.failures else ""
        text = "; then: ".join(filter(None, (tried, why)))
        key = self._request.connection_key
        if self._error is None:
            return aiohttp.ClientConnectorError(key, OSError(errno.EHOSTUNREACH, text))
        if not self._repeatable and _is_started_again(self._request.method, self._error):
            return aiohttp.ClientConnectionError(text)
        return _restated(self._error, text, key)


def _restated(error: Exception, text: str, key: ConnectionKey) -> Exception:
    """An error of the same kind, with another text."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return type(error)(key, ssl.SSLCertVerificationError(1, text))
    if isinstance(error, aiohttp.ClientConnectorError):
        own = type(error).__init__ is not aiohttp.ClientConnectorError.__init__
        kind = aiohttp.ClientConnectorError if own else type(error)
        return kind(key, OSError(error.errno, text))
    if isinstance(error, aiohttp.ClientOSError):
        return type(error)(error.errno, text)
    plain = aiohttp.ServerTimeoutError | aiohttp.ServerDisconnectedError
    if isinstance(error, plain | aiohttp.ClientPayloadError):
        return type(error)(text)
    error.add_note(text)  # it has a constructor of its own
    return error


def _is_started_again(method: str, error: Exception) -> bool:
    """Whether aiohttp itself starts a request once more that ended with this error."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    broken = isinstance(error, aiohttp.ClientOSError | aiohttp.ServerDisconnectedError)
    return broken and method in IDEMPOTENT


def _can_be_read_again(body: object) -> bool:
    """Whether a body that may have been read in part can be sent from its beginning."""
    if isinstance(body, aiohttp.MultipartWriter) and not all(
        _can_be_read_again(part) for part, *_ in body
    ):
        return False
    # That an iterator has begun is told by aiohttp 3.14; before, only that it has ended.
    once = isinstance(body, aiohttp.payload.AsyncIterablePayload)
    return not once and not getattr(body, "consumed", False)


def _is_late(exchange: aiohttp.ClientRequest | aiohttp.ClientResponse) -> bool:
    """Whether the time that the session or the request was given for everything is over."""
    # Not public. Without it, whoever is silent until then is not noticed.
    return bool(getattr(getattr(exchange, "_timer", None), "_cancelled", False))


def _is_waited_for(response: aiohttp.ClientResponse) -> bool:
    """Whether more of the body has to come: it has not ended, and what came has been read."""
    # Not public, either. Without it, a caller who takes too long counts against the instance.
    return not response.content.is_eof() and not getattr(response.content, "_buffer", None)


def _show_location(response: aiohttp.ClientResponse, location: str) -> None:
    """Change the header that aiohttp follows.

    It is read-only, but kept in a cache. If an aiohttp to come has none, it stays as it is.
    """
    cache: Any = getattr(response, "_cache", None)
    if isinstance(cache, dict):
        headers = CIMultiDict(response.headers)
        headers["Location"] = location
        cache["headers"] = CIMultiDictProxy(headers)


def _is_small(response: aiohttp.ClientResponse) -> bool:
    """Whether all of the body can be waited for, without anybody reading it."""
    content = response.content
    if (
        content.is_eof()
        or content.exception() is not None
        or "Content-Encoding" in response.headers
    ):
        return False
    length = response.content_length
    limits = getattr(content, "get_read_buffer_limits", lambda: (READ_AHEAD, READ_AHEAD))()
    return length is not None and length <= min(READ_AHEAD, limits[0])
