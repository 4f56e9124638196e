"""The contract of `Transport` as checks that run against a real broker.

    @pytest.mark.parametrize("check", transport_checks, ids=str)
    async def test_my_transport(check: TransportCheck) -> None:
        await check(lambda: MyTransport("my://localhost"))

Every check uses a random subject prefix, so the broker may be in use by others. It has to be
one server: between the servers of a cluster, no flush is a barrier.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aioregistry.errors import TransportError
from aioregistry.transports.base import LinkState, Subscription, Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

__all__ = ["TransportCheck", "check_transport", "transport_checks"]

_PATIENCE: Final = 10.0  # seconds, for one thing to happen on a busy machine
_CHECK_LIMIT: Final = 50.0  # seconds, for one check
_CLOSE_LIMIT: Final = 2.0  # seconds: what the contract grants to aclose
_BREATH: Final = 0.01  # seconds between two looks at what only the broker knows

Message = tuple[str, bytes]


class TransportCheck:
    """One clause of the contract.

    Attributes:
        name: for `check_transport(only=...)`, and what `str()` gives.
        clause: what the transport has to do, in words.
    """

    def __init__(self, run: Callable[[_Stage], Awaitable[None]]) -> None:
        self.name = getattr(run, "__name__", str(run))
        self.clause = (run.__doc__ or "").strip()
        self._run = run

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<TransportCheck {self.name}: {self.clause}>"

    async def __call__(self, make: Callable[[], Transport]) -> None:
        """Check the clause on fresh transports, and close them.

        Args:
            make: makes one more transport to the same broker, not connected yet.

        Raises:
            AssertionError: the clause is broken; the text names it and says how.
        """
        stage = _Stage(make)
        limit = asyncio.timeout(_CHECK_LIMIT)
        try:
            async with limit:
                await self._run(stage)
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            text = f"not done within {_CHECK_LIMIT:g} s" if limit.expired() else _describe(error)
            raise AssertionError(f"{self.name}: {self.clause}\n  but: {text}") from error
        finally:
            await stage.clear()


async def check_transport(make: Callable[[], Transport], *, only: str | None = None) -> None:
    """Check a transport against the whole contract, or one clause of it.

    Args:
        make: makes one more transport to the same broker, not connected yet.
        only: the name of the one check to make.

    Raises:
        AssertionError: a clause is broken; the text names it and says how.
        ValueError: no check is called `only`.
    """
    wanted = [check for check in transport_checks if only in (None, check.name)]
    if not wanted:
        names = ", ".join(map(str, transport_checks))
        raise ValueError(f"no check is called {only!r}; there are: {names}")
    for check in wanted:
        await check(make)


class _Inbox:
    """A handler that keeps what it is called with."""

    def __init__(self, owner: str = "the handler") -> None:
        self.owner = owner
        self.messages: list[Message] = []
        self._arrival = asyncio.Event()

    def __call__(self, subject: str, payload: bytes) -> None:
        self.messages.append((subject, payload))
        self._arrival.set()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload in self.messages]

    async def reaches(self, count: int) -> None:
        """Wait until `count` messages have arrived."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while len(self.messages) < count:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            raise AssertionError(
                f"{self.owner} got {len(self.messages)} of {count} messages"
                f" within {_PATIENCE:g} s: {_abridged(self.messages)}"
            ) from None


class _Stage:
    """The transports of one check, and subjects that nobody else uses."""

    def __init__(self, make: Callable[[], Transport]) -> None:
        self._make = make
        self._prefix = f"check-{secrets.token_hex(6)}"
        self._made: list[Transport] = []
        self._connected: list[Transport] = []
        self.reports: list[tuple[LinkState, str]] = []

    def subject(self, *tokens: object) -> str:
        return ".".join((self._prefix, *map(str, tokens)))

    def make(self) -> Transport:
        """A transport that nobody connected yet."""
        transport = self._make()
        self._made.append(transport)
        return transport

    async def connect(self, transport: Transport | None = None) -> Transport:
        """Connect a transport, a new one unless given."""
        transport = transport or self.make()
        await transport.connect(lambda state, reason: self.reports.append((state, reason)))
        self._connected.append(transport)
        return transport

    async def close(self, transport: Transport) -> None:
        self._connected.remove(transport)
        await transport.aclose()

    async def settle(self) -> None:
        """Wait until nothing is on its way: out of every transport, then into every one."""
        for transport in self._connected * 2:
            await transport.flush()

    async def expect(self, inbox: _Inbox, messages: Iterable[Message]) -> None:
        """Wait for exactly these messages, in any order, and make sure that no more come."""
        expected = sorted(messages)
        await inbox.reaches(len(expected))
        await self.settle()
        missing = Counter(expected) - Counter(inbox.messages)
        surplus = Counter(inbox.messages) - Counter(expected)
        _require(not missing, f"{inbox.owner} missed {_abridged(missing.elements())}")
        _require(
            not surplus, f"{inbox.owner} got more than it should: {_abridged(surplus.elements())}"
        )

    async def clear(self) -> None:
        """Close everything; what goes wrong in it is for the checks of aclose to find."""
        for transport in self._made:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(transport.aclose(), _PATIENCE)


