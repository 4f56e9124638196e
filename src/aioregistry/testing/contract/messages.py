"""Clauses about messages: which of them arrive where, how, and in which order."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aioregistry.errors import TransportError
from aioregistry.testing.contract.stage import Inbox, Stage, abridged, require, require_instance
from aioregistry.transports.base import PromptTransport, Transport

if TYPE_CHECKING:
    from collections.abc import Sequence


async def is_a_transport(stage: Stage) -> None:
    """It has every method of `Transport`."""
    require_instance(stage.make(), Transport, "make()")


async def address_has_no_credentials(stage: Stage) -> None:
    """`address` is text for people, without user or password."""
    address = stage.make().address
    require_instance(address, str, "address")
    require(address != "", "address is empty")
    for url in address.split(","):
        require("@" not in urlsplit(url).netloc, f"address is {address!r}")


async def delivers_exact_subject(stage: Stage) -> None:
    """A message arrives at the subscriptions to its subject, and at no other."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject = stage.subject("orders")
    wanted, other = Inbox(), Inbox("the handler of another subject")
    await subscriber.subscribe(subject, wanted)
    for neighbour in ("order", "orders2", "Orders", "orders.a"):
        await subscriber.subscribe(stage.subject(neighbour), other)
    await subscriber.subscribe(stage.subject(), other)
    await subscriber.flush()
    await publisher.publish(subject, b"1")
    await stage.expect(wanted, [(subject, b"1")])
    await stage.expect(other, [])


