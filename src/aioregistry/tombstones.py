"""Which incarnations are gone for good, so that a late message does not bring one back."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["LATE", "MAX_TOMBSTONES", "TOMBSTONE_TTL", "Tombstones"]

TOMBSTONE_TTL: Final = 120.0
"""How long a withdrawn or replaced incarnation stays dead, in seconds: far longer than a
message can be late."""

LATE: Final = 2.0
"""How late a message may be, in seconds. Who announces longer after it was replaced is alive, and
was so all the time; it comes back when the incarnation that replaced it is gone."""

MAX_TOMBSTONES: Final = 10_000


class Tombstones(OrderedDict[str, float]):
    """Until when each incarnation stays dead, on the caller's clock; the last one buried is last.

    A dict, so that to ask for a new instance whether it is in here costs no call; and no plain one,
    which looks for its first among all those that were there before.
    """

    def bury(self, incarnation: str, now: float) -> None:
        """It is gone; forget those that were long ago, and the oldest of too many."""
        self.pop(incarnation, None)
        self[incarnation] = now + TOMBSTONE_TTL
        while len(self) > MAX_TOMBSTONES or self[next(iter(self))] <= now:
            del self[next(iter(self))]

    def loosen(self, incarnation: str) -> bool:
        """It may come back when no message of it can be late any more; whether it was dead."""
        if incarnation not in self:
            return False
        self[incarnation] -= TOMBSTONE_TTL - LATE
        return True
