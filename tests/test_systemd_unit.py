"""The shipped unit: understood by systemd, and hardened."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import require_or_skip

FOLDER = Path(__file__).parents[1] / "systemd"
UNIT, TEMPLATE = FOLDER / "poller.service", FOLDER / "poller@.service"


@pytest.fixture
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    require_or_skip(program, "systemd-analyze is missing: apt-get install systemd")
    assert program
    return program


@pytest.fixture(params=[UNIT, TEMPLATE], ids=lambda path: path.name)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit with a program that exists: verify would report that nothing is installed in /opt here."""
    shipped: Path = request.param
    text = shipped.read_text("utf-8")
    assert "\nExecStart=/opt/poller/bin/poller run " in text
    copy = tmp_path / shipped.name.replace("@", "@acme")
    copy.write_text(text.replace("/opt/poller/bin/poller", str(shutil.which("true"))), "utf-8")
    return copy


def test_verify_has_nothing_to_say(analyze: str, unit: Path) -> None:
    # Unknown keys and wrong values are reported, but exit with 0: the silence is the proof.
    done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_exposure_is_at_most_one_and_a_half(analyze: str, unit: Path) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", unit], capture_output=True, text=True, check=True
    )

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stdout
    assert float(found[1]) <= 1.5


@pytest.mark.parametrize(
    "line",
    [
        "Type=notify",
        "NotifyAccess=main",
        "WatchdogSec=30",
        "User=poller",
        "StateDirectory=poller",
        "LoadCredential=servicenow-client-secret:/etc/poller/credentials/servicenow-client-secret",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartPreventExitStatus=78",
    ],
)
def test_what_the_daemon_relies_on_is_there(line: str) -> None:
    assert line in UNIT.read_text("utf-8").splitlines()


def test_each_setting_is_explained() -> None:
    service = UNIT.read_text("utf-8").split("[Service]\n")[1].split("[Install]")[0]

    for paragraph in service.strip().split("\n\n"):
        assert any(line.startswith("#") for line in paragraph.splitlines()), paragraph


def test_a_further_instance_differs_by_its_name_alone() -> None:
    one, other = (_settings(path) for path in (UNIT, TEMPLATE))

    assert [line.replace("poller-%i", "poller").replace("/%i/", "/").replace(" %i:", ":") for line in other] == one
    differing = {line.partition("=")[0] for line, template in zip(one, other, strict=True) if line != template}
    assert differing == {
        "Description",
        "Documentation",
        "ExecStart",
        "StateDirectory",
        "RuntimeDirectory",
        "WorkingDirectory",
        "LoadCredential",
    }


def _settings(path: Path) -> list[str]:
    return [line for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#")]
