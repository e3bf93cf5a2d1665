"""Schemathesis asks the daemon what its own description promises, and holds it to that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ingress.daemon import Ingress, files, running

pytestmark = [pytest.mark.xdist_group("ingress_openapi"), pytest.mark.slow]


#: Two things that a description cannot say, so that 400 is right there. Whether any JSON is a route's records, its settings say,
#: and nobody may learn them here. A client's secret comes in the header or in the form and not in both (RFC 6749 section 2.3).
CONFIG = """
{parameters}
[auth.openapi.token]
bearer = "{token}"
[[operations]]
include-name = "POST /routes/{{route}}/records"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "404"]
[[operations]]
include-name = "POST /oauth/token"
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "429"]
"""
POLLED = """
[routes.push]
every = "1h"
first_run = "all"
[routes.push.source]
type = "http"
url = "http://127.0.0.1:9/"
key = "id"
[routes.push.source.fields]
title = "title"
"""


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    with running(tmp_path_factory.mktemp("openapi"), routes=POLLED + files("push", "other")) as made:
        assert made.push({"id": "known", "version": "1"}).status == 202
        yield made


@pytest.mark.parametrize("parameters", ["", '[parameters]\nroute = "push"\nkey = "known"'])
def test_schemathesis_finds_nothing(ingress: Ingress, tmp_path: Path, parameters: str) -> None:
    """All of its checks, with a valid token, for routes that it makes up and for one that is there."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG.format(parameters=parameters, token=ingress.token()))
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config)]
    command += ["run", f"http://{ingress.listen}/openapi.json", "--checks", "all", "--max-examples", "60"]
    command += ["--seed", "20260727", "--no-color", "--request-timeout", "20", "--continue-on-failure"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    ingress.serves()
    statuses = {line["status"] for line in ingress.said("request_answered")}
    assert 500 not in statuses
    assert {200, 202, 400, 401, 404, 405} <= statuses, statuses


def test_the_description_is_json_that_names_every_end_point(ingress: Ingress) -> None:
    found = json.loads(ingress.ask("GET", "/openapi.json").body)

    assert found["openapi"] == "3.1.0"
    assert len(found["paths"]) == 8
