"""Waiting without taking part: what is measured must not pay for waking the one who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], pause: float = 0.002) -> None:
    """Look every `pause` seconds until the condition holds."""
    while not condition():  # noqa: ASYNC110 - an event would cost each message a look at it
        await asyncio.sleep(pause)
