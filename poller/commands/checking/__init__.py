"""
``check``: are the settings right, and does each remote do what they say. Nothing is changed anywhere.

A check is a generator of findings, so that each line is shown when it is known. `account` asks who we are, `tables`,
`lookups` and `zone` what we may do there, `sources` and `database` the other ends; `running` puts them in order, `findings`
tells them.
"""

from poller.commands.checking.running import check

__all__ = ["check"]
