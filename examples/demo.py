"""The demo: services in processes of their own find each other over a real nats-server.

    make demo        (or: python examples/demo.py)

Four providers, one caller that never stops calling, and one watcher. Providers warn, leave,
crash and are replaced, and the broker goes away and comes back; the caller sees no error.
It takes about twenty seconds and leaves no process behind, however it ends.
"""

from __future__ import annotations

import os
import sys

try:
    import signal
except KeyboardInterrupt:  # an early bird
    os._exit(130)


def leave(signum: int, _frame: object) -> None:
    os._exit(128 + signum)  # nothing runs yet that would have to be ended


for _signal in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(_signal, leave)  # before the imports below: they take a moment

import asyncio
import contextlib
import logging
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from aioregistry import (
    EventType,
    Predicate,
    Registry,
    RegistryError,
    Service,
    ServiceEvent,
    all_of,
    passing,
)

TTL: Final = 3.0
CALLERS: Final = 4
PAUSE: Final = 0.02
PATIENCE: Final = 10.0
EXAMPLES: Final = Path(__file__).resolve().parent

COLOURS: Final = {
    "REGISTERED": "32",
    "UPDATED": "33",
    "UNREGISTERED": "35",
    "EXPIRED": "31",
    "step": "1;36",
    "title": "1",
    "dim": "2",
}


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


class Screen:
    """Aligned lines with the time since the start, in colour where somebody watches."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._colourful = terminal and not os.environ.get("NO_COLOR")

    def plain(self, text: str = "", style: str = "") -> None:
        print(self._styled(text, style), flush=True)

    def line(self, label: str, text: str, style: str = "") -> None:
        now = time.monotonic() - self._start
        self.plain(f"{now:6.2f} s  {self._styled(f'{label:<12}', style or label)} {text}")

    def step(self, text: str, why: str = "") -> None:
        """What happens next, and why the viewer may want to look."""
        self.plain()
        now = time.monotonic() - self._start
        self.plain(f"{now:6.2f} s  {self._styled(f'> {text}', 'step')}")
        if why:
            self.plain(f"{'':10} {why}", "dim")

    def _styled(self, text: str, style: str) -> str:
        code = COLOURS.get(style)
        return f"\x1b[{code}m{text}\x1b[0m" if self._colourful and code else text


class Child:
    """A process of the demo. It ends when its standard input does, and so also with us."""

    def __init__(self, name: str, script: str, *arguments: str) -> None:
        self._name = name
        # A process group of its own: Ctrl-C is for the demo, which then ends the others in order.
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            [sys.executable, str(EXAMPLES / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._lines: asyncio.StreamReader | None = None

    async def expect(self, word: str) -> list[str]:
        """The words that the process writes after `word`."""
        try:
            async with asyncio.timeout(PATIENCE):
                lines = await self._output()
                first, *others = (await lines.readline()).decode().split() or [""]
                if first == word:
                    return others
                rest = (await lines.read()).decode().splitlines()
        except TimeoutError:
            raise DemoError(f"{self._name} did not say {word!r} in {PATIENCE:g} s") from None
        complaint = rest[-1] if rest else " ".join([first, *others])
        raise DemoError(complaint or f"{self._name} ended unexpectedly")

    async def _output(self) -> asyncio.StreamReader:
        if self._lines is None:
            lines = self._lines = asyncio.StreamReader()
            await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(lines), self._process.stdout
            )
        return self._lines

    async def moment(self, what: str) -> int:
        """When the process did `what`, on the clock that it shares with us."""
        return int((await self.expect(what))[0])

    def tell(self, command: str) -> None:
        """Pass a command on; `expect` notices when there is nobody to take it."""
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.write(f"{command}\n".encode())
                self._process.stdin.flush()

    def signal(self, signum: int) -> None:
        self._process.send_signal(signum)

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    async def end(self) -> None:
        """Let the process leave in good order; after a while, or if it crashed, by force."""
        self.hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, PATIENCE / 2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Watcher:
    """Prints the events as they come, and notes when each came."""

    def __init__(self, registry: Registry, screen: Screen) -> None:
        self._registry = registry
        self._screen = screen
        self._seen: dict[tuple[EventType, str], int] = {}
        self._news = asyncio.Event()

    async def run(self) -> None:
        async for event in self._registry.watch():
            instance = event.service.metadata.get("instance", event.service.name)
            self._seen[event.type, instance] = time.monotonic_ns()
            self._news.set()
            self._screen.line(event.type.name, f"{instance:<10} {describe(event)}")

    async def expect(self, kind: EventType, instance: str) -> int:
        """When that event came; waits for it."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (kind, instance) not in self._seen:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise DemoError(f"no event {kind.name} of {instance} in {PATIENCE:g} s") from None
        return self._seen.pop((kind, instance))


