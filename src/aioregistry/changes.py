"""What calls ask of one service at the same time, so that each can be taken back by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from aioregistry.service import Service

__all__ = ["Change", "Changes"]


class Change:
    """What one call asks for.

    Attributes:
        fields: the fields, with their new values.
        confirmed: whether the broker has taken it.
    """

    __slots__ = ("confirmed", "fields")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.confirmed = False


class Changes:
    """The content of one service: what stands, and what is asked for on top of it, in order.

    Args:
        base: what stands; of a new service, what the first call says.
        kept: whether it is registered whatever becomes of the calls under way.
    """

    def __init__(self, base: Service, *, kept: bool) -> None:
        self.kept = kept
        self._base = base
        self._changes: list[Change] = []

    def ask(self, service: Service, fields: Iterable[str]) -> Change:
        """A call asks for these fields of a service."""
        change = Change({field: getattr(service, field) for field in fields})
        self._changes.append(change)
        return change

    def confirm(self, change: Change) -> None:
        """The broker has taken it. It stands as soon as all before it do, or are gone."""
        self.kept = change.confirmed = True
        self._settle()

    def drop(self, change: Change) -> None:
        """It is taken back."""
        self._changes.remove(change)
        self._settle()

    @property
    def asked(self) -> bool:
        """Whether there is a call whose change does not stand yet."""
        return bool(self._changes)

    @property
    def content(self) -> Service:
        """The service as all that is asked for makes it."""
        content = self._base
        for change in self._changes:
            content = msgspec.structs.replace(content, **change.fields)
        return content

    def _settle(self) -> None:
        while self._changes and self._changes[0].confirmed:
            self._base = msgspec.structs.replace(self._base, **self._changes.pop(0).fields)
