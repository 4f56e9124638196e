"""Warnings about others, at a bounded rate."""

from __future__ import annotations

import logging

import pytest

from aioregistry.loglimit import LISTED, MAX_LINES, PERIOD, LogLimiter, listed

logger = logging.getLogger("tests.loglimit")


@pytest.fixture
def limiter(caplog: pytest.LogCaptureFixture) -> LogLimiter:
    caplog.set_level(logging.WARNING, logger=logger.name)
    return LogLimiter(logger)


def test_a_line_is_logged_with_its_arguments(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    limiter.warning("a", 0.0, "%s is %d", "it", 5)
    assert caplog.messages == ["it is 5"]
    assert caplog.records[0].levelno == logging.WARNING


def test_one_line_a_minute_for_each_source(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(120):
        limiter.warning("a", float(second), "a")
        limiter.warning("b", float(second), "b")
    assert caplog.messages.count("a") == 2
    assert caplog.messages.count("b") == 2


def test_what_was_left_out_is_counted(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        limiter.warning("a", 0.0, "a")
    limiter.warning("b", PERIOD, "b")
    limiter.warning("c", 2 * PERIOD, "c")
    assert caplog.messages == ["a", "3 similar warnings were left out", "b", "c"]


def test_many_sources_share_a_limit(limiter: LogLimiter, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1000):
        limiter.warning(f"source {number}", 0.0, "line")
    assert len(caplog.messages) == MAX_LINES
    limiter.warning("source 5", PERIOD - 0.001, "line")
    assert len(caplog.messages) == MAX_LINES
    limiter.warning("source 5", PERIOD, "line")
    assert len(caplog.messages) == MAX_LINES + 2


def test_the_clock_may_start_anywhere(
    limiter: LogLimiter, caplog: pytest.LogCaptureFixture
) -> None:
    limiter.warning("a", -1e9, "a")
    assert caplog.messages == ["a"]


def test_a_list_is_of_bounded_length() -> None:
    texts = [f"t{number}" for number in range(LISTED + 2)]
    assert listed(texts[:2]) == "'t0', 't1'"
    assert listed(texts[:LISTED]).count(",") == LISTED - 1
    assert listed(texts).endswith(f"'t{LISTED - 1}' and 2 more")