def describe(event: ServiceEvent) -> str:
    if event.type is EventType.UPDATED and event.previous is not None:
        return f"{event.previous.status.value} -> {event.service.status.value}"
    return event.service.address


class Traffic:
    """Callers that never stop: each call looks its service up and makes a real request."""

    def __init__(self, registry: Registry, screen: Screen) -> None:
        self.calls: Counter[str] = Counter()
        self.errors = self.moved = 0
        self._registry = registry
        self._screen = screen

    async def run(self) -> None:
        names = ("orders", "orders", "orders", "billing")
        while True:
            for name in names:
                try:
                    self.calls[await self._call(name)] += 1
                except (LookupError, OSError) as error:
                    self.errors += 1
                    self._screen.line("ERROR", f"{name}: {error!r}", "EXPIRED")
                await asyncio.sleep(PAUSE)

    async def _call(self, name: str) -> str:
        """Ask one instance; one that cannot be reached is passed over for another."""
        service = await self._registry.get_service(name)
        failed: list[str] = []
        while True:
            try:
                return await ask(service)
            except (OSError, EOFError):
                self.moved += 1
                failed.append(service.address)
                service = await self._registry.get_service(name, where=other_than(failed))

    async def show(self) -> None:
        """A line every second: who answered how many calls since the last line."""
        while True:
            before = self.calls.copy()
            await asyncio.sleep(1)
            answered = self.calls - before
            shares = in_columns({who: f"{n:>3}" for who, n in answered.items()})
            self._screen.line("calls", f"{shares}  errors {self.errors}", "dim")


def in_columns(numbers: Mapping[str, str]) -> str:
    """One column for each instance that there may be."""
    orders = "  ".join(f"{n}:{numbers.get(f'orders-{n}', '  -')}" for n in range(1, 5))
    return f"orders {orders}  billing:{numbers.get('billing-1', '  -')}"


def other_than(addresses: list[str]) -> Predicate:
    return all_of(passing, lambda service: service.address not in addresses)


async def ask(service: Service) -> str:
    """One request over a connection of its own; returns who answered."""
    async with asyncio.timeout(2):  # a TimeoutError is an OSError
        reader, writer = await asyncio.open_connection(*service.hostname_port)
        try:
            writer.write(b"hello\n")
            reply = await reader.readuntil(b"\n")
        finally:
            writer.close()
    return reply.split()[0].decode()


