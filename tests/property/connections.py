"""A connection that is none: what reads from it is given its data by the test."""

from __future__ import annotations

import asyncio
import itertools


class Connection(asyncio.Transport):
    """Remembers who reads.

    Args:
        protocol: who has read so far, that is, the driver.
    """

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces that end at these places, whatever its length."""
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in itertools.pairwise(edges)]
