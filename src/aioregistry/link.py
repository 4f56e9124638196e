"""The registry's link to its broker: whether it is up, and how it is brought up."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from aioregistry.errors import TransportError
from aioregistry.transports.base import LinkState, Transport

__all__ = ["Link"]

_logger = logging.getLogger("aioregistry")

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0


class Link:
    """The state of a transport, and the one place that connects it.

    Args:
        transport: the transport, not connected yet; the link does not close it.
        rng: where the jitter of the retries comes from.
        on_up: called, without arguments, each time the link comes up.
        on_down: called each time it goes down.

    Attributes:
        connected: whether the broker can be reached, as far as the transport knows.
        detail: the reason for the state, in words.
        losses: how often the link went down.
    """

    def __init__(
        self,
        transport: Transport,
        rng: random.Random,
        *,
        on_up: Callable[[], None],
        on_down: Callable[[], None],
    ) -> None:
        self.transport = transport
        self.connected = False
        self.detail = "not connected yet"
        self.losses = 0
        self._closed = False
        self._rng = rng
        self._on_up = on_up
        self._on_down = on_down
        self._up = asyncio.Event()

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
                            raise
                        last = error
                        self.detail = str(error)
                        _logger.info("no broker at %s yet: %s", address, error)
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
        """Wait until the link is up."""
        await self._up.wait()

    def close(self) -> None:
        """Take no more notice of the transport."""
        self._closed = True
        self.connected = False
        self.detail = "closed"

    def error(self) -> TransportError:
        """The error for a caller who needs the broker while the link is down."""
        return TransportError(f"no connection to {self.transport.address}: {self.detail}")

    def _on_state(self, state: LinkState, detail: str) -> None:
        up = state is LinkState.CONNECTED
        if self._closed or up is self.connected:
            return
        self.detail = detail
        self.connected = up
        if up:
            _logger.info("connected to %s: %s", self.transport.address, detail)
            self._up.set()
            self._on_up()
        else:
            self.losses += 1
            _logger.warning("lost %s: %s", self.transport.address, detail)
            self._up.clear()
            self._on_down()
