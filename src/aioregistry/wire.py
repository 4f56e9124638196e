"""The wire format of the registries already in the field: subjects, and JSON <-> messages.

Three keys are ours and skipped by the other peers: `id` (incarnation), `seq` (grows with
every change of content) and `node` (the announcing registry).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec

from aioregistry.limits import EVERYBODY, MAX_PAYLOAD_BYTES, MAX_TTL, MIN_TTL
from aioregistry.service import FrozenDict, Service, Status

__all__ = [
    "TTL_PER_DURATION",
    "Announcement",
    "Malformed",
    "Subjects",
    "Times",
    "decode",
    "decode_ping",
    "encode_announcement",
    "encode_ping",
    "encode_withdrawal",
    "is_small",
]

TTL_PER_DURATION: Final = 1.5
"""Every peer lets an instance live for 1.5 times the interval that it announces."""

_MAX_INTEGER: Final = 2**63 - 1
_Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-_MAX_INTEGER, le=_MAX_INTEGER)]
"""What fits into 64 bits, as the peers keep it."""

_STATUSES: Final = {status.value: status for status in Status}
_PASSING: Final = Status.PASSING


class Malformed(ValueError):
    """A payload that is not a message; the text says why."""


class Times(msgspec.Struct, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """When and how often an instance announces itself, in milliseconds.

    The Go peer writes (and insists on) capitals, the Java peer writes lower case.
    """

    registered: _Integer = msgspec.field(default=0, name="Registered")
    duration: _Integer = msgspec.field(default=0, name="Duration")
    lower_registered: _Integer = msgspec.field(default=0, name="registered")
    lower_duration: _Integer = msgspec.field(default=0, name="duration")


class Announcement(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    rename={
        "network": "net",
        "address": "add",
        "version": "v",
        "host": "h",
        "metadata": "kv",
        "times": "t",
    },
):
    """A message about one instance: an announcement (with times) or a withdrawal (without)."""

    network: str = ""
    address: str = ""
    url: str = ""
    name: str = ""
    version: str = ""
    host: str = ""
    metadata: dict[str, str] = {}
    times: Times | None = None
    status: str = ""
    id: str = ""
    seq: _Integer = 0
    node: str = ""

    @property
    def duration(self) -> int:
        """The announced interval in milliseconds; 0 when there is none."""
        times = self.times
        return 0 if times is None else times.duration or times.lower_duration

    @property
    def ttl(self) -> float:
        """How long the instance lives after this message, in seconds, within our limits."""
        return min(max(self.duration * (TTL_PER_DURATION / 1000), MIN_TTL), MAX_TTL)

    def service(
        self,
        metadata: FrozenDict[str, str] | None = None,
        share: Callable[[str], str] = str,
    ) -> Service:
        """The instance that this message describes.

        Args:
            metadata: an equal mapping to use in place of a copy of the message's own.
            share: gives the object to use for a text that tends to repeat.
        """
        return Service(
            name=share(self.name),
            address=self.address,
            network=share(self.network),
            url=self.url,
            version=share(self.version),
            host=share(self.host),
            metadata=FrozenDict(self.metadata) if metadata is None else metadata,
            status=_STATUSES.get(self.status, _PASSING),
            id=self.id,
        )

    def describes(self, service: Service) -> bool:
        """Whether `service` already says all that this message says."""
        return (
            _STATUSES.get(self.status, _PASSING) is service.status
            and self.metadata == service.metadata
            and self.version == service.version
            and self.host == service.host
            and self.url == service.url
            and self.network == service.network
            and self.address == service.address
        )


class Subjects:
    """The subjects of one tenant."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.register_prefix = f"{prefix}.register."
        self.unregister_prefix = f"{prefix}.unregister."
        self.ping_prefix = f"{prefix}.ping."
        self.ping_everybody = self.ping(EVERYBODY)

    def register(self, name: str) -> str:
        """Where instances of `name` announce themselves."""
        return self.register_prefix + name

    def unregister(self, name: str) -> str:
        """Where instances of `name` withdraw."""
        return self.unregister_prefix + name

    def ping(self, name: str) -> str:
        """Where instances of `name` are asked to announce themselves."""
        return self.ping_prefix + name

    def alive(self, node: str) -> str:
        """What the registry `node` subscribes to for as long as it is connected."""
        return f"{self.prefix}.alive.{node}"


class _Rescue(msgspec.Struct):
    id: str = ""


_decoder: Final = msgspec.json.Decoder(Announcement)
_lenient_decoder: Final = msgspec.json.Decoder(dict[str, Any])
_ping_decoder: Final = msgspec.json.Decoder(_Rescue)
_encode: Final = msgspec.json.Encoder().encode

_KEYS: Final = {
    field.encode_name: field.encode_name for field in msgspec.structs.fields(Announcement)
}


def decode(payload: bytes) -> Announcement:
    """Decode an announcement or a withdrawal.

    Raises:
        Malformed: not JSON, not an object, a field of the wrong type, or too large.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise Malformed(f"{len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are taken")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_leniently(payload)


def _decode_leniently(payload: bytes) -> Announcement:
    """Decode what the Go peer takes too: keys in any case, nulls, keys of later versions."""
    try:
        fields = _known_fields(_lenient_decoder.decode(payload), _KEYS)
        times = fields.get("t")
        if isinstance(times, dict):
            fields["t"] = _known_fields(
                cast("dict[str, Any]", times), {"registered": "Registered", "duration": "Duration"}
            )
        pairs = fields.get("kv")
        if isinstance(pairs, dict):
            pairs = cast("dict[str, Any]", pairs)
            fields["kv"] = {key: "" if value is None else value for key, value in pairs.items()}
        return msgspec.convert(fields, Announcement)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


def _known_fields(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The known fields under their proper names, the last of a repeated key, without nulls."""
    return {
        names[key.lower()]: value
        for key, value in fields.items()
        if value is not None and key.lower() in names
    }


def encode_announcement(
    service: Service, *, ttl: float, registered: float, seq: int, node: str
) -> bytes:
    """Encode an announcement as every peer accepts it.

    Args:
        service: the instance.
        ttl: how long it lives without a further announcement, in seconds.
        registered: the wall clock now, in seconds since the epoch.
        seq: the version of its content.
        node: the announcing registry.
    """
    message = _message(service)
    message.times = Times(
        registered=int(registered * 1000), duration=max(1, round(ttl / TTL_PER_DURATION * 1000))
    )
    if service.status is not _PASSING:
        message.status = service.status.value
    message.seq = seq
    message.node = node
    return _encode(message)


def is_small(service: Service) -> bool:
    """Whether its announcement is far from too large: a quick look."""
    return len(_encode(service)) <= MAX_PAYLOAD_BYTES // 2


def encode_withdrawal(service: Service, *, seq: int, node: str) -> bytes:
    """Encode a withdrawal: no times, no status."""
    message = _message(service)
    message.seq = seq
    message.node = node
    return _encode(message)


def encode_ping(incarnation: str) -> bytes:
    """Encode a rescue ping, which asks one incarnation only."""
    return _encode(_Rescue(incarnation))


def decode_ping(payload: bytes) -> str:
    """The incarnation that a ping asks for; empty when it asks all instances of the name."""
    if not payload or len(payload) > MAX_PAYLOAD_BYTES:
        return ""
    try:
        return _ping_decoder.decode(payload).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _message(service: Service) -> Announcement:
    return Announcement(
        network=service.network,
        address=service.address,
        url=service.url,
        name=service.name,
        version=service.version,
        host=service.host,
        metadata=dict(service.metadata),
        id=service.id,
    )
