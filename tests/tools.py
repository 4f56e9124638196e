"""What several tests need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager


async def eventually(condition: Callable[[], object], within: float = 10.0) -> None:
    """Wait until a condition that others bring about holds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within:g} s")
        await asyncio.sleep(0.005)


@asynccontextmanager
async def no_new_tasks() -> AsyncGenerator[None]:
    """Fail when the block leaves a task behind.

    A driver that closes cancels tasks of its own without awaiting them: they get a moment.
    """
    before = asyncio.all_tasks()
    yield

    def left() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    for _ in range(10):
        await asyncio.sleep(0)
    assert not left(), sorted(str(task.get_coro()) for task in left())
