"""Brokers for the tests of the NATS transport, and what none of them may leave."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from aioregistry.testing.brokers import Broker, nats_server
from aioregistry.transports import _nats_driver


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    yield
    for _ in range(3):  # what the clients of the tests leave for the next round of the loop
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # a task whose error nobody looked at is found now
    assert [record for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A broker of one test, which it may kill."""
    with nats_server() as broker:
        yield broker


@pytest.fixture
def restricted_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker with two users: one may do all, the other only a little."""
    config = tmp_path / "nats.conf"
    config.write_text("""
        max_payload: 1000
        authorization { users = [
            {user: all, password: "p@ss"}
            {user: some, password: some, permissions: {
                publish: {deny: ["secret.>", "Denied.>"]}, subscribe: {deny: ["secret.>"]}}}
            {user: mute, password: mute, permissions: {publish: {deny: ["_INBOX.>"]}}}
            {user: deaf, password: deaf, permissions: {subscribe: {deny: ["_INBOX.>"]}}}
        ]}
    """)
    with nats_server("--config", str(config)) as broker:
        yield broker


@pytest.fixture
def plain_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that keeps its parser where ours does not find it: the messages take its way."""
    monkeypatch.setattr(_nats_driver, "Parser", object)
