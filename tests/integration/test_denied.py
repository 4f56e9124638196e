"""What is refused later, or to somebody who does not wait for an answer."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.restricted import BrokerWithUsers, Stage, broker_with_users
from tests.templates import Template, templates
from tests.tools import eventually, no_new_tasks

from aioregistry import (
    Registry,
    RegistryError,
    Service,
    ServiceEvent,
    ServiceNotFound,
    TransportError,
    Watch,
    link,
    vigil,
)
from aioregistry.transports.nats import NatsTransport

ADDRESS = "10.0.0.5:8080"


@pytest.fixture(params=["nats", "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerWithUsers]:
    with broker_with_users(request.param, tmp_path) as broker:
        yield broker


@pytest.fixture(autouse=True)
async def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(link, "CHECK_INTERVAL", 0.2)
    async with no_new_tasks():
        yield


def without(template: Template, *rules: str) -> Template:
    """The template less some lines."""
    lines = tuple(line for line in template.lines if not any(rule in line for rule in rules))
    assert len(lines) < len(template.lines)
    return Template(template.name, lines)


def for_orders_only(template: Template) -> Template:
    """The template for whoever may hear of one name, and not of a pattern."""
    lines = tuple(re.sub(r"register\.[>*]", "register.orders", line) for line in template.lines)
    assert lines != template.lines
    return Template(template.name, lines)


async def test_a_heartbeat_that_is_no_longer_allowed(
    broker: BrokerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    whole = templates(broker.scheme)["provider"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry(ttl=0.6)
        registration = await provider.register("orders", ADDRESS)
        assert provider.stats().denied == 0
        await broker.admit({"app": without(whole, "register.orders")})
        await eventually(lambda: provider.stats().denied)
        assert "registry.register.orders" in caplog.text
        assert provider.connected
        with pytest.raises(TransportError, match=r"registry\.register\.orders"):
            await registration.update(version="2")
        assert registration.service.version == ""
        await broker.admit({"app": whole})
        await asyncio.sleep(1)  # what was refused before is told by then
        await registration.update(version="3")
        assert registration.service.version == "3"


async def test_a_withdrawal_that_is_not_allowed(broker: BrokerWithUsers) -> None:
    whole = templates(broker.scheme)["provider"]
    await broker.admit({"app": without(whole, "unregister.orders")})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry()
        registration = await provider.register("orders", ADDRESS)
        with pytest.raises(TransportError, match=r"registry\.unregister\.orders"):
            await registration.unregister()
        assert provider.registered == ()


async def test_a_drain_whose_withdrawals_are_not_allowed_stays_all_the_same(
    broker: BrokerWithUsers,
) -> None:
    whole = templates(broker.scheme)["provider"]
    await broker.admit({"app": without(whole, "unregister.orders")})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry()
        await provider.register("orders", ADDRESS)
        clock = asyncio.get_running_loop().time
        started = clock()
        with pytest.raises(TransportError, match=r"registry\.unregister\.orders"):
            await provider.drain(0.5)
        assert clock() - started >= 0.5
        await provider.register("orders", ADDRESS)
        draining = asyncio.create_task(provider.drain(600))
        await asyncio.sleep(0.1)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining


async def test_what_may_be_heard_no_longer(broker: BrokerWithUsers) -> None:
    whole = templates(broker.scheme)["consumer"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        await admin.register("orders", ADDRESS)
        watch = consumer.watch("orders")
        assert (await anext(watch)).service.address == ADDRESS
        await broker.admit({"app": without(whole, ".register.")})
        with pytest.raises(TransportError, match=r"registry\.register\.orders"):
            await anext(watch)
        assert consumer.connected
        assert (await consumer.get_service("orders")).address == ADDRESS
        with pytest.raises(TransportError, match=r"refuses|no permission"):
            await consumer.get_service("billing", timeout=0.5)
        await broker.admit({"app": whole})
        await consumer.wait_connected(10)
        await admin.register("billing", ADDRESS)
        assert (await consumer.get_service("billing")).address == ADDRESS
        async with asyncio.timeout(10):
            assert (await anext(consumer.watch("orders"))).service.address == ADDRESS


async def test_a_refused_registration_makes_nobody_deaf(broker: BrokerWithUsers) -> None:
    """Who may hear of a service, and may not provide it, goes on hearing of it."""
    await broker.admit({"app": templates(broker.scheme)["consumer"]})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        await admin.register("orders", ADDRESS)
        watch = consumer.watch("orders")
        assert (await anext(watch)).service.address == ADDRESS
        with pytest.raises(TransportError, match=r"registry\.register\.orders"):
            await consumer.register("orders", "10.0.0.6:1")
        await eventually(lambda: consumer.stats().denied >= 2)  # its withdrawal, too
        await admin.register("orders", "10.0.0.7:1")
        assert (await anext(watch)).service.address == "10.0.0.7:1"
        await admin.unregister(Service("orders", ADDRESS))
        await admin.unregister(Service("orders", "10.0.0.7:1"))
        await eventually(lambda: not consumer.cached("orders"))
        with pytest.raises(ServiceNotFound):
            await consumer.get_service("orders", timeout=0.2)


async def test_who_cannot_be_found_by_lookups_says_so(
    broker: BrokerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["provider"], "ping.orders")})
    async with Stage(broker, "app", "registry") as stage:
        admin, provider = await stage.registry("admin"), await stage.registry()
        await admin.observe("orders")
        await provider.register("orders", ADDRESS)
        await eventually(lambda: admin.cached("orders"))  # its announcements are allowed
        await eventually(lambda: "lookups cannot find 'orders' by asking" in caplog.text)
        assert caplog.text.count("lookups cannot find") == 1


async def test_who_may_not_hear_pings_announces_no_more_for_that(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["provider"], "ping.orders")})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry()
        await provider.register("orders", ADDRESS)
        denied = provider.stats().denied
        await eventually(lambda: provider.stats().denied >= denied + 3)
        assert provider.stats().announcements_sent == 1


async def test_lookups_at_once_each_get_the_refusal(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["consumer"], ".ping.")})
    async with Stage(broker, "app", "registry") as stage:
        consumer = await stage.registry(lookup_timeout=5)
        lookups = [consumer.get_service("orders") for _ in range(5)]
        lookups += [consumer.get_service("orders", wait=False) for _ in range(5)]
        async with asyncio.timeout(3):
            errors = await asyncio.gather(*lookups, return_exceptions=True)
        assert all(isinstance(error, TransportError) for error in errors), errors
        assert len(set(map(id, errors))) == len(errors)
        with pytest.raises(TransportError, match=r"registry\.ping\.orders"):
            await consumer.get_services("orders")
        admin = await stage.registry("admin", ttl=0.6)
        await admin.register("orders", ADDRESS)
        await eventually(lambda: consumer.cached("orders"))  # its heartbeat is heard


async def test_who_may_not_be_asked_whether_it_lives_is_not_taken_for_dead(
    broker: BrokerWithUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "RECONNECTED", 0.2)
    await broker.admit({"app": without(templates(broker.scheme)["provider"], ".alive.")})
    async with Stage(broker, "app", "registry") as stage:
        admin, provider = await stage.registry("admin", ttl=0.9), await stage.registry(ttl=0.9)
        watch = admin.watch("orders")
        await provider.register("orders", ADDRESS)
        assert (await anext(watch)).service.address == ADDRESS
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await anext(watch)
        assert admin.stats().expired == 0
        assert provider.stats().denied


async def test_who_may_not_be_asked_any_longer_is_not_taken_for_dead(
    broker: BrokerWithUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vigil, "RECONNECTED", 0.2)
    whole = templates(broker.scheme)["provider"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        admin, provider = await stage.registry("admin", ttl=3), await stage.registry(ttl=3)
        watch = admin.watch("orders")
        await provider.register("orders", ADDRESS)
        assert (await anext(watch)).service.address == ADDRESS
        await broker.admit({"app": without(whole, ".alive.")})
        await eventually(lambda: provider.stats().denied and provider.connected)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await anext(watch)
        assert admin.stats().expired == 0


async def test_who_may_not_ask_who_lives_waits_for_the_ttl(
    broker: BrokerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    rule = ".alive." if broker.scheme == "nats" else "pubsub|numsub"
    await broker.admit({"app": without(templates(broker.scheme)["consumer"], rule)})
    async with Stage(broker, "app", "registry") as stage:
        raw, consumer = await stage.transport("admin"), await stage.registry()
        await consumer.observe("orders")
        await raw.publish(
            "registry.register.orders",
            b'{"name":"orders","add":"a:1","t":{"Duration":2000},"id":"i","seq":1,"node":"n"}',
        )
        await raw.flush()
        await eventually(lambda: consumer.cached("orders"))
        await eventually(lambda: consumer.stats().denied)
        await eventually(lambda: consumer.stats().expired)
        assert caplog.text.count("crashes will be seen no earlier than the ttl") == 1
        assert consumer.connected


@pytest.mark.parametrize("broker", ["nats"], indirect=True)
async def test_inboxes_of_ones_own(broker: BrokerWithUsers) -> None:
    template = templates("nats")["both"]
    own = Template(
        "own", tuple(line.replace("_INBOX.", "_INBOX_orders.") for line in template.lines)
    )
    await broker.admit({"app": own})
    transport = NatsTransport(broker.url("app"), inbox_prefix="_INBOX_orders")
    async with Registry(transport, lookup_timeout=5) as registry:
        await registry.register("orders", ADDRESS)
        assert isinstance(await registry.get_service("orders"), Service)
        assert registry.stats().denied == 0
    with pytest.raises(TransportError, match=r"needs both for '_INBOX\.>'") as failure:
        await Registry(broker.url("app")).start()
    assert failure.value.permanent


# What one call is told, whatever others do at the same time --------------------------------


async def test_each_of_two_that_observe_is_told(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["consumer"], ".register.")})
    async with Stage(broker, "app", "registry") as stage:
        consumer = await stage.registry()
        observing = [consumer.observe("orders") for _ in range(2)]
        errors = await asyncio.gather(*observing, return_exceptions=True)
        assert [type(error) for error in errors] == [TransportError] * 2
        assert consumer.observed == ()


async def test_to_find_nobody_is_not_to_hear_nobody(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["consumer"], ".register.")})
    async with Stage(broker, "app", "registry") as stage:
        consumer = await stage.registry()
        for call in (
            lambda: consumer.get_service("orders", wait=False),
            lambda: consumer.get_services("orders", wait=False),
            lambda: consumer.observe("orders"),
        ):
            with pytest.raises(TransportError, match=r"registry\.register\.orders"):
                await call()


async def test_a_refused_pattern_takes_no_name_along(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": for_orders_only(templates(broker.scheme)["consumer"])})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        watch = consumer.watch("orders")
        outcomes = await asyncio.gather(
            consumer.observe(">"), consumer.observe("orders"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [TransportError, type(None)]
        assert consumer.observed == ("orders",)
        await admin.register("orders", ADDRESS)
        async with asyncio.timeout(5):
            assert (await anext(watch)).service.address == ADDRESS


async def test_a_watch_of_a_name_survives_that_of_a_pattern(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": for_orders_only(templates(broker.scheme)["consumer"])})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        everything, orders = consumer.watch(), consumer.watch("orders")
        event, error = asyncio.create_task(_next(orders)), asyncio.create_task(_next(everything))
        with pytest.raises(TransportError):
            await error
        await admin.register("orders", ADDRESS)
        async with asyncio.timeout(5):
            assert (await event).service.address == ADDRESS


async def _next(watch: Watch) -> ServiceEvent:
    return await anext(watch)


async def test_a_lookup_does_not_wait_for_what_a_refused_pattern_would_bring(
    broker: BrokerWithUsers,
) -> None:
    await broker.admit({"app": for_orders_only(templates(broker.scheme)["consumer"])})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        await admin.register("orders", ADDRESS)
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(
                consumer.observe(">"),
                consumer.get_service("orders", timeout=60),
                return_exceptions=True,
            )
        assert isinstance(outcomes[0], TransportError)
        assert isinstance(outcomes[1], Service | TransportError)
        assert (await consumer.get_service("orders")).address == ADDRESS


# Rights that are given back ----------------------------------------------------------------


async def test_what_is_allowed_again_is_heard_again(broker: BrokerWithUsers) -> None:
    whole = templates(broker.scheme)["consumer"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        admin, consumer = await stage.registry("admin"), await stage.registry()
        await consumer.observe("orders")
        await broker.admit({"app": without(whole, ".register.")})
        await eventually(lambda: consumer.stats().denied and consumer.connected)
        await broker.admit({"app": whole})
        await eventually(lambda: consumer.connected)
        await admin.register("orders", ADDRESS)
        await eventually(lambda: consumer.cached("orders"))


async def test_pings_that_may_be_heard_again_are_answered_again(broker: BrokerWithUsers) -> None:
    whole = templates(broker.scheme)["provider"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        admin, provider = await stage.transport("admin"), await stage.registry()
        await provider.register("orders", ADDRESS)
        await broker.admit({"app": without(whole, "ping.orders", ".alive.")})
        await eventually(lambda: provider.stats().denied >= 2 and provider.connected)
        await broker.admit({"app": whole})
        announced: list[bytes] = []
        await admin.subscribe("registry.register.orders", lambda _, told: announced.append(told))
        async with asyncio.timeout(10):
            while not announced or b'"node"' not in announced[-1]:
                await admin.publish("registry.ping.orders", b"")
                await asyncio.sleep(0.1)
        caller = await stage.registry("admin")
        assert (await caller.get_service("orders")).address == ADDRESS


async def test_a_farewell_that_is_allowed_is_not_said_to_be_lost(
    broker: BrokerWithUsers, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.admit(
        {"app": without(templates(broker.scheme)["both"], ".register.>", ".register.*")}
    )
    async with Stage(broker, "app", "registry") as stage:
        admin, both = await stage.registry("admin"), await stage.registry()
        await admin.observe("orders")
        await both.register("orders", ADDRESS)
        lookup = asyncio.create_task(both.get_services("billing", timeout=60))
        await asyncio.sleep(0)
        await both.aclose()
        with pytest.raises(RegistryError):
            await lookup
        await eventually(lambda: not admin.cached("orders"))
    assert "withdrawals may be lost" not in caplog.text


async def test_what_came_while_it_was_refused_is_asked_for_when_it_is_observed_again(
    broker: BrokerWithUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CHECK_INTERVAL", 3600.0)  # it is the observer who asks
    whole = templates(broker.scheme)["consumer"]
    await broker.admit({"app": whole})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry("admin", ttl=3600.0)
        consumer = await stage.registry(ttl=3600.0)
        await consumer.observe("orders")
        await provider.register("orders", ADDRESS)
        await eventually(lambda: consumer.cached("orders"))
        await broker.admit({"app": without(whole, ".register.")})
        await eventually(lambda: consumer.connected)
        with contextlib.suppress(TransportError, ServiceNotFound):
            await consumer.get_service("other", wait=False)  # which makes it learn of that
        await provider.register("orders", "10.0.0.6:8080")
        await broker.admit({"app": whole})
        await consumer.wait_connected(5)
        await consumer.observe("orders")
        await eventually(lambda: len(consumer.cached("orders")) == 2)


async def test_what_was_heard_of_what_is_refused_half_way_is_forgotten(
    broker: BrokerWithUsers,
) -> None:
    await broker.admit({"app": without(templates(broker.scheme)["consumer"], ".unregister.")})
    async with Stage(broker, "app", "registry") as stage:
        provider = await stage.registry("admin", ttl=3600.0)
        consumer = await stage.registry(ttl=3600.0)
        registration = await provider.register("orders", ADDRESS)
        for number in range(10):
            changes = [registration.update(version=f"{number}.{each}") for each in range(3)]
            outcome, *_ = await asyncio.gather(
                consumer.observe("orders"), *changes, return_exceptions=True
            )
            assert isinstance(outcome, TransportError)
            assert consumer.service_names == ()


async def test_a_flush_cancelled_as_it_is_told_takes_no_refusal_along(
    broker: BrokerWithUsers,
) -> None:
    await broker.admit({"app": templates(broker.scheme)["consumer"]})
    async with Stage(broker, "app", "registry") as stage:
        transport = await stage.transport("app")
        await transport.publish("registry.register.orders", b"")
        flush: Any = asyncio.create_task(transport.flush())
        await asyncio.sleep(0)
        while not flush._fut_waiter.done():  # noqa: ASYNC110 - at the very moment
            await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait({flush})
        assert flush.cancelled()
        with pytest.raises(TransportError) as caught:
            await transport.flush()
        assert caught.value.subjects == {"registry.register.orders"}
        await transport.flush()  # it was told


async def test_a_cancelled_flush_takes_no_refusal_along(broker: BrokerWithUsers) -> None:
    await broker.admit({"app": templates(broker.scheme)["consumer"]})
    async with Stage(broker, "app", "registry") as stage:
        transport = await stage.transport("app")
        for turns in range(3):  # before the broker can have answered
            await transport.publish("registry.register.orders", b"")
            flush = asyncio.create_task(transport.flush())
            for _ in range(turns):
                await asyncio.sleep(0)
            flush.cancel()
            await asyncio.sleep(0.05)
            outcomes = await asyncio.gather(flush, transport.flush(), return_exceptions=True)
            told = [each for each in outcomes if isinstance(each, TransportError)]
            assert [error.subjects for error in told] == [{"registry.register.orders"}], turns
