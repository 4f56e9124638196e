"""Names, patterns and tenants that mean something to a broker: exact, or refused."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import pytest
from tests.tools import eventually, no_new_tasks

from aioregistry import InvalidService, Registry, ServiceNotFound, all_of
from aioregistry.limits import MAX_NAME_BYTES, MAX_PREFIX_BYTES
from aioregistry.subjects import matches

GOOD = [
    *("a", "b", "ab", "aa", "A", "a.b", "a.b.c", "aXb", "a-b", "x" * MAX_NAME_BYTES),
    *(
        "[ab]",
        "[^a]",
        "[a-b]",
        "a?",
        "?",
        "??",
        "\\",
        "a\\",
        "\\a",
        "a\\b",
        "{a,b}",
        "^a$",
        "(a|b)",
    ),
    *("$SYS", "$JS.API.INFO", "_INBOX.x", "register", "ping.a", "register.a", "alive.a", "_all.a"),
    *(
        "é",
        "e\u0301",
        "服务",
        "🚀",
        '"',
        "'",
        "%s",
        "%00",
        "{}",
        "..".replace(".", "·"),
        "a;b",
        "a&b",
    ),
]
"""Each is a name of its own: none may be taken for another one."""

BAD = [
    *("", ".", "a.", ".a", "a..b", "_all", "x" * (MAX_NAME_BYTES + 1), "é" * 128),
    *("*", ">", "a.*", "a.>", "*.a", "a*", ">a", "a>b", "*a.b"),
    *(
        " ",
        "a b",
        "a\t",
        "a\n",
        "a\r\nPUB registry.register.b 0\r\n",
        "a\x00",
        "\x00",
        "a\x7f",
        "a\x1b[0m",
    ),
    *("a\u00a0b", "a\u2028b", "a\u200bb", "\ufeffa", "\ud800", "a\x85b"),
]

PATTERNS = [
    *(">", "*", "a.*", "a.>", "*.b", "*.*", "*.b.>", "a.*.c", "register.>", "ping.*", "_all.*"),
    *("[ab].*", "?.>", "\\.>", "a\\.*", "[^a].>", "$JS.>", "_INBOX.*"),
]

BAD_PATTERNS = [
    "a*",
    "*a.b",
    ">.a",
    "a.>.b",
    "a.>>",
    "**",
    "a.**",
    "a b.*",
    "*.\r\n",
    ">\x00",
    "a..*",
]

TENANTS = ["[ab]", "a", "b", "?", "\\a", "a.b", "a.register", "é", "$SYS0"]


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    async with no_new_tasks():
        yield


async def test_a_name_means_itself(url: str, prefix: str) -> None:
    async with (
        Registry(url, prefix=prefix) as provider,
        Registry(url, prefix=prefix, lookup_timeout=5) as caller,
        Registry(url, prefix=prefix, lookup_timeout=5) as other,
    ):
        for number, name in enumerate(GOOD, start=1):
            await provider.register(name, f"10.0.0.5:{number}")
        for number, name in enumerate(GOOD, start=1):
            assert [each.port for each in await caller.get_services(name)] == [number]
        await provider.unregister(GOOD[0])
        await eventually(lambda: not caller.cached(GOOD[0]))
        for number, name in enumerate(GOOD[1:], start=2):
            assert [each.port for each in caller.cached(name)] == [number]
        with pytest.raises(ServiceNotFound):
            await other.get_service("c", wait=False)
        assert other.service_names == ()
        assert caller.stats().malformed == other.stats().malformed == 0


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_pattern_means_what_it_says(url: str, prefix: str, pattern: str) -> None:
    async with Registry(url, prefix=prefix) as provider, Registry(url, prefix=prefix) as caller:
        await caller.observe(pattern)
        for number, name in enumerate(GOOD, start=1):
            await provider.register(name, f"10.0.0.5:{number}", wait=False)
        await provider.register("zzz.end", "10.0.0.5:999")
        await caller.observe("zzz.end")
        await eventually(lambda: caller.cached("zzz.end"))
        wanted = {name for name in [*GOOD, "zzz.end"] if matches(pattern, name)} | {"zzz.end"}
        await eventually(lambda: set(caller.service_names) >= wanted)
        assert set(caller.service_names) == wanted
        assert caller.stats().malformed == 0


async def test_what_cannot_be_a_name_is_refused_before_it_reaches_the_broker(
    url: str, prefix: str
) -> None:
    async with Registry(url, prefix=prefix) as registry:
        for name in BAD:
            for call in (
                registry.register(name, "10.0.0.5:1"),
                registry.get_service(name),
                registry.get_services(name),
            ):
                with pytest.raises(InvalidService):
                    await call
        for pattern in [
            *BAD_PATTERNS,
            *(each for each in BAD if each not in ("*", ">", "a.*", "a.>", "*.a", "_all")),
        ]:
            with pytest.raises(InvalidService):
                await registry.observe(pattern)
            with pytest.raises(InvalidService):
                registry.watch(pattern)
        stats = registry.stats()
        assert stats.announcements_sent == stats.pings_sent == stats.observed == 0
        await registry.register("still.works", "10.0.0.5:1")


async def test_the_longest_prefix_with_the_longest_name(url: str) -> None:
    prefix = secrets.token_hex(MAX_PREFIX_BYTES // 2)
    name = "n" * MAX_NAME_BYTES
    async with Registry(url, prefix=prefix) as registry:
        await registry.register(name, "10.0.0.5:1")
        assert (await registry.get_service(name)).port == 1
        await registry.unregister(name)
    with pytest.raises(ValueError, match=f"at most {MAX_PREFIX_BYTES} bytes"):
        Registry(url, prefix=prefix + "x")


async def test_tenants_with_names_like_globs(url: str) -> None:
    """Each sees what is its own, whatever the prefix means to the broker."""
    salt = secrets.token_hex(6)
    prefixes = [f"{salt}{tenant}" for tenant in TENANTS]
    registries = [Registry(url, prefix=prefix, lookup_timeout=2) for prefix in prefixes]
    try:
        for registry in registries:
            await registry.start()
            await registry.observe(">")
        for number, registry in enumerate(registries, start=1):
            await registry.register("orders", f"10.0.0.5:{number}")
            await registry.register("register.orders", f"10.0.0.6:{number}")
            await registry.register("ping.orders", f"10.0.0.7:{number}")
        names = ("orders", "register.orders", "ping.orders")
        for registry in registries:
            await eventually(lambda r=registry: all(map(r.cached, names)))  # type: ignore[misc]  # the loop's value
        for number, registry in enumerate(registries, start=1):
            for name in names:
                found = registry.cached(name, where=all_of())
                assert [service.port for service in found] == [number], registry
    finally:
        for registry in registries:
            await registry.aclose()
