"""Where the integrations say what they do."""

from __future__ import annotations

import logging

__all__ = ["log"]


def log(name: str = "aioregistry") -> logging.Logger:
    """The logger of that name; where nobody listens to it, that of uvicorn, if somebody does.

    uvicorn shows its own messages and no others, unless the application sets up logging. Where
    a service is announced belongs among them.
    """
    own, uvicorn = logging.getLogger(name), logging.getLogger("uvicorn.error")
    return uvicorn if uvicorn.hasHandlers() and not own.hasHandlers() else own
