"""Clauses about nobody: who asks a subject that nobody listens to is told."""

from __future__ import annotations

from aioregistry.testing.contract.stage import Inbox, Stage, eventually, expect_unheard


async def nobody_there_answers_the_asker(stage: Stage) -> None:
    """With nobody at the subject, an empty message arrives at the asker's own reply handlers."""
    asker, other = await stage.connect(), await stage.connect()
    reply, silent = stage.subject("reply", "orders"), stage.subject("silent")
    own = [
        Inbox("the asker's exact reply subscription"),
        Inbox("the asker's wildcard reply subscription"),
        Inbox("the asker's second wildcard reply subscription"),
    ]
    stranger = Inbox("another transport's reply subscription")
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


async def nobody_there_at_a_wildcard(stage: Stage) -> None:
    """The empty message also finds an asker whose only reply subscription is a wildcard."""
    asker = await stage.connect()
    inbox = Inbox("the asker's wildcard reply subscription")
    await asker.subscribe(stage.subject("reply", "*"), inbox)
    replies = [stage.subject("reply", number) for number in range(20)]
    for reply in replies:
        await asker.publish(stage.subject("silent"), b"", reply)
    await stage.expect(inbox, [(reply, b"") for reply in replies])


async def somebody_there_means_no_empty_message(stage: Stage) -> None:
    """With somebody at the subject, exactly or by wildcard, no empty message arrives."""
    asker, listener = await stage.connect(), await stage.connect()
    reply = stage.subject("reply")
    replies, requests = Inbox("the asker's reply subscription"), Inbox("the listener")
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


async def nobody_left_is_noticed(stage: Stage) -> None:
    """Once the last listener is gone, the empty message comes."""
    asker, listener = await stage.connect(), await stage.connect()
    subject, reply = stage.subject("left"), stage.subject("reply")
    replies = Inbox("the asker's reply subscription")
    await asker.subscribe(reply, replies)
    subscription = await listener.subscribe(subject, Inbox())
    await stage.settle()
    await subscription.unsubscribe()

    async def told() -> bool:
        await asker.publish(subject, b"?", reply)
        await stage.settle()
        return bool(replies.messages)

    await eventually(told, "no empty message came")


async def unheard_tells_the_truth(stage: Stage) -> None:
    """`unheard` gives the subjects that nobody, here or elsewhere, subscribes to exactly."""
    asker, listener = await stage.connect(), await stage.connect()
    heard = {stage.subject("heard"), stage.subject("heard", "a", "b"), stage.subject("own")}
    silent = {
        stage.subject(*name) for name in (("hear",), ("heard", "a"), ("own", "a"), ("[ho]*",))
    }
    for subject in heard - {stage.subject("own")}:
        await listener.subscribe(subject, Inbox())
    await asker.subscribe(stage.subject("own"), Inbox())
    await stage.settle()
    await expect_unheard(asker, heard | silent, silent)
    for subject in heard | silent:
        await expect_unheard(asker, [subject], silent & {subject})
    await expect_unheard(asker, [], set())


async def unheard_minds_wildcards(stage: Stage) -> None:
    """A subject that somebody hears by a wildcard subscription is not unheard."""
    asker, listener = await stage.connect(), await stage.connect()
    await listener.subscribe(stage.subject("wild", "*"), Inbox())
    await listener.subscribe(stage.subject("rest", ">"), Inbox())
    await asker.subscribe(stage.subject("own", "*"), Inbox())
    await stage.settle()
    heard = {stage.subject(*name) for name in (("wild", "a"), ("rest", "a", "b"), ("own", "a"))}
    # Not wild.a.b: a broker whose own wildcards span dots may know no better.
    silent = {stage.subject(*name) for name in (("wild",), ("rest",), ("own",), ("none", "a"))}
    await expect_unheard(asker, heard | silent, silent)


async def unheard_takes_many_subjects(stage: Stage) -> None:
    """Thousands of subjects in one call of `unheard` are answered, all of them rightly."""
    asker, listener = await stage.connect(), await stage.connect()
    subjects = [stage.subject("many", number) for number in range(3000)]
    heard = set(subjects[::50])
    for subject in heard:
        await listener.subscribe(subject, Inbox())
    await stage.settle()
    await expect_unheard(asker, subjects, set(subjects) - heard)
    await expect_unheard(asker, frozenset(subjects), set(subjects) - heard)


async def unheard_notices_who_leaves(stage: Stage) -> None:
    """A subject is unheard soon after its listener unsubscribed or closed."""
    asker, one, other = [await stage.connect() for _ in range(3)]
    ended, closed = stage.subject("ended"), stage.subject("closed")
    subscription = await one.subscribe(ended, Inbox())
    await other.subscribe(closed, Inbox())
    await stage.settle()
    await expect_unheard(asker, [ended, closed], set())
    await subscription.unsubscribe()
    await stage.close(other)

    async def both_unheard() -> bool:
        return len(await asker.unheard([ended, closed])) == 2

    await eventually(both_unheard, "one of them still counts as heard")
