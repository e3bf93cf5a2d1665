"""The settings of a recipe, word for word but for its addresses, bring every ticket of the help desk to the instance."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from poller.sandbox import Options, Sandbox
from tests.cli_house import Place
from tests.test_docs import DOCS, completed

RECIPES = {
    "json-api-with-token.md": Options(helpdesk_auth="bearer"),
    "xml-over-mtls.md": Options(helpdesk_auth="certificate", helpdesk_tls=True),
    "csv-with-basic-auth.md": Options(helpdesk_auth="basic"),
}
SECRETS = {"helpdesk-token": "sandbox-key", "legacy-password": "sandbox-password", "instance": "sandbox-secret"}


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A private authority, with the files that the recipe names and those of the sandbox."""
    made = trustme.CA()
    folder = tmp_path / "tls"
    folder.mkdir()
    made.cert_pem.write_to_path(folder / "ca.pem")
    for name, issued in (("poller", made.issue_cert("svc.poller")), ("sandbox", made.issue_cert("127.0.0.1"))):
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        for pem in issued.cert_chain_pems:
            pem.write_to_path(folder / f"{name}.pem", append=True)
    (folder / "poller.key").chmod(0o600)
    return made


@pytest.mark.parametrize("page", RECIPES)
def test_a_recipe_brings_every_ticket(page: str, authority: trustme.CA, tmp_path: Path) -> None:
    options, tls = RECIPES[page], tmp_path / "tls"
    if options.helpdesk_tls:
        options = replace(
            options,
            certificate=str(tls / "sandbox.pem"),
            key=str(tls / "sandbox.key"),
            client_ca=str(tls / "ca.pem"),
        )
    block = re.findall(r"^```toml\n(.*?)^```", (DOCS / "recipes" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)[
        0
    ]
    for name, secret in SECRETS.items():
        (tmp_path / name).write_text(secret)
        (tmp_path / name).chmod(0o600)
    with Sandbox(options) as sandbox:
        place = Place(tmp_path, sandbox)
        place.write(_here(block, sandbox))

        ended = place.poller("once", CREDENTIALS_DIRECTORY=str(tmp_path))

        assert ended.returncode == 0, ended.stderr + ended.stdout
        exported = [
            json.loads(line) for line in place.poller("export", CREDENTIALS_DIRECTORY=str(tmp_path)).stdout.splitlines()
        ]
        records = [line for line in exported if "key" in line]
    assert len(records) == 6
    assert {record["state"] for record in records} == {"delivered"}


def _here(block: str, sandbox: Sandbox) -> str:
    """Return the recipe's settings with the sandbox's addresses; everything there is wanted."""
    text = completed(block).replace('first_run = "baseline"', 'first_run = "all"')
    text = re.sub(r'url = "https://[^/"]+', f'url = "{sandbox.helpdesk_url}', text)
    text = text.replace("https://acme.service-now.com", sandbox.servicenow_url)
    trusted = '[servicenow.tls]\nca = "tls/ca.pem"\n' if sandbox.servicenow_url.startswith("https") else ""
    client = 'type = "client_credentials"\nclient_id = "poller"\nclient_secret = { credential = "instance" }\n'
    return text.replace('[servicenow.auth]\ntype = "none"\n', f"[servicenow.auth]\n{client}{trusted}")
