"""The commands by which operators change something: their names and options. As in `cli`, nothing but click is imported."""

from __future__ import annotations

from typing import Any

import click

from poller.options import F, as_json, with_settings

_dry_run = click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")


def _on_records(command: F) -> F:
    """Give a command the arguments and options by which records are named."""
    for option in (
        with_settings,
        as_json,
        click.option("--yes", is_flag=True, help="Do not ask before acting on all in a state."),
        _dry_run,
        click.option("--reason", required=True, metavar="TEXT", help="Why; kept with the act, shown by explain."),
        click.option("--state", metavar="STATE", help="Instead of KEYs: all records in this state."),
        click.argument("keys", nargs=-1, metavar="[KEY]..."),
        click.argument("route"),
    ):
        command = option(command)
    return command


@click.command(short_help="Try records again, prepared anew.")
@_on_records
def retry(*, settings: str | None, **asked: Any) -> int:  # noqa: ANN401  click passes what `_on_records` names
    """
    Try records of ROUTE again: looked up and written anew, past the caches.

    For dead letters once their cause is gone, for records that wait, and for skipped ones that are wanted after all. What
    may be on its way is never written anew, and no wait that guards against a second incident gets shorter. Works beside
    the daemon, which begins within a second. Write -- before a KEY that begins with a dash.

    Exit code 0, or 1 where a record could not be tried again.
    """
    from poller.commands import reviving

    return reviving.act(settings, reviving.Asked(act="retry", **asked))


@click.command(short_help="Give records up: never delivered.")
@_on_records
def skip(*, settings: str | None, **asked: Any) -> int:  # noqa: ANN401
    """
    Give records of ROUTE up: they are never delivered; retry brings them back.

    Refused where an incident may come of an attempt already made. Works beside the daemon. Write -- before a KEY that
    begins with a dash.

    Exit code 0, or 1 where a record could not be skipped.
    """
    from poller.commands import reviving

    return reviving.act(settings, reviving.Asked(act="skip", **asked))


@click.command(short_help="Set a route's checkpoint back.")
@click.argument("route")
@click.option(
    "--to", required=True, metavar="VALUE", help='A checkpoint as the source writes it; "beginning" for none at all.'
)
@click.option("--reason", metavar="TEXT", help="Why; kept with the act.")
@_dry_run
@as_json
@with_settings
def rewind(*, route: str, to: str, reason: str | None, dry_run: bool, machine: bool, settings: str | None) -> int:
    """
    Let the next poll of ROUTE begin at an earlier checkpoint.

    Records that are known stay known: none is delivered twice. Works beside the daemon.
    """
    from poller.commands import operating

    return operating.rewind(settings, route, to, reason, dry_run=dry_run, machine=machine)


@click.command(short_help="Lift a hold that waits for an operator.")
@click.argument("route")
@click.option("--reason", metavar="TEXT", help="Why; kept with the act.")
@as_json
@with_settings
def release(*, route: str, reason: str | None, machine: bool, settings: str | None) -> int:
    """Lift the hold of ROUTE, once its cause is gone; poller status tells it. Works beside the daemon."""
    from poller.commands import operating

    return operating.release(settings, route, reason, machine=machine)
