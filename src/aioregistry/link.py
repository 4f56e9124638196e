"""The registry's link to its broker: whether it is up, and what the broker refuses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final, cast

import anyio

from aioregistry.errors import RegistryError, TransportError
from aioregistry.loglimit import LogLimiter
from aioregistry.transports.base import Handler, LinkState, Subscription, Transport

__all__ = ["Link", "end_of", "unsubscribe_all"]

_logger = logging.getLogger("aioregistry")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0

CHECK_INTERVAL: Final = 10.0
"""How often the broker is asked whether it has refused something, in seconds: nothing else
tells those who wait for no answer, such as a heartbeat that is no longer allowed. As often, what it
refused to let us hear is asked for again."""

_RECHECK: Final = 1.0
"""How soon it is asked again where it did not tell, in seconds."""


class Link:
    """The state of a transport, and the one place that connects it.

    Args:
        transport: the transport, not connected yet; the link does not close it.
        rng: where the jitter of the retries comes from.
        on_up: called, without arguments, each time the link comes up.
        on_down: called each time it goes down.
        on_denied: called with what the broker refuses although the link is sound; the error's
            `subjects` tell what it is about.
        on_retry: called to subscribe again to what is not subscribed to, though it should be;
            True: also to what was refused. What it raises as `TransportError` is passed over.

    Attributes:
        connected: whether the broker can be reached, as far as the transport knows.
        detail: the reason for the state, in words.
        losses: how often the link went down.
        denied: how many messages and subscriptions the broker refused.
        begun: how many flushes have begun.
        checked: the number of the last one that the broker has answered: whatever it refuses of
            what was before its beginning is known.
    """

    def __init__(
        self,
        transport: Transport,
        rng: random.Random,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        on_denied: Callable[[TransportError], None],
        on_retry: Callable[[bool], Awaitable[None]],
    ) -> None:
        self.transport = transport
        self.connected = False
        self.detail = "not connected yet"
        self.losses = 0
        self.denied = 0
        self._end: RegistryError | None = None
        self._hopeless = False
        self._rng = rng
        self._on_up = on_up
        self._on_down = on_down
        self._on_denied = on_denied
        self._on_retry = on_retry
        self._loop = asyncio.get_running_loop()
        self._incomplete = False
        self._up = asyncio.Event()
        self._doubt = asyncio.Event()
        self._flushing = asyncio.Lock()
        self.begun = self.checked = 0
        self._finished = 0
        self._log = LogLimiter(_logger)
        self._outcome: TransportError | None = None

    async def open(self, timeout: float | None) -> None:  # noqa: ASYNC109 - the loop needs it
        """Connect, trying again until it works.

        Args:
            timeout: how long to try, in seconds; None: for ever.

        Raises:
            TransportError: no success within `timeout`, or none can be expected.
        """
        address = self.transport.address
        pause = _FIRST_PAUSE
        last: TransportError | None = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        await self.transport.connect(self._on_state)
                    except TransportError as error:
                        if error.permanent:
                            self._hopeless, self.detail = True, str(error)
                            raise
                        if last is None or str(last) != str(error):
                            _logger.info("no broker at %s yet: %s", address, error)
                        last = error
                        self.detail = str(error)
                    else:
                        break
                    await asyncio.sleep(pause * self._rng.uniform(0.5, 1))
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError as error:
            reason = f": {last}" if last else ""
            raise TransportError(
                f"no broker at {address} within {timeout:g} s{reason};"
                " is it running, and is the URL right?"
            ) from last or error
        self._on_state(LinkState.CONNECTED, "connected")

    async def wait_connected(self) -> None:
        """Wait until the link is up.

        Raises:
            RegistryError: what `close` was given, when it is closed before.
        """
        await self._up.wait()
        self.check_open()

    def check_loop(self) -> None:
        """Raise `RuntimeError` in an event loop that is not its own."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "this registry belongs to another event loop; in each, make one of its own"
            )

    def check_open(self) -> None:
        """Raise what `close` was given, once it was called."""
        if self._end is not None:
            raise self._end.again()

    def close(self, error: RegistryError) -> None:
        """Take no more notice of the transport, and tell those who wait why.

        Args:
            error: raised to whoever waits.
        """
        self._end = error
        self.connected = False
        if not self._hopeless:
            self.detail = "closed"
        self._up.set()

    def error(self) -> TransportError:
        """The error for a caller who needs the broker while the link is down."""
        return TransportError(
            f"no connection to {self.transport.address}: {self.detail}", permanent=self._hopeless
        )

    # ---- what the broker may refuse ----------------------------------------------------

    async def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """As `Transport.subscribe`; a refusal is passed on to whom it concerns."""
        try:
            return await self.transport.subscribe(pattern, handler)
        except TransportError as error:
            self.check_open()
            self._deny(TransportError(str(error), subscriptions=error.subjects))
            raise

    async def subscribe_all(self, routes: Mapping[str, Handler]) -> list[Subscription]:
        """As `subscribe`, for each pattern with its handler, and for all of them or none.

        Where each waits for the broker, they wait together.
        """
        made: list[Subscription] = []

        async def add(pattern: str, handler: Handler) -> None:
            made.append(await self.subscribe(pattern, handler))

        try:
            if self.transport.ordered:
                for pattern, handler in routes.items():
                    made.append(await self.subscribe(pattern, handler))
            else:
                async with asyncio.TaskGroup() as group:
                    for route in routes.items():
                        group.create_task(add(*route))
        except BaseException as error:
            await unsubscribe_all(made)
            if isinstance(error, BaseExceptionGroup):
                raise cast("BaseExceptionGroup", error).exceptions[0] from None
            raise
        return made

    async def unheard(self, subjects: Collection[str]) -> frozenset[str]:
        """As `Transport.unheard`; refusals are passed on to whom they concern."""
        try:
            return await self.transport.unheard(subjects)
        except TransportError as error:
            if error.permanent and not error.subjects:
                self.denied += 1  # the question as such is not allowed
            self._deny(error)
            raise

    async def flush(self) -> None:
        """As `Transport.flush`; refusals are passed on to whom they concern.

        One at a time, so that each refusal is counted once; those who come while one is under
        way share the next.
        """
        wanted = self.begun + 1
        async with self._flushing:
            if self._finished < wanted:
                await self._flush()
            outcome = self._outcome
        if outcome is not None:
            raise outcome.again()

    async def check(self, begun: int) -> None:
        """Flush, unless that was done since `begun` flushes had begun; refusals are passed on."""
        async with self._flushing:
            if self.checked <= begun:
                await self._flush()

    async def _flush(self) -> None:
        self.begun += 1
        number, outcome = self.begun, None
        try:
            await self.transport.flush()
        except TransportError as error:
            self._deny(error)
            outcome = error
        self._finished, self._outcome = number, outcome
        if outcome is None or outcome.subjects:
            self.checked = number

    def check_soon(self) -> None:
        """Ask soon whether the broker has refused something."""
        self._doubt.set()

    def retry_soon(self) -> None:
        """Subscribe soon to what should be, and is not, unless it was refused."""
        self._incomplete = True
        self._doubt.set()

    async def check_forever(self) -> None:
        """Ask now and then whether the broker has refused something, or still does."""
        clock = asyncio.get_running_loop().time
        due, pause = clock() + CHECK_INTERVAL, CHECK_INTERVAL
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._doubt.wait()
            self._doubt.clear()
            await self.wait_connected()
            pause = CHECK_INTERVAL
            refused_too = clock() >= due
            if refused_too:
                due = clock() + CHECK_INTERVAL
            try:
                if refused_too or self._incomplete:
                    self._incomplete = False
                    await self._on_retry(refused_too)
                await self.flush()
            except TransportError as error:
                if not error.subjects:
                    self._incomplete = True
                    pause = min(_RECHECK, CHECK_INTERVAL)

    def _deny(self, error: TransportError) -> None:
        if error.subjects:
            self.denied += len(error.subjects)
            self._on_denied(error)

    # ------------------------------------------------------------------------------------

    def _on_state(self, state: LinkState, detail: str) -> None:
        up = state is LinkState.CONNECTED
        if self._end is not None or (up is self.connected and (up or detail == self.detail)):
            return
        self.detail = detail
        if up is self.connected:
            self._log.warning(
                detail, self._loop.time(), "no link to %s: %s", self.transport.address, detail
            )
            return
        self.connected = up
        if up:
            _logger.info("broker %s: %s", self.transport.address, detail)
            self._up.set()
            self._on_up()
            self.check_soon()
        else:
            self.losses += 1
            _logger.warning("lost %s: %s", self.transport.address, detail)
            self._up.clear()
            self._on_down()


async def unsubscribe_all(subscriptions: Iterable[Subscription]) -> None:
    """End subscriptions, and wait for the broker; a cancellation only ends the waiting."""
    cancelled: asyncio.CancelledError | None = None
    for subscription in subscriptions:
        try:
            await subscription.unsubscribe()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def end_of(task: asyncio.Task[None]) -> None:
    """Wait for a task whose end is bounded in time, and let a cancellation through after it.

    Left earlier, the rest of it would go on with nobody to see it end.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