class Demo:
    """What happens, in order."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._children: dict[str, Child] = {}
        self._to_event: list[float] = []
        self._measured: list[tuple[str, str, str]] = []

    async def run(self) -> bool:
        """Play it; returns whether every call was answered."""
        self._screen.plain(
            "aioregistry: services in processes of their own find each other over NATS",
            "title",
        )
        broker = self._start("broker", "demo_broker.py")
        (url,) = await broker.expect("ready")
        self._screen.line("broker", f"nats-server at {url}, for this demo only", "dim")
        async with Registry(url, ttl=TTL, where=passing) as registry:
            return await self._play(broker, registry, url)

    async def end(self) -> None:
        """End every process: the providers first, while there is a broker to say goodbye to."""
        broker = self._children.pop("broker", None)
        for child in self._children.values():
            child.hang_up()
        for child in self._children.values():
            await child.end()
        if broker is not None:
            await broker.end()

    async def _play(self, broker: Child, registry: Registry, url: str) -> bool:
        watcher, traffic = Watcher(registry, self._screen), Traffic(registry, self._screen)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watcher.run())]
            await self._providers(watcher, url)
            tasks += [group.create_task(traffic.run()) for _ in range(CALLERS)]
            tasks += [group.create_task(traffic.show())]
            await self._lookups(registry, url)
            await self._warning(watcher)
            await self._graceful_stop(watcher, traffic)
            await self._crash(watcher, traffic)
            await self._replacement(watcher, url)
            await self._outage(broker, registry, traffic)
            for task in tasks:
                task.cancel()
        self._summary(traffic)
        return not traffic.errors

    async def _providers(self, watcher: Watcher, url: str) -> None:
        self._screen.step(
            "three providers of 'orders' and one of 'billing' start",
            f"each announces itself, and again every {TTL / 3:g} s (ttl {TTL:g} s)",
        )
        first = ("orders-1", "orders-2", "orders-3", "billing-1")
        for instance in first:
            self._provide(instance, url)
        for instance in first:
            await self._registered(watcher, instance)

    async def _lookups(self, registry: Registry, url: str) -> None:
        self._screen.step(
            f"{CALLERS} callers start: get_service(), connect, ask, again and again",
            "the lines 'calls' say who answered how many in the last second",
        )
        await asyncio.sleep(1.5)
        cold = [await cold_lookup(url) for _ in range(5)]
        self._measure("cold lookup", f"{statistics.median(cold):.2f} ms", "one ping; median of 5")
        self._measure(
            "cached lookup", f"{await cached_lookup(registry):.0f} ns", "mean of 20,000, in memory"
        )
        await asyncio.sleep(1)

    async def _warning(self, watcher: Watcher) -> None:
        self._screen.step(
            "orders-2 says WARNING: set_status(Status.WARNING)",
            "our callers want instances that pass (where=passing): they leave it",
        )
        provider = self._children["orders-2"]
        provider.tell("warning")
        said = await provider.moment("updating")
        self._note_update(said, await watcher.expect(EventType.UPDATED, "orders-2"))
        await asyncio.sleep(2.2)
        self._screen.step("orders-2 is well again: set_status(Status.PASSING)")
        provider.tell("passing")
        said = await provider.moment("updating")
        self._note_update(said, await watcher.expect(EventType.UPDATED, "orders-2"))
        await asyncio.sleep(1.2)

    async def _graceful_stop(self, watcher: Watcher, traffic: Traffic) -> None:
        self._screen.step(
            "orders-3 is stopped gracefully: SIGTERM",
            "it withdraws, goes on serving for half a second, and leaves",
        )
        moved = traffic.moved
        provider = self._children["orders-3"]
        provider.signal(signal.SIGTERM)
        said = await provider.moment("withdrawing")
        seen = await watcher.expect(EventType.UNREGISTERED, "orders-3")
        self._screen.line("", f"seen here {milliseconds(said, seen):.2f} ms later")
        self._measure("withdrawal -> event", f"{milliseconds(said, seen):.2f} ms", "SIGTERM")
        await asyncio.sleep(1.5)
        self._screen.line("", f"{traffic.moved - moved} calls failed to reach it", "dim")

    async def _crash(self, watcher: Watcher, traffic: Traffic) -> None:
        self._screen.step(
            "orders-1 is killed: SIGKILL, it cannot say goodbye",
            "calls that hit it move on; its lost connection gives it away",
        )
        moved, killed = traffic.moved, time.monotonic_ns()
        self._children["orders-1"].signal(signal.SIGKILL)
        seen = await watcher.expect(EventType.EXPIRED, "orders-1")
        after = milliseconds(killed, seen) / 1000
        self._screen.line(
            "", f"{after:.2f} s after the kill; {traffic.moved - moved} calls had moved"
        )
        self._measure("kill -> EXPIRED", f"{after:.2f} s", f"ttl {TTL:g} s")
        await asyncio.sleep(1)

    async def _replacement(self, watcher: Watcher, url: str) -> None:
        self._screen.step("orders-4 starts in their place", "it gets its share at once")
        self._provide("orders-4", url)
        await self._registered(watcher, "orders-4")
        await asyncio.sleep(2)

    async def _outage(self, broker: Child, registry: Registry, traffic: Traffic) -> None:
        self._screen.step(
            "the broker itself is killed, for longer than the ttl",
            "nothing expires, calls go on: each process has a catalogue in memory",
        )
        calls = traffic.calls.total()
        broker.tell("stop")
        await broker.expect("done")
        await asyncio.sleep(TTL + 0.5)
        self._screen.line("", f"{traffic.calls.total() - calls} calls without a broker")
        broker.tell("start")
        await broker.expect("done")
        started = time.monotonic_ns()
        await registry.wait_connected(PATIENCE)
        back = milliseconds(started, time.monotonic_ns())
        self._screen.line("", f"the broker is up again; connected {back:.0f} ms after that")
        await asyncio.sleep(1.2)

    def _summary(self, traffic: Traffic) -> None:
        self._screen.plain()
        self._screen.plain("measured in this run", "title")
        self._measured.insert(
            0,
            (
                "register, update -> event",
                f"{statistics.median(self._to_event):.2f} ms",
                f"in another process; median of {len(self._to_event)}",
            ),
        )
        total = traffic.calls.total()
        self._measure("calls", f"{total:,}", f"{traffic.errors} errors, {traffic.moved} moved")
        for what, value, how in self._measured:
            self._screen.plain(f"  {what:<27}{value:>10}   {how}")
        shares = in_columns({who: f" {n / total:.0%}" for who, n in traffic.calls.items()})
        self._screen.plain(f"  {'answered by':<19}{shares}")

    # ------------------------------------------------------------------------------------

    def _start(self, name: str, script: str, *arguments: str) -> Child:
        child = self._children[name] = Child(name, script, *arguments)
        return child

    def _provide(self, instance: str, url: str) -> None:
        name = instance.rpartition("-")[0]
        self._start(instance, "demo_provider.py", name, instance, url, str(TTL))

    async def _registered(self, watcher: Watcher, instance: str) -> None:
        said = await self._children[instance].moment("registering")
        seen = await watcher.expect(EventType.REGISTERED, instance)
        self._to_event.append(milliseconds(said, seen))

    def _note_update(self, said: int, seen: int) -> None:
        self._to_event.append(milliseconds(said, seen))
        self._screen.line("", f"seen here {milliseconds(said, seen):.2f} ms later")

    def _measure(self, what: str, value: str, how: str) -> None:
        self._measured.append((what, value, how))


async def cold_lookup(url: str) -> float:
    """How long the first lookup of a process takes, connected but knowing nobody, in ms."""
    async with Registry(url, ttl=TTL) as registry:
        start = time.perf_counter()
        await registry.get_service("billing")
        return (time.perf_counter() - start) * 1e3


async def cached_lookup(registry: Registry, times: int = 20_000) -> float:
    """How long a lookup of a known service takes, in ns."""
    start = time.perf_counter_ns()
    for _ in range(times):
        await registry.get_service("orders")
    return (time.perf_counter_ns() - start) / times


def milliseconds(start: int, end: int) -> float:
    return (end - start) / 1e6


@contextlib.contextmanager
def interruptible(interrupt: Callable[[], object]) -> Generator[list[int]]:
    """Call `interrupt` once, at the first signal that asks us to stop; yields that signal."""
    received: list[int] = []
    loop = asyncio.get_running_loop()

    def on_signal(signum: int, _frame: FrameType | None) -> None:
        if not received:
            received.append(signum)
            loop.call_soon_threadsafe(interrupt)

    # Not loop.add_signal_handler: that one would end with the loop, a little too early.
    signums = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for signum in signums:
        signal.signal(signum, on_signal)
    try:
        yield received
    finally:
        for signum in signums:
            signal.signal(signum, signal.SIG_IGN)  # all is cleared up; what follows is the end


async def play() -> int:
    """Run the demo; returns the exit status."""
    demo = Demo(Screen())
    running = asyncio.create_task(demo.run())
    with interruptible(running.cancel) as received:
        try:
            status = 0 if await running else 1
        except asyncio.CancelledError:
            status = 128 + received[0]
        finally:
            await demo.end()
    if status > 1:
        print("\ninterrupted; every process of the demo has ended", flush=True)
    return status


def main() -> None:
    logging.getLogger("aioregistry").setLevel(logging.CRITICAL)  # the screen says it better
    status = 1
    try:
        status = asyncio.run(play())
    except* (DemoError, RegistryError) as group:
        print(f"demo: {group.exceptions[0]}", file=sys.stderr)
    except* BrokenPipeError:  # as in: python examples/demo.py | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


if __name__ == "__main__":
    main()
