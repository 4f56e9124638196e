"""Send a request to an instance: what the integrations of httpx and httpx2 share.

The two have the same classes, in two modules. Which one it is comes in as a `Library`; the
annotations name httpx, and mean either.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from aioregistry import RegistryError, Service
from aioregistry.integrations._httpx_pools import Lease, Maker, Pools
from aioregistry.integrations._httpx_streams import Library
from aioregistry.integrations._leavers import LEAVING
from aioregistry.integrations._repeating import READ_AHEAD, is_repeatable
from aioregistry.integrations._routing import Call, Router
from aioregistry.integrations._targets import (
    PLAIN,
    SECURE,
    Target,
    Unusable,
    location_for,
    scheme_for,
    service_name,
    target_of,
)

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport, Request, Response, TransportError

__all__ = ["Sender"]


class Sender:
    """Sends requests for services to instances, and all others where their URL says.

    Args:
        library: httpx or httpx2.
        router: chooses the instances.
        domain: as `check_domain` has it.
        make: makes what sends requests.
    """

    def __init__(self, library: Library, router: Router, domain: str, make: Maker) -> None:
        self.library = library
        self.router = router
        self.pools = Pools(router.registry, make)
        self._domain = domain
        self.make = make
        self._direct: AsyncBaseTransport | None = None

    async def send(self, request: Request) -> Response:
        """Send a request; see `RegistryTransport`."""
        name = service_name(request.url.host, request.url.port, self._domain)
        if name is None or request.url.scheme not in SECURE | PLAIN:
            await self.make.prepare()
            if self._direct is None:
                self._direct = self.make(secure=True)
            return await self._direct.handle_async_request(request)
        repeatable = is_repeatable(request.method, request.headers)
        call = self.router.call(name, repeatable=repeatable)
        return await _Exchange(self, request, call, repeatable=repeatable).run()

    async def aclose(self) -> None:
        """Close every connection."""
        await self.pools.aclose()
        if self._direct is not None:
            await self._direct.aclose()


class _Exchange:
    """One request and its response, over one instance or several."""

    def __init__(self, sender: Sender, request: Request, call: Call, *, repeatable: bool) -> None:
        self.library = sender.library
        self._sender = sender
        self._request = request
        self._url = request.url
        self._call = call
        self._repeatable = repeatable
        self._timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
        self._now = asyncio.get_running_loop().time
        self._connecting_since = self._now()
        self._queued = 0.0
        self._body = request.stream
        if not isinstance(self._body, self.library.module.ByteStream):
            self._body = self.library.body(self._body)
        self._error: TransportError | None = None

    async def run(self) -> Response:
        while True:
            service = await self._choose()
            try:
                target, addressed = self._addressed(service)
            except Unusable:
                self._call.unusable(service, self._addressed)
            else:
                response = await self._try(service, target, addressed)
                if response is not None:
                    self._error = None
                    return response

    async def _choose(self) -> Service:
        try:
            service = await self._call.choose()
        except RegistryError as error:
            raise self._failure(str(error)) from error
        if service is None:
            raise self._failure() from self._error
        return service

    async def _try(self, service: Service, target: Target, request: Request) -> Response | None:
        """Send it to one instance; None: to another one, please."""
        sender = self._sender
        if target.secure:
            await sender.make.prepare()
        lease = sender.pools.lease(service, secure=target.secure, balancer=sender.router.counting)
        begun = self._now()
        try:
            response = await lease.transport.handle_async_request(request)
            self._relocate(response, target, request)
            await self._take(response, service, lease)
        except self.library.module.TransportError as error:
            if error is getattr(self._body, "error", None):
                lease.release()
                raise
            if isinstance(error, self.library.module.PoolTimeout):
                lease.full()
                self._full(service, error, begun)
                return None
            lease.release()
            self._failed(service, error)
            return None
        except BaseException:
            lease.release()
            raise
        return response

    def _addressed(self, service: Service) -> tuple[Target, Request]:
        """Where the request goes, and the request as the instance gets it.

        Raises:
            Unusable: the instance cannot take it.
        """
        target = target_of(service, self._url.host, secure=self._url.scheme in SECURE)
        try:
            return target, self._addressed_to(target)
        except self.library.module.InvalidURL as error:
            raise Unusable(f"{service.address or service.url!r} makes no sense: {error}") from None

    def _addressed_to(self, target: Target) -> Request:
        request, url = self._request, self._url
        scheme = scheme_for(url.scheme, secure=target.secure)
        path = url.raw_path
        if target.prefix:
            path = target.prefix.encode() + path
        addressed: Request = self.library.module.Request(
            request.method,
            url.copy_with(scheme=scheme, host=target.host, port=target.port, raw_path=path),
            headers=request.headers,
            stream=self._body,
            extensions=self._extensions(target),
        )
        if target.authority and request.headers.get("host") == url.netloc.decode():
            addressed.headers["Host"] = target.authority
        return addressed

    def _extensions(self, target: Target) -> dict[str, Any]:
        extensions: dict[str, Any] = dict(self._request.extensions)
        if target.secure:
            extensions.setdefault("sni_hostname", target.server_name)
        extensions["timeout"] = {
            **self._timeouts,
            "connect": self._patience("connect", self._now() - self._connecting_since),
            "pool": self._patience("pool", self._queued),
        }
        return extensions

    def _patience(self, kind: str, spent: float) -> float | None:
        """What the next instance gets of the client's timeout, of which so much is spent."""
        given = self._timeouts.get(kind)
        return self._call.patience(None if given is None else max(0.0, given - spent))

    def _relocate(self, response: Response, target: Target, sent: Request) -> None:
        """Have a redirect to the instance lead to the service."""
        location = response.headers.get("Location")
        if location is not None:
            response.headers["Location"] = location_for(
                location,
                target,
                sent.headers.get("Host", ""),
                scheme=self._url.scheme,
                authority=self._url.netloc.decode(),
            )

    async def _take(self, response: Response, service: Service, lease: Lease) -> None:
        """Tell of a response, and prepare it for the client."""
        response.extensions["service"] = service
        if LEAVING in response.headers:
            self._call.leaving(service, response.headers[LEAVING])
        answered = partial(self._call.answered, service, response.status_code)
        stream: Any = response.stream
        if response.is_closed:  # it was read by what made it, and nobody closes it once more
            lease.release(answered=True)
            answered()
        elif self._repeatable and _is_small(response):
            try:
                body = b"".join([chunk async for chunk in stream])
            finally:
                await stream.aclose()
            lease.release(answered=True)
            answered()
            response.stream = self.library.module.ByteStream(body)
        else:
            errors = self.library.module.TransportError
            response.stream = self.library.answer(
                stream, lease, partial(self.broke_off, service), errors, answered
            )

    # ---- failures ----------------------------------------------------------------------

    def _failed(self, service: Service, error: TransportError) -> None:
        """Note what became of an attempt; returns if there may be another."""
        httpx = self.library.module
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            self._not_sent(service, error)
        elif isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            self._sent(service, error)
        else:
            raise self.broke_off(service, error) from error

    def _full(self, service: Service, error: TransportError, begun: float) -> None:
        """Note that no connection was free; returns if there may be another attempt."""
        self._error = error
        waited = self._now() - begun
        self._queued += waited
        self._connecting_since += waited  # the client has a timeout for each
        if not self._call.full(service, error):
            raise self._failure() from error

    def _not_sent(self, service: Service, error: TransportError) -> None:
        self._error = error
        given = self._timeouts.get("connect")
        late = given is not None and self._now() >= self._connecting_since + given
        if not self._call.not_sent(service, error) or late:
            raise self._failure() from error

    def _sent(self, service: Service, error: TransportError) -> None:
        self._error = error
        intact = not getattr(self._body, "begun", False)
        if not self._call.sent(service, error, intact=intact):
            raise self._failure() from error
        self._connecting_since = self._now()
        self._queued = 0.0

    def broke_off(self, service: Service, error: TransportError) -> TransportError:
        """The error of a request that is not sent again, whatever it was."""
        httpx = self.library.module
        ours = isinstance(
            error, (httpx.PoolTimeout, httpx.LocalProtocolError, httpx.UnsupportedProtocol)
        )
        self._call.broke_off(service, error, blame=not ours)
        self._error = error
        return self._failure()

    def _failure(self, why: str = "") -> TransportError:
        """What the client gets: the kind of the last error, and everything in its text."""
        kind = self.library.module.ConnectError if self._error is None else type(self._error)
        tried = self._call.report() if self._call.attempts.failures else ""
        error: TransportError = kind("; then: ".join(filter(None, (tried, why))))
        return error


def _is_small(response: Response) -> bool:
    length = response.headers.get("content-length", "")
    return length.isdigit() and int(length) <= READ_AHEAD and response.status_code != 101
