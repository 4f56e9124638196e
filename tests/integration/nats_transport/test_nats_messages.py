"""What is published arrives, in its order, where it should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from nats.aio.msg import Msg
from tests.integration.nats_transport.links import (
    Reports,
    borrowing,
    collector,
    connected,
    eventually,
    ignore,
)

from aioregistry.errors import TransportError
from aioregistry.testing.brokers import Broker
from aioregistry.transports.base import Handler
from aioregistry.transports.nats import NatsTransport


async def test_messages_arrive_in_order_at_every_matching_subscription(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        one, on_one = collector()
        deep, on_deep = collector()
        await transport.subscribe("order.*", on_one)
        await transport.subscribe("order.>", on_deep)
        for number in range(50):
            await transport.publish(f"order.{number}", b"x")
            await transport.publish(f"order.{number}.more", b"")
        await transport.flush()
        assert one == [(f"order.{number}", b"x") for number in range(50)]
        assert len(deep) == 100


async def test_a_subscription_is_in_place_before_the_next_publish(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        for number in range(100):
            messages, handler = collector()
            subscription = await transport.subscribe("place", handler)
            await transport.publish("place", b"%d" % number)
            await transport.flush()
            assert messages == [("place", b"%d" % number)]
            await subscription.unsubscribe()
            await subscription.unsubscribe()


async def test_subscriptions_made_before_the_link_come_with_it(nats_broker: Broker) -> None:
    transport = NatsTransport(nats_broker.url)
    kept, on_kept = collector()
    ended, on_ended = collector()
    await transport.subscribe("early", on_kept)
    await (await transport.subscribe("early", on_ended)).unsubscribe()
    await transport.connect(Reports())
    await transport.publish("early", b"1")
    await transport.flush()
    assert (kept, ended) == ([("early", b"1")], [])
    await transport.aclose()


async def test_nobody_listens_comes_back_to_every_handler_of_the_asker(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        exact, on_exact = collector()
        wild, on_wild = collector()
        foreign, on_foreign = collector()
        await transport.subscribe("answer.here", on_exact)
        await transport.subscribe("answer.>", on_wild)
        await other.subscribe("answer.>", on_foreign)
        await other.flush()
        await transport.publish("nobody.there", b"?", "answer.here")
        await transport.flush()
        await other.flush()
        assert exact == wild == [("answer.here", b"")]
        assert foreign == []


async def test_unheard_is_what_nobody_subscribes_to(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        await transport.subscribe(">", ignore)  # takes part in all, so nothing is unheard
        assert await transport.unheard(["a.1"]) == frozenset()
    async with connected(nats_broker.url) as (transport, _):
        async with connected(nats_broker.url) as (other, _):
            for number in range(0, 500, 2):
                await other.subscribe(f"unheard.{number}", ignore)
            await other.subscribe("answering", ignore)
            await other.flush()
            subjects = [f"unheard.{number}" for number in range(500)]
            assert await transport.unheard(subjects) == frozenset(subjects[1::2])
            assert await transport.unheard([]) == frozenset()

        async def all_gone() -> bool:
            return await transport.unheard(subjects) == frozenset(subjects)

        await eventually(all_gone)


async def test_an_answer_to_the_question_is_no_silence(nats_broker: Broker) -> None:
    async with (
        borrowing(nats_broker.url) as client,
        connected(nats_broker.url) as (transport, _),
    ):

        async def respond(msg: Msg) -> None:
            await msg.respond(b"")

        await subscribe_to(client, "alive.me", respond)
        assert await transport.unheard(["alive.me", "alive.you"]) == {"alive.you"}


async def subscribe_to(client: Any, subject: str, callback: Callable[[Msg], Any]) -> None:
    await client.subscribe(subject, cb=callback)
    await client.flush()
    await client.flush()  # the first one may overtake the subscription


async def test_wildcards_at_the_front_do_not_see_the_echoes(nats_broker: Broker) -> None:
    async with (
        connected(nats_broker.url) as (transport, _),
        connected(nats_broker.url) as (other, _),
    ):
        everything, handler = collector()
        await transport.subscribe(">", handler)
        await transport.subscribe("*.*.*", handler)
        await transport.flush()
        await other.flush()
        await other.unheard(["x.unheard"])
        await transport.unheard(["y.unheard"])
        await other.publish("end", b"")
        await eventually(lambda: ("end", b"") in everything)
        assert everything == [("x.unheard", b""), ("y.unheard", b""), ("end", b"")]


async def test_flush_is_a_barrier_for_every_subscription(nats_broker: Broker) -> None:
    """Pitfall 5: and each subscription of the driver has a queue and a task of its own."""
    async with (
        connected(nats_broker.url) as (receiver, _),
        connected(nats_broker.url) as (sender, _),
    ):
        counts = [0] * 10

        def counter(index: int) -> Handler:
            def count(_subject: str, _payload: bytes) -> None:
                counts[index] += 1

            return count

        for index in range(10):
            await receiver.subscribe(
                f"barrier.{index}.>" if index % 2 else "barrier.>", counter(index)
            )
        await receiver.flush()
        for burst in range(1, 6):
            for number in range(2000):
                await sender.publish(f"barrier.{number % 10}.x", b"x" * 300)
            await sender.flush()  # the broker has taken it, and has sent it on
            await receiver.flush()
            assert counts == [
                2000 * burst if index % 2 == 0 else 200 * burst for index in range(10)
            ]


async def test_flush_covers_what_the_caller_has_published(nats_broker: Broker) -> None:
    """Calls may share a round trip, but only one that began after each of them."""
    async with connected(nats_broker.url) as (transport, _):
        seen: set[str] = set()
        await transport.subscribe("cover.>", lambda subject, _: seen.add(subject))

        async def publish_and_flush(number: int) -> None:
            for round_ in range(20):
                subject = f"cover.{number}.{round_}"
                await transport.publish(subject, b"")
                await transport.flush()
                assert subject in seen

        await asyncio.gather(*map(publish_and_flush, range(100)))


async def test_a_cancelled_flush_harms_no_other(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        flushes = [asyncio.create_task(transport.flush()) for _ in range(10)]
        await asyncio.sleep(0)
        for flush in flushes[::2]:
            flush.cancel()
        await asyncio.wait(flushes)
        assert [flush.cancelled() for flush in flushes] == [True, False] * 5
        assert not any(flush.exception() for flush in flushes[1::2])


async def test_a_raising_handler_loses_no_message(
    nats_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """Pitfall 6: a callback that raises CancelledError would end the subscription."""
    async with connected(nats_broker.url) as (transport, reports):
        messages: list[bytes] = []

        def handler(_subject: str, payload: bytes) -> None:
            messages.append(payload)
            raise (asyncio.CancelledError if payload == b"cancel" else ValueError)

        await transport.subscribe("raise", handler)
        for payload in (b"cancel", b"error", b"cancel", b"end"):
            await transport.publish("raise", payload)
        await transport.flush()
        assert messages == [b"cancel", b"error", b"cancel", b"end"]
        assert reports.all == []
    assert "the handler of <subscription to 'raise'> raised" in caplog.text


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "white space",
        "line\r\nPUB x 0\r\n",
        "nul\0",
        "tab\t",
        "\x0b",
        "\x7f",
        "\ud800",
        "x" * 5000,
    ],
)
async def test_a_subject_that_would_harm_the_protocol_is_refused(
    nats_broker: Broker, subject: str
) -> None:
    """Pitfall 11."""
    async with connected(nats_broker.url) as (transport, reports):
        for call in (
            transport.publish(subject, b""),
            transport.publish("fine", b"", subject),
            transport.subscribe(subject, ignore),
            transport.unheard([subject]),
        ):
            with pytest.raises(ValueError, match="NATS cannot carry the subject"):
                await call
        await transport.flush()
        assert reports.all == []


@pytest.mark.parametrize("pattern", ["a..b", ".a", "a.", "a.>.b", "a*", "*a.b", "a.b>"])
async def test_a_pattern_that_nats_does_not_have_is_refused(
    nats_broker: Broker, pattern: str
) -> None:
    async with connected(nats_broker.url) as (transport, _):
        with pytest.raises(ValueError, match="NATS takes no pattern"):
            await transport.subscribe(pattern, ignore)


async def test_long_and_foreign_subjects_arrive(nats_broker: Broker) -> None:
    async with connected(nats_broker.url) as (transport, _):
        messages, handler = collector()
        subject = "lang." + "\U0001f600" * 470
        await transport.subscribe("lang.*", handler)
        await transport.publish(subject, b"")
        await transport.publish("nobody." + "\U0001f600" * 470, b"", subject)
        await transport.flush()
        assert messages == [(subject, b"")] * 2


async def test_a_payload_too_large_is_refused_with_both_sizes(restricted_broker: Broker) -> None:
    url = restricted_broker.url.replace("//", "//all:p%40ss@")
    async with connected(url) as (transport, reports):
        with pytest.raises(
            TransportError, match=r"'big' has 1001 bytes, .* at most 1000"
        ) as refusal:
            await transport.publish("big", b"x" * 1001)
        assert refusal.value.subjects == {"big"}
        await transport.publish("big", b"x" * 1000)
        await transport.flush()
        assert reports.all == []
