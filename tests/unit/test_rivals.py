"""Two processes at one address: who observes the name that it announces tells of the other."""

from __future__ import annotations

import logging

import msgspec
import pytest

from aioregistry import MemoryTransport, Registry
from aioregistry.transports.memory import MemoryBroker
from aioregistry.wire import encode_announcement
from tests.tools import eventually

ADDRESS = "10.0.0.5:8080"


@pytest.fixture(autouse=True)
def warnings_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "aioregistry")


async def test_both_are_told_and_both_are_named(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        Registry("memory://rivals", prefix="both", ttl=0.3, hostname="host-a") as first,
        Registry("memory://rivals", prefix="both", ttl=0.3, hostname="host-b") as second,
    ):
        for registry in (first, second):
            await registry.observe("orders")
            await registry.register("orders", ADDRESS)
        await eventually(lambda: len(caplog.messages) == 2)
        ids = [registry.registered[0].id for registry in (first, second)]
        heard = first.stats().announcements_received
        await eventually(lambda: first.stats().announcements_received > heard + 4)
    one, other = caplog.messages  # once each, though they go on
    for name, incarnation, host in (("first", ids[0], "host-a"), ("second", ids[1], "host-b")):
        for message in (one, other):
            assert f"{host} (id {incarnation})" in message, name
            assert f"two processes announce orders at {ADDRESS}" in message


async def test_a_peer_without_an_id_is_a_rival_too(caplog: pytest.LogCaptureFixture) -> None:
    peer = MemoryTransport(MemoryBroker.named("rivals"))
    await peer.connect(lambda _state, _detail: None)
    async with Registry("memory://rivals", prefix="peer") as registry:
        await registry.observe("orders")
        registration = await registry.register("orders", ADDRESS)
        theirs = encode_announcement(
            registration.service, ttl=10.0, registered=1.0, seq=0, node=""
        ).replace(registration.service.id.encode(), b"")
        await peer.publish("peer.register.orders", theirs)
        await eventually(lambda: caplog.messages)
    await peer.aclose()
    assert "(id none)" in caplog.messages[0]


async def test_a_peer_cannot_write_lines_of_its_own_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    peer = MemoryTransport(MemoryBroker.named("rivals"))
    await peer.connect(lambda _state, _detail: None)
    async with Registry("memory://rivals", prefix="forger") as registry:
        await registry.observe("orders")
        own = (await registry.register("orders", ADDRESS)).service
        for forged in ({"host": "evil\nCRITICAL root:"}, {"id": "evil\nCRITICAL root:"}):
            theirs = msgspec.structs.replace(own, **{"id": "theirs", **forged})
            payload = encode_announcement(theirs, ttl=10.0, registered=1.0, seq=1, node="other")
            await peer.publish("forger.register.orders", payload)
        plain = msgspec.structs.replace(own, id="theirs", host="plain")
        payload = encode_announcement(plain, ttl=10.0, registered=1.0, seq=1, node="other")
        await peer.publish("forger.register.orders", payload)
        await eventually(lambda: caplog.messages)
    await peer.aclose()
    assert not any("\n" in message for message in caplog.messages)


async def test_a_registration_of_our_own_is_no_rival(caplog: pytest.LogCaptureFixture) -> None:
    async with Registry("memory://rivals", prefix="own") as registry:
        await registry.observe("orders")
        for _ in range(5):
            async with await registry.register("orders", ADDRESS):
                pass
            await registry.register("orders", ADDRESS, wait=False)
            await registry.unregister("orders")
    assert caplog.messages == []


async def test_a_predecessor_is_no_rival(caplog: pytest.LogCaptureFixture) -> None:
    former = Registry("memory://rivals", prefix="former")
    await former.start()
    gone = await former.register("orders", ADDRESS)
    async with Registry("memory://rivals", prefix="former") as registry:
        service = await registry.get_service("orders")
        assert service.id == gone.service.id
        await former.aclose()
        await registry.register("orders", ADDRESS)
        assert (await registry.get_service("orders", timeout=5)).port == 8080
    assert caplog.messages == []
