"""What may stand below [routes.NAME.source] with type = "http"."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poller.errors import SettingsError
from poller.settings import load
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
        ({"method": "PUT"}, "GET"),
        ({"format": "yaml"}, "json"),
        ({"body": {"q": "x"}}, "POST"),
        ({"method": "POST", "body": 5}, "a table, a list, or text"),
        ({"method": "POST", "body": "q=x"}, "Content-Type"),
        ({"method": "POST", "body": {"q": ["{{ since }}"]}}, "unknown name since"),
        ({"method": "POST", "body": {"q": "{{ page }}"}}, "only checkpoint is known"),
        ({"method": "POST", "body": {"q": "{{ checkpoint }}"}}, "no checkpoint is given"),
        (
            {
                "method": "POST",
                "headers": {"content-type": "text/plain"},
                "body": "{{ checkpoint }}",
                "checkpoint": "at",
            },
            "{% if",
        ),
        ({"paging": {"type": "cursor", "cursor": "next"}}, "paging.param is required"),
        ({"params": {"p": "{{ cursor }}"}, "paging": {"type": "page"}}, "unknown name cursor"),
        ({"namespaces": {"a": "urn:a"}}, 'format = "xml"'),
        ({"format": "xml", "namespaces": {"1a": "urn:a"}}, "prefix"),
        ({"format": "xml", "namespaces": {"a": ""}}, "xmlns"),
        ({"delimiter": ";"}, 'format = "csv"'),
        ({"format": "csv", "delimiter": ";;"}, "one character"),
        ({"format": "csv", "delimiter": "\n"}, "one character"),
        ({"format": "csv", "records": "tickets"}, "each row is a record"),
        ({"format": "csv", "paging": {"type": "next", "next": "next"}}, "no document"),
        ({"format": "csv", "paging": {"type": "cursor", "param": "a", "cursor": "b"}}, "no document"),
        ({"format": "csv", "paging": {"type": "offset", "total": "n"}}, "leave it out"),
        ({"format": "xml", "key": "a["}, "bad XPath"),
        ({"format": "xml", "key": "b:id"}, "not among namespaces"),
        ({"format": "xml", "fields": {"title": "matches(a, 'x')"}}, "no function matches"),
        ({"format": "xml", "paging": {"type": "next", "next": "count()"}}, "takes 1 argument"),
        ({"format": "xml", "paging": {"type": "offset", "total": "$x"}}, "no variables"),
        ({"checkpoint": "at", "checkpoint_zone": "Europe/Atlantis"}, "time zone"),
        ({"headers": {"If-None-Match": "x"}}, "by the client itself"),
        ({"detail": [{"url": "/a/{{ title }}"}]}, "required"),
        ({"detail": [{"url": "/a/{{ title }}", "fields": {}}]}, "at least 1"),
        ({"detail": [{"url": "/a/{{ author }}", "fields": {"name": "a"}}]}, "unknown name author"),
        ({"detail": [{"url": "/a/{{ title", "fields": {"name": "a"}}]}, "bad template"),
        ({"detail": [{"url": "/a", "fields": {"title": "a"}}]}, "field of the record already"),
        ({"detail": [{"url": "/a", "fields": {"name": "a["}}]}, "bad expression"),
        ({"detail": [{"url": "/a", "fields": {"name": "a["}, "format": "xml"}]}, "bad XPath"),
        ({"detail": [{"url": "/a", "fields": {"name": "a"}, "format": "csv"}]}, "json"),
        ({"detail": [{"url": "//{{ title }}/", "fields": {"name": "a"}}]}, "host"),
        ({"detail": [{"url": "https://{{ title }}/a", "fields": {"name": "a"}}]}, "host"),
        ({"detail": [{"url": "https://x{{ title }}/a", "fields": {"name": "a"}}]}, "host"),
        ({"detail": [{"url": "https://x/{{ title }}", "fields": {"name": "a"}, "cache": "1"}]}, "duration"),
        ({"detail": [{"url": "http://x.example/{{ title }}", "fields": {"name": "a"}}]}, "plain http"),
        ({"detail": [{"url": "file:///etc/{{ title }}", "fields": {"name": "a"}}]}, "host"),
        ({"detail": [{"url": "https://u:p@x.example/", "fields": {"name": "a"}}]}, "no user or password"),
        ({"detail": [{"url": "/a", "fields": {"name": "a"}}], "required": ["nam"]}, "nam"),
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


def test_details_serve_each_other_and_required() -> None:
    settings = read(
        required=["login"],
        detail=[
            {"url": "/api/tickets/{{ key }}", "fields": {"author": "author_id", "body": "text"}},
            {"url": "https://people.example/{{ author }}", "fields": {"login": "login"}, "cache": "5m"},
            {"url": "{{ title }}", "fields": {"more": "more"}},
        ],
    )

    assert [each.given_by() for each in settings.detail] == [None, None, "title"]


@pytest.mark.parametrize(
    ("wrong", "line", "where"),
    [
        ("next = 'links[' # <-", "next", "source.paging.next"),
        ("name = 'a[' # <-", "name", "source.detail.0.fields.name"),
        ("title = 'x[' # <-", "title", "source.fields.title"),
        ("since = '{{ nothing }}' # <-", "since", "source.params.since"),
        ("query = '{{ nothing }}' # <-", "query", "source.body.must.query"),
    ],
)
def test_a_problem_is_told_at_its_own_line(wrong: str, line: str, where: str, tmp_path: Path) -> None:
    right = {
        "next": "next = 'links.next'",
        "name": "name = 'login'",
        "title": "title = 'subject'",
        "since": "since = '{{ checkpoint }}'",
        "query": "query = 'open'",
    }
    text = SETTINGS
    for name, good in right.items():
        text = text.replace(f"<{name}>", wrong if name == line else good)
    path = tmp_path / "settings.toml"
    path.write_text(text)
    number = next(n for n, written in enumerate(text.splitlines(), 1) if written.endswith("# <-"))

    with pytest.raises(SettingsError) as caught:
        load(path)

    (problem,) = caught.value.problems
    assert problem.startswith(f"settings.toml:{number}: routes.helpdesk.{where}: ")


SETTINGS = """
[servicenow]
instance = "https://acme.example"
correlation_prefix = "t"
auth = { type = "none" }

[routes.helpdesk]
every = "30s"
first_run = "all"
[routes.helpdesk.source]
type = "http"
url = "https://helpdesk.example/api"
method = "POST"
records = "tickets"
key = "id"
checkpoint = "at"
[routes.helpdesk.source.paging]
type = "next"
<next>
[routes.helpdesk.source.params]
<since>
[routes.helpdesk.source.body.must]
<query>
[routes.helpdesk.source.fields]
username = "author"
<title>
description = "body"
[[routes.helpdesk.source.detail]]
url = "/users/{{ username }}"
[routes.helpdesk.source.detail.fields]
<name>
[routes.helpdesk.sink]
type = "servicenow"
[routes.helpdesk.sink.fields]
caller_id = { user = "{{ name }}", by = ["user_name"] }
short_description = "{{ title }}"
"""