async def is_a_transport(stage: _Stage) -> None:
    """It has every method of `Transport`."""
    _require_instance(stage.make(), Transport, "make()")


async def address_has_no_credentials(stage: _Stage) -> None:
    """`address` is text for people, without user or password."""
    address = stage.make().address
    _require_instance(address, str, "address")
    _require(address != "", "address is empty")
    for url in address.split(","):
        _require("@" not in urlsplit(url).netloc, f"address is {address!r}")


async def delivers_exact_subject(stage: _Stage) -> None:
    """A message arrives at the subscriptions to its subject, and at no other."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject = stage.subject("orders")
    wanted, other = _Inbox(), _Inbox("the handler of another subject")
    await subscriber.subscribe(subject, wanted)
    for neighbour in ("order", "orders2", "Orders", "orders.a"):
        await subscriber.subscribe(stage.subject(neighbour), other)
    await subscriber.subscribe(stage.subject(), other)
    await subscriber.flush()
    await publisher.publish(subject, b"1")
    await stage.expect(wanted, [(subject, b"1")])
    await stage.expect(other, [])


async def payloads_are_bytes(stage: _Stage) -> None:
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
    inbox = _Inbox()
    await subscriber.subscribe(subject, inbox)
    await subscriber.flush()
    for payload in payloads:
        await publisher.publish(subject, payload)
    await inbox.reaches(len(payloads))
    _require(all(type(payload) is bytes for payload in inbox.payloads), "a payload is not bytes")
    _require(inbox.payloads == payloads, f"{_abridged(inbox.messages)} arrived")


async def keeps_order(stage: _Stage) -> None:
    """The messages of one publisher to one subject arrive in the order of publishing."""
    count = 3000
    publishers = [await stage.connect(), await stage.connect()]
    subject = stage.subject("order")
    inboxes = [_Inbox("an exact subscription"), _Inbox("a wildcard subscription")]
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
            _require(
                numbers == list(range(count)),
                f"{inbox.owner} got {len(numbers)} messages, out of order at {_first_gap(numbers)}",
            )


async def keeps_order_of_calls(stage: _Stage) -> None:
    """Messages that many tasks publish to one subject arrive in the order of the calls."""
    transport = await stage.connect()
    subject = stage.subject("calls")
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    payloads = [b"%d" % number for number in range(500)]
    await asyncio.gather(*(transport.publish(subject, payload) for payload in payloads))
    await inbox.reaches(len(payloads))
    _require(inbox.payloads == payloads, f"they arrived as {_abridged(inbox.payloads)}")


async def hears_itself(stage: _Stage) -> None:
    """What a transport publishes arrives at its own subscriptions too."""
    transport = await stage.connect()
    exact, wildcard = _Inbox("the exact subscription"), _Inbox("the wildcard subscription")
    subject = stage.subject("echo")
    await transport.subscribe(subject, exact)
    await transport.subscribe(stage.subject("*"), wildcard)
    await transport.publish(subject, b"1")
    await stage.expect(exact, [(subject, b"1")])
    await stage.expect(wildcard, [(subject, b"1")])


async def star_is_one_token(stage: _Stage) -> None:
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


async def tail_is_one_or_more_tokens(stage: _Stage) -> None:
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


async def odd_characters_are_literal(stage: _Stage) -> None:
    """Whatever means something to a glob, a regular expression or a driver means itself."""
    odd = ["[ab]", "?", "\\", "\\x", "^a", "{a,b}", "$1", "(a|b)", "a+", "#", "%41", "café", "日本"]
    plain = ["a", "b", "cafe", "aa", "41", "1"]
    patterns = {f"{text}.*": [f"{text}.x"] for text in odd}
    patterns |= {f"*.{text}": [f"x.{text}"] for text in odd}
    patterns |= {f"{text}.>": [f"{text}.x"] for text in odd}
    patterns |= {f"{text}.x": [f"{text}.x"] for text in odd}
    subjects = [subject for text in odd + plain for subject in (f"{text}.x", f"x.{text}")]
    await _check_patterns(stage, patterns, subjects)


async def each_subscription_gets_its_own_copy(stage: _Stage) -> None:
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
    inboxes: list[_Inbox] = []
    for transport in (one, other, publisher):
        for pattern in patterns:
            inboxes.append(_Inbox(f"the subscription to {pattern!r}"))
            await transport.subscribe(pattern, inboxes[-1])
        await transport.flush()
    expected = [(subject, b"%d" % number) for number in range(20)]
    for _, payload in expected:
        await publisher.publish(subject, payload)
    for inbox in inboxes:
        await stage.expect(inbox, expected)


async def one_handler_may_subscribe_twice(stage: _Stage) -> None:
    """The same handler with the same pattern twice is two subscriptions."""
    transport = await stage.connect()
    subject = stage.subject("twice")
    for pattern in (subject, stage.subject("*")):
        inbox = _Inbox()
        subscriptions = [await transport.subscribe(pattern, inbox) for _ in range(2)]
        await transport.publish(subject, b"1")
        await stage.expect(inbox, [(subject, b"1")] * 2)
        await subscriptions[0].unsubscribe()
        await transport.publish(subject, b"2")
        await stage.expect(inbox, [(subject, b"1")] * 2 + [(subject, b"2")])
        await subscriptions[1].unsubscribe()


async def subscription_is_in_place_at_once(stage: _Stage) -> None:
    """What a transport publishes right after `subscribe` returned finds the subscription."""
    transport = await stage.connect()
    reply = stage.subject("reply")
    nobody = _Inbox("the handler for nobody-there")
    await transport.subscribe(reply, nobody)
    for number in range(100):
        subject = stage.subject("round", number)
        pattern = subject if number % 2 else stage.subject("*", number)
        inbox = _Inbox(f"the subscription to {pattern!r}")
        await transport.subscribe(pattern, inbox)
        await transport.publish(subject, b"1", reply)
        await inbox.reaches(1)
    await stage.expect(nobody, [])


async def subscribing_takes_no_wait(stage: _Stage) -> None:
    """A transport that calls itself `ordered` subscribes without waiting for the broker."""
    transport = await stage.connect()
    if not transport.ordered:
        return
    for pattern in (stage.subject("news"), stage.subject("*"), stage.subject(">")):
        subscribing = asyncio.ensure_future(transport.subscribe(pattern, _Inbox("a handler")))
        await asyncio.sleep(0)
        _require(subscribing.done(), f"it is ordered, but to subscribe to {pattern!r} it waits")


async def unsubscribe_stops_delivery(stage: _Stage) -> None:
    """No handler call follows `unsubscribe`; twice is harmless, and twins stay."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject = stage.subject("news")
    for pattern in (subject, stage.subject("*"), stage.subject(">")):
        ended, twin = _Inbox("the ended subscription"), _Inbox("its twin")
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
        _require(not late, f"after unsubscribe the handler still got {_abridged(late)}")
        await twin_subscription.unsubscribe()
        await twin_subscription.unsubscribe()


