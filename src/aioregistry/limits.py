"""What a sensible service looks like: the limits, and the checks that name what is wrong."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from aioregistry.errors import InvalidService
from aioregistry.service import Service, Status, split_address

__all__ = [
    "EVERYBODY",
    "MAX_FIELD_BYTES",
    "MAX_ID",
    "MAX_INSTANCES_PER_NAME",
    "MAX_METADATA_BYTES",
    "MAX_METADATA_ENTRIES",
    "MAX_NAME_BYTES",
    "MAX_PAYLOAD_BYTES",
    "MAX_PREFIX_BYTES",
    "MAX_TTL",
    "MIN_TTL",
    "characters",
    "check_duration",
    "check_field",
    "check_name",
    "check_pattern",
    "check_service",
    "described",
    "is_name",
    "metadata_fits",
    "status_of",
    "texts_fit",
]

MAX_NAME_BYTES: Final = 255
MAX_PREFIX_BYTES: Final = 128
MAX_FIELD_BYTES: Final = 2048
MAX_ID: Final = 64
MAX_METADATA_ENTRIES: Final = 128
MAX_METADATA_BYTES: Final = 32 * 1024
MAX_PAYLOAD_BYTES: Final = 64 * 1024
MAX_INSTANCES_PER_NAME: Final = 50_000
MIN_TTL: Final = 0.2
MAX_TTL: Final = 86_400.0

EVERYBODY: Final = "_all"
"""The name under which a ping asks everybody; no service can have it."""

# White space and control characters (Unicode's too) would break the protocols of the
# brokers or hide in a log; `*` and `>` are wildcards there. Lone surrogates have no UTF-8.
_BAD: Final = r"\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ufeff\ud800-\udfff"
_TOKEN: Final = rf"[^.*>{_BAD}]+"
_NAME: Final = re.compile(rf"{_TOKEN}(?:\.{_TOKEN})*")
_PATTERN: Final = re.compile(rf"(?:>|(?:{_TOKEN}|\*)(?:\.(?:{_TOKEN}|\*))*(?:\.>)?)")
_WIDEST: Final = 4
"""So many bytes a character has at most in UTF-8."""

_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_NETWORK: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")
_PLAIN_ADDRESS: Final = re.compile(r"[A-Za-z0-9.-]+:(?:[1-5][0-9]{4}|[1-9][0-9]{0,3})")
_HOST: Final = re.compile(r"[^\s/@\[\]?#:]+|\[[0-9A-Fa-f:.]+(?:%[^\s\]]+)?\]")


def is_name(name: str) -> bool:
    """Whether `name` can name a service."""
    return (
        _NAME.fullmatch(name) is not None
        and len(name.encode()) <= MAX_NAME_BYTES
        and name != EVERYBODY
    )


def check_name(name: str, what: str = "service name") -> None:
    """Raise `InvalidService`, saying why, unless `name` can name a service."""
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise InvalidService(f"{what} must be a string, not {name!r}")
    if is_name(name):
        return
    if name == EVERYBODY:
        raise InvalidService(f"{what} {name!r} is reserved; choose another")
    _check_text(name, what)
    raise InvalidService(
        f"{what} {_shown(name)} must be tokens joined by single dots, without white space,"
        " control characters, '*' or '>', such as 'orders' or 'billing.orders'"
    )


def check_pattern(pattern: str) -> None:
    """Raise `InvalidService`, saying why, unless `pattern` is a name or a pattern of names."""
    if not isinstance(pattern, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers err
        raise InvalidService(f"a pattern must be a string, not {pattern!r}")
    if _PATTERN.fullmatch(pattern) is None or len(pattern.encode()) > MAX_NAME_BYTES:
        _check_text(pattern, "pattern")
        raise InvalidService(
            f"pattern {_shown(pattern)} must be tokens joined by single dots; '*' stands for one"
            " whole token and a final '>' for the rest, such as 'billing.*' or 'billing.>'"
        )


def check_field(what: str, value: object) -> None:
    """Raise `InvalidService`, naming `what` it is, unless `value` is text fit to announce."""
    if not isinstance(value, str):
        raise InvalidService(f"{what} must be a string, not {value!r}")
    if len(value.encode(errors="surrogatepass")) > MAX_FIELD_BYTES:
        raise InvalidService(f"{what} {_shown(value)} is longer than {MAX_FIELD_BYTES} bytes")
    if _UNPRINTABLE.search(value):
        raise InvalidService(f"{what} holds a control character: {_shown(value)}")


def check_service(service: Service, *, key: tuple[str, str] | None = None) -> None:
    """Raise `InvalidService`, naming the field and its value, unless it can be announced.

    Args:
        service: the service.
        key: what it has to be known by; None: anything.
    """
    if _is_plain(service) and (key is None or key == service.key):
        return
    check_name(service.name)
    if key is not None and service.key != key:
        raise InvalidService(
            f"{key[0]!r} is known by {key[1]!r}, so that cannot change to {service.key[1]!r};"
            " unregister it and register the other"
        )
    for field in ("address", "network", "url", "version", "host"):
        check_field(f"{field} of {service.name!r}", getattr(service, field))
    _check_network(service)
    _check_address(service)
    _check_url(service)
    _check_metadata(service)
    if not isinstance(cast("object", service.status), Status):
        raise InvalidService(
            f"status of {service.name!r} must be a Status such as Status.PASSING,"
            f" not {service.status!r}"
        )


def check_duration(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is a positive, finite number of seconds."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:  # 10**400 and nan are none either
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")


def status_of(given: Status | str) -> Status:
    """The status that is meant.

    Raises:
        InvalidService: there is none of that name.
    """
    try:
        return Status(given)
    except ValueError:
        known = ", ".join(repr(each.value) for each in Status)
        raise InvalidService(f"status must be one of {known}, not {given!r}") from None


def described(service: Service | str, *, status: Status | str | None, **given: Any) -> Service:
    """The service that the arguments of a `register` describe.

    Args:
        service: the name, or a whole service.
        status: its status; None: as `service` has it.
        given: its other fields; what is empty is as `service` has it.

    Raises:
        InvalidService: there is no such status.
    """
    base = service if isinstance(service, Service) else Service(service)
    changes = {field: value for field, value in given.items() if value}
    if status is not None:
        changes["status"] = status_of(status)
    return msgspec.structs.replace(base, **changes) if changes else base


def characters(metadata: Mapping[str, str]) -> int:
    """How many characters the keys and values have together."""
    return len("".join(metadata)) + len("".join(metadata.values()))


def texts_fit(service: Service) -> bool:
    """Whether the texts of an instance from the wire, but for its name, are within the limits.

    Its address may be unusual.
    """
    texts = service.address + service.network + service.url + service.version + service.host
    if _UNPRINTABLE.search(texts + service.id) is not None:
        return False
    if _WIDEST * len(texts) <= MAX_FIELD_BYTES:
        return True  # none can be too long: nearly always, and cheaper than asking each
    each = (service.address, service.network, service.url, service.version, service.host)
    return all(_size(text) <= MAX_FIELD_BYTES for text in each)


def metadata_fits(metadata: Mapping[str, str]) -> bool:
    """Whether the metadata of an instance from the wire is within the limits."""
    if len(metadata) > MAX_METADATA_ENTRIES:
        return False
    if _WIDEST * characters(metadata) <= MAX_METADATA_BYTES:
        return True
    sizes = (_size(key) + _size(value) for key, value in metadata.items())
    return sum(sizes) <= MAX_METADATA_BYTES


def _is_plain(service: Service) -> bool:
    """Whether it is as most services are, with nothing that could be wrong: a quick look."""
    try:
        pairs = "".join(service.metadata) + "".join(service.metadata.values())
        unusual = service.url + service.network
        texts = service.address + service.version + service.host
        return (
            not unusual
            and _PLAIN_ADDRESS.fullmatch(service.address) is not None
            and _UNPRINTABLE.search(texts) is None
            and _WIDEST * len(texts) <= MAX_FIELD_BYTES
            and len(service.metadata) <= MAX_METADATA_ENTRIES
            and len(pairs.encode()) <= MAX_METADATA_BYTES
            and is_name(service.name)
            and type(service.status) is Status
        )
    except (TypeError, AttributeError, UnicodeEncodeError):  # the long look says what is wrong
        return False


def _size(text: str) -> int:
    """How many bytes a text from the wire has."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _check_text(text: str, what: str) -> None:
    """The two causes that a look at the text does not show."""
    if not text:
        raise InvalidService(f"{what} is empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidService(f"{what} {_shown(text)} holds a lone surrogate") from error
    if size > MAX_NAME_BYTES:
        raise InvalidService(
            f"{what} {_shown(text)} has {size} bytes; at most {MAX_NAME_BYTES} are allowed"
        )


def _check_network(service: Service) -> None:
    if service.network and not _NETWORK.fullmatch(service.network):
        raise InvalidService(
            f"network of {service.name!r} must be a word such as 'tcp', not {service.network!r}"
        )


def _check_address(service: Service) -> None:
    address = service.address
    if not address or service.network.startswith("unix"):
        return
    host, _, tail = address.rpartition(":")
    _, port = split_address(address)
    if port is None or not tail.isdigit() or not _HOST.fullmatch(host):
        raise InvalidService(
            f"address of {service.name!r} must be 'host:port' ('[v6]:port' for IPv6),"
            f" not {_shown(address)}"
        )
    if not 0 < port < 65536:
        raise InvalidService(
            f"address of {service.name!r} needs the port that callers connect to, 1 to 65535,"
            f" not {_shown(address)}"
        )


def _check_url(service: Service) -> None:
    if not service.url:
        return
    try:
        parts = urlsplit(service.url)
        located = parts.netloc or parts.path.startswith("/")  # else 'localhost:80' has a scheme
        sound = bool(parts.scheme and located) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(character.isspace() for character in service.url):
        raise InvalidService(
            f"url of {service.name!r} must be absolute, such as 'http://10.0.0.5:8080/api',"
            f" not {_shown(service.url)}"
        )


def _check_metadata(service: Service) -> None:
    given = cast("object", service.metadata)  # what the caller gave, whatever it is
    if not isinstance(given, Mapping):
        raise InvalidService(f"metadata of {service.name!r} must be a mapping, not {given!r}")
    metadata, size = cast("Mapping[object, object]", given), 0
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidService(
                f"metadata of {service.name!r} must map strings to strings, not {key!r}: {value!r};"
                " write str(...) around the value"
            )
        try:
            size += len(key.encode()) + len(value.encode())
        except UnicodeEncodeError as error:
            raise InvalidService(
                f"metadata of {service.name!r} holds a lone surrogate at {key!r}"
            ) from error
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidService(
            f"metadata of {service.name!r} has {len(metadata)} entries;"
            f" at most {MAX_METADATA_ENTRIES} are allowed"
        )
    if size > MAX_METADATA_BYTES:
        raise InvalidService(
            f"metadata of {service.name!r} has {size} bytes;"
            f" at most {MAX_METADATA_BYTES} are allowed"
        )


def _shown(text: str) -> str:
    """The text for a message: quoted, escaped, and not longer than a line."""
    shown = ascii(text)
    return shown if len(shown) <= 100 else f"{shown[:96]}...'"
