"""Parts of a benchmark in processes of their own, and calls between them and the driver.

A part is a class with async methods. `Part` starts a process that makes one object of it,
and calls its methods, one at a time, over the pipes of that process. Arguments and results
are JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import threading
from typing import Any, Self

PATIENCE = 300.0
"""After so many seconds no part has a result any more: it waits for one that failed, say."""


class Part:
    """The driver's side: an object in another process.

    Args:
        kind: the class, importable from its module.
        **options: its arguments.
    """

    def __init__(self, kind: type, **options: Any) -> None:
        self._name = kind.__name__
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, kind.__module__, self._name, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.kill()  # the run is being ended: nobody asks how the parts take it
            return
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method there, and wait for its result."""
        self.begin(method, **arguments)
        return self.result()

    def begin(self, method: str, **arguments: Any) -> None:
        """Call a method there, and do not wait: `result` does."""
        if self._process.stdin is None:
            raise RuntimeError("no pipe")
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()

    def result(self) -> Any:
        """The result of the call begun first.

        Raises:
            RuntimeError: the process ended, and has said why; or there was none within
                `PATIENCE`, and it has been killed.
        """
        late = threading.Event()
        deadline = threading.Timer(PATIENCE, self._give_up, (late,))
        deadline.start()
        try:
            line = self._process.stdout.readline() if self._process.stdout else ""
        finally:
            deadline.cancel()
        if not line and late.is_set():
            raise RuntimeError(f"no result of {self._name} within {PATIENCE:g} s")
        if not line:
            raise RuntimeError(f"the process of {self._name} ended: {self._process.wait()}")
        return json.loads(line)

    def kill(self) -> None:
        """End the process as a crash would (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def _give_up(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()


async def _serve(module: str, name: str, options: dict[str, Any]) -> None:
    part = getattr(importlib.import_module(module), name)(**options)
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        method, arguments = json.loads(line)
        result = await getattr(part, method)(**arguments)
        print(json.dumps(result), flush=True)
    close = getattr(part, "close", None)
    if close is not None:
        await close()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
