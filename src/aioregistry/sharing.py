"""One object for all that is equal: most instances share their version, host and metadata."""

from __future__ import annotations

from typing import Final

from aioregistry.limits import characters, metadata_fits
from aioregistry.service import FrozenDict
from aioregistry.wire import Announcement

__all__ = ["Sharing", "Texts"]

SHARED_METADATA: Final = 4096
SHARED_TEXTS: Final = 32_768
SHARED_TIMES: Final = 1024
LONGEST_METADATA: Final = 1024
LONGEST_TEXT: Final = 128
"""What is longer than so many characters hardly repeats, and is not kept for those to come."""


class Texts(dict[str, str]):
    """Remembers texts, up to a number, so that equal ones can be kept once: `texts[text]`.

    Not `sys.intern`: in some versions of Python what is interned stays for ever, and these
    texts come from others.

    Args:
        room: how many texts are remembered; then it begins anew.
        longest: how many characters one may have; a longer one hardly repeats.
    """

    def __init__(self, room: int, longest: int) -> None:
        super().__init__()
        self._room = room
        self._longest = longest

    def __missing__(self, text: str) -> str:
        """Remember a text that is new, unless it is long."""
        if len(text) <= self._longest:
            if len(self) >= self._room:
                self.clear()
            self[text] = text
        return text


class Sharing:
    """What the instances of one catalogue have in common.

    Attributes:
        texts: their versions, hosts and nodes.
    """

    def __init__(self) -> None:
        self.texts = Texts(SHARED_TEXTS, LONGEST_TEXT)
        self._metadata: dict[tuple[str, ...], FrozenDict[str, str]] = {}
        self._times: dict[int, tuple[int, float]] = {}

    def metadata(self, message: Announcement) -> FrozenDict[str, str] | None:
        """The metadata of a message; one object for all instances that say the same.

        None when it is beyond a limit.
        """
        metadata = message.metadata
        # In the order in which the peer says it, which it does not change: of a tuple of texts
        # Python finds the hash without a call of ours.
        known = self._metadata.get((*metadata, *metadata.values()))
        if known is not None:
            return known
        if not metadata_fits(metadata):
            return None
        if characters(metadata) > LONGEST_METADATA:
            return FrozenDict(metadata)
        if len(self._metadata) >= SHARED_METADATA:
            self._metadata.clear()
        texts = self.texts  # some of its values may be known all the same
        known = FrozenDict({texts[key]: texts[value] for key, value in metadata.items()})
        self._metadata[(*known, *known.values())] = known
        return known

    def times(self, message: Announcement) -> tuple[int, float]:
        """The duration and the ttl of a message; the same objects for all that say the same."""
        known = self._times.get(message.duration)
        if known is None:
            if len(self._times) >= SHARED_TIMES:
                self._times.clear()
            known = self._times[message.duration] = message.duration, message.ttl
        return known
