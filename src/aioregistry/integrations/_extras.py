"""What to say when a framework is not installed."""

from __future__ import annotations

__all__ = ["missing"]


def missing(error: ModuleNotFoundError, module: str, extra: str) -> ImportError:
    """The error of an integration whose framework is not installed: it names the remedy.

    Args:
        error: what the import of the framework raised.
        module: the integration, as users import it.
        extra: the extra of this distribution that installs what is needed.
    """
    return ImportError(
        f"{module} needs {error.name}, which is not installed; from a checkout:"
        f" pip install '.[{extra}]', or else: pip install 'aioregistry-discovery[{extra}]'",
        name=error.name,
    )