async def subscribes_again(stage: _Stage) -> None:
    """A pattern that was unsubscribed can be subscribed to again, at once and often."""
    transport = await stage.connect()
    subject = stage.subject("again")
    for pattern in (subject, stage.subject("*")):
        for number in range(30):
            inbox = _Inbox(f"subscription number {number}")
            subscription = await transport.subscribe(pattern, inbox)
            await transport.publish(subject, b"%d" % number)
            await inbox.reaches(1)
            _require(inbox.payloads == [b"%d" % number], f"{inbox.payloads} arrived")
            await subscription.unsubscribe()


async def nobody_there_answers_the_asker(stage: _Stage) -> None:
    """With nobody at the subject, an empty message arrives at the asker's own reply handlers."""
    asker, other = await stage.connect(), await stage.connect()
    reply, silent = stage.subject("reply", "orders"), stage.subject("silent")
    own = [
        _Inbox("the asker's exact reply subscription"),
        _Inbox("the asker's wildcard reply subscription"),
        _Inbox("the asker's second wildcard reply subscription"),
    ]
    stranger = _Inbox("another transport's reply subscription")
    for inbox, pattern in zip(
        own, (reply, stage.subject("reply", "*"), stage.subject("reply", ">")), strict=True
    ):
        await asker.subscribe(pattern, inbox)
    await other.subscribe(reply, stranger)
    await other.subscribe(stage.subject("reply", ">"), stranger)
    await stage.settle()
    for times in (1, 2, 3):
        await asker.publish(silent, b"anybody?", reply)
        for inbox in own:
            await stage.expect(inbox, [(reply, b"")] * times)
    await stage.expect(stranger, [])


