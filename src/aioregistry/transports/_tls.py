"""What went wrong with TLS."""

from __future__ import annotations

import ssl

__all__ = ["is_tls_refusal"]

_PASSING = (
    ssl.SSLEOFError,
    ssl.SSLSyscallError,
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    ssl.SSLZeroReturnError,
)


def is_tls_refusal(error: BaseException | None) -> bool:
    """Whether one side refuses the other, as it will the next time: not just a lost link."""
    while error is not None:
        if isinstance(error, ssl.SSLError) and not isinstance(error, _PASSING):
            return True
        error = error.__cause__ or error.__context__
    return False
