"""The permission templates of docs/security.md: sufficient, and no line too many."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.restricted import BrokerWithUsers, Stage, broker_with_users
from tests.templates import templates
from tests.tools import eventually

from aioregistry import EventType, ServiceNotFound, Status, TransportError, all_of, vigil

ADDRESS = "10.0.0.5:8080"

DEPENDS_ON = {
    "withdrawing": "announcing",
    "being found by a lookup": "announcing",
    "being found by a pattern": "announcing",
    "having a crash seen early": "announcing",
    "ceasing to listen": "withdrawing",
    "ceasing to observe": "observing",
    "ceasing to observe a pattern": "observing a pattern",
}
"""What cannot be shown without something else."""


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerWithUsers]:
    with broker_with_users(request.param, tmp_path) as broker:
        yield broker


@pytest.fixture
async def stage(broker: BrokerWithUsers) -> AsyncIterator[Stage]:
    """All three templates loaded, for the tenants `one` and `two`."""
    users = {
        f"{tenant}-{role}": template.for_tenant(tenant)
        for role, template in templates(broker.scheme).items()
        for tenant in ("one", "two")
    }
    await broker.admit(users)
    async with Stage(broker, "one-both", "one") as stage:
        yield stage


# What the templates promise ---------------------------------------------------------------


async def connecting(stage: Stage) -> None:
    await stage.registry(connect_timeout=5)


async def announcing(stage: Stage) -> None:
    admin, provider = await stage.registry("admin"), await stage.registry()
    await admin.observe("orders")
    await provider.register("orders", ADDRESS)
    await eventually(lambda: admin.cached("orders"))


async def withdrawing(stage: Stage) -> None:
    admin, provider = await stage.registry("admin"), await stage.registry()
    await admin.observe("orders")
    registration = await provider.register("orders", ADDRESS)
    await eventually(lambda: admin.cached("orders"))
    await registration.unregister()
    await eventually(lambda: not admin.cached("orders"))


async def _answers(stage: Stage, asked: str) -> None:
    # Whoever is not found within two seconds must not be found by a heartbeat, on a slow machine.
    admin, provider = await stage.registry("admin"), await stage.registry(ttl=3600.0)
    await provider.register("orders", ADDRESS)
    await admin.observe(asked)
    await eventually(lambda: admin.cached("orders"), within=2)


async def being_found_by_a_lookup(stage: Stage) -> None:
    await _answers(stage, "orders")


async def being_found_by_a_pattern(stage: Stage) -> None:
    await _answers(stage, ">")


async def having_a_crash_seen_early(stage: Stage) -> None:
    heard: list[bytes] = []
    admin = await stage.transport("admin")
    await admin.subscribe(
        f"{stage.prefix}.register.orders", lambda _, payload: heard.append(payload)
    )
    await (await stage.registry()).register("orders", ADDRESS)
    await eventually(lambda: heard)
    assert b'"node"' in heard[0]
    node = heard[0].partition(b'"node":"')[2].partition(b'"')[0].decode()
    assert await admin.unheard([f"{stage.prefix}.alive.{node}"]) == frozenset()


async def looking_up(stage: Stage) -> None:
    admin, consumer = await stage.registry("admin"), await stage.registry()
    await admin.register("orders", ADDRESS)
    assert (await consumer.get_service("orders")).address == ADDRESS
    with pytest.raises(ServiceNotFound):
        await consumer.get_service("nobody", wait=False)


async def _observing(stage: Stage, pattern: str) -> None:
    admin, consumer = await stage.registry("admin"), await stage.registry()
    await consumer.observe(pattern)
    registration = await admin.register("orders", ADDRESS)
    await eventually(lambda: consumer.cached("orders"))
    await registration.unregister()
    await eventually(lambda: not consumer.cached("orders"))


async def observing(stage: Stage) -> None:
    await _observing(stage, "orders")


async def observing_a_pattern(stage: Stage) -> None:
    await _observing(stage, ">")


async def seeing_crashes_early(stage: Stage) -> None:
    consumer, subject = await stage.transport(stage.user), f"{stage.prefix}.alive.gone"
    assert await consumer.unheard([subject]) == {subject}


async def ceasing_to_listen(stage: Stage) -> None:
    admin, provider = await stage.transport("admin"), await stage.registry()
    registration = await provider.register("orders", ADDRESS)
    await registration.unregister()
    subject = f"{stage.prefix}.ping.orders"
    for _ in range(100):
        if await admin.unheard([subject]):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it still listens")


async def ceasing_to_observe(stage: Stage) -> None:
    consumer = await stage.registry()
    await consumer.observe("orders")
    assert await stage.broker.subscriptions(stage.user) == (2, 0)
    await consumer.unobserve("orders")
    assert await stage.broker.subscriptions(stage.user) == (0, 0)


async def ceasing_to_observe_a_pattern(stage: Stage) -> None:
    consumer = await stage.registry()
    await consumer.observe(">")
    assert (await stage.broker.subscriptions(stage.user))[1] == 2
    await consumer.unobserve(">")
    assert (await stage.broker.subscriptions(stage.user))[1] == 0


PROMISES: dict[str, Callable[[Stage], Awaitable[None]]] = {
    promise.__name__.replace("_", " "): promise
    for promise in (
        connecting,
        announcing,
        withdrawing,
        being_found_by_a_lookup,
        being_found_by_a_pattern,
        having_a_crash_seen_early,
        looking_up,
        observing,
        observing_a_pattern,
        seeing_crashes_early,
        ceasing_to_listen,
        ceasing_to_observe,
        ceasing_to_observe_a_pattern,
    )
}


async def broken(
    broker: BrokerWithUsers, user: str, prefix: str, promises: frozenset[str]
) -> set[str]:
    """Those of the promises that are not kept to a user."""
    failed: set[str] = set()
    for promise in sorted(promises):
        async with Stage(broker, user, prefix) as stage:
            try:
                await PROMISES[promise](stage)
            except (TransportError, AssertionError):
                failed.add(promise)
    return failed


def consequences(purposes: frozenset[str], promises: frozenset[str]) -> set[str]:
    """The purposes, and what cannot be shown without them."""
    if "connecting" in purposes:
        return set(promises)
    lost = set(purposes)
    for promise in itertools.chain(promises, promises):
        if DEPENDS_ON.get(promise) in lost:
            lost.add(promise)
    return lost


@pytest.mark.parametrize("role", ["provider", "consumer", "both"])
async def test_every_line_is_needed_for_what_it_says(broker: BrokerWithUsers, role: str) -> None:
    template = templates(broker.scheme)[role]
    variants = [("", frozenset[str](), template), *template.variants()]
    users = {
        f"u{number}": variant.for_tenant(f"t{number}")
        for number, (_, _, variant) in enumerate(variants)
    }
    await broker.admit(users)
    outcomes = await asyncio.gather(
        *(
            broken(broker, f"u{number}", f"t{number}", template.purposes)
            for number in range(len(variants))
        )
    )
    for (line, purposes, _), outcome in zip(variants, outcomes, strict=True):
        assert outcome == consequences(purposes, template.purposes), f"without {line}"


# What they allow together, and what they do not -------------------------------------------


async def test_they_suffice_for_a_whole_life(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vigil, "RECONNECTED", 0.3)
    provider = await stage.registry("one-provider", ttl=3.0)
    consumer = await stage.registry("one-consumer", ttl=3.0)
    both = await stage.registry("one-both", ttl=3.0)
    for caller in (consumer, both):
        with pytest.raises(ServiceNotFound):
            await caller.get_service("orders", wait=False)
        await caller.observe(">")
    watch = consumer.watch("orders")
    registration = await provider.register("orders", ADDRESS)
    assert (await anext(watch)).type is EventType.REGISTERED
    await registration.set_status(Status.WARNING)
    assert (await anext(watch)).service.status is Status.WARNING
    assert len(await both.get_services("orders")) == 1
    await registration.unregister()
    assert (await anext(watch)).type is EventType.UNREGISTERED

    await provider.register("orders", ADDRESS)
    await both.register("orders", "10.0.0.6:8080")
    assert len(await consumer.get_services("orders", minimum=2)) == 2
    crash(provider)
    await eventually(lambda: len(consumer.cached("orders", where=all_of())) == 1)
    await eventually(lambda: len(both.cached("orders", where=all_of())) == 1)
    assert consumer.stats().expired == 1
    for registry in (consumer, both):
        assert registry.stats().denied == 0
        assert registry.stats().malformed == 0
    assert not [record for record in caplog.records if "permission" in record.getMessage().lower()]


def crash(registry: Any) -> None:
    """Let a registry end as a process does that is killed: without a word."""
    transport = registry._transport
    link = transport._keeper if hasattr(transport, "_keeper") else transport
    task = link._supervisor if hasattr(link, "_supervisor") else link._life
    task.cancel()


async def test_a_provider_announces_and_withdraws_its_own_names_only(stage: Stage) -> None:
    admin, provider = await stage.registry("admin"), await stage.registry("one-provider")
    await admin.observe(">")
    await admin.register("billing", ADDRESS)
    with pytest.raises(TransportError, match=r"one\.register\.billing") as refusal:
        await provider.register("billing", "10.6.6.6:1")
    assert "one.register.billing" in refusal.value.subjects
    raw = await stage.transport("one-provider")
    await raw.publish("one.unregister.billing", b'{"name":"billing","add":"10.0.0.5:8080"}')
    with pytest.raises(TransportError, match=r"one\.unregister\.billing"):
        await raw.flush()
    with pytest.raises(TransportError, match=r"one\.register\.orders"):
        await provider.get_service("orders")
    assert [service.address for service in admin.cached("billing")] == [ADDRESS]
    assert admin.stats().withdrawals_received == 0


async def test_a_consumer_cannot_register(stage: Stage) -> None:
    admin, consumer = await stage.registry("admin"), await stage.registry("one-consumer")
    await admin.observe(">")
    with pytest.raises(TransportError, match=r"one\.register\.orders"):
        await consumer.register("orders", ADDRESS)
    assert consumer.registered == ()
    assert consumer.stats().denied >= 1
    assert admin.stats().announcements_received == 0
    await admin.register("orders", ADDRESS)
    assert (await consumer.get_service("orders")).address == ADDRESS  # the rest still works


@pytest.mark.parametrize("role", ["provider", "consumer", "both"])
async def test_tenants_are_separate(stage: Stage, role: str) -> None:
    """A user of tenant `two` that pretends to be one of tenant `one`."""
    admin = await stage.registry("admin")
    await admin.register("orders", ADDRESS)
    await admin.observe(">")
    stranger = await stage.registry(f"two-{role}")
    for refused in (
        stranger.register("orders", "10.6.6.6:1"),
        stranger.observe("orders"),
        stranger.observe(">"),
        stranger.get_service("orders"),
        anext(stranger.watch("orders")),
    ):
        with pytest.raises(TransportError, match=r"\bone\.\w+\.") as refusal:
            await refused
        assert all(subject.startswith("one.") for subject in refusal.value.subjects)
    assert stranger.stats().announcements_received == 0
    assert [service.address for service in admin.cached("orders")] == [ADDRESS]
