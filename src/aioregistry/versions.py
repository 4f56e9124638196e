"""Versions of instances, and the specs that they satisfy: `>=1.2,<2`.

Which comparisons there are, and how versions are ordered, the docstring of
`aioregistry.version` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

__all__ = ["ParsedVersion", "comparisons", "parse"]


class ParsedVersion(NamedTuple):
    """A version in the order of versions, which is that of these tuples."""

    release: tuple[int, ...]  # without zeros at the end
    final: bool
    prerelease: tuple[tuple[bool, int, str], ...]

    def begins_with(self, prefix: tuple[int, ...]) -> bool:
        """Whether it begins with these numbers, as `1.4.*` wants it."""
        missing = len(prefix) - len(self.release)
        return (self.release + (0,) * missing)[: len(prefix)] == prefix


_Comparison = Callable[[ParsedVersion], bool]

# More than 18 digits are a hash or a prank, not a version number.
_VERSION = re.compile(
    r"v?(?P<release>[0-9]{1,18}(?:\.[0-9]{1,18})*)"
    r"(?:-(?P<dashed>[0-9a-z.-]{1,100})|(?P<glued>[a-z][0-9a-z]{0,100}))?"
    r"(?:\+[0-9a-z.-]+)?",
    re.IGNORECASE,
)
_COMPARISON = re.compile(r"\s*(?P<operator>==|!=|<=|>=|~=|<|>)\s*(?P<operand>\S+)\s*")


@lru_cache(maxsize=4096)
def parse(text: str) -> ParsedVersion | None:
    """The version that a text spells; None: none."""
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        return None
    suffix = (found["dashed"] or found["glued"] or "").lower()
    words = re.findall(r"[0-9]{1,18}|[a-z]+", suffix)
    return ParsedVersion(
        _without_zeros_at_end(_release(found["release"])),
        not suffix,
        tuple((False, int(w), "") if w.isdigit() else (True, 0, w) for w in words),
    )


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


def _without_zeros_at_end(release: tuple[int, ...]) -> tuple[int, ...]:
    while release and release[-1] == 0:
        release = release[:-1]
    return release


@lru_cache(maxsize=1024)
def comparisons(spec: str) -> tuple[_Comparison, ...]:
    """The meaning of a spec.

    Raises:
        ValueError: there is none.
    """
    found = tuple(_comparison(part) for part in spec.split(","))
    if None in found:
        culprit = spec.split(",")[found.index(None)]
        raise ValueError(
            f'version("{spec}"): {culprit.strip()!r} is no comparison;'
            ' write for example ">=1.2,<2", "==1.4.*", "!=1.4.1" or "~=1.4.2"'
        )
    return tuple(filter(None, found))


def _comparison(text: str) -> _Comparison | None:
    found = _COMPARISON.fullmatch(text)
    if found is None:
        return None
    operator, operand = found["operator"], found["operand"]
    if operator in ("==", "!=") and operand.endswith(".*"):
        return _prefix_comparison(operator, operand.removesuffix(".*"))
    bound = parse(operand)
    if bound is None:
        return None
    if operator == "~=":
        return _compatible(bound, operand)
    return _ORDER[operator](bound)


_ORDER: Final[dict[str, Callable[[ParsedVersion], _Comparison]]] = {
    "==": lambda bound: lambda given: given == bound,
    "!=": lambda bound: lambda given: given != bound,
    ">=": lambda bound: lambda given: given >= bound,
    "<=": lambda bound: lambda given: given <= bound,
    ">": lambda bound: lambda given: given > bound,
    "<": lambda bound: lambda given: given < bound and not _precedes(given, bound),
}


def _precedes(given: ParsedVersion, bound: ParsedVersion) -> bool:
    """Whether `given` is a pre-release of what `bound` says is out of bounds."""
    return bound.final and not given.final and given.release == bound.release


def _prefix_comparison(operator: str, text: str) -> _Comparison | None:
    if not re.fullmatch(r"v?[0-9]{1,18}(\.[0-9]{1,18})*", text):
        return None
    prefix = _release(text.removeprefix("v"))
    wanted = operator == "=="
    return lambda given: given.begins_with(prefix) is wanted


def _compatible(bound: ParsedVersion, text: str) -> _Comparison | None:
    found = _VERSION.fullmatch(text)
    prefix = _release(found["release"])[:-1] if found else ()
    if not prefix:
        return None  # ~=1 would be compatible with everything later
    return lambda given: given >= bound and given.begins_with(prefix)