async def payloads_are_bytes(stage: Stage) -> None:
    """Any payload arrives unchanged: empty, binary, 60 KiB."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject = stage.subject("payloads")
    payloads = [
        b"",
        b"\0",
        b"\r\n",
        b"MSG a 1 2\r\nhi\r\n",
        bytes(range(256)),
        b"\xff\xfe caf\xe9",
        "café".encode(),
        secrets.token_bytes(60 * 1024),
        b" " * 60 * 1024,
    ]
    inbox = Inbox()
    await subscriber.subscribe(subject, inbox)
    await subscriber.flush()
    for payload in payloads:
        await publisher.publish(subject, payload)
    await inbox.reaches(len(payloads))
    require(all(type(payload) is bytes for payload in inbox.payloads), "a payload is not bytes")
    require(inbox.payloads == payloads, f"{abridged(inbox.messages)} arrived")


async def large_payload_harms_nobody(stage: Stage) -> None:
    """A payload of 8 MiB arrives, or is refused naming its subject; the link stays either way."""
    transport = await stage.connect()
    subject, large = stage.subject("large"), bytes(8 * 2**20)
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    expected = [(subject, b"small")]
    try:
        await transport.publish(subject, large)
        await transport.flush()
        expected.append((subject, large))
    except TransportError as error:
        named = error.subjects == frozenset({subject})
        require(named, f"{error!r} has the subjects {set(error.subjects)}")
    await transport.publish(subject, b"small")
    await stage.expect(inbox, expected)
    require(not stage.reports, f"on_state was called with {stage.reports}")


async def keeps_order(stage: Stage) -> None:
    """The messages of one publisher to one subject arrive in the order of publishing."""
    count = 3000
    publishers = [await stage.connect(), await stage.connect()]
    subject = stage.subject("order")
    inboxes = [Inbox("an exact subscription"), Inbox("a wildcard subscription")]
    receiver = await stage.connect()
    await receiver.subscribe(subject, inboxes[0])
    await receiver.subscribe(stage.subject("*"), inboxes[1])
    await receiver.flush()

    async def publish(publisher: int) -> None:
        for number in range(count):
            await publishers[publisher].publish(subject, b"%d %d" % (publisher, number))
            if number % 100 == 0:
                await publishers[publisher].flush()  # thousands at once may well be congestion

    await asyncio.gather(publish(0), publish(1))
    for inbox in inboxes:
        await inbox.reaches(2 * count)
        for publisher in (0, 1):
            mark = b"%d " % publisher
            numbers = [int(each[2:]) for each in inbox.payloads if each.startswith(mark)]
            require(
                numbers == list(range(count)),
                f"{inbox.owner} got {len(numbers)} messages, out of order at {_first_gap(numbers)}",
            )


async def keeps_order_of_calls(stage: Stage) -> None:
    """Messages that many tasks publish to one subject arrive in the order of the calls."""
    transport = await stage.connect()
    subject = stage.subject("calls")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    payloads = [b"%d" % number for number in range(500)]
    await asyncio.gather(*(transport.publish(subject, payload) for payload in payloads))
    await inbox.reaches(len(payloads))
    require(inbox.payloads == payloads, f"they arrived as {abridged(inbox.payloads)}")


async def sends_now_or_says_no(stage: Stage) -> None:
    """`publish_now`, where there is one, sends a message in its turn, or says that it did not."""
    transport = stage.make()
    if not isinstance(transport, PromptTransport):
        return
    subject = stage.subject("now")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    require(not transport.publish_now(subject, b"early"), "it says yes before connect")
    await stage.connect(transport)
    sent: list[bytes] = []
    for number in range(200):
        payload = b"%d" % number
        if number % 3 == 0:
            await transport.publish(subject, payload)
            sent.append(payload)
        elif transport.publish_now(subject, payload):
            sent.append(payload)
    if transport.publish_now(subject, large := bytes(8 * 2**20)):
        sent.append(large)
    await stage.expect(inbox, [(subject, payload) for payload in sent])
    require(inbox.payloads == sent, f"they arrived as {abridged(inbox.payloads)}")
    await stage.close(transport)
    require(not transport.publish_now(subject, b"late"), "it says yes after aclose")


async def hears_itself(stage: Stage) -> None:
    """What a transport publishes arrives at its own subscriptions too."""
    transport = await stage.connect()
    exact, wildcard = Inbox("the exact subscription"), Inbox("the wildcard subscription")
    subject = stage.subject("echo")
    await transport.subscribe(subject, exact)
    await transport.subscribe(stage.subject("*"), wildcard)
    await transport.publish(subject, b"1")
    await stage.expect(exact, [(subject, b"1")])
    await stage.expect(wildcard, [(subject, b"1")])


async def star_is_one_token(stage: Stage) -> None:
    """`*` stands for exactly one token, wherever it is in the pattern."""
    await _check_patterns(
        stage,
        {
            "*": ["a", "b", "ab"],
            "a.*": ["a.b", "a.c"],
            "*.b": ["a.b"],
            "*.*": ["a.b", "a.c"],
            "a.*.c": ["a.b.c"],
            "*.*.*": ["a.b.c", "x.y.z"],
            "a.b.*.*": ["a.b.c.d"],
        },
        ["a", "b", "ab", "a.b", "a.c", "a.b.c", "x.y.z", "a.b.c.d"],
    )


async def tail_is_one_or_more_tokens(stage: Stage) -> None:
    """A final `>` stands for one token or more, never for none."""
    await _check_patterns(
        stage,
        {
            ">": ["a", "ab", "a.b", "a.b.c", "a.b.c.d", "ab.c"],
            "a.>": ["a.b", "a.b.c", "a.b.c.d"],
            "a.b.>": ["a.b.c", "a.b.c.d"],
            "*.>": ["a.b", "a.b.c", "a.b.c.d", "ab.c"],
            "*.b.>": ["a.b.c", "a.b.c.d"],
            "a.*.>": ["a.b.c", "a.b.c.d"],
        },
        ["a", "ab", "a.b", "a.b.c", "a.b.c.d", "ab.c"],
    )


async def odd_characters_are_literal(stage: Stage) -> None:
    """Whatever means something to a glob, a regular expression or a driver means itself."""
    odd = ["[ab]", "?", "\\", "\\x", "^a", "{a,b}", "$1", "(a|b)", "a+", "#", "%41", "café", "日本"]
    plain = ["a", "b", "cafe", "aa", "41", "1"]
    patterns = {f"{text}.*": [f"{text}.x"] for text in odd}
    patterns |= {f"*.{text}": [f"x.{text}"] for text in odd}
    patterns |= {f"{text}.>": [f"{text}.x"] for text in odd}
    patterns |= {f"{text}.x": [f"{text}.x"] for text in odd}
    subjects = [subject for text in odd + plain for subject in (f"{text}.x", f"x.{text}")]
    await _check_patterns(stage, patterns, subjects)


async def each_subscription_gets_its_own_copy(stage: Stage) -> None:
    """Every matching subscription gets a message exactly once: identical, overlapping, anywhere."""
    publisher, one, other = [await stage.connect() for _ in range(3)]
    subject = stage.subject("a", "b")
    patterns = [
        subject,
        subject,
        stage.subject("*", "b"),
        stage.subject("*", "b"),
        stage.subject(">"),
    ]
    patterns += [stage.subject("a", "*"), stage.subject("a", ">"), stage.subject("*", "*")]
    inboxes: list[Inbox] = []
    for transport in (one, other, publisher):
        for pattern in patterns:
            inboxes.append(Inbox(f"the subscription to {pattern!r}"))
            await transport.subscribe(pattern, inboxes[-1])
        await transport.flush()
    expected = [(subject, b"%d" % number) for number in range(20)]
    for _, payload in expected:
        await publisher.publish(subject, payload)
    for inbox in inboxes:
        await stage.expect(inbox, expected)


async def one_handler_may_subscribe_twice(stage: Stage) -> None:
    """The same handler with the same pattern twice is two subscriptions."""
    transport = await stage.connect()
    subject = stage.subject("twice")
    for pattern in (subject, stage.subject("*")):
        inbox = Inbox()
        subscriptions = [await transport.subscribe(pattern, inbox) for _ in range(2)]
        await transport.publish(subject, b"1")
        await stage.expect(inbox, [(subject, b"1")] * 2)
        await subscriptions[0].unsubscribe()
        await transport.publish(subject, b"2")
        await stage.expect(inbox, [(subject, b"1")] * 2 + [(subject, b"2")])
        await subscriptions[1].unsubscribe()


async def subscription_is_in_place_at_once(stage: Stage) -> None:
    """What a transport publishes right after `subscribe` returned finds the subscription."""
    transport = await stage.connect()
    reply = stage.subject("reply")
    nobody = Inbox("the handler for nobody-there")
    await transport.subscribe(reply, nobody)
    for number in range(100):
        subject = stage.subject("round", number)
        pattern = subject if number % 2 else stage.subject("*", number)
        inbox = Inbox(f"the subscription to {pattern!r}")
        await transport.subscribe(pattern, inbox)
        await transport.publish(subject, b"1", reply)
        await inbox.reaches(1)
    await stage.expect(nobody, [])


async def subscribing_takes_no_wait(stage: Stage) -> None:
    """A transport that calls itself `ordered` subscribes without waiting for the broker."""
    transport = await stage.connect()
    if not transport.ordered:
        return
    for pattern in (stage.subject("news"), stage.subject("*"), stage.subject(">")):
        subscribing = asyncio.ensure_future(transport.subscribe(pattern, Inbox("a handler")))
        await asyncio.sleep(0)
        require(subscribing.done(), f"it is ordered, but to subscribe to {pattern!r} it waits")


async def unsubscribe_stops_delivery(stage: Stage) -> None:
    """No handler call follows `unsubscribe`; twice is harmless, and twins stay."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject = stage.subject("news")
    for pattern in (subject, stage.subject("*"), stage.subject(">")):
        ended, twin = Inbox("the ended subscription"), Inbox("its twin")
        subscription = await subscriber.subscribe(pattern, ended)
        twin_subscription = await subscriber.subscribe(pattern, twin)
        await subscriber.flush()
        await publisher.publish(subject, b"before")
        await stage.expect(ended, [(subject, b"before")])
        for _ in range(50):
            await publisher.publish(subject, b"meanwhile")
        await subscription.unsubscribe()
        seen = len(ended.messages)
        await subscription.unsubscribe()
        await publisher.publish(subject, b"after")
        await stage.expect(
            twin, [(subject, b"before"), *[(subject, b"meanwhile")] * 50, (subject, b"after")]
        )
        late = ended.messages[seen:]
        require(not late, f"after unsubscribe the handler still got {abridged(late)}")
        await twin_subscription.unsubscribe()
        await twin_subscription.unsubscribe()


