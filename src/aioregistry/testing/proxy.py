"""A TCP proxy that breaks connections on demand: to see what a network fault does.

It stands between clients and a broker on this machine:

    async with TcpProxy(4222) as proxy, Registry(proxy.url("nats")) as registry:
        proxy.cut()      # every connection ends, and new ones are refused
        proxy.restore()
        proxy.freeze()   # connections stay open and carry nothing: half-open links
        proxy.thaw()
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
from typing import Final, Self

__all__ = ["TcpProxy"]

_CHUNK: Final = 65_536
_BACKLOG: Final = 128
_CONNECT_TIMEOUT: Final = 5.0
_GARBAGE: Final = b"\xff\x00garbage\xfe\r\n" * 8


class TcpProxy:
    """Passes connections on to a port of this machine, until told to do otherwise.

    Apart from entering and leaving, methods return at once. Call them in the event loop in
    which the proxy was entered.

    Args:
        target_port: where the connections go.
        target_host: on which machine.
    """

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self._gate = _Gate()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._socket = _bound(0)
        self._port: int = self._socket.getsockname()[1]

    async def __aenter__(self) -> Self:
        self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end_all()
        self._socket.close()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def port(self) -> int:
        """Where the proxy listens, on 127.0.0.1; it stays the same."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections go through the proxy now."""
        return len(self._connections)

    def url(self, scheme: str) -> str:
        """The URL of the proxy, as `Registry` takes it.

        Args:
            scheme: `nats`, `redis`, ...
        """
        return f"{scheme}://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """End every connection, and refuse new ones until `restore`."""
        self._end_all()
        if self._listening:
            self._listening = False
            # Bound without listening, the port refuses and nobody else can take it.
            self._socket.close()
            self._socket = _bound(self._port)

    def drop(self) -> None:
        """End every connection; new ones are welcome."""
        for connection in tuple(self._connections):
            connection.abort()

    def restore(self) -> None:
        """Accept connections again."""
        if not self._listening:
            self._listening = True
            self._socket.listen(_BACKLOG)
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def freeze(self) -> None:
        """Pass nothing on until `thaw`: connections stay open, and their buffers fill."""
        self._gate.open.clear()

    def thaw(self) -> None:
        """Pass on what was held back, and all that follows."""
        self._gate.open.set()

    def slow(self, bytes_per_second: float = math.inf, *, delay: float = 0.0) -> None:
        """Pass bytes on slowly, in each direction of each connection; without arguments: fast.

        Args:
            bytes_per_second: so many at most.
            delay: how long every piece (of up to 64 KiB) is held back, in seconds.
        """
        self._gate.rate = bytes_per_second
        self._gate.delay = delay

    def corrupt(
        self, after_bytes: int = 0, garbage: bytes = _GARBAGE, *, towards_broker: bool = False
    ) -> None:
        """Put garbage once into every connection there is, when the next bytes pass.

        Args:
            after_bytes: so many bytes pass unharmed before.
            garbage: what is put in between.
            towards_broker: whether the broker reads it; otherwise the client does.
        """
        for connection in self._connections:
            connection.corrupt(after_bytes, garbage, towards_broker=towards_broker)

    def _end_all(self) -> None:
        if self._listening:
            asyncio.get_running_loop().remove_reader(self._socket)
        self.drop()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # whoever it was is gone already
            accepted, _ = self._socket.accept()
            accepted.setblocking(False)  # noqa: FBT003 - a name is not allowed here
            connection = _Connection(accepted, self._gate)
            self._connections.add(connection)
            task = asyncio.get_running_loop().create_task(connection.run(*self._target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._connections.discard(connection))


class _Gate:
    """What holds every connection of a proxy back."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.rate = math.inf
        self.delay = 0.0

    async def pass_through(self, size: int) -> None:
        pause = self.delay + size / self.rate
        if pause:
            await asyncio.sleep(pause)
        await self.open.wait()


class _Fault:
    """Garbage that waits for its place in a stream."""

    def __init__(self, after: int, garbage: bytes) -> None:
        self._after = after
        self._garbage = garbage

    def apply(self, data: bytes) -> bytes:
        before, self._after = self._after, self._after - len(data)
        if self._after >= 0 or not self._garbage:
            return data
        garbage, self._garbage = self._garbage, b""
        return data[:before] + garbage + data[before:]


class _Connection:
    """A connection of a client, and the one to the broker that belongs to it."""

    def __init__(self, accepted: socket.socket, gate: _Gate) -> None:
        self._accepted = accepted
        self._gate = gate
        self._faults: dict[bool, _Fault] = {}
        self._aborted = False
        self._pumps: list[asyncio.Task[None]] = []

    async def run(self, host: str, port: int) -> None:
        """Pass everything on until both sides have closed, or it is aborted."""
        client_reader, client = await asyncio.open_connection(sock=self._accepted)
        writers = [client]
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                broker_reader, broker = await asyncio.open_connection(host, port)
            writers.append(broker)
            if not self._aborted:
                create_task = asyncio.get_running_loop().create_task
                self._pumps = [
                    create_task(self._pump(client_reader, broker, towards_broker=True)),
                    create_task(self._pump(broker_reader, client, towards_broker=False)),
                ]
                await asyncio.wait(self._pumps)
        except OSError:
            pass  # no broker there: to the client it looks like a connection that ends
        finally:
            for writer in writers:
                if self._aborted:
                    writer.transport.abort()
                writer.close()

    def abort(self) -> None:
        """End both sides at once."""
        self._aborted = True
        for pump in self._pumps:
            pump.cancel()

    def corrupt(self, after: int, garbage: bytes, *, towards_broker: bool) -> None:
        """Put garbage into the stream once."""
        self._faults[towards_broker] = _Fault(after, garbage)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, towards_broker: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._gate.pass_through(len(data))
                fault = self._faults.get(towards_broker)
                writer.write(fault.apply(data) if fault else data)
                await writer.drain()
        await self._gate.open.wait()
        writer.close()  # what is under way still arrives


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setblocking(False)  # noqa: FBT003 - a name is not allowed here
    bound.bind(("127.0.0.1", port))
    return bound
