"""What a route's checkpoint may be set to, for each way in which sources write one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from poller.settings import Route, load
from poller.settings.rewinding import checkpoint

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HTTP = 'type = "http"\nurl = "https://desk.example/t"\nkey = "id"\n'
SQL = 'type = "sql"\nurl = "sqlite:///other.db"\nkey = "id"\nquery = "SELECT * FROM t WHERE :checkpoint IS NULL OR at > :checkpoint"\n'


def route(folder: Path, source: str) -> Route:
    (folder / "other.db").touch()
    path = folder / "settings.toml"
    path.write_text(
        '[servicenow]\ninstance = "https://acme.service-now.com"\ncorrelation_prefix = "t"\n'
        '[servicenow.auth]\ntype = "none"\n[routes.a]\nevery = "1m"\nfirst_run = "all"\n'
        f'[routes.a.source]\n{source}fields = {{ username = "u", title = "t", description = "d" }}\n'
        '[routes.a.sink]\ntype = "servicenow"\n'
    )
    return load(path).routes["a"]


@pytest.mark.parametrize(
    ("source", "stored", "value"),
    [
        (HTTP + 'checkpoint = "at"\n', "2026-05-01T00:00:00Z", "2026-04-30T23:00:00+02:00"),
        (HTTP + 'checkpoint = "at"\n', "4711", "17"),
        (HTTP + 'checkpoint = "at"\ncheckpoint_format = "epoch"\n', "1780000000.5", "1770000000"),
        (HTTP + 'checkpoint = "at"\ncheckpoint_format = "%d.%m.%Y %H:%M"\n', "01.05.2026 00:00", "30.04.2026 00:00"),
        (HTTP + 'checkpoint = "at"\n', None, "2026-01-01T00:00:00Z"),
        (
            HTTP + 'paging = { type = "cursor", param = "c", cursor = "next", resume = true }\n',
            "opaque",
            "anything else",
        ),
        (SQL + 'checkpoint = "at"\n', "4711", "17"),
        (SQL + 'checkpoint = "at"\n', "2026-05-01 00:00:00", "2026-04-01 00:00:00"),
    ],
)
def test_an_earlier_checkpoint_is_taken_as_it_is_written(
    tmp_path: Path, source: str, stored: str | None, value: str
) -> None:
    assert checkpoint(route(tmp_path, source), value, stored=stored, now=NOW) == value


@pytest.mark.parametrize(
    ("source", "stored", "value", "said"),
    [
        (HTTP + 'checkpoint = "at"\n', "4711", "4712", "after the present one"),
        (HTTP + 'checkpoint = "at"\n', "2026-05-01T00:00:00Z", "2026-05-01T00:00:00-02:00", "after the present one"),
        (HTTP + 'checkpoint = "at"\n', None, "2026-06-01T12:00:01Z", "future"),
        (HTTP + 'checkpoint = "at"\ncheckpoint_format = "epoch"\n', "1770000000", "2026-01-01", "not understood"),
        (HTTP + 'checkpoint = "at"\n', None, "a\x1b[31m", "characters"),
        (HTTP + 'checkpoint = "at"\n', None, "9" * 3000, "too long"),
        (HTTP, None, "1", "no checkpoint"),
        (SQL + 'checkpoint = "at"\n', "4711", "4712", "after the present one"),
    ],
)
def test_what_would_lose_records_is_refused(
    tmp_path: Path, source: str, stored: str | None, value: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        checkpoint(route(tmp_path, source), value, stored=stored, now=NOW)
