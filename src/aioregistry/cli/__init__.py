"""The command line: look at a fleet, wait for a service, announce what is no Python program.

It uses what the package exports, so whatever it does, a program can do as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from aioregistry.cli.arguments import parse
from aioregistry.cli.commands import Options
from aioregistry.errors import RegistryError, ServiceNotFound
from aioregistry.registry import Registry

__all__ = ["main"]

_NOT_FOUND, _WRONG_USE, _FAILED, _SIGNAL = 1, 2, 3, 128


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those of the command line; None: those of the process.

    Returns:
        The exit status: 0; 1: there is no such service; 2: the arguments make no sense;
        3: the broker cannot be reached, or refuses; 128 and the number of the signal that ended it.
    """
    options = parse(arguments)
    logging.basicConfig(format="aioregistry: %(message)s")
    try:
        asyncio.run(_run(options))
    except (ValueError, RegistryError) as error:
        sys.stderr.write(f"aioregistry: {error}\n")
        return _status(error)
    except asyncio.CancelledError:
        return _SIGNAL + signal.SIGTERM
    except KeyboardInterrupt:
        return _SIGNAL + signal.SIGINT
    except BrokenPipeError:  # whoever reads has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGNAL + signal.SIGPIPE
    return 0


async def _run(options: Options) -> None:
    if task := asyncio.current_task():
        # As SIGINT does, so that what was announced is withdrawn.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Registry(options.url, prefix=options.prefix, ttl=options.ttl) as registry:
        # From here on who was told of a loss is also told that it is over.
        logging.getLogger("aioregistry").setLevel(logging.INFO)
        await options.command(registry, options)
        sys.stdout.flush()


def _status(error: Exception) -> int:
    if isinstance(error, ServiceNotFound):
        return _NOT_FOUND
    return _WRONG_USE if isinstance(error, ValueError) else _FAILED
