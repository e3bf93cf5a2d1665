"""
Two clients that nobody here wrote, unmodified, in an environment of their own.

The environment is kept in ``build/interop-venv`` (or ``$POLLER_TEST_CACHE/interop-venv``) and used again. Where
it cannot be made the test is skipped with the reason, and fails where everything is required.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from poller.sandbox import Options, Sandbox
from tests.support import require_or_skip

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / ".ci" / "requirements-interop.txt"


def environment() -> Path:
    """Return the Python of an environment with both clients, made when it is not there."""
    cache = Path(os.environ.get("POLLER_TEST_CACHE") or ROOT / "build")
    place = cache / "interop-venv"
    python, mark = place / "bin" / "python", place / "requirements.txt"
    if mark.exists() and mark.read_text() == REQUIREMENTS.read_text():
        return python
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", place], capture_output=True, text=True, check=False, timeout=120
    )
    require_or_skip(
        made.returncode == 0, f"cannot make an environment for pysnow and pysnc: {made.stderr.strip()[-300:]}"
    )
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--require-hashes", "-r", str(REQUIREMENTS)]
    done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=250)
    require_or_skip(done.returncode == 0, f"cannot install pysnow and pysnc: {done.stderr.strip()[-300:]}")
    mark.write_text(REQUIREMENTS.read_text())
    return python


@pytest.mark.interop
def test_pysnow_and_pysnc_work_unmodified(tmp_path: Path) -> None:
    python = environment()
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = Options(certificate=str(tmp_path / "certificate.pem"), key=str(tmp_path / "key.pem"))

    with Sandbox(options) as sandbox:
        host = sandbox.servicenow_url.removeprefix("https://")
        ran = subprocess.run(
            [python, "-W", "ignore", Path(__file__).with_name("interop_clients.py"), host],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"PATH": os.environ["PATH"], "REQUESTS_CA_BUNDLE": str(tmp_path / "ca.pem"), "NO_PROXY": "*"},
        )
        batched = [entry for entry in sandbox.ledger.entries() if entry.get("batch")]

    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert batched, "pysnc sends a query of 12,000 characters by the batch API"
    assert seen["pysnow"] == {
        "token": ["access_token", "expires_at", "expires_in", "refresh_token", "scope", "token_type"],
        "made": [f"INC001000{count}" for count in range(1, 6)],
        "user": {"user_name": "abel.tuter", "email": "abel.tuter@example.com"},
        "urgency": "1",
        "pages": [["snow:0", "snow:1"], ["snow:2", "snow:3"], ["snow:4"]],
        "streamed": 5,
        "deleted": "record deleted",
    }
    assert seen["pysnc"] == {
        "made": 7,
        "got": [True, "snc 2"],
        "user": [True, "Beth Anglin"],
        "seen": [f"snc:{count}" for count in range(7)],
        "count": 7,
        "missing": False,
        "priority": "3",
        "batched": 7,
        "left": 5,
    }
