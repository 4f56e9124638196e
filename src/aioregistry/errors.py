"""The exceptions of aioregistry: one tree, so that `except RegistryError` catches them all.

RegistryError
├── TransportError                 the broker cannot be reached, or refused
├── RegistryClosed                 used after `aclose()`
├── NotRegistered   (LookupError)  this registry does not announce that service
├── ServiceNotFound (LookupError)  nobody provides that service, as far as is known
├── InvalidService  (ValueError)   a service that makes no sense, or is too large
└── NoFreePort      (OSError)      every port of the range is taken
"""

from typing import Self

__all__ = [
    "InvalidService",
    "NoFreePort",
    "NotRegistered",
    "RegistryClosed",
    "RegistryError",
    "ServiceNotFound",
    "TransportError",
]


class RegistryError(Exception):
    """The base of everything that aioregistry raises on purpose."""

    def again(self) -> Self:
        """The same error once more: of several who hear of one thing, each raises its own.

        One object for all would keep what is in the frames of each of them.
        """
        another = type(self).__new__(type(self), *self.args)
        another.__dict__.update(self.__dict__)
        if hasattr(self, "__notes__"):
            another.__notes__ = [*self.__notes__]
        another.__cause__ = self.__cause__
        return another


class TransportError(RegistryError):
    """The broker could not be reached in time, went away, or refused.

    Attributes:
        permanent: True when trying again cannot help before somebody changes the
            configuration (wrong credentials, an untrusted certificate).
        subjects: the subjects of what was refused while the link as such is sound; empty when
            the trouble is the link's.
        messages: those of them whose messages were refused.
        subscriptions: those of them that may not be subscribed to.
    """

    def __init__(
        self,
        message: str,
        *,
        permanent: bool = False,
        subjects: frozenset[str] = frozenset(),
        subscriptions: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.subjects = subjects | subscriptions
        self.messages = subjects
        self.subscriptions = subscriptions


class RegistryClosed(RegistryError):
    """The registry was closed, or has not been started."""


class NotRegistered(RegistryError, LookupError):
    """This registry does not announce that service."""


class ServiceNotFound(RegistryError, LookupError):
    """No instance of the service matches; the text says what is known."""


class InvalidService(RegistryError, ValueError):
    """A service, name or pattern that makes no sense or exceeds a limit."""


class NoFreePort(RegistryError, OSError):
    """Every port of the range is taken."""
