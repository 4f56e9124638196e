"""The broker of the demo: a nats-server that cannot outlive it.

It obeys `stop` and `start` on its standard input, and ends when that does, whatever became of
the demo; a nats-server started by the demo itself would survive the demo's being killed.
"""

from __future__ import annotations

import sys

from aioregistry.testing.brokers import Broker, nats_server


def obey(broker: Broker) -> None:
    for line in sys.stdin:
        if line == "stop\n":
            broker.kill()
        else:
            broker.start()
        print("done", flush=True)


def main() -> None:
    try:
        with nats_server() as broker:
            print("ready", broker.url, flush=True)
            obey(broker)
    except RuntimeError as error:  # no nats-server, or one that does not work
        sys.exit(str(error))


if __name__ == "__main__":
    main()
