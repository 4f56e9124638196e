"""python-zeroconf: multicast DNS, here on the loopback interface only."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers import side

_zeroconf: Any = importlib.import_module("zeroconf")
_asyncio: Any = importlib.import_module("zeroconf.asyncio")


def _type(name: str) -> str:
    return f"_{name}._tcp.local."


def _info(name: str, number: int) -> Any:
    return _asyncio.AsyncServiceInfo(
        _type(name),
        f"i-{number}.{_type(name)}",
        port=8080,
        addresses=[socket.inet_aton(side.address(number))],
        properties={"version": side.VERSION, **side.METADATA},
        server=f"host-{number}.local.",
    )


def _engine() -> Any:
    return _asyncio.AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=_zeroconf.IPVersion.V4Only)


class Provider(side.Provider):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._engine: Any = None
        self._infos: dict[tuple[str, int], Any] = {}

    async def open(self) -> None:
        self._engine = _engine()

    async def register(self, name: str, number: int) -> None:
        info = self._infos[name, number] = _info(name, number)
        await self._engine.async_register_service(info)

    async def unregister(self, name: str, number: int) -> None:
        await (await self._engine.async_unregister_service(self._infos.pop((name, number))))

    async def close(self) -> None:
        await self._engine.async_close()


class Knower(side.Knower):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._engine: Any = None
        self._browser: Any = None

    async def open(self) -> None:
        self._engine = _engine()
        self._browser = _asyncio.AsyncServiceBrowser(
            self._engine.zeroconf, _type(side.NAME), handlers=[self._changed]
        )

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        del zeroconf, service_type
        number = int(name.partition(".")[0].removeprefix("i-"))
        if state_change is _zeroconf.ServiceStateChange.Added:
            self.appeared(number)
        elif state_change is _zeroconf.ServiceStateChange.Removed:
            self.disappeared(number)

    async def look_up(self, name: str) -> object:
        """Browse for the type, and take the first instance with its address."""
        return await _browse(self._engine, name)

    async def cold(self, names: list[str], pause: float) -> list[float]:
        """As for others, each with an engine of its own: one hears and keeps what others ask."""
        took: list[float] = []
        for name in names:
            engine = _engine()
            await engine.zeroconf.async_wait_for_start()
            started = time.monotonic_ns()
            await _browse(engine, name)
            took.append((time.monotonic_ns() - started) / 1e6)
            await engine.async_close()
            await asyncio.sleep(pause)
        return took

    def cached(self) -> Callable[[], object]:
        type_ = _type(side.NAME)
        names = itertools.cycle([f"i-{number}.{type_}" for number in sorted(self.known)])
        cache = self._engine.zeroconf

        def look() -> object:
            info = _asyncio.AsyncServiceInfo(type_, next(names))
            return info.load_from_cache(cache)

        return look

    async def close(self) -> None:
        await self._engine.async_close()


async def _browse(engine: Any, name: str) -> object:
    found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def changed(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        del zeroconf, service_type, state_change
        if not found.done():
            found.set_result(name)

    browser = _asyncio.AsyncServiceBrowser(engine.zeroconf, _type(name), handlers=[changed])
    info = _asyncio.AsyncServiceInfo(_type(name), await asyncio.wait_for(found, 10))
    await info.async_request(engine.zeroconf, 3000)
    await browser.async_cancel()
    return info.parsed_addresses()[0]
