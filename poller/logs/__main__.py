"""``python -m poller.logs`` writes the catalogue of events for ``docs/logs.md``."""

import sys

from poller.logs.catalogue import page

sys.stdout.write(page())
