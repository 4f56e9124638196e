"""A server that speaks TLS in front of a broker that does not."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Generator


@contextlib.contextmanager
def tls_front(port: int, context: ssl.SSLContext) -> Generator[int]:
    """Pass what comes in with TLS on to a port; gives the port to connect to.

    With threads, since a server of asyncio hangs up before it has said what it does not like
    about a certificate.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=_accept, args=(listener, port, context, threads))
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def _accept(
    listener: socket.socket, port: int, context: ssl.SSLContext, threads: list[threading.Thread]
) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            thread = threading.Thread(target=_serve, args=(client, port, context))
            threads.append(thread)
            thread.start()


def _serve(client: socket.socket, port: int, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError), client:
        client.settimeout(10)
        with (
            context.wrap_socket(client, server_side=True) as ahead,
            socket.create_connection(("127.0.0.1", port), timeout=10) as behind,
        ):
            while True:
                ready = [ahead] if ahead.pending() else select.select([ahead, behind], [], [])[0]
                for source in ready:
                    data = source.recv(65536)
                    if not data:
                        return
                    (behind if source is ahead else ahead).sendall(data)