async def nobody_there_at_a_wildcard(stage: _Stage) -> None:
    """The empty message also finds an asker whose only reply subscription is a wildcard."""
    asker = await stage.connect()
    inbox = _Inbox("the asker's wildcard reply subscription")
    await asker.subscribe(stage.subject("reply", "*"), inbox)
    replies = [stage.subject("reply", number) for number in range(20)]
    for reply in replies:
        await asker.publish(stage.subject("silent"), b"", reply)
    await stage.expect(inbox, [(reply, b"") for reply in replies])


async def somebody_there_means_no_empty_message(stage: _Stage) -> None:
    """With somebody at the subject, exactly or by wildcard, no empty message arrives."""
    asker, listener = await stage.connect(), await stage.connect()
    reply = stage.subject("reply")
    replies, requests = _Inbox("the asker's reply subscription"), _Inbox("the listener")
    await asker.subscribe(reply, replies)
    await listener.subscribe(stage.subject("exact"), requests)
    await listener.subscribe(stage.subject("wild", "*"), requests)
    await asker.subscribe(stage.subject("own"), requests)
    await stage.settle()
    subjects = [stage.subject("exact"), stage.subject("wild", "card"), stage.subject("own")]
    for subject in subjects:
        await asker.publish(subject, b"?", reply)
    await stage.expect(requests, [(subject, b"?") for subject in subjects])
    await stage.expect(replies, [])


async def nobody_left_is_noticed(stage: _Stage) -> None:
    """Once the last listener is gone, the empty message comes."""
    asker, listener = await stage.connect(), await stage.connect()
    subject, reply = stage.subject("left"), stage.subject("reply")
    replies = _Inbox("the asker's reply subscription")
    await asker.subscribe(reply, replies)
    subscription = await listener.subscribe(subject, _Inbox())
    await stage.settle()
    await subscription.unsubscribe()

    async def told() -> bool:
        await asker.publish(subject, b"?", reply)
        await stage.settle()
        return bool(replies.messages)

    await _eventually(told, "no empty message came")


async def unheard_tells_the_truth(stage: _Stage) -> None:
    """`unheard` gives the subjects that nobody, here or elsewhere, subscribes to exactly."""
    asker, listener = await stage.connect(), await stage.connect()
    heard = {stage.subject("heard"), stage.subject("heard", "a", "b"), stage.subject("own")}
    silent = {
        stage.subject(*name) for name in (("hear",), ("heard", "a"), ("own", "a"), ("[ho]*",))
    }
    for subject in heard - {stage.subject("own")}:
        await listener.subscribe(subject, _Inbox())
    await asker.subscribe(stage.subject("own"), _Inbox())
    await stage.settle()
    await _expect_unheard(asker, heard | silent, silent)
    for subject in heard | silent:
        await _expect_unheard(asker, [subject], silent & {subject})
    await _expect_unheard(asker, [], set())


async def unheard_minds_wildcards(stage: _Stage) -> None:
    """A subject that somebody hears by a wildcard subscription is not unheard."""
    asker, listener = await stage.connect(), await stage.connect()
    await listener.subscribe(stage.subject("wild", "*"), _Inbox())
    await listener.subscribe(stage.subject("rest", ">"), _Inbox())
    await asker.subscribe(stage.subject("own", "*"), _Inbox())
    await stage.settle()
    heard = {stage.subject(*name) for name in (("wild", "a"), ("rest", "a", "b"), ("own", "a"))}
    # Not wild.a.b: a broker whose own wildcards span dots may know no better.
    silent = {stage.subject(*name) for name in (("wild",), ("rest",), ("own",), ("none", "a"))}
    await _expect_unheard(asker, heard | silent, silent)


async def unheard_takes_many_subjects(stage: _Stage) -> None:
    """Thousands of subjects in one call of `unheard` are answered, all of them rightly."""
    asker, listener = await stage.connect(), await stage.connect()
    subjects = [stage.subject("many", number) for number in range(3000)]
    heard = set(subjects[::50])
    for subject in heard:
        await listener.subscribe(subject, _Inbox())
    await stage.settle()
    await _expect_unheard(asker, subjects, set(subjects) - heard)
    await _expect_unheard(asker, frozenset(subjects), set(subjects) - heard)


