"""
``preview``: what a route would post, field by field, beside what it posted before. Nothing is written.

`gathering` polls, maps and looks up, `telling` shows, `running` puts them together.
"""

from poller.commands.previewing.running import preview

__all__ = ["preview"]
