"""What the command line takes."""

from __future__ import annotations

import argparse
import math
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import Any

from aioregistry.choosing import Predicate, metadata, version
from aioregistry.cli.commands import Options, announce, find, follow, show
from aioregistry.service import Status

__all__ = ["parse"]

_ENDING = """\
exit status: 0; 1: there is no such service; 2: the arguments make no sense; 3: the broker
cannot be reached, or refuses; 128 and the number of a signal: it was ended by that."""


def parse(arguments: list[str] | None = None) -> Options:
    """Read the command line; whatever makes no sense there ends the process with status 2.

    Args:
        arguments: those of the command line; None: those of the process.
    """
    parser = _parser()
    options = parser.parse_args(arguments, Options())
    if options.command is announce and not (options.address or options.service_url):
        parser.error("register: an ADDRESS or a --service-url is needed")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aioregistry",
        description="Service discovery over NATS or Redis, from a shell.",
        epilog=_ENDING,
    )
    parser.add_argument("--version", action="version", version=_installed())
    parser.add_argument(
        "--url",
        help="where the broker is; without it $AIOREGISTRY_URL (where passwords belong: others see"
        " the arguments of a process), or else nats://localhost:4222",
    )
    parser.add_argument("--prefix", default="registry", help="the tenant (%(default)s)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_show(commands)
    _add_follow(commands)
    _add_find(commands)
    _add_announce(commands)
    return parser


def _installed() -> str:
    try:
        return version_of("aioregistry-discovery")
    except PackageNotFoundError:
        return "unknown: run from a folder that is not installed"


def _add_show(commands: Any) -> None:
    parser = commands.add_parser("list", help="who is there")
    parser.set_defaults(command=show)
    _add_patterns(parser)
    _add_filters(parser)
    _add_wait(
        parser,
        "how long to wait for answers (%(default)s); Go and Java peers answer those who name them,"
        " and show within their heartbeat interval where a pattern is asked for",
    )
    _add_json(parser)


def _add_follow(commands: Any) -> None:
    parser = commands.add_parser("watch", help="who is there, and then every change")
    parser.set_defaults(command=follow)
    _add_patterns(parser)
    _add_filters(parser)
    _add_json(parser)


def _add_find(commands: Any) -> None:
    parser = commands.add_parser("get", help="the address of an instance that is not critical")
    parser.set_defaults(command=find)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="of every one, a line each")
    _add_wait(parser, "how long to wait for one (%(default)s)")
    _add_filters(parser)
    _add_json(parser)


def _add_announce(commands: Any) -> None:
    parser = commands.add_parser(
        "register", help="announce a service, until SIGINT or SIGTERM ends this process"
    )
    parser.set_defaults(command=announce)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("address", metavar="ADDRESS", nargs="?", default="", help="host:port")
    parser.add_argument("--service-url", default="", metavar="URL", help="where it has one")
    parser.add_argument("--version", default="")
    parser.add_argument("--host", default="", help="the name of the machine; else the system's")
    parser.add_argument("--metadata", action="append", type=_pair, default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--status", choices=[each.value for each in Status], default=Status.PASSING.value
    )
    parser.add_argument(
        "--ttl",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long it is known without a heartbeat (%(default)s)",
    )


def _add_patterns(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="a name, or a pattern of names: '*' is one token, a final '>' the rest; none: all",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metadata",
        action="append",
        type=_with_pair,
        default=[],
        dest="predicates",
        metavar="KEY=VALUE",
        help="only those that have it; may be repeated",
    )
    parser.add_argument(
        "--version",
        action="append",
        type=_with_version,
        dest="predicates",
        metavar="SPECIFIER",
        help="only those, such as '>=1.2,<2'",
    )


def _add_wait(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--wait", type=_seconds, default=1.0, metavar="SECONDS", help=meaning)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="JSON, an object a line")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _with_pair(text: str) -> Predicate:
    return metadata(dict([_pair(text)]))


def _with_version(text: str) -> Predicate:
    try:
        return version(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