async def subscribes_again(stage: Stage) -> None:
    """A pattern that was unsubscribed can be subscribed to again, at once and often."""
    transport = await stage.connect()
    subject = stage.subject("again")
    for pattern in (subject, stage.subject("*")):
        for number in range(30):
            inbox = Inbox(f"subscription number {number}")
            subscription = await transport.subscribe(pattern, inbox)
            await transport.publish(subject, b"%d" % number)
            await inbox.reaches(1)
            require(inbox.payloads == [b"%d" % number], f"{inbox.payloads} arrived")
            await subscription.unsubscribe()


async def _check_patterns(
    stage: Stage, patterns: dict[str, list[str]], subjects: Sequence[str]
) -> None:
    """Check that each pattern gets exactly the messages of the subjects listed for it."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    inboxes = {pattern: Inbox(f"the subscription to {pattern!r}") for pattern in patterns}
    for pattern, inbox in inboxes.items():
        await subscriber.subscribe(stage.subject(pattern), inbox)
    await subscriber.flush()
    for subject in subjects:
        await publisher.publish(stage.subject(subject), subject.encode())
    for pattern, inbox in inboxes.items():
        expected = [(stage.subject(each), each.encode()) for each in patterns[pattern]]
        await stage.expect(inbox, expected)


def _first_gap(numbers: Sequence[int]) -> int:
    return next((at for at, number in enumerate(numbers) if at != number), len(numbers))
