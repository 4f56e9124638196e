"""What the server refuses: permissions, and subscriptions too many."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.integration.nats_transport.links import (
    DOWN,
    UP,
    Reports,
    check_delivery,
    collector,
    connected,
    eventually,
    ignore,
    served,
)

from aioregistry import Registry
from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.transports.nats import NatsTransport


async def test_a_refusal_tells_two_cases_of_one_subject_apart(restricted_broker: Broker) -> None:
    """The driver writes all in lower case."""
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        await transport.publish("denied.one", b"")
        await transport.publish("Denied.One", b"")
        await transport.subscribe("SECRET.plans", ignore)
        await transport.subscribe("secret.Plans", ignore)
        await transport.publish('Denied."Quoted\\É"', b"")
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.messages == {"Denied.One", 'Denied."Quoted\\É"'}
        assert refusal.value.subscriptions == {"secret.Plans"}


async def test_many_refusals_take_their_time_and_no_more(restricted_broker: Broker) -> None:
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        started = time.process_time()
        for number in range(10_000):
            await transport.publish(f"allowed.{number}", b"")
        await transport.flush()
        allowed = time.process_time() - started
        for number in range(10_000):
            await transport.publish(f"Denied.{number}", b"")
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert len(refusal.value.subjects) == 10_000
        # Each used to be sought among all before, which took more than a hundred times as long.
        denied = time.process_time() - started - allowed
        assert denied < 40 * allowed, (allowed, denied)


@pytest.mark.usefixtures("plain_driver")
async def test_refusals_as_the_driver_tells_them(restricted_broker: Broker) -> None:
    async with connected(restricted_broker.url, user="some", password="some") as (transport, _):
        await transport.publish("Denied.One", b"")
        await transport.subscribe("secret.Plans", ignore)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.messages == {"Denied.One"}
        assert refusal.value.subscriptions == {"secret.Plans"}


async def test_missing_permissions_surface_with_the_next_flush(
    restricted_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 12: the server's refusal comes later, and the driver writes it in lower case."""
    async with connected(restricted_broker.url, user="some", password="some") as (
        transport,
        reports,
    ):
        await transport.publish("Denied.One", b"")
        await transport.publish("allowed", b"")
        with pytest.raises(
            TransportError, match=r"no permission to publish to 'Denied.One'"
        ) as refusal:
            await transport.flush()
        assert refusal.value.subjects == {"Denied.One"}
        await transport.flush()
        await transport.subscribe("secret.Plans.*", ignore)
        with pytest.raises(TransportError, match=r"to subscribe to 'secret.Plans") as refusal:
            await transport.flush()
        assert refusal.value.subjects == {"secret.Plans.*"}
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            for _ in range(20):
                await transport.publish("Denied.One", b"")
                with pytest.raises(TransportError):
                    await transport.flush()
        assert caplog.text.count("Denied.One") <= 1
        assert reports.all == []


def taking(tmp_path: Path, subscriptions: int) -> AbstractAsyncContextManager[Broker]:
    """A broker that takes so many subscriptions of each connection."""
    config = tmp_path / "nats.conf"
    config.write_text(f"max_subscriptions: {subscriptions}")
    return served(config)


async def test_a_subscription_too_many_is_refused_and_ends_no_link(tmp_path: Path) -> None:
    """The server goes on; the driver would close itself, and each new link have the same end."""
    async with taking(tmp_path, 10) as broker, connected(broker.url) as (transport, reports):
        many = {f"many.{number}": collector() for number in range(12)}
        made = [await transport.subscribe(name, handler) for name, (_, handler) in many.items()]
        with pytest.raises(TransportError, match="no more subscriptions") as refusal:
            await transport.flush()
        # One is the transport's own inbox.
        assert refusal.value.subscriptions == {"many.9", "many.10", "many.11"}
        await transport.flush()  # it was told
        for name in many:
            await transport.publish(name, b"")
        await transport.flush()
        assert [name for name, (messages, _) in many.items() if messages] == list(many)[:9]
        for subscription in made[:5]:
            await subscription.unsubscribe()
        await check_delivery(transport)
        assert reports.all == []


async def test_who_may_be_refused_a_subscription_is_told(tmp_path: Path) -> None:
    """Some ended in between, so there is no telling whose the errors of the server are."""
    async with taking(tmp_path, 3) as broker, connected(broker.url) as (transport, reports):
        for number in range(5):
            subscription = await transport.subscribe(f"some.{number}", ignore)
            if number == 3:
                await subscription.unsubscribe()
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subscriptions >= {"some.2", "some.3", "some.4"}
        await transport.flush()
        assert reports.all == []


