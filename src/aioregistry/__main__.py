"""`python -m aioregistry`: the same as the command `aioregistry`."""

import sys

from aioregistry.cli import main

if __name__ == "__main__":
    sys.exit(main())
