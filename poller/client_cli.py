"""``poller client``: who may call the ingress. As in `cli`, nothing but click is imported."""

from __future__ import annotations

import click

from poller.options import as_json, with_settings


@click.group(short_help="Who may call the ingress.")
def client() -> None:
    """Clients of the ingress: [server.clients.NAME] in the settings."""


@client.command("list", short_help="The clients of the settings.")
@as_json
@with_settings
def show(*, machine: bool, settings: str | None) -> int:
    """
    List the clients of the settings: how each proves who it is, and what it may do.

    To remove one, delete its table [server.clients.NAME] and send the daemon SIGHUP: its tokens are void at once.
    """
    from poller.commands import clients

    return clients.show(settings, machine=machine)


@client.command(short_help="A new client, with a secret that is shown once.")
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, metavar="SCOPE", help='Such as "records:write:helpdesk"; else all there are.'
)
@click.option("--route", "routes", multiple=True, metavar="ROUTE", help="Only this route; else all.")
@click.option("--write", is_flag=True, help="Add it to the settings file, if that is right with it.")
@click.option("--secret-stdin", is_flag=True, help="Take the secret from stdin (one line) instead of making one.")
@as_json
@with_settings
def add(
    *,
    name: str,
    scopes: tuple[str, ...],
    routes: tuple[str, ...],
    write: bool,
    secret_stdin: bool,
    machine: bool,
    settings: str | None,
) -> int:
    """
    Make the client NAME of the ingress: its secret, shown once, and its block of the settings.

    The settings hold a hash of the secret alone. Scopes are metrics, and records:write, records:read and poll, each optionally with
    :ROUTE behind it. A daemon that runs takes the client up with SIGHUP.

    Exit code 0; 1 where there is such a client already; 78 when the settings are wrong, or would be.
    """
    from poller.commands import clients

    asked = clients.Asked(name=name, scopes=scopes, routes=routes, write=write, machine=machine)
    return clients.add(settings, asked, given=clients.from_stdin() if secret_stdin else None)
