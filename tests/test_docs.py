"""Every block of settings in the documents is right: it is put to `poller check --offline`, completed where it is a piece."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trustme

from poller.cli import main
from poller.ingress.scrypt import ScryptHash

DOCS = Path(__file__).parents[1] / "docs"

#: What a block that shows one table alone is completed by, table by table.
REST = {
    "servicenow": 'instance = "https://acme.service-now.com"\ncorrelation_prefix = "acme-prod"',
    "servicenow.auth": 'type = "none"',
    "routes.helpdesk": 'every = "30s"\nfirst_run = "all"',
    "routes.helpdesk.source": 'type = "http"\nurl = "https://helpdesk.example/api/tickets"\nkey = "id"',
    "routes.helpdesk.source.fields": 'username = "requester.login"\ntitle = "subject"\ndescription = "body"',
    "routes.helpdesk.sink": 'type = "servicenow"',
}


def blocks() -> Iterator[tuple[str, str]]:
    """Yield each block of settings with its place; mapping tests have a form of their own."""
    for page in sorted(DOCS.rglob("*.md")):
        text = page.read_text("utf-8")
        for found in re.finditer(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if not {"sample", "expect", "lookups"} & tomllib.loads(found[1]).keys():
                yield f"{page.relative_to(DOCS)}:{text.count(chr(10), 0, found.start()) + 1}", found[1]


def completed(block: str) -> str:
    tables = set(re.findall(r"^\[+([^\]]+)\]", block, re.MULTILINE))
    pieces = [block, *(f"[{table}]\n{keys}\n" for table, keys in REST.items() if table not in tables)]
    if "server" in tables and not any(table.startswith(("server.auth", "server.clients")) for table in tables):
        # Pages show the command that makes a client, and not what it writes.
        pieces.append(
            f'[server.clients.somebody]\nclient_secret = "{ScryptHash.of("made-up").text()}"\nscopes = ["records:write"]\n'
        )
    return "\n".join(pieces)


def shown_files() -> dict[str, str]:
    """The files that pages show in full, by the name that stands before each."""
    found: dict[str, str] = {}
    for page in sorted(DOCS.rglob("*.md")):
        blocks = re.findall(
            r"^`([^`\n]+)`[^\n]*:\n\n```xml\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
        )
        found |= dict(blocks)
    return found


def made_up(text: str, folder: Path) -> None:
    """Make the files that the settings name: secrets, certificates, folders."""
    for name in re.findall(r'credential = "([^"]+)"', text):
        (folder / name).write_text("made-up")
        (folder / name).chmod(0o600)
    for name in re.findall(r'^path = "([^/"][^"]*)"', text, re.MULTILINE):
        (folder / name).mkdir()
    shown = shown_files()
    for name in re.findall(r'^(?:xslt|xsd|template) = "([^"]+)"', text, re.MULTILINE):
        (folder / name).write_text(shown[name])
    if names := re.findall(r'^(ca|certificate|key) = "([^"]+\.(?:pem|key|crt))"', text, re.MULTILINE):
        authority = trustme.CA()
        ours = authority.issue_cert("poller.example")
        made = {
            "ca": authority.cert_pem.bytes(),
            "certificate": b"".join(each.bytes() for each in ours.cert_chain_pems),
            "key": ours.private_key_pem.bytes(),
        }
        for what, name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(made[what])
            (folder / name).chmod(0o600)


BLOCKS = dict(blocks())


def test_there_are_blocks_at_all() -> None:
    assert len(BLOCKS) > 10


@pytest.mark.parametrize("place", BLOCKS)
def test_a_block_of_settings_is_right(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = completed(BLOCKS[place])
    made_up(text, tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = tmp_path / "settings.toml"
    settings.write_text(text, "utf-8")
    settings.chmod(0o600)

    code = main(["check", "--offline", "--settings", str(settings)])

    said = capsys.readouterr()
    assert code == 0, said.err + said.out


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)

    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_commands_in_the_operators_documents_are_commands_with_such_options() -> None:
    """The first words after `poller`, and every option behind them, are known to the command line."""
    from poller.cli import cli

    unknown = []
    for name in ("install.md", "operations.md", "servicenow-setup.md"):
        for command, rest in re.findall(
            r"(?:^|[ /])poller (?!@)([a-z]+)\b([^\n#|&`]*)", commands((DOCS / name).read_text("utf-8")), re.MULTILINE
        ):
            known = cli.commands.get(command)
            if isinstance(known, click.Group):
                command = f"{command} {rest.split()[0]}"  # noqa: PLW2901  a command of two words
                known = known.commands.get(rest.split()[0])
            options = {option for each in known.params for option in each.opts} if known else set()
            unknown += [f"{name}: poller {command}"] if known is None else []
            unknown += [f"{name}: {command} {each}" for each in re.findall(r"--[a-z-]+", rest) if each not in options]
    assert not unknown


def commands(text: str) -> str:
    """Return the lines of shell in a page, without what the database's own tools are told."""
    lines = "\n".join(re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    foreign = (
        "createdb",
        "createuser",
        "dropdb",
        "pg_dump",
        "systemctl",
        "useradd",
        "userdel",
        "sqlite3",
        "install ",
        "rm ",
    )
    return "\n".join(
        line for line in lines if not any(word in line for word in foreign) and not line.startswith("alias")
    )
