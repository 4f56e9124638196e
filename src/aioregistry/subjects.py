"""Subjects and patterns, with the meaning that NATS gives them.

A subject is a string of tokens separated by dots. In a pattern, `*` stands for exactly one
token and a final `>` for one or more; both only as whole tokens: `a*` and a `>` that is not
last are ordinary tokens, as is everything that means something to a glob or a regular
expression. Nothing is validated here: an empty token is a token.
"""

from __future__ import annotations

__all__ = ["covers", "is_pattern", "matches"]


def matches(pattern: str, subject: str) -> bool:
    """Whether `subject` is among those that `pattern` describes.

    The subject is taken literally: a `*` in it matches only `*`, or what matches anything.
    """
    wanted = pattern.split(".")
    given = subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    for want, token in zip(wanted, given, strict=False):  # noqa: SIM110 - half again as fast
        if want not in (token, "*"):
            return False
    return True


def is_pattern(pattern: str) -> bool:
    """Whether `pattern` describes more than the one subject that it spells."""
    return _is_open(pattern) or "*" in pattern.split(".")


def covers(wider: str, narrower: str) -> bool:
    """Whether every subject that `narrower` matches is matched by `wider` too."""
    # Read as a subject, `narrower` stands for all that it matches, because only `*` takes its
    # `*` and only `*` and `>` take its `>`. Of those, `*` cannot stand for several tokens.
    return matches(wider, narrower) and (_is_open(wider) or not _is_open(narrower))


def _is_open(pattern: str) -> bool:
    """Whether `pattern` ends in `>`, so that it sets no limit to the number of tokens."""
    return pattern == ">" or pattern.endswith(".>")
