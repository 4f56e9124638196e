"""Keys, certificates and JWTs, made for one test run and never kept."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
from pathlib import Path
from typing import Any

import nkeys as untyped_nkeys
import trustme

nkeys: Any = untyped_nkeys

__all__ = ["Certificates", "Key", "Operator", "creds_file"]


class Certificates:
    """An authority with a server (`localhost`, and no other name) and a client that it knows.

    Attributes:
        folder: where `ca.pem`, `server.pem`, `client.pem` and `stranger.pem` are; the last
            is of another authority.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        for name, certificate in (
            ("server", ca.issue_cert("localhost")),
            ("client", ca.issue_cert("client@example.org")),
            ("stranger", trustme.CA().issue_cert("client@example.org", "localhost")),
        ):
            certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))

    def context(self, client: str | None = "client") -> ssl.SSLContext:
        """What a client passes as tls=."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if client is not None:
            context.load_cert_chain(self.folder / f"{client}.pem")
        return context

    def server_context(self) -> ssl.SSLContext:
        """For a server that insists on a client certificate."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.folder / "ca.pem")
        context.load_cert_chain(self.folder / "server.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def nats(self) -> str:
        """The same, in the words of nats-server."""
        folder = self.folder
        return (
            f'tls {{ cert_file: "{folder}/server.pem", key_file: "{folder}/server.pem",'
            f' ca_file: "{folder}/ca.pem", verify: true }}'
        )


class Key:
    """An NKey pair of some kind."""

    def __init__(self, kind: int) -> None:
        self.seed = bytes(nkeys.encode_seed(secrets.token_bytes(32), kind))
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    @classmethod
    def of_user(cls) -> Key:
        """One for a user."""
        return cls(nkeys.PREFIX_BYTE_USER)

    def jwt(self, subject: Key, kind: str, claims: dict[str, Any]) -> str:
        """A JWT about another key, signed by this one."""
        body = {
            "jti": secrets.token_hex(16),
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject.public,
            "name": kind,
            "nats": {**claims, "type": kind, "version": 2},
        }
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = ".".join(_base64(json.dumps(part).encode()) for part in (header, body))
        return f"{text}.{_base64(self._pair.sign(text.encode()))}"


class Operator:
    """An operator with one account, as nats-server's JWT mode wants them."""

    def __init__(self) -> None:
        self._key = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def nats(self) -> str:
        """The configuration of a server that knows both."""
        unlimited = dict.fromkeys(("subs", "data", "payload", "conn", "imports", "exports"), -1)
        limits = {"limits": {**unlimited, "wildcards": True}}
        account = self._key.jwt(self._account, "account", limits)
        return (
            f"operator: {self._key.jwt(self._key, 'operator', {})}\n"
            f"resolver: MEMORY\nresolver_preload: {{ {self._account.public}: {account} }}\n"
        )

    def user(self, key: Key) -> str:
        """The JWT of a user of the account."""
        claims: dict[str, Any] = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
        return self._account.jwt(key, "user", claims)


def creds_file(path: Path, jwt: str, key: Key) -> Path:
    """Write a credentials file."""
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return path


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
