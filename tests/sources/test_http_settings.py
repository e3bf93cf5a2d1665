"""What may stand below [routes.NAME.source] with type = "http"."""

from typing import Any

import pytest
from pydantic import ValidationError

from poller.sources.http import HttpSource, HttpSourceSettings

LEAST: dict[str, Any] = {
    "type": "http",
    "url": "https://helpdesk.example/api/tickets",
    "key": "id",
    "fields": {"title": "subject"},
}


def read(**keys: Any) -> HttpSourceSettings:
    return HttpSourceSettings.model_validate({**LEAST, **keys})


def test_the_least_that_is_needed() -> None:
    settings = read()

    assert settings.paging.type == "none"
    assert settings.required == ()
    HttpSource(settings).close()


def test_the_example_of_the_contract() -> None:
    settings = read(
        params={"since": "{{ checkpoint }}"},
        required=["title"],
        headers={},
        format="json",
        records="tickets",
        version="updated_at",
        checkpoint="updated_at",
        overlap="5m",
        auth={"type": "none"},
        paging={"type": "offset", "size": 50, "total": "total"},
        fields={"username": "requester.login", "title": "subject", "description": "body"},
    )

    assert settings.paging.type == "offset"


def test_there_is_a_schema() -> None:
    schema = HttpSourceSettings.model_json_schema()

    assert schema["properties"]["paging"]["discriminator"]["propertyName"] == "type"
    assert {"url", "key", "fields", "type"} <= {*schema["required"]}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "http://helpdesk.example/x"}, "plain http"),
        ({"url": "ftp://helpdesk.example/x"}, "https://"),
        ({"url": "file:///etc/passwd"}, "https://"),
        ({"url": "https://u:p@helpdesk.example/"}, "no user or password"),
        ({"url": "https://helpdesk.example/{{ checkpoint }}"}, "templates are for params"),
        ({"key": "a..b"}, "bad expression"),
        ({"key": "nofunction(a)"}, "no function"),
        ({"records": "["}, "bad expression"),
        ({"version": ""}, "empty"),
        ({"fields": {"title": "a["}}, "bad expression"),
        ({"fields": {"my title": "a"}}, "letters, digits and _"),
        ({"required": ["nothing"]}, "nothing"),
        ({"params": {"since": "{{ checkpoint"}}, "bad template"),
        ({"params": {"since": "{{ chekpoint }}"}}, "only checkpoint"),
        ({"params": {"since": "{{ checkpoint|nofilter }}"}}, "no filter"),
        ({"params": {"since": "{{ checkpoint }}"}}, "no checkpoint is given"),
        ({"headers": {"X Y": "z"}}, "header"),
        ({"headers": {"Host": "z"}}, "Host"),
        ({"headers": {"X-Y": "a\r\nb"}}, "ASCII"),
        ({"headers": {"X-Y": "{{ a }}"}}, "templates are for params"),
        ({"checkpoint": "at", "checkpoint_format": "%H:%M"}, "year, month and day"),
        ({"checkpoint": "at", "checkpoint_format": "rfc"}, "iso"),
        ({"checkpoint": "at", "overlap": "5"}, "duration"),
        ({"encoding": "punycode"}, "encoding"),
        ({"encoding": "nonsense"}, "encoding"),
        ({"method": "POST"}, "GET"),
        ({"format": "xml"}, "json"),
        ({"body": "x"}, "not built yet"),
        ({"detail": [{}]}, "not built yet"),
        ({"paging": {"type": "scroll"}}, "none"),
        ({"paging": {"type": "offset", "size": 0}}, "greater than or equal to 1"),
        ({"paging": {"type": "cursor", "param": "a"}}, "required"),
        ({"paging": {"type": "cursor", "param": "a", "cursor": "b["}}, "bad expression"),
        ({"paging": {"type": "link", "param": "a"}}, "not permitted"),
        (
            {"paging": {"type": "cursor", "param": "a", "cursor": "b", "resume": True}, "checkpoint": "c"},
            "two checkpoints",
        ),
        ({"auth": {"type": "client_credentials", "client_id": "a", "client_secret": "b"}}, "token_url"),
        ({"tokn": "x"}, "not permitted"),
    ],
)
def test_every_wrong_setting_is_one_clear_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(**keys)

    (problem,) = caught.value.errors()
    assert words in problem["msg"]
    assert "\n" not in problem["msg"]


def test_plain_http_is_for_loopback_or_by_permission() -> None:
    read(url="http://127.0.0.1:1/x")
    read(url="http://helpdesk.example/x", allow_plaintext=True)
