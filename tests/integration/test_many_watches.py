"""An event costs nothing for the watches of other names."""

from __future__ import annotations

import json

import pytest

from aioregistry import Registry
from aioregistry.transports.base import LinkState
from aioregistry.transports.memory import MemoryBroker, MemoryTransport
from aioregistry.watch import Watch

NAMES = 300


def ignore(_state: LinkState, _reason: str) -> None:
    pass


@pytest.mark.parametrize("order", ["watched first", "known first"])
async def test_watches_of_many_names_cost_as_much_as_their_number(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    concerns = Watch.concerns

    def counting(watch: Watch, name: str) -> bool:
        nonlocal asked
        asked += 1
        return concerns(watch, name)

    monkeypatch.setattr(Watch, "concerns", counting)
    broker = MemoryBroker()
    peer = MemoryTransport(broker)
    await peer.connect(ignore)

    async def announce() -> None:
        for number in range(NAMES):
            name = f"svc-{number}"
            payload = {"name": name, "add": "10.0.0.5:80", "t": {"Duration": 20000}}
            await peer.publish(f"registry.register.{name}", json.dumps(payload).encode())
        await peer.flush()

    async with Registry(MemoryTransport(broker)) as registry:
        names = [f"svc-{number}" for number in range(NAMES)]
        if order == "known first":
            await registry.observe(*names)
            await announce()
        watches = [registry.watch(name) for name in names]
        for watch in watches:
            await watch.__aenter__()
        if order == "watched first":
            await announce()
        for watch, name in zip(watches, names, strict=True):
            assert (await anext(watch)).service.name == name
        assert asked < 10 * NAMES, f"{asked} comparisons of {NAMES} names with {NAMES} watches"
    await peer.aclose()
