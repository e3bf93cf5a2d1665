"""
A stand-in ServiceNow and a stand-in help desk, to try and test the daemon against.

Written from what is known of real instances alone. It imports nothing from the rest of the package, and nothing
but the standard library, so that one misunderstanding cannot sit on both sides.

``python -m poller.sandbox --help`` tells how to run it; ``control`` and ``helpdesk`` document the endpoints that
tests steer it by, ``faults`` what it can be made to do wrong.
"""

from poller.sandbox.options import Options, Switches
from poller.sandbox.sandbox import Sandbox
from poller.sandbox.store import StateError

__all__ = ["Options", "Sandbox", "StateError", "Switches"]
