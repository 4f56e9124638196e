"""The promises of the registry, as checks of what an observer knows against the truth.

The numbers:

- *Sound*: an instance that lives, and has been online for `GRACE` or was offline for less than
  `CUT` within a ttl, is never removed at an observer whose link is up, unless three
  announcements in a row have not reached it. An outage of the provider counts as those that it
  could not send, and a rescue ping that was lost as the announcement that it would have
  brought. Within `GONE` of a reconnect of the observer nobody who lives is removed, whatever
  happened before.
- *Complete*: who was withdrawn is gone `PROMPT` after that, if both sides were online and the
  withdrawal was not lost; who crashed, `GONE` after the observer can miss it, if the broker
  noticed and the observer had heard it since its last reconnect; and in any case within its
  ttl plus one heartbeat interval, counted from `RETURN` after a reconnect of the observer. Each
  plus the time that messages take (`LAG`), which is needed up to three times before an expiry
  while the broker answers slowly; and plus one ttl where the guard against mass silence held.
  Who lives and is online is known `GRACE` after both came online, where no message gets lost;
  and if a late message of an older incarnation was taken for news, `GRACE` after that one is
  found gone, or after the first heartbeat that comes `LATE` after the mistake.
- *Convergent*: one ttl and one second after the faults stopped and the links are back, which
  takes 3 s at most, every observer knows the truth (plus one ttl where the guard held).
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

__all__ = [
    "GRACE",
    "LAG",
    "PROMPT",
    "check_dead",
    "check_event",
    "check_living",
    "check_removal",
    "note_mistake",
]

LAG: Final = 2 * (MAX_DELAY + MAX_LATENCY + BUCKET)
"""How long a message takes at most from process to process, in seconds."""

GRACE: Final = 0.3 + LAG
"""How long after coming online an instance can count on being heard, in seconds."""

PROMPT: Final = 0.3 + LAG
"""How long it takes at most until a withdrawal is known, in seconds."""

SILENT: Final = 0.8 / 3
"""The share of the ttl after which a silent node is looked for, where looking costs."""

GONE: Final = 2.15
"""How long a node has to be gone to be taken for dead, in seconds."""

LATE: Final = 2.0
"""How late a message may be, in seconds."""

RETURN: Final = 0.8
"""By so many seconds after a reconnect of the observer its time of grace begins."""

_CATCH_UPS: Final = 3
"""So often the broker is asked whether anything is on its way, if its answers are slow, before
something expires."""

_PAUSE: Final = 0.1

_TIMERS: Final = 0.3
"""What timers and tasks may add, in seconds."""

CUT: Final = 2.0
"""Who was offline for less than so many seconds within a ttl counts as connected."""

_ALLOWED: Final = 3
"""So many announcements in a row have to be lost before a living instance may expire."""


def check_event(view: View, event: ServiceEvent) -> None:
    """Check that nothing returns from the dead, or to an older content."""
    if event.type not in (EventType.REGISTERED, EventType.UPDATED):
        return
    service, ledger = event.service, view.ledger
    if service.id in view.inbox.withdrawn:
        ledger.violated(
            "consistent", f"{view.process.name}: {service.id} is back, though withdrawn"
        )
    life = ledger.lives.get(service.id)
    if life is None or service not in life.versions:
        ledger.violated("consistent", f"{view.process.name}: {service} was never announced")
        return
    previous = event.previous
    if previous is None or previous.id != service.id or previous not in life.versions:
        return
    if life.versions.index(service) < life.versions.index(previous):
        ledger.violated("consistent", f"{view.process.name}: {service.id} is back at an old state")


def note_mistake(view: View, event: ServiceEvent, plan: Plan) -> None:
    """Note until when an instance may be hidden by an older incarnation.

    A late message of that one looks like a restart to whoever did not know it. The mistake is
    seen when nothing more is heard of it; `LATE` after it, the living one is believed again.
    """
    key, now = event.service.key, view.process.network.now
    if event.type is EventType.UPDATED and event.previous is not None:
        lives = view.ledger.lives
        new, old = lives.get(event.service.id), lives.get(event.previous.id)
        if new is not None and old is not None and new.born < old.born:
            view.mistaken[key] = now
    elif key in view.mistaken and event.type is not EventType.REGISTERED:
        early = now < view.mistaken[key] + LATE
        view.mistaken[key] = view.mistaken[key] + LATE + plan.interval if early else now


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
    if now - view.inbox.connected < min(GONE, plan.ttl) and view.linked:
        ledger.violated(
            "sound", f"{where} lives, and expired right after a reconnect, in its time of grace"
        )
        return
    uptime = ledger.uptime(life.process)
    online = uptime.since is not None and now - uptime.since >= GRACE
    online = online or uptime.offline(now - plan.ttl, now) < CUT
    if not (online and view.linked):
        return
    heard = max(view.inbox.heard.get(event.service.id, 0.0), view.inbox.connected)
    missing = life.missing(heard, now, plan.interval, uptime)
    missing += view.inbox.unanswered(life, heard, now, LAG)
    if missing < _ALLOWED:
        ledger.violated(
            "sound",
            f"{where} lives, online since {uptime.since}, and expired with"
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


def check_living(view: View, plan: Plan) -> None:
    """Check that whoever lives is known, where no message gets lost; the observer is online."""
    ledger, latest = view.ledger, view.process.network.now - GRACE
    since = ledger.uptime(view.process).since
    if not plan.lossless or since is None or since > latest:
        return
    for key, life in ledger.alive.items():
        online = ledger.uptime(life.process).since
        if key in view.folded or online is None:
            continue
        if max(online, life.born, view.mistaken.get(key, 0.0)) > latest:
            continue
        ledger.violated(
            "complete",
            f"{view.process.name}, online since {since:.3f} s, does not know {life.service.id}"
            f" of {life.process.name}, online since {online:.3f} s",
        )
        return


def _deadline(view: View, life: Life, plan: Plan, since: float) -> tuple[float, str]:
    """When a dead instance has to be gone, and why."""
    died, now = life.died or 0.0, view.process.network.now
    hard = max(died + LAG, since + RETURN) + plan.ttl + plan.interval + _TIMERS
    if now <= view.ledger.stormy_until:
        hard += _CATCH_UPS * (LAG + _PAUSE)
    if view.held():
        return hard + plan.ttl, "after its ttl, held once"
    if since > died:
        return hard, "after its ttl"
    ledger, incarnation = view.ledger, life.service.id
    if life.how == "withdrawn":
        lost = life.withdrawal_lost or incarnation in view.inbox.missed
        if not lost and _was_online(ledger, life, died, died + PROMPT):
            return died + PROMPT, "as soon as it was withdrawn"
    if life.how == "crashed":
        return min(hard, _early(view, life, plan)), "when its node was gone"
    return hard, "after its ttl"


def _early(view: View, life: Life, plan: Plan) -> float:
    """When an observer has to know that a process is gone whose connection broke."""
    died, heard = life.died or 0.0, view.inbox.arrived.get(life.service.id, 0.0)
    if heard < view.inbox.connected:
        return float("inf")  # not heard since a reconnect: its ttl decides
    known = GONE + 4 * LAG + _TIMERS
    if plan.look_interval is not None:
        return max(died, heard) + known + 2 * plan.look_interval
    if died > heard + plan.ttl * SILENT:
        return float("inf")  # it was looked for, and found, before it crashed
    return heard + plan.ttl * SILENT + known


def _was_online(ledger: Ledger, life: Life, since: float, until: float) -> bool:
    now = life.process.network.now
    return ledger.uptime(life.process).offline(since, min(until, now)) == 0
