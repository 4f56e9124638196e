"""The seam to redis-py: its options, which are untyped, and its exceptions, in our words."""

from __future__ import annotations

import importlib.util
import re
import ssl
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from aioregistry.errors import TransportError

from ._tls import is_tls_refusal

if TYPE_CHECKING:
    from ._redis_wire import DriverConnection

__all__ = ["address_of", "explained", "new_connection", "pool_of"]

_GOOD_URL = "redis://[user:password@]host[:port][/db], rediss://... or unix:///path/to/socket"
# Handlers of a pool for maintenance events of the server: they manage that pool's connections.
_POOL_OPTIONS = ("maint", "orig_")
# Who the driver is stays untold unless somebody set it: newer redis-py reads that from disk for
# each connection, and a user whose rights are limited would fill the ACL log with refusals.
_ANONYMOUS: dict[str, Any] = (
    {"driver_info": None}
    if importlib.util.find_spec("redis.driver_info")
    else {"lib_name": None, "lib_version": None}
)


def pool_of(url: str | None, client: object, options: dict[str, Any]) -> Any:
    """The pool that holds the configuration; no connection is ever taken from it."""
    if (url is None) == (client is None):
        raise ValueError(
            "RedisTransport needs either a url or a client, not both and not neither:"
            " RedisTransport('redis://localhost:6379') or RedisTransport(client=redis)"
        )
    if url is not None:
        _check_url(url)
        scheme, separator, rest = url.partition("://")
        url = scheme.lower() + separator + rest  # redis-py takes them for different ones
        try:
            from_url = cast("Any", redis.asyncio.ConnectionPool).from_url
            pool = from_url(url, **(_trust(url, options) | options | {"protocol": 2}))
            new_connection(pool)  # opens nothing, and finds what the options lack
        except (TypeError, ValueError, RedisError) as error:
            raise ValueError(
                f"a connection option of {_masked(url)} makes no sense: {error}"
            ) from None
        return pool
    if not isinstance(client, redis.asyncio.Redis):
        raise ValueError(
            f"client must be a redis.asyncio.Redis, not {type(client).__name__}"
            " (Redis Cluster and the synchronous client are not supported)"
        )
    if options:
        raise ValueError(
            f"{', '.join(sorted(options))}: a client brings its own connection options;"
            " set them where the client is made"
        )
    return client.connection_pool


def _trust(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """What every TLS connection checks unless it is told otherwise: older redis-py does not."""
    told = "ssl_cert_reqs" in options or "ssl_cert_reqs" in url
    return {"ssl_check_hostname": True} if url.startswith("rediss://") and not told else {}


def new_connection(pool: Any) -> DriverConnection:
    """A connection as the pool would make it, but a plain one; it does not belong to the pool."""
    options = _ANONYMOUS | {
        name: value
        for name, value in pool.connection_kwargs.items()
        if not name.startswith(_POOL_OPTIONS)
    }
    options |= {
        "decode_responses": False,  # a foreign message that is not UTF-8 would end the reader
        "protocol": 2,  # with the driver's ways, messages cost half again as much in RESP3
        "retry": Retry(NoBackoff(), 0),  # nothing reconnects behind our back
        "retry_on_error": [],
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "socket_timeout": None,  # silence is judged by the probe
        "db": 0,  # messages know no databases, and not everybody may SELECT one
    }
    return cast("DriverConnection", pool.connection_class(**options))


def address_of(pool: Any) -> str:
    """The URL of the server, without credentials."""
    options = pool.connection_kwargs
    if "path" in options:
        return f"unix://{options['path']}"
    scheme = "rediss" if issubclass(pool.connection_class, redis.asyncio.SSLConnection) else "redis"
    if "connection_pool" in options:  # of Sentinel: the server is known once it was asked for
        return f"{scheme}://{getattr(pool, 'service_name', 'sentinel')}"
    host = options.get("host", "localhost")
    db = f"/{options['db']}" if options.get("db") else ""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{options.get('port', 6379)}{db}"


def explained(
    address: str,
    error: Exception,
    what: str = "",
    *,
    subjects: frozenset[str] = frozenset(),
    subscriptions: frozenset[str] = frozenset(),
) -> TransportError:
    """The error in our words, with what to do about it where that is known."""
    if isinstance(error, TransportError):
        return error
    if isinstance(error.__cause__, AuthenticationError | NoPermissionError):
        error = error.__cause__  # over a Unix socket, the driver wraps what the handshake says
    if isinstance(error, NoPermissionError):
        remedy = "allow it with ACL SETUSER, see RedisTransport"
        text = f"{address} refuses {what or 'this user'}: {error}; {remedy}"
        return TransportError(text, permanent=True, subjects=subjects, subscriptions=subscriptions)
    if isinstance(error, AuthenticationError):
        text = f"{address} refuses this user: {error}; check user name and password"
        return TransportError(text, permanent=True)
    if about_tls := _tls_trouble(address, error):
        return TransportError(about_tls, permanent=True)
    if isinstance(error, ResponseError):
        text = f"{address} refuses {what or 'the link'}: {error}"
        return TransportError(text, subjects=subjects, subscriptions=subscriptions)
    reason = str(error) or repr(error)
    if isinstance(error, MasterNotFoundError):  # whose text has all options of each Sentinel
        reason = "no Sentinel names a primary"
    return TransportError(f"no link to {address}: {reason}")


def try_another_sentinel(pool: Any) -> None:
    """Begin with the next Sentinel from now on, if there are any.

    The driver asks one after another, each for longer than an attempt may take, and begins with
    the one that has answered.
    """
    # Not public. Without these attributes it begins with the same one each time.
    sentinels: Any = getattr(getattr(pool, "sentinel_manager", None), "sentinels", None)
    if sentinels:
        sentinels.append(sentinels.pop(0))


def _tls_trouble(address: str, error: Exception) -> str | None:
    if address.startswith("rediss://") and (missing := _missing_file(error)):
        remedy = "check ssl_ca_certs=, ssl_certfile= and ssl_keyfile="
        return f"no TLS with {address}: {missing.strerror}; {remedy}"
    if _is_about_trust(error):
        remedy = "pass ssl_ca_certs=, or the name that it was made for"
        return f"the certificate of {address} is not trusted: {error}; {remedy}"
    if is_tls_refusal(error):
        remedy = "check ssl_certfile= and ssl_keyfile=, and that this port speaks TLS"
        return f"no TLS with {address}: {error}; {remedy}"
    return None


def _is_about_trust(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _missing_file(error: BaseException | None) -> OSError | None:
    """The file that cannot be read, if that is the trouble: a connection over TCP has no other."""
    while error is not None:
        if isinstance(error, FileNotFoundError | PermissionError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _check_url(url: str) -> None:
    """Refuse what redis-py would take for something else, such as port 0 for the default."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            sound = bool(parts.path)
        else:
            sound = (
                parts.scheme in ("redis", "rediss")
                and bool(parts.hostname)
                and "," not in parts.netloc.rpartition("@")[2]
                and parts.port != 0
                and not parts.fragment
                and re.fullmatch(r"/?|/\d+", parts.path) is not None
            )
    except ValueError:  # its text may quote a part of the password
        sound = False
    if not sound or any(character.isspace() for character in url):
        raise ValueError(
            f"url must be {_GOOD_URL}, not {_masked(url)!r}; in user and password,"
            " percent-encode whatever is not a letter or a digit"
        )


def _masked(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return scheme + separator + re.sub(r"((?:password|username)[^=&]*=)[^&]*", r"\1***", rest)
