"""
The command line: names, options, and what each ending is called.

Nothing but click is imported here, so that ``poller --help`` is there at once; a command imports what it needs. The
exit codes are those of design section 4, and besides: 2 for a wrong option, 70 for a fault of ours, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from poller import __version__, client_cli, operator_cli
from poller.options import as_json as _as_json, with_settings as _with_settings

#: Exit codes, as sysexits.h has them; the last is what a shell gives for SIGPIPE.
USAGE, CRASHED, DATABASE, SETTINGS, INTERRUPTED, UNREAD = 2, 70, 75, 78, 130, 141


class _Unread(Exception):
    """Whoever read our answer has gone; click would make a failure of it."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  as click has it
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _Unread from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="poller", message="%(prog)s %(version)s")
def cli() -> None:
    """Bridge external systems and ServiceNow: nothing lost, nothing created twice.

    Start with: poller demo
    """


@cli.command(short_help="The daemon, until SIGTERM.")
@_with_settings
def run(settings: str | None) -> int:
    """Run the daemon until SIGTERM; SIGHUP reads the settings again."""
    from poller.commands import running

    return running.run(settings)


@cli.command(short_help="One poll of each route, then deliver until nothing is due.")
@click.argument("routes", nargs=-1, metavar="[ROUTE]...")
@_with_settings
def once(routes: tuple[str, ...], settings: str | None) -> int:
    """Poll each route once, then deliver until nothing is due.

    Exit code 0 when everything is delivered, 1 when something is dead or still waiting, or a poll failed.
    """
    from poller.commands import running

    return running.once(settings, routes)


@cli.command(short_help="Are the settings right, and does each remote answer.")
@click.option("--offline", is_flag=True, help="Only the settings (and --tests); no remote is asked.")
@click.option("--tests", metavar="DIR", help="Run the mapping tests *.toml in this folder too; they ask nobody.")
@_as_json
@_with_settings
def check(*, offline: bool, tests: str | None, machine: bool, settings: str | None) -> int:
    """Check the settings, and then each remote, without changing anything. Each fault comes with its remedy.

    Exit code 0 when all is well or only warned of, 1 when something is not, 78 when the settings are wrong.
    """
    from poller.commands import checking

    return checking.check(settings, offline=offline, machine=machine, tests=tests)


@cli.command(short_help="What would be posted, field by field; nothing is.")
@click.argument("route")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="So many records; else the first page.")
@click.option("--key", metavar="KEY", help="Only the record with this key.")
@click.option("--save", metavar="FILE", help="Write a mapping test made of the first record (or of KEY).")
@_as_json
@_with_settings
def preview(
    *, route: str, limit: int | None, key: str | None, save: str | None, machine: bool, settings: str | None
) -> int:
    """Poll ROUTE, map and look up, and show what would be posted beside what was posted before.

    Nothing is written anywhere but FILE. Exit code 0, or 1 when a record cannot be delivered or the poll failed.
    """
    from poller.commands import previewing

    return previewing.preview(settings, route, limit=limit, key=key, save=save, machine=machine)


@cli.command(short_help="How routes stand: checkpoints, guard, counts, holds.")
@_as_json
@click.option("--check", is_flag=True, help="Exit code 1 on a hold, dead records, old work, or polls that do not come.")
@click.option("--max-age", default="15m", show_default=True, metavar="TIME", help="Work older than this is old.")
@_with_settings
def status(*, machine: bool, check: bool, max_age: str, settings: str | None) -> int:
    """Show how routes stand: checkpoints, guard, counts, oldest waiting, holds."""
    from poller.commands import standing

    return standing.status(settings, machine=machine, check=check, max_age=max_age)


@cli.command(short_help="List records, newest first.")
@click.argument("route", required=False)
@click.option("--state", metavar="STATE", help="Only those in this state, such as dead or waiting.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Only the newest N.")
@_as_json
@_with_settings
def records(*, route: str | None, state: str | None, limit: int | None, machine: bool, settings: str | None) -> int:
    """List records, newest first."""
    from poller.commands import listing

    return listing.records(settings, route, state, limit, machine=machine)


@cli.command(short_help="The whole life of one record.")
@click.argument("route")
@click.argument("key")
@_as_json
@_with_settings
def explain(*, route: str, key: str, machine: bool, settings: str | None) -> int:
    """Tell the whole life of one record.

    Write -- before a KEY that begins with a dash.
    """
    from poller.commands import explaining

    return explaining.explain(settings, route, key, machine=machine)


@cli.command(short_help="Every record and checkpoint, one JSON object a line.")
@click.option("--json", "_machine", is_flag=True, hidden=True, help="It is JSON anyway.")
@_with_settings
def export(*, _machine: bool, settings: str | None) -> int:
    """Write every record and every checkpoint, one JSON object a line."""
    from poller.commands import listing

    return listing.export(settings)


for _command in (operator_cli.retry, operator_cli.skip, operator_cli.rewind, operator_cli.release, client_cli.client):
    cli.add_command(_command)


@cli.command(short_help="Bring the database to the newest schema.")
@_with_settings
def migrate(settings: str | None) -> int:
    """Bring the database to the newest schema; run does so too."""
    from poller.commands import running

    return running.migrate(settings)


@cli.command(
    add_help_option=False,
    short_help="A stand-in ServiceNow and help desk, for rehearsals.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def sandbox(context: click.Context) -> int:
    """Start a stand-in ServiceNow and help desk, for rehearsals."""
    from poller.sandbox.cli import main as serve

    return serve(context.args, prog="poller sandbox")


@cli.command(short_help="See it at work: sandbox, one poll, the incidents created.")
@click.option("--directory", default=".demo", show_default=True, metavar="DIR", help="Everything it makes is in here.")
def demo(directory: str) -> int:
    """Show it at work: sandbox, shipped settings, one poll, and the incidents created."""
    from poller.demo import demonstrate

    return demonstrate(directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code. Whatever goes wrong is one clear line, never a traceback."""
    try:
        code = cli.main(args=arguments, prog_name="poller", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except (_Unread, BrokenPipeError):
        return _unread()
    except Exception as error:  # noqa: BLE001  the last place where a traceback could come out
        return _ended(error)


def _usage(error: click.ClickException) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return USAGE
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "poller"
    message = " ".join(error.format_message().split())
    _complain(f"{path}: {message[:1].lower()}{message[1:].rstrip('.')}; see {path} --help")
    return USAGE


def _unread() -> int:
    # Nobody reads on, as with `| head`. The interpreter's own flush at the end must not complain either.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    return UNREAD


def _ended(error: Exception) -> int:
    from poller.errors import DatabaseUnusable, PollerError, SettingsError

    if isinstance(error, SettingsError):
        for problem in error.problems:
            _complain(problem)
        return SETTINGS
    if isinstance(error, DatabaseUnusable):
        _complain(f"poller: {error}")
        return DATABASE
    if isinstance(error, PollerError):
        _complain(f"poller: {error}")
        return 1
    from poller.commands import crashing

    return crashing.ended(error)


def _complain(line: str) -> None:
    from poller.commands.showing import clean, warn

    warn(clean(line))
