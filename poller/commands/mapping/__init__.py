"""
Mapping tests as data: a sample record in, the incident that is expected out, in TOML files beside the settings.

They ask nobody: what look-ups would find stands in the file. `shape` is what a file may hold, `given` answers for the
instance, `trying` runs one and tells what differs, `saving` makes one of a real record.
"""

from poller.commands.mapping.trying import findings

__all__ = ["findings"]
