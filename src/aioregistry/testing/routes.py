"""Who hears which subject, on a simulated broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioregistry.subjects import is_pattern, matches

if TYPE_CHECKING:
    from aioregistry.testing.transport import Interest

__all__ = ["Routes"]

_MAX_REMEMBERED: Final = 10_000


class Routes:
    """The interests in force, in the order in which they came: nothing depends on a hash."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[Interest, None]] = {}
        self._patterns: dict[str, dict[Interest, None]] = {}
        self._found: dict[str, tuple[Interest, ...]] = {}

    def add(self, interest: Interest) -> None:
        """Route what matches to `interest`, too."""
        self._table(interest).setdefault(interest.pattern, {})[interest] = None
        self._found.clear()

    def remove(self, interest: Interest) -> None:
        """Route nothing more to `interest`; doing it twice is harmless."""
        table = self._table(interest)
        interests = table.get(interest.pattern, {})
        interests.pop(interest, None)
        if not interests:
            table.pop(interest.pattern, None)
        self._found.clear()

    def clear(self) -> None:
        """Forget all interests."""
        self._exact.clear()
        self._patterns.clear()
        self._found.clear()

    def receivers(self, subject: str) -> tuple[Interest, ...]:
        """The interests that `subject` matches."""
        found = self._found.get(subject)
        if found is None:
            if len(self._found) >= _MAX_REMEMBERED:
                self._found.clear()
            found = self._found[subject] = tuple(self._look(subject))
        return found

    def _look(self, subject: str) -> list[Interest]:
        found = list(self._exact.get(subject, ()))
        for pattern, interests in self._patterns.items():
            if matches(pattern, subject):
                found.extend(interests)
        return found

    def _table(self, interest: Interest) -> dict[str, dict[Interest, None]]:
        return self._patterns if is_pattern(interest.pattern) else self._exact