async def unheard_notices_who_leaves(stage: _Stage) -> None:
    """A subject is unheard soon after its listener unsubscribed or closed."""
    asker, one, other = [await stage.connect() for _ in range(3)]
    ended, closed = stage.subject("ended"), stage.subject("closed")
    subscription = await one.subscribe(ended, _Inbox())
    await other.subscribe(closed, _Inbox())
    await stage.settle()
    await _expect_unheard(asker, [ended, closed], set())
    await subscription.unsubscribe()
    await stage.close(other)

    async def both_unheard() -> bool:
        return len(await asker.unheard([ended, closed])) == 2

    await _eventually(both_unheard, "one of them still counts as heard")


async def flush_is_a_barrier(stage: _Stage) -> None:
    """After `flush` the broker has what was published, and the handlers what was sent here."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject, total = stage.subject("flush"), 0
    own, others = _Inbox("the publisher itself"), _Inbox("the other transport")
    await publisher.subscribe(subject, own)
    await subscriber.subscribe(subject, others)
    await subscriber.flush()
    for count in (1, 2, 10, 500) * 10:
        for _ in range(count):
            await publisher.publish(subject, b"x" * 100)
        total += count
        await publisher.flush()
        _require(len(own.messages) == total, f"{own.owner} had {len(own.messages)} of {total}")
        await subscriber.flush()
        _require(
            len(others.messages) == total, f"{others.owner} had {len(others.messages)} of {total}"
        )


async def subscribes_before_connect(stage: _Stage) -> None:
    """A subscription made before `connect` comes into force with it, unless ended before."""
    transport = stage.make()
    subject = stage.subject("early")
    exact, wildcard, ended = (
        _Inbox(f"the {kind} subscription") for kind in ("exact", "wildcard", "ended")
    )
    await transport.subscribe(subject, exact)
    await transport.subscribe(stage.subject("*"), wildcard)
    subscription = await transport.subscribe(subject, ended)
    await subscription.unsubscribe()
    await stage.connect(transport)
    await transport.publish(subject, b"1")
    await stage.expect(exact, [(subject, b"1")])
    await stage.expect(wildcard, [(subject, b"1")])
    await stage.expect(ended, [])


async def without_a_link_it_raises(stage: _Stage) -> None:
    """Before `connect`, what needs the broker raises `TransportError` and keeps nothing."""
    transport = stage.make()
    subject = stage.subject("nothing")
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    await _raises_transport_error("publish", partial(transport.publish, subject, b"kept?"))
    await _raises_transport_error("flush", transport.flush)
    await _raises_transport_error("unheard", partial(transport.unheard, [subject]))
    await stage.connect(transport)
    await transport.publish(subject, b"1")
    await stage.expect(inbox, [(subject, b"1")])


async def first_success_is_not_reported(stage: _Stage) -> None:
    """`on_state` hears of losses and recoveries only, not of the connect that was awaited."""
    transport = await stage.connect()
    await transport.publish(stage.subject("quiet"), b"")
    await stage.settle()
    _require(not stage.reports, f"on_state was called with {stage.reports}")


async def raising_handler_harms_nobody(stage: _Stage) -> None:
    """A handler that raises, even CancelledError, costs no other message and no subscription."""
    transport = await stage.connect()
    subject = stage.subject("raise")
    calls = Counter[type[BaseException]]()

    def raising(error: type[BaseException]) -> Callable[[str, bytes], None]:
        def handler(_subject: str, _payload: bytes) -> None:
            calls[error] += 1
            raise error

        return handler

    inboxes = [_Inbox("a subscription made before"), _Inbox("a subscription made after")]
    await transport.subscribe(subject, inboxes[0])
    for error in (RuntimeError, asyncio.CancelledError):
        await transport.subscribe(subject, raising(error))
        await transport.subscribe(stage.subject("*"), raising(error))
    await transport.subscribe(subject, inboxes[1])
    expected = [(subject, b"%d" % number) for number in range(10)]
    for _, payload in expected:
        await transport.publish(subject, payload)
        await transport.flush()
    for inbox in inboxes:
        await stage.expect(inbox, expected)
    for kind, count in calls.items():
        _require(count == 20, f"the handlers that raise {kind.__name__} got {count} of 20 messages")


async def cancellation_leaves_it_usable(stage: _Stage) -> None:
    """A cancelled call ends, and the transport goes on working."""
    transport = await stage.connect()
    subject = stage.subject("cancel")
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "publish": partial(transport.publish, subject, b"maybe"),
        "subscribe": partial(transport.subscribe, stage.subject("other"), _Inbox()),
        "unheard": partial(transport.unheard, [stage.subject("nobody")]),
        "flush": transport.flush,
    }
    for turns in range(8):
        for name, call in calls.items():
            await _cancel_after(turns, name, call)
    await transport.publish(subject, b"still there")
    await stage.settle()
    _require(inbox.payloads[-1:] == [b"still there"], "a message published afterwards is missing")
    nobody = stage.subject("nobody")
    await _expect_unheard(transport, [subject, nobody], {nobody})


async def cancellation_concerns_nobody_else(stage: _Stage) -> None:
    """Of many calls under way, only the cancelled ones are cancelled."""
    transport = await stage.connect()
    subject = stage.subject("cancel", "many")
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    for turns in range(5):
        kept = [b"%d %d" % (turns, number) for number in range(50)]
        tasks = [asyncio.ensure_future(transport.publish(subject, payload)) for payload in kept]
        doomed = [asyncio.ensure_future(transport.publish(subject, b"maybe")) for _ in range(50)]
        doomed += [asyncio.ensure_future(transport.flush()) for _ in range(10)]
        tasks += [asyncio.ensure_future(transport.flush()) for _ in range(10)]
        await _turns(turns)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*tasks)
        await asyncio.wait(doomed, timeout=_PATIENCE)
        await stage.settle()
        missing = set(kept) - set(inbox.payloads)
        _require(not missing, f"the messages {_abridged(sorted(missing))} were lost")


async def cancelled_subscribe_leaves_nothing(stage: _Stage) -> None:
    """A `subscribe` that was cancelled leaves no interest behind: nobody could end it."""
    transport, asker = await stage.connect(), await stage.connect()
    subjects: set[str] = set()
    for turns in range(8):
        exact, heard = stage.subject("exact", turns), stage.subject("wild", "x", turns)
        for pattern, subject in ((exact, exact), (stage.subject("wild", "*", turns), heard)):
            subscribe = partial(transport.subscribe, pattern, _Inbox())
            if await _cancel_after(turns, "subscribe", subscribe):
                subjects.add(subject)

    async def all_unheard() -> bool:
        return await asker.unheard(subjects) == frozenset(subjects)

    await _eventually(all_unheard, "somebody still listens where subscribe was cancelled")


async def tasks_may_change(stage: _Stage) -> None:
    """It can be connected in one task, used in another, and closed in a third."""
    transport = await asyncio.create_task(stage.connect())
    subject = stage.subject("tasks")
    inbox = _Inbox()
    subscription = await asyncio.create_task(_subscribe(transport, subject, inbox))
    await transport.publish(subject, b"1")
    await stage.expect(inbox, [(subject, b"1")])
    await asyncio.create_task(subscription.unsubscribe())
    await asyncio.create_task(stage.close(transport))
    _require(not _is_cancelled(), "the task that used it was cancelled")


async def closing_is_final(stage: _Stage) -> None:
    """After `aclose` every method raises `TransportError`, except `aclose` itself."""
    unused, used = stage.make(), await stage.connect()
    subject = stage.subject("final")
    subscription = await used.subscribe(subject, _Inbox())
    await stage.close(used)
    await unused.aclose()
    for transport in (used, unused):
        await transport.aclose()
        await asyncio.gather(transport.aclose(), transport.aclose())
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "connect": partial(transport.connect, _ignore_state),
            "publish": partial(transport.publish, subject, b""),
            "subscribe": partial(transport.subscribe, subject, _Inbox()),
            "unheard": partial(transport.unheard, [subject]),
            "flush": transport.flush,
        }
        for name, call in calls.items():
            await _raises_transport_error(f"{name} after aclose", call)
    await subscription.unsubscribe()
    _require(used.address != "", "the address of a closed transport is empty")


async def closing_is_prompt(stage: _Stage) -> None:
    """`aclose` takes at most two seconds, also in the middle of traffic, and never raises."""
    transport, other = await stage.connect(), await stage.connect()
    subject = stage.subject("prompt")
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    await transport.flush()
    for _ in range(500):
        await other.publish(subject, b"x" * 1000)
        await transport.publish(stage.subject("nobody"), b"x" * 1000)
    calls = [asyncio.ensure_future(call()) for call in (transport.flush, transport.flush)]
    await _turns(1)
    begin = asyncio.get_running_loop().time()
    await stage.close(transport)
    taken = asyncio.get_running_loop().time() - begin
    seen = len(inbox.messages)
    _require(taken <= _CLOSE_LIMIT, f"it took {taken:.1f} s")
    done, pending = await asyncio.wait(calls, timeout=_PATIENCE)
    _require(not pending, "a flush that was under way never ended")
    for call in done:
        error = call.exception()
        _require(error is None or isinstance(error, TransportError), f"the flush raised {error!r}")
    await other.publish(subject, b"late")
    await stage.settle()
    late = inbox.messages[seen:]
    _require(not late, f"after aclose the handler still got {_abridged(late)}")


async def closing_leaves_nothing(stage: _Stage) -> None:
    """After `aclose` no task of the transport is left, nor an interest at the broker."""
    asker = await stage.connect()
    before = asyncio.all_tasks()
    transport = await stage.connect()
    subject = stage.subject("tasks")
    await transport.subscribe(subject, _Inbox())
    await transport.subscribe(stage.subject("wild", "*"), _Inbox())
    await transport.publish(subject, b"1", stage.subject("reply"))
    await transport.unheard([subject])
    await transport.flush()
    await stage.close(transport)

    async def no_task_left() -> bool:
        return not asyncio.all_tasks() - before

    await _eventually(no_task_left, f"left: {asyncio.all_tasks() - before}", patience=1.0)
    subjects = {subject, stage.subject("wild", "a")}

    async def all_unheard() -> bool:
        return await asker.unheard(subjects) == frozenset(subjects)

    await _eventually(all_unheard, "the broker still knows its subscriptions")


async def closing_concerns_nobody_else(stage: _Stage) -> None:
    """Other transports keep their link and their subscriptions, also to the same pattern."""
    one, other = await stage.connect(), await stage.connect()
    subject = stage.subject("shared")
    exact, wildcard = _Inbox("the exact subscription"), _Inbox("the wildcard subscription")
    for transport in (one, other):
        await transport.subscribe(subject, exact if transport is other else _Inbox())
        await transport.subscribe(stage.subject("*"), wildcard if transport is other else _Inbox())
    await stage.settle()
    await stage.close(one)
    await other.publish(subject, b"1")
    await stage.expect(exact, [(subject, b"1")])
    await stage.expect(wildcard, [(subject, b"1")])
    newcomer = await stage.connect()
    await newcomer.publish(subject, b"2")
    await stage.expect(exact, [(subject, b"1"), (subject, b"2")])
    _require(not stage.reports, f"on_state was called with {stage.reports}")


async def many_tasks_at_once(stage: _Stage) -> None:
    """Hundreds of tasks may subscribe, publish, flush and unsubscribe at the same time."""
    transports = [await stage.connect(), await stage.connect()]
    workers, rounds = 200, 5
    shared = stage.subject("shared")
    everything = _Inbox("the subscription to what all tasks publish")
    await transports[0].subscribe(shared, everything)
    await transports[0].flush()

    async def work(number: int) -> None:
        transport, subject = transports[number % 2], stage.subject("own", number)
        pattern = subject if number % 3 else stage.subject("*", number)
        inbox = _Inbox(f"the subscription to {pattern!r}")
        subscription = await transport.subscribe(pattern, inbox)
        for count in range(rounds):
            await transport.publish(subject, b"%d" % count)
            await transport.publish(shared, b"%d %d" % (number, count))
        await transport.flush()
        await inbox.reaches(rounds)
        nobody = stage.subject("nobody")
        await _expect_unheard(transport, [nobody], {nobody})
        await subscription.unsubscribe()
        expected = [b"%d" % count for count in range(rounds)]
        _require(inbox.payloads == expected, f"{inbox.owner} got {_abridged(inbox.messages)}")

    await asyncio.gather(*map(work, range(workers)))
    await stage.expect(
        everything,
        [
            (shared, b"%d %d" % (number, count))
            for number in range(workers)
            for count in range(rounds)
        ],
    )


async def large_payload_harms_nobody(stage: _Stage) -> None:
    """A payload of 8 MiB arrives, or is refused naming its subject; the link stays either way."""
    transport = await stage.connect()
    subject, large = stage.subject("large"), bytes(8 * 2**20)
    inbox = _Inbox()
    await transport.subscribe(subject, inbox)
    expected = [(subject, b"small")]
    try:
        await transport.publish(subject, large)
        await transport.flush()
        expected.append((subject, large))
    except TransportError as error:
        named = error.subjects == frozenset({subject})
        _require(named, f"{error!r} has the subjects {set(error.subjects)}")
    await transport.publish(subject, b"small")
    await stage.expect(inbox, expected)
    _require(not stage.reports, f"on_state was called with {stage.reports}")


transport_checks: Final[tuple[TransportCheck, ...]] = tuple(
    map(
        TransportCheck,
        (
            is_a_transport,
            address_has_no_credentials,
            delivers_exact_subject,
            payloads_are_bytes,
            large_payload_harms_nobody,
            keeps_order,
            keeps_order_of_calls,
            hears_itself,
            star_is_one_token,
            tail_is_one_or_more_tokens,
            odd_characters_are_literal,
            each_subscription_gets_its_own_copy,
            one_handler_may_subscribe_twice,
            subscription_is_in_place_at_once,
            subscribing_takes_no_wait,
            unsubscribe_stops_delivery,
            subscribes_again,
            subscribes_before_connect,
            without_a_link_it_raises,
            first_success_is_not_reported,
            nobody_there_answers_the_asker,
            nobody_there_at_a_wildcard,
            somebody_there_means_no_empty_message,
            nobody_left_is_noticed,
            unheard_tells_the_truth,
            unheard_minds_wildcards,
            unheard_takes_many_subjects,
            unheard_notices_who_leaves,
            flush_is_a_barrier,
            raising_handler_harms_nobody,
            cancellation_leaves_it_usable,
            cancellation_concerns_nobody_else,
            cancelled_subscribe_leaves_nothing,
            tasks_may_change,
            many_tasks_at_once,
            closing_is_final,
            closing_is_prompt,
            closing_leaves_nothing,
            closing_concerns_nobody_else,
        ),
    )
)
"""Every clause of the contract, the simple ones first."""


async def _check_patterns(
    stage: _Stage, patterns: dict[str, list[str]], subjects: Sequence[str]
) -> None:
    """Check that each pattern gets exactly the messages of the subjects listed for it."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    inboxes = {pattern: _Inbox(f"the subscription to {pattern!r}") for pattern in patterns}
    for pattern, inbox in inboxes.items():
        await subscriber.subscribe(stage.subject(pattern), inbox)
    await subscriber.flush()
    for subject in subjects:
        await publisher.publish(stage.subject(subject), subject.encode())
    for pattern, inbox in inboxes.items():
        expected = [(stage.subject(each), each.encode()) for each in patterns[pattern]]
        await stage.expect(inbox, expected)