async def test_a_subscription_too_many_is_told_after_a_reconnect(tmp_path: Path) -> None:
    async with taking(tmp_path, 10) as broker, connected(broker.url) as (transport, reports):
        for number in range(12):
            await transport.subscribe(f"many.{number}", ignore)
        with pytest.raises(TransportError):
            await transport.flush()
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)
        await reports.until(DOWN, UP)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subscriptions == {"many.9", "many.10", "many.11"}
        await transport.flush()
        assert reports.states == [DOWN, UP]


@pytest.mark.usefixtures("plain_driver")
async def test_a_client_that_closes_itself_as_it_is_opened_is_not_connected(tmp_path: Path) -> None:
    async with taking(tmp_path, 10) as broker:
        transport = NatsTransport(broker.url)
        for number in range(12):
            await transport.subscribe(f"many.{number}", ignore)
        with pytest.raises(TransportError, match="maximum subscriptions exceeded"):
            await transport.connect(Reports())
        await transport.aclose()


async def test_a_registry_with_a_subscription_too_many_stays(tmp_path: Path) -> None:
    async with (
        taking(tmp_path, 12) as broker,
        Registry(broker.url, ttl=1) as registry,
        Registry(broker.url) as other,
    ):
        await other.observe("mine")
        await registry.register("mine", "10.0.0.5:1")
        outcomes = [
            await asyncio.gather(
                registry.get_service(f"no.{i}", timeout=0.1), return_exceptions=True
            )
            for i in range(8)
        ]
        assert isinstance(outcomes[-1][0], TransportError)
        with pytest.raises(TransportError, match="no more subscriptions"):
            await registry.observe("one.more")
        await asyncio.sleep(1.5)  # longer than the ttl
        assert registry.stats().losses == 0
        assert other.cached("mine")


async def test_a_subscription_too_many_is_told_though_another_is_not_permitted(
    tmp_path: Path,
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("""
        max_subscriptions: 3
        authorization { users = [
            {user: u, password: p, permissions: {subscribe: {deny: ["secret.>"]}}}
        ]}
    """)
    async with (
        served(config) as broker,
        connected(broker.url.replace("//", "//u:p@")) as (transport, reports),
    ):
        for subject in ("one", "two", "three", "secret.four"):  # and the inbox
            await transport.subscribe(subject, ignore)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subscriptions == {"three", "secret.four"}
        assert "no permission to subscribe to 'secret.four'" in str(refusal.value)
        assert reports.all == []


async def test_a_user_who_loses_the_inboxes_is_told_so_once(tmp_path: Path) -> None:
    """Each attempt has another inbox, and the log must not get a line for each of them."""
    config = tmp_path / "nats.conf"

    def deny(subject: str) -> None:
        user = f'{{user: u, password: p, permissions: {{subscribe: {{deny: ["{subject}"]}}}}}}'
        config.write_text(f"authorization {{ users = [{user}] }}")

    deny("secret.>")
    async with (
        served(config) as broker,
        connected(broker.url.replace("//", "//u:p@")) as (_, reports),
    ):
        deny("_INBOX.>")
        os.kill(broker.pid, signal.SIGHUP)
        await eventually(lambda: len(reports.all) >= 2)
        await asyncio.sleep(2)  # many attempts
        assert len({reason for _, reason in reports.all[1:]}) == 1
        assert reports.states == [DOWN, DOWN]


@pytest.mark.parametrize(
    "subject", ["secret.soft\u00adhyphen", "secret.private\ue000", "secret.\u2060"]
)
async def test_a_refusal_names_a_subject_that_go_does_not_print(
    tmp_path: Path, subject: str
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("""
        authorization { users = [
            {user: u, password: p, permissions: {
                publish: {deny: ["secret.>"]}, subscribe: {deny: ["secret.>"]}}}
        ]}
    """)
    async with (
        served(config) as broker,
        connected(broker.url.replace("//", "//u:p@")) as (transport, _),
    ):
        await transport.publish(subject, b"")
        await transport.subscribe(subject, ignore)
        with pytest.raises(TransportError) as refusal:
            await transport.flush()
        assert refusal.value.subjects == {subject}
        assert refusal.value.subscriptions == {subject}
