"""Clauses about the life of a transport: connecting, cancelling, closing, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Final

from aioregistry.errors import TransportError
from aioregistry.testing.contract.stage import (
    Inbox,
    Stage,
    abridged,
    cancel_after,
    ended,
    eventually,
    expect_unheard,
    is_cancelled,
    raises_transport_error,
    require,
    spin,
)
from aioregistry.transports.base import LinkState, Subscription, Transport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CLOSE_LIMIT: Final = 2.0  # seconds: what the contract grants to aclose


async def subscribes_before_connect(stage: Stage) -> None:
    """A subscription made before `connect` comes into force with it, unless ended before."""
    transport = stage.make()
    subject = stage.subject("early")
    exact, wildcard, ended = (
        Inbox(f"the {kind} subscription") for kind in ("exact", "wildcard", "ended")
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


async def without_a_link_it_raises(stage: Stage) -> None:
    """Before `connect`, what needs the broker raises `TransportError` and keeps nothing."""
    transport = stage.make()
    subject = stage.subject("nothing")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    await raises_transport_error("publish", partial(transport.publish, subject, b"kept?"))
    await raises_transport_error("flush", transport.flush)
    await raises_transport_error("unheard", partial(transport.unheard, [subject]))
    await stage.connect(transport)
    await transport.publish(subject, b"1")
    await stage.expect(inbox, [(subject, b"1")])


async def first_success_is_not_reported(stage: Stage) -> None:
    """`on_state` hears of losses and recoveries only, not of the connect that was awaited."""
    transport = await stage.connect()
    await transport.publish(stage.subject("quiet"), b"")
    await stage.settle()
    require(not stage.reports, f"on_state was called with {stage.reports}")


async def flush_is_a_barrier(stage: Stage) -> None:
    """After `flush` the broker has what was published, and the handlers what was sent here."""
    publisher, subscriber = await stage.connect(), await stage.connect()
    subject, total = stage.subject("flush"), 0
    own, others = Inbox("the publisher itself"), Inbox("the other transport")
    await publisher.subscribe(subject, own)
    await subscriber.subscribe(subject, others)
    await subscriber.flush()
    for count in (1, 2, 10, 500) * 10:
        for _ in range(count):
            await publisher.publish(subject, b"x" * 100)
        total += count
        await publisher.flush()
        require(len(own.messages) == total, f"{own.owner} had {len(own.messages)} of {total}")
        await subscriber.flush()
        require(
            len(others.messages) == total, f"{others.owner} had {len(others.messages)} of {total}"
        )


async def raising_handler_harms_nobody(stage: Stage) -> None:
    """A handler that raises, even CancelledError, costs no other message and no subscription."""
    transport = await stage.connect()
    subject = stage.subject("raise")
    calls = Counter[type[BaseException]]()

    def raising(error: type[BaseException]) -> Callable[[str, bytes], None]:
        def handler(_subject: str, _payload: bytes) -> None:
            calls[error] += 1
            raise error

        return handler

    inboxes = [Inbox("a subscription made before"), Inbox("a subscription made after")]
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
        require(count == 20, f"the handlers that raise {kind.__name__} got {count} of 20 messages")


async def cancellation_leaves_it_usable(stage: Stage) -> None:
    """A cancelled call ends, and the transport goes on working."""
    transport = await stage.connect()
    subject = stage.subject("cancel")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "publish": partial(transport.publish, subject, b"maybe"),
        "subscribe": partial(transport.subscribe, stage.subject("other"), Inbox()),
        "unheard": partial(transport.unheard, [stage.subject("nobody")]),
        "flush": transport.flush,
    }
    for turns in range(8):
        for name, call in calls.items():
            await cancel_after(turns, name, call)
    await transport.publish(subject, b"still there")
    await stage.settle()
    require(inbox.payloads[-1:] == [b"still there"], "a message published afterwards is missing")
    nobody = stage.subject("nobody")
    await expect_unheard(transport, [subject, nobody], {nobody})


async def cancellation_concerns_nobody_else(stage: Stage) -> None:
    """Of many calls under way, only the cancelled ones are cancelled."""
    transport = await stage.connect()
    subject = stage.subject("cancel", "many")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    for turns in range(5):
        kept = [b"%d %d" % (turns, number) for number in range(50)]
        tasks = [asyncio.ensure_future(transport.publish(subject, payload)) for payload in kept]
        doomed = [asyncio.ensure_future(transport.publish(subject, b"maybe")) for _ in range(50)]
        doomed += [asyncio.ensure_future(transport.flush()) for _ in range(10)]
        tasks += [asyncio.ensure_future(transport.flush()) for _ in range(10)]
        await spin(turns)
        for task in doomed:
            task.cancel()
        await asyncio.gather(*tasks)
        await ended(doomed)
        await stage.settle()
        missing = set(kept) - set(inbox.payloads)
        require(not missing, f"the messages {abridged(sorted(missing))} were lost")


async def cancelled_subscribe_leaves_nothing(stage: Stage) -> None:
    """A `subscribe` that was cancelled leaves no interest behind: nobody could end it."""
    transport, asker = await stage.connect(), await stage.connect()
    subjects: set[str] = set()
    for turns in range(8):
        exact, heard = stage.subject("exact", turns), stage.subject("wild", "x", turns)
        for pattern, subject in ((exact, exact), (stage.subject("wild", "*", turns), heard)):
            subscribe = partial(transport.subscribe, pattern, Inbox())
            if await cancel_after(turns, "subscribe", subscribe):
                subjects.add(subject)

    async def all_unheard() -> bool:
        return await asker.unheard(subjects) == frozenset(subjects)

    await eventually(all_unheard, "somebody still listens where subscribe was cancelled")


async def tasks_may_change(stage: Stage) -> None:
    """It can be connected in one task, used in another, and closed in a third."""
    transport = await asyncio.create_task(stage.connect())
    subject = stage.subject("tasks")
    inbox = Inbox()
    subscription = await asyncio.create_task(_subscribe(transport, subject, inbox))
    await transport.publish(subject, b"1")
    await stage.expect(inbox, [(subject, b"1")])
    await asyncio.create_task(subscription.unsubscribe())
    await asyncio.create_task(stage.close(transport))
    require(not is_cancelled(), "the task that used it was cancelled")


async def many_tasks_at_once(stage: Stage) -> None:
    """Hundreds of tasks may subscribe, publish, flush and unsubscribe at the same time."""
    transports = [await stage.connect(), await stage.connect()]
    workers, rounds = 200, 5
    shared = stage.subject("shared")
    everything = Inbox("the subscription to what all tasks publish")
    await transports[0].subscribe(shared, everything)
    await transports[0].flush()

    async def work(number: int) -> None:
        transport, subject = transports[number % 2], stage.subject("own", number)
        pattern = subject if number % 3 else stage.subject("*", number)
        inbox = Inbox(f"the subscription to {pattern!r}")
        subscription = await transport.subscribe(pattern, inbox)
        for count in range(rounds):
            await transport.publish(subject, b"%d" % count)
            await transport.publish(shared, b"%d %d" % (number, count))
        await transport.flush()
        await inbox.reaches(rounds)
        nobody = stage.subject("nobody")
        await expect_unheard(transport, [nobody], {nobody})
        await subscription.unsubscribe()
        expected = [b"%d" % count for count in range(rounds)]
        require(inbox.payloads == expected, f"{inbox.owner} got {abridged(inbox.messages)}")

    await asyncio.gather(*map(work, range(workers)))
    await stage.expect(
        everything,
        [
            (shared, b"%d %d" % (number, count))
            for number in range(workers)
            for count in range(rounds)
        ],
    )


async def closing_is_final(stage: Stage) -> None:
    """After `aclose` every method raises `TransportError`, except `aclose` itself."""
    unused, used = stage.make(), await stage.connect()
    subject = stage.subject("final")
    subscription = await used.subscribe(subject, Inbox())
    await stage.close(used)
    await unused.aclose()
    for transport in (used, unused):
        await transport.aclose()
        await asyncio.gather(transport.aclose(), transport.aclose())
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "connect": partial(transport.connect, _ignore_state),
            "publish": partial(transport.publish, subject, b""),
            "subscribe": partial(transport.subscribe, subject, Inbox()),
            "unheard": partial(transport.unheard, [subject]),
            "flush": transport.flush,
        }
        for name, call in calls.items():
            await raises_transport_error(f"{name} after aclose", call)
    await subscription.unsubscribe()
    require(used.address != "", "the address of a closed transport is empty")


async def closing_is_prompt(stage: Stage) -> None:
    """`aclose` takes at most two seconds, also in the middle of traffic, and never raises."""
    transport, other = await stage.connect(), await stage.connect()
    subject = stage.subject("prompt")
    inbox = Inbox()
    await transport.subscribe(subject, inbox)
    await transport.flush()
    for _ in range(500):
        await other.publish(subject, b"x" * 1000)
        await transport.publish(stage.subject("nobody"), b"x" * 1000)
    calls = [asyncio.ensure_future(call()) for call in (transport.flush, transport.flush)]
    await spin(1)
    begin = asyncio.get_running_loop().time()
    await stage.close(transport)
    taken = asyncio.get_running_loop().time() - begin
    seen = len(inbox.messages)
    require(taken <= _CLOSE_LIMIT, f"it took {taken:.1f} s")
    require(await ended(calls), "a flush that was under way never ended")
    for call in calls:
        error = call.exception()
        require(error is None or isinstance(error, TransportError), f"the flush raised {error!r}")
    await other.publish(subject, b"late")
    await stage.settle()
    late = inbox.messages[seen:]
    require(not late, f"after aclose the handler still got {abridged(late)}")


async def closing_leaves_nothing(stage: Stage) -> None:
    """After `aclose` no task of the transport is left, nor an interest at the broker."""
    asker = await stage.connect()
    before = asyncio.all_tasks()
    transport = await stage.connect()
    subject = stage.subject("tasks")
    await transport.subscribe(subject, Inbox())
    await transport.subscribe(stage.subject("wild", "*"), Inbox())
    await transport.publish(subject, b"1", stage.subject("reply"))
    await transport.unheard([subject])
    await transport.flush()
    await stage.close(transport)

    async def no_task_left() -> bool:
        return not asyncio.all_tasks() - before

    await eventually(no_task_left, f"left: {asyncio.all_tasks() - before}", patience=1.0)
    subjects = {subject, stage.subject("wild", "a")}

    async def all_unheard() -> bool:
        return await asker.unheard(subjects) == frozenset(subjects)

    await eventually(all_unheard, "the broker still knows its subscriptions")


async def closing_concerns_nobody_else(stage: Stage) -> None:
    """Other transports keep their link and their subscriptions, also to the same pattern."""
    one, other = await stage.connect(), await stage.connect()
    subject = stage.subject("shared")
    exact, wildcard = Inbox("the exact subscription"), Inbox("the wildcard subscription")
    for transport in (one, other):
        await transport.subscribe(subject, exact if transport is other else Inbox())
        await transport.subscribe(stage.subject("*"), wildcard if transport is other else Inbox())
    await stage.settle()
    await stage.close(one)
    await other.publish(subject, b"1")
    await stage.expect(exact, [(subject, b"1")])
    await stage.expect(wildcard, [(subject, b"1")])
    newcomer = await stage.connect()
    await newcomer.publish(subject, b"2")
    await stage.expect(exact, [(subject, b"1"), (subject, b"2")])
    require(not stage.reports, f"on_state was called with {stage.reports}")


async def _subscribe(transport: Transport, pattern: str, inbox: Inbox) -> Subscription:
    return await transport.subscribe(pattern, inbox)


def _ignore_state(_state: LinkState, _reason: str) -> None:
    """The state handler of a transport that will not get a link."""
