"""Every transport keeps the contract, and the contract suite notices who does not."""

from __future__ import annotations

import asyncio
import fnmatch
from typing import TYPE_CHECKING

import pytest

from aioregistry.errors import TransportError
from aioregistry.testing import TransportCheck, check_transport, transport_checks
from aioregistry.transports.base import LinkState
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from aioregistry.transports.nats import NatsTransport
from aioregistry.transports.redis import RedisTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from aioregistry.testing.brokers import Broker
    from aioregistry.transports.base import Handler, StateHandler, Subscription, Transport

every_check = pytest.mark.parametrize("check", transport_checks, ids=str)


def nothing(_client: object) -> None:
    """What a driver shows that keeps its things elsewhere."""


@every_check
async def test_memory(check: TransportCheck) -> None:
    broker = MemoryBroker()
    await check(lambda: MemoryTransport(broker))


@every_check
async def test_nats(check: TransportCheck, nats_broker: Broker) -> None:
    await check(lambda: NatsTransport(nats_broker.url))


@every_check
async def test_nats_where_the_driver_writes_by_itself(
    check: TransportCheck, nats_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a WebSocket, or a driver that keeps its connection where ours does not find it."""
    monkeypatch.setattr("aioregistry.transports._nats_wire.stream_of", nothing)
    await check(lambda: NatsTransport(nats_broker.url))


@every_check
async def test_nats_where_the_driver_reads_and_writes_by_itself(
    check: TransportCheck, nats_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a borrowed client, or a driver that keeps its parser where ours does not find it."""
    monkeypatch.setattr("aioregistry.transports._nats_driver.Parser", object)
    await check(lambda: NatsTransport(nats_broker.url))


@every_check
async def test_redis(check: TransportCheck, redis_broker: Broker) -> None:
    await check(lambda: RedisTransport(redis_broker.url))


@every_check
async def test_redis_over_two_connections(check: TransportCheck, old_redis_broker: Broker) -> None:
    """As with servers before Redis 6, and with old versions of hiredis."""
    await check(lambda: RedisTransport(old_redis_broker.url))


@every_check
async def test_redis_where_the_driver_reads_and_writes_by_itself(
    check: TransportCheck, redis_broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a driver that keeps its connection where ours does not find it."""
    monkeypatch.setattr("aioregistry.transports._redis_wire.stream_of", nothing)
    await check(lambda: RedisTransport(redis_broker.url))


@pytest.mark.parametrize(
    "make",
    [
        lambda: NatsTransport("nats://user:secret@127.0.0.1:1,nats://secret@127.0.0.1:2"),
        lambda: RedisTransport("redis://user:secret@127.0.0.1:1/0"),
        lambda: RedisTransport("redis://:secret@127.0.0.1:1"),
        lambda: RedisTransport("redis://127.0.0.1:1?password=secret"),
    ],
)
async def test_address_of_urls_with_credentials(make: Callable[[], Transport]) -> None:
    await check_transport(make, only="address_has_no_credentials")
    assert "secret" not in make().address


# What follows are transports with one fault each.


def ignore(_subject: str, _payload: bytes) -> None:
    pass


class Wrapped:
    """A subscription whose end can be spoiled."""

    def __init__(self, inner: Subscription, unsubscribe: Callable[[], Awaitable[None]]) -> None:
        self.inner = inner
        self.unsubscribe_inner = unsubscribe

    async def unsubscribe(self) -> None:
        await self.unsubscribe_inner()


class Incomplete:
    """Has `address` and `aclose`, and nothing else."""

    address = "memory://"

    async def aclose(self) -> None:
        pass


class ShowsCredentials(MemoryTransport):
    @property
    def address(self) -> str:
        return "memory://user:secret@localhost"


class DropsEveryTenth(MemoryTransport):
    published = 0

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        self.published += 1
        if self.published % 10:
            await super().publish(subject, payload, reply_to)


class DeliversToNeighbours(MemoryTransport):
    """Exact subscriptions hear every subject that begins with theirs."""

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        def those_that_begin(subject: str, payload: bytes) -> None:
            if subject.startswith(pattern):
                handler(subject, payload)

        if "*" in pattern or ">" in pattern:
            return await super().subscribe(pattern, handler)
        return await super().subscribe(">", those_that_begin)


class PayloadsAreText(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        await super().publish(subject, payload.decode(errors="replace").encode(), reply_to)


class ExpectsSomePayload(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if payload:
            await super().publish(subject, payload, reply_to)


class LimitsWithoutNames(MemoryTransport):
    """Refuses large payloads without telling which subject that concerns."""

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if len(payload) > 2**20:
            raise TransportError("too large")
        await super().publish(subject, payload, reply_to)


class CutOffByLargePayload(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if len(payload) > 2**20:
            await self.aclose()
            raise TransportError("too large", subjects=frozenset({subject}))
        await super().publish(subject, payload, reply_to)


class SwapsPairs(MemoryTransport):
    held: tuple[str, bytes, str | None] | None = None

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if self.held is None:
            self.held = (subject, payload, reply_to)
        else:
            await super().publish(subject, payload, reply_to)
            held, self.held = self.held, None
            await super().publish(*held)

    async def flush(self) -> None:
        if self.held is not None:
            held, self.held = self.held, None
            await super().publish(*held)
        await super().flush()


class LateCallsFirst(MemoryTransport):
    """Each call yields a little less than the one before, so calls made together swap."""

    patience = 500

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        self.patience -= 1
        for _ in range(self.patience):
            await asyncio.sleep(0)
        await super().publish(subject, payload, reply_to)


class SaysYesAlways(MemoryTransport):
    def publish_now(self, subject: str, payload: bytes) -> bool:
        super().publish_now(subject, payload)
        return True


class SaysNoAndSends(MemoryTransport):
    def publish_now(self, subject: str, payload: bytes) -> bool:
        super().publish_now(subject, payload)
        return False


class SendsLater(MemoryTransport):
    def publish_now(self, subject: str, payload: bytes) -> bool:
        asyncio.get_running_loop().call_soon(super().publish_now, subject, payload)
        return True


class DeafToItself(MemoryTransport):
    own: tuple[str, bytes] | None = None

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        self.own = (subject, payload)
        await super().publish(subject, payload, reply_to)

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        def from_others(subject: str, payload: bytes) -> None:
            if self.own != (subject, payload):
                handler(subject, payload)

        return await super().subscribe(pattern, from_others)


class Globbing(MemoryTransport):
    """Matches as a glob does: `*` spans dots, and other characters have a meaning as well."""

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        glob = pattern[:-1] + "*" if pattern.endswith(".>") else pattern

        def matching(subject: str, payload: bytes) -> None:
            if fnmatch.fnmatchcase(subject, glob):
                handler(subject, payload)

        return await super().subscribe(">", matching)


class TailMayBeEmpty(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        if pattern.endswith(".>"):
            await super().subscribe(pattern.removesuffix(".>"), handler)
        return subscription


class DeliversTwice(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        def twice(subject: str, payload: bytes) -> None:
            handler(subject, payload)
            handler(subject, payload)

        return await super().subscribe(pattern, twice)


class OneHandlerPerPattern(MemoryTransport):
    """A second subscription to a pattern takes the place of the first."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.by_pattern: dict[str, Subscription] = {}

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        if pattern in self.by_pattern:
            await self.by_pattern[pattern].unsubscribe()
        self.by_pattern[pattern] = await super().subscribe(pattern, handler)
        return self.by_pattern[pattern]


class OneSubscriptionPerHandler(MemoryTransport):
    """The same handler and pattern again is taken for the same subscription."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.known: dict[tuple[str, Handler], Subscription] = {}

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        if (pattern, handler) not in self.known:
            self.known[pattern, handler] = await super().subscribe(pattern, handler)
        return self.known[pattern, handler]


class SubscribesLater(MemoryTransport):
    tasks: set[asyncio.Task[object]]

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        async def later() -> None:
            await asyncio.sleep(0.02)
            await super(SubscribesLater, self).subscribe(pattern, handler)

        self.tasks = {asyncio.create_task(later())}
        return await super().subscribe("nothing", ignore)


class WaitsAllTheSame(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        await self.flush()
        await asyncio.sleep(0)
        return await super().subscribe(pattern, handler)


class NeverUnsubscribes(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        return Wrapped(await super().subscribe(pattern, handler), self.flush)


class UnsubscribesOnce(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        ended: list[bool] = []

        async def once() -> None:
            if ended:
                raise TransportError("no such subscription")
            ended.append(True)
            await subscription.unsubscribe()

        return Wrapped(subscription, once)


class UnsubscribesTwins(MemoryTransport):
    """Ends every subscription to the pattern, as a bare UNSUBSCRIBE does."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.by_pattern: dict[str, list[Subscription]] = {}

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        twins = self.by_pattern.setdefault(pattern, [])
        twins.append(await super().subscribe(pattern, handler))

        async def end_all() -> None:
            for twin in twins:
                await twin.unsubscribe()

        return Wrapped(twins[-1], end_all)


class SubscribesOnceOnly(MemoryTransport):
    """A pattern that was ended stays ended."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.patterns: set[str] = set()

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)

        async def for_good() -> None:
            self.patterns.add(pattern)
            await subscription.unsubscribe()

        if pattern in self.patterns:
            await subscription.unsubscribe()
        return Wrapped(subscription, for_good)


class ForgetsEarlySubscriptions(MemoryTransport):
    connected = False

    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        self.connected = True

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        if not self.connected:
            await subscription.unsubscribe()
        return subscription


class KeepsForLater(MemoryTransport):
    """Replays what was published without a link, instead of refusing it."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.backlog: list[tuple[str, bytes, str | None]] | None = []

    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        backlog, self.backlog = self.backlog, None
        for message in backlog or []:
            await super().publish(*message)

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if self.backlog is None:
            await super().publish(subject, payload, reply_to)
        else:
            self.backlog.append((subject, payload, reply_to))


class RaisesDriverError(MemoryTransport):
    """Lets the exception of its driver through where there is no link."""

    async def flush(self) -> None:
        try:
            await super().flush()
        except TransportError as error:
            raise ConnectionError from error


class ReportsFirstSuccess(MemoryTransport):
    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        on_state(LinkState.CONNECTED, "hello")


class NeverSaysNobody(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        await super().publish(subject, payload)


class SaysNobodyToEverybody(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if reply_to is not None and await self.unheard([subject]):
            await super().publish(reply_to, b"")
        else:
            await super().publish(subject, payload)


class SaysNobodyToExactOnes(MemoryTransport):
    """The empty message finds no wildcard subscription."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.exact: set[str] = set()

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        self.exact.add(pattern)
        return await super().subscribe(pattern, handler)

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        await super().publish(subject, payload, reply_to if reply_to in self.exact else None)


class AlwaysSaysNobody(MemoryTransport):
    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        await super().publish(subject, payload)
        if reply_to is not None:
            await super().publish(reply_to, b"")


class RemembersListeners(MemoryTransport):
    """Whoever was heard once counts as there for ever."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.heard: set[str] = set()

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        return Wrapped(subscription, self._stay)

    async def _stay(self) -> None:
        pass


class HearsEverybody(MemoryTransport):
    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        return await super().unheard([]) & frozenset(subjects)


class HearsNobody(MemoryTransport):
    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        return await super().unheard(subjects) | frozenset(subjects)


class CountsExactSubscriptionsOnly(MemoryTransport):
    """As Redis does: NUMSUB does not count patterns."""

    def __init__(self, broker: MemoryBroker, exact: set[str]) -> None:
        super().__init__(broker)
        self.exact = exact

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        self.exact.add(pattern)
        return await super().subscribe(pattern, handler)

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        return await super().unheard(subjects) | (frozenset(subjects) - self.exact)


class AsksForTheFirstThousand(MemoryTransport):
    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        return await super().unheard(list(subjects)[:1000])


class StaysAtTheBroker(MemoryTransport):
    """Leaves its subscriptions behind when it is closed."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.shadow = MemoryTransport(broker)

    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        await self.shadow.connect(on_state)

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        await self.shadow.subscribe(pattern, ignore)
        return await super().subscribe(pattern, handler)


class FlushesOneWay(MemoryTransport):
    """The handlers run a little later, and flush does not wait for them."""

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        def later(subject: str, payload: bytes) -> None:
            asyncio.get_running_loop().call_later(0.001, handler, subject, payload)

        return await super().subscribe(pattern, later)


class NeverFlushes(MemoryTransport):
    async def flush(self) -> None:
        pass


class EndsWithTheHandler(MemoryTransport):
    """A handler that raises loses its subscription."""

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        alive = [True]

        def while_alive(subject: str, payload: bytes) -> None:
            if alive.pop() if alive else False:
                handler(subject, payload)
                alive.append(True)

        return await super().subscribe(pattern, while_alive)


class LocksUpWhenCancelled(MemoryTransport):
    """A cancelled call never gives its lock back."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.lock = asyncio.Lock()

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        async with asyncio.timeout(0.5):
            await self.lock.acquire()
        await asyncio.sleep(0)
        await super().publish(subject, payload, reply_to)
        self.lock.release()


class IgnoresCancellation(MemoryTransport):
    async def flush(self) -> None:
        deadline = asyncio.get_running_loop().time() + 1
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue


class CancelsAll(MemoryTransport):
    """Calls share one piece of work, and the first to be cancelled takes it from the rest."""

    work: asyncio.Task[None] | None = None

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if self.work is None or self.work.done():
            self.work = asyncio.create_task(asyncio.sleep(0))
        work = self.work
        await work
        await super().publish(subject, payload, reply_to)


class SubscribesThoughCancelled(MemoryTransport):
    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        subscription = await super().subscribe(pattern, handler)
        await asyncio.sleep(0)
        return subscription


class BoundToItsTask(MemoryTransport):
    """Has to be closed by the task that connected it, as a cancel scope has."""

    task: asyncio.Task[object] | None = None

    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        self.task = asyncio.current_task()

    async def aclose(self) -> None:
        if self.task not in (None, asyncio.current_task()):
            raise RuntimeError("attempted to exit a cancel scope in a different task")
        await super().aclose()


class OneCallAtATime(MemoryTransport):
    busy = False

    async def flush(self) -> None:
        if self.busy:
            raise RuntimeError("another coroutine is already waiting")
        self.busy = True
        await super().flush()
        self.busy = False


class ClosesOnce(MemoryTransport):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise TransportError("closed already")
        self.closed = True
        await super().aclose()


class WorksAfterClosing(MemoryTransport):
    closed = False

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()

    async def publish(self, subject: str, payload: bytes, reply_to: str | None = None) -> None:
        if not self.closed:
            await super().publish(subject, payload, reply_to)


class ClosesSlowly(MemoryTransport):
    async def aclose(self) -> None:
        await super().aclose()
        await asyncio.sleep(0.3)


class DeliversAfterClosing(MemoryTransport):
    async def aclose(self) -> None:
        """Stay subscribed, and close in earnest only the second time."""
        if vars(self).setdefault("asked", 0):
            await super().aclose()
        self.asked = 1


class LeavesATask(MemoryTransport):
    tasks: set[asyncio.Task[object]]

    async def connect(self, on_state: StateHandler) -> None:
        await super().connect(on_state)
        self.tasks = {asyncio.create_task(asyncio.sleep(5))}


class ClosesForAll(MemoryTransport):
    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.broker = broker

    async def aclose(self) -> None:
        await super().aclose()
        self.broker.stop()


def counting_exact_only() -> Callable[[MemoryBroker], MemoryTransport]:
    exact: set[str] = set()
    return lambda broker: CountsExactSubscriptionsOnly(broker, exact)


FAULTS: list[tuple[Callable[[MemoryBroker], MemoryTransport], str]] = [
    (ShowsCredentials, "address_has_no_credentials"),
    (DropsEveryTenth, "keeps_order"),
    (DropsEveryTenth, "flush_is_a_barrier"),
    (DeliversToNeighbours, "delivers_exact_subject"),
    (PayloadsAreText, "payloads_are_bytes"),
    (ExpectsSomePayload, "payloads_are_bytes"),
    (LimitsWithoutNames, "large_payload_harms_nobody"),
    (CutOffByLargePayload, "large_payload_harms_nobody"),
    (SwapsPairs, "keeps_order"),
    (LateCallsFirst, "keeps_order_of_calls"),
    (SaysYesAlways, "sends_now_or_says_no"),
    (SaysNoAndSends, "sends_now_or_says_no"),
    (SendsLater, "sends_now_or_says_no"),
    (DeafToItself, "hears_itself"),
    (Globbing, "star_is_one_token"),
    (Globbing, "odd_characters_are_literal"),
    (TailMayBeEmpty, "tail_is_one_or_more_tokens"),
    (DeliversTwice, "delivers_exact_subject"),
    (DeliversTwice, "each_subscription_gets_its_own_copy"),
    (OneHandlerPerPattern, "each_subscription_gets_its_own_copy"),
    (OneSubscriptionPerHandler, "one_handler_may_subscribe_twice"),
    (SubscribesLater, "subscription_is_in_place_at_once"),
    (WaitsAllTheSame, "subscribing_takes_no_wait"),
    (NeverUnsubscribes, "unsubscribe_stops_delivery"),
    (UnsubscribesOnce, "unsubscribe_stops_delivery"),
    (UnsubscribesTwins, "unsubscribe_stops_delivery"),
    (SubscribesOnceOnly, "subscribes_again"),
    (ForgetsEarlySubscriptions, "subscribes_before_connect"),
    (KeepsForLater, "without_a_link_it_raises"),
    (RaisesDriverError, "without_a_link_it_raises"),
    (RaisesDriverError, "closing_is_final"),
    (ReportsFirstSuccess, "first_success_is_not_reported"),
    (NeverSaysNobody, "nobody_there_answers_the_asker"),
    (SaysNobodyToEverybody, "nobody_there_answers_the_asker"),
    (SaysNobodyToExactOnes, "nobody_there_at_a_wildcard"),
    (AlwaysSaysNobody, "somebody_there_means_no_empty_message"),
    (RemembersListeners, "nobody_left_is_noticed"),
    (RemembersListeners, "unheard_notices_who_leaves"),
    (HearsEverybody, "unheard_tells_the_truth"),
    (HearsNobody, "unheard_tells_the_truth"),
    (counting_exact_only(), "unheard_minds_wildcards"),
    (AsksForTheFirstThousand, "unheard_takes_many_subjects"),
    (FlushesOneWay, "flush_is_a_barrier"),
    (NeverFlushes, "flush_is_a_barrier"),
    (EndsWithTheHandler, "raising_handler_harms_nobody"),
    (LocksUpWhenCancelled, "cancellation_leaves_it_usable"),
    (IgnoresCancellation, "cancellation_leaves_it_usable"),
    (CancelsAll, "cancellation_concerns_nobody_else"),
    (SubscribesThoughCancelled, "cancelled_subscribe_leaves_nothing"),
    (BoundToItsTask, "tasks_may_change"),
    (OneCallAtATime, "many_tasks_at_once"),
    (ClosesOnce, "closing_is_final"),
    (WorksAfterClosing, "closing_is_final"),
    (ClosesSlowly, "closing_is_prompt"),
    (DeliversAfterClosing, "closing_is_prompt"),
    (LeavesATask, "closing_leaves_nothing"),
    (StaysAtTheBroker, "closing_leaves_nothing"),
    (ClosesForAll, "closing_concerns_nobody_else"),
]


@pytest.mark.parametrize(
    ("fault", "clause"),
    FAULTS,
    ids=[f"{getattr(fault, '__name__', fault)}-{clause}" for fault, clause in FAULTS],
)
async def test_a_fault_is_found(
    fault: Callable[[MemoryBroker], MemoryTransport], clause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioregistry.testing.contract.stage.PATIENCE", 0.5)
    monkeypatch.setattr("aioregistry.testing.contract.life._CLOSE_LIMIT", 0.2)
    broker = MemoryBroker()
    with pytest.raises(AssertionError, match=rf"^{clause}: .*\n  but: "):
        await check_transport(lambda: fault(broker), only=clause)


async def test_a_missing_method_is_found() -> None:
    with pytest.raises(AssertionError, match=r"^is_a_transport: "):
        await check_transport(Incomplete, only="is_a_transport")  # type: ignore[arg-type]  # the fault


def test_every_clause_finds_some_fault() -> None:
    found = {clause for _, clause in FAULTS} | {"is_a_transport"}
    assert found == {check.name for check in transport_checks}


async def test_the_whole_contract_in_one_call() -> None:
    broker = MemoryBroker()
    await check_transport(lambda: MemoryTransport(broker))


async def test_the_whole_contract_ends_at_the_first_fault() -> None:
    broker = MemoryBroker()
    with pytest.raises(AssertionError, match=r"^address_has_no_credentials: "):
        await check_transport(lambda: ShowsCredentials(broker))


async def test_an_unknown_clause() -> None:
    with pytest.raises(ValueError, match="no check is called 'speed'; there are: is_a_transport, "):
        await check_transport(MemoryTransport, only="speed")


async def test_a_check_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioregistry.testing.contract._CHECK_LIMIT", 0.1)

    class Hangs(MemoryTransport):
        async def connect(self, on_state: StateHandler) -> None:
            await asyncio.Event().wait()

    with pytest.raises(AssertionError, match=r"but: not done within 0.1 s$"):
        await check_transport(Hangs, only="hears_itself")


def test_a_check_says_what_it_is_for() -> None:
    check = next(check for check in transport_checks if check.name == "hears_itself")
    assert repr(check) == f"<TransportCheck hears_itself: {check.clause}>"
    assert all(
        check.clause.endswith(".") and "\n" not in check.clause for check in transport_checks
    )
