"""`python -m mose.hub`; see `mose.hub.commands`."""

import sys

from mose.hub.commands import main

if __name__ == "__main__":
    sys.exit(main())
