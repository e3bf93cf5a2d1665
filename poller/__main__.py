"""``python -m poller`` is ``poller``."""

import sys

from poller.cli import main

if __name__ == "__main__":
    sys.exit(main())
