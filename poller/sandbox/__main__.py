"""``python -m poller.sandbox``."""

import sys

from poller.sandbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
