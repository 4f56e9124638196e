"""Subjects and patterns, by example and against a definition by regular expressions."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioregistry.subjects import covers, is_pattern, matches

# Few enough that patterns and subjects often meet; every odd character means itself.
literals = st.sampled_from(
    ["a", "b", "a*", "*a", "**", "a>", ">>", "[ab]", "?", "\\", "^", "{}", "café", "\n"]
)
subjects = st.lists(literals, min_size=1, max_size=4).map(".".join)


@st.composite
def patterns(draw: st.DrawFn) -> str:
    tokens = draw(st.lists(literals | st.just("*"), max_size=3))
    tokens.append(draw(literals | st.just("*") | st.just(">")))
    return ".".join(tokens)


def as_regex(pattern: str) -> re.Pattern[str]:
    *head, last = pattern.split(".")
    parts = [r"[^.]+" if token == "*" else re.escape(token) for token in head]
    parts.append({"*": r"[^.]+", ">": r".+"}.get(last, re.escape(last)))
    return re.compile(r"\.".join(parts), re.DOTALL)


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a", "a.b", False),
        ("a.b", "a", False),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("*.b", "a.b", True),
        ("a.*.c", "a.b.c", True),
        ("a.*.c", "a.c", False),
        (">", "a", True),
        (">", "a.b.c", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        ("a.>", "ab.c", False),
        ("*.>", "a", False),
        ("*.>", "a.b", True),
        ("a.>.c", "a.b.c", False),
        ("a.>.c", "a.>.c", True),
        ("a*", "ab", False),
        ("a*", "a*", True),
        ("[ab]", "a", False),
        ("a?", "ab", False),
        ("café.*", "café.noir", True),
        ("a", "A", False),
    ],
)
def test_matches(pattern: str, subject: str, *, expected: bool) -> None:
    assert matches(pattern, subject) is expected


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "a.>", "*.a", "a.*.b", "*.>"])
def test_is_pattern(pattern: str) -> None:
    assert is_pattern(pattern)


@pytest.mark.parametrize("subject", ["a", "a.b", "a*", "*a.b", "a>", ">.a", "**", "[ab]", "a?"])
def test_is_no_pattern(subject: str) -> None:
    assert not is_pattern(subject)


@pytest.mark.parametrize(
    ("wider", "narrower", "expected"),
    [
        ("a", "a", True),
        ("a", "*", False),
        ("*", "a", True),
        ("*", "*", True),
        ("*", ">", False),
        (">", "*", True),
        (">", ">", True),
        (">", "a.*.>", True),
        ("*.>", ">", False),
        (">", "*.>", True),
        ("a.*", "a.>", False),
        ("a.>", "a.*", True),
        ("a.>", "a.b.>", True),
        ("a.b.>", "a.>", False),
        ("a.*.>", "a.b.>", True),
        ("a.b.>", "a.*.>", False),
        ("a.>", "a", False),
    ],
)
def test_covers(wider: str, narrower: str, *, expected: bool) -> None:
    assert covers(wider, narrower) is expected


@given(patterns(), subjects)
def test_matches_as_the_regular_expression_does(pattern: str, subject: str) -> None:
    assert matches(pattern, subject) == bool(as_regex(pattern).fullmatch(subject))


@given(subjects)
def test_a_subject_matches_itself_alone(subject: str) -> None:
    assert not is_pattern(subject)
    assert matches(subject, subject)
    assert not matches(subject, subject + ".a")


@given(patterns(), patterns(), subjects)
def test_what_is_covered_matches(wider: str, narrower: str, subject: str) -> None:
    if covers(wider, narrower) and matches(narrower, subject):
        assert matches(wider, subject)


@given(patterns(), patterns())
def test_what_is_not_covered_has_a_witness(wider: str, narrower: str) -> None:
    # Tokens that occur nowhere else stand for "anything"; `>` for one token, or for many.
    tokens = ["fresh" if token == "*" else token for token in narrower.split(".")]
    witnesses = [".".join(tokens)]
    if tokens[-1] == ">":
        witnesses = [".".join([*tokens[:-1], *["fresh"] * count]) for count in (1, 2, 9)]
    assert covers(wider, narrower) == all(matches(wider, witness) for witness in witnesses)


@given(patterns(), subjects)
def test_covering_a_subject_is_matching_it(pattern: str, subject: str) -> None:
    assert covers(pattern, subject) == matches(pattern, subject)


@given(patterns(), patterns(), patterns())
def test_covers_is_a_preorder(first: str, second: str, third: str) -> None:
    assert covers(first, first)
    if covers(first, second) and covers(second, third):
        assert covers(first, third)
