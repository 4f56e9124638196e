"""Stats: what a registry has done and what it holds, at one moment."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Stats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """A snapshot of counters (since the start) and gauges (now).

    Attributes:
        connected: whether the broker can be reached.
        detail: the reason for that state, in words.
        losses: how often the connection was lost.
        instances: instances in the catalogue.
        names: service names that have an instance.
        observed: names and patterns that are kept in the catalogue.
        watches: open watches.
        registered: services that this registry announces.
        announcements_sent: announcements sent, heartbeats included.
        withdrawals_sent: withdrawals sent.
        pings_sent: pings sent.
        announcements_received: valid announcements received.
        withdrawals_received: valid withdrawals received.
        pings_received: pings received for services of this registry.
        denied: messages and subscriptions that the broker refused: it does not allow them, or
            takes no more.
        malformed: messages dropped because they were none.
        late: messages dropped because their incarnation was already gone.
        rejected: announcements that `accept` did not let in.
        refused: announcements dropped because of a limit.
        expired: instances that fell silent.
        tombstones: incarnations remembered as gone.
        held: instances kept, for one more ttl or until their ttl is over, because too many fell
            silent or vanished together.
        doubted: processes that the broker does not hear now, though they announced instances.
    """

    connected: bool
    detail: str
    losses: int
    instances: int
    names: int
    observed: int
    watches: int
    registered: int
    announcements_sent: int
    withdrawals_sent: int
    pings_sent: int
    announcements_received: int
    withdrawals_received: int
    pings_received: int
    denied: int
    malformed: int
    late: int
    rejected: int
    refused: int
    expired: int
    tombstones: int
    held: int
    doubted: int