async def _expect_unheard(
    transport: Transport, subjects: Collection[str], expected: set[str]
) -> None:
    given = await transport.unheard(subjects)
    _require_instance(given, frozenset, "what unheard gave")
    wrongly = given - expected
    _require(not wrongly, f"unheard names {_abridged(sorted(wrongly))}, where somebody listens")
    missed = expected - given
    _require(not missed, f"unheard does not name {_abridged(sorted(missed))}, where nobody listens")


async def _raises_transport_error(what: str, call: Callable[[], Awaitable[object]]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            await call()
    except TransportError:
        return
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r}, not TransportError") from error
    raise AssertionError(f"{what} raised nothing")


async def _eventually(
    condition: Callable[[], Awaitable[bool]], otherwise: str, *, patience: float | None = None
) -> None:
    """Wait for what only the broker knows, by asking again and again."""
    loop = asyncio.get_running_loop()
    patience = _PATIENCE if patience is None else patience
    deadline = loop.time() + patience
    while not await condition():
        _require(loop.time() < deadline, f"{otherwise}, even after {patience:g} s")
        await asyncio.sleep(_BREATH)


async def _cancel_after(turns: int, name: str, call: Callable[[], Awaitable[object]]) -> bool:
    """Begin a call, cancel it so many turns of the event loop later; whether that ended it."""
    task = asyncio.ensure_future(call())
    await _turns(turns)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=_PATIENCE)
    _require(bool(done), f"{name} goes on {_PATIENCE:g} s after it was cancelled")
    if not task.cancelled():
        await task
    return task.cancelled()


async def _turns(count: int) -> None:
    """Let the event loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


async def _subscribe(transport: Transport, pattern: str, inbox: _Inbox) -> Subscription:
    return await transport.subscribe(pattern, inbox)


def _require(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - reads as assert does
    if not condition:
        raise AssertionError(otherwise)


def _require_instance(value: object, kind: type, what: str) -> None:
    _require(isinstance(value, kind), f"{what} is {value!r}, not a {kind.__name__}")


def _ignore_state(_state: LinkState, _reason: str) -> None:
    """The state handler of a transport that will not get a link."""


def _is_cancelled() -> bool:
    """Whether it is this task that somebody wants to end, and not one that it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


def _first_gap(numbers: Sequence[int]) -> int:
    return next((at for at, number in enumerate(numbers) if at != number), len(numbers))


def _abridged(items: Iterable[object], limit: int = 5) -> str:
    """A text for some of the items, each cut where it is long."""
    everything = list(items)
    shown = [
        text if len(text) <= 80 else f"{text[:77]}..." for text in map(repr, everything[:limit])
    ]
    more = [f"and {len(everything) - limit} more"] if len(everything) > limit else []
    return ", ".join(shown + more) or "nothing"
