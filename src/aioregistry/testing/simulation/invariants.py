"""The promises of the registry, as checks of what an observer knows against the truth.

The numbers:

- *Sound*: an instance that lives and has been online for `GRACE` is never removed at an
  observer whose link is up, unless three announcements in a row have not reached it (an
  outage of the provider counts as those that it could not send).
- *Complete*: who was withdrawn is gone `PROMPT` after that, if both sides were online and the
  withdrawal was not lost; who crashed, half a ttl and 2.5 s after it was last heard, if the
  broker noticed; and in any case within its ttl plus one heartbeat interval. Each plus the time
  that messages take (`LAG`), and plus one ttl where the guard against mass silence held.
- *Convergent*: one ttl and one second after the faults stopped, every observer knows the truth
  (plus one ttl where the guard held).
- *Consistent*: what a watcher was told adds up to the catalogue; nothing comes back after its
  withdrawal was read, and no instance returns to an older content.
- *Bounded*: the catalogue, tombstones and pending events by the number of instances, lookups by
  their timeout, messages and log lines by what gives reason to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioregistry.service import EventType, ServiceEvent
from aioregistry.testing.network import BUCKET
from aioregistry.testing.simulation.plan import MAX_DELAY, MAX_LATENCY

if TYPE_CHECKING:
    from aioregistry.testing.simulation.ledger import Ledger, Life
    from aioregistry.testing.simulation.plan import Plan
    from aioregistry.testing.simulation.view import View

__all__ = ["GRACE", "LAG", "PROMPT", "check_dead", "check_event", "check_removal"]

LAG: Final = 2 * (MAX_DELAY + MAX_LATENCY + BUCKET)
"""How long a message takes at most from process to process, in seconds."""

GRACE: Final = 0.3 + LAG
"""How long after coming online an instance can count on being heard, in seconds."""

PROMPT: Final = 0.3 + LAG
"""How long it takes at most until a withdrawal is known, in seconds."""

SILENT: Final = 0.5
"""The share of the ttl after which a silent node is looked for."""

GONE: Final = 2.5
"""How long a node has to be gone to be taken for dead, in seconds."""

_TIMERS: Final = 0.3
"""What timers and tasks may add, in seconds."""

_ALLOWED: Final = 3
"""So many announcements in a row have to be lost before a living instance may expire."""


def check_event(view: View, event: ServiceEvent) -> None:
    """Check that nothing returns from the dead, or to an older content."""
    if event.type not in (EventType.REGISTERED, EventType.UPDATED):
        return
    service, ledger = event.service, view.ledger
    if service.id in view.inbox.withdrawn:
        ledger.violated("consistent", f"{view.process.name}: {service.id} is back, though withdrawn")
    life = ledger.lives.get(service.id)
    if life is None or service not in life.versions:
        ledger.violated("consistent", f"{view.process.name}: {service} was never announced")
        return
    previous = event.previous
    if previous is None or previous.id != service.id or previous not in life.versions:
        return
    if life.versions.index(service) < life.versions.index(previous):
        ledger.violated("consistent", f"{view.process.name}: {service.id} is back at an old state")


def check_removal(view: View, event: ServiceEvent, plan: Plan) -> None:
    """Check that no living, connected instance is removed."""
    ledger, life = view.ledger, view.ledger.lives.get(event.service.id)
    if life is None or life.died is not None:
        return
    where = f"{view.process.name}: {event.service.id} of {life.process.name}"
    if event.type is EventType.UNREGISTERED:
        ledger.violated("sound", f"{where} lives, and is shown as withdrawn")
        return
    now = view.process.network.now
    uptime = ledger.uptime(life.process)
    online = uptime.since is not None and now - uptime.since >= GRACE
    if not (online and view.linked):
        return
    heard = max(view.inbox.heard.get(event.service.id, 0.0), view.inbox.connected)
    missing = life.missing(heard, now, plan.interval, uptime)
    if missing < _ALLOWED:
        ledger.violated(
            "sound",
            f"{where} lives and is online since {uptime.since:.3f} s, and expired with"
            f" {missing} announcements missing since {heard:.3f} s",
        )


def check_dead(view: View, plan: Plan) -> None:
    """Check that the dead are gone in time; the observer is online."""
    now = view.process.network.now
    since = view.ledger.uptime(view.process).since
    if since is None:
        return
    for incarnation, life in view.ledger.dead.items():
        known = view.folded.get(life.service.key)
        if known is None or known.id != incarnation:
            continue
        by, why = _deadline(view, life, plan, since)
        if now > by:
            view.ledger.violated(
                "complete",
                f"{view.process.name} still has {incarnation} of {life.process.name}, {life.how}"
                f" at {life.died:.3f} s; {why}: by {by:.3f} s",
            )
            view.folded.pop(life.service.key)  # said once; the mismatch that follows is known


def _deadline(view: View, life: Life, plan: Plan, since: float) -> tuple[float, str]:
    """When a dead instance has to be gone, and why."""
    died = life.died or 0.0
    hard = max(died + LAG, since) + plan.ttl + plan.interval + _TIMERS
    if view.held():
        return hard + plan.ttl, "after its ttl, held once"
    if since > died:
        return hard, "after its ttl"
    ledger, incarnation = view.ledger, life.service.id
    if life.how == "withdrawn":
        lost = life.withdrawal_lost or incarnation in view.inbox.missed
        if not lost and _was_online(ledger, life, died, died + PROMPT):
            return died + PROMPT, "as soon as it was withdrawn"
    heard = view.inbox.arrived.get(incarnation, 0.0)
    early = heard + plan.ttl * SILENT + GONE + 2 * LAG + _TIMERS
    seen = life.how == "crashed" and died < heard + plan.ttl * SILENT
    if seen and early < hard:
        return early, "when its node was gone"
    return hard, "after its ttl"


def _was_online(ledger: Ledger, life: Life, since: float, until: float) -> bool:
    now = life.process.network.now
    return ledger.uptime(life.process).offline(since, min(until, now)) == 0
