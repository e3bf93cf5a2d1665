"""The source http against the sandbox's help desk, which was written by somebody else."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from poller.errors import BlockedError, TransientError
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.sources.fake import Asked, Say, serving

FIELDS = {"username": "requester.login", "title": "subject"}
PAGINGS: list[tuple[str, dict[str, Any]]] = [
    ("", {"type": "none"}),
    ("", {"type": "page", "size_param": "per_page", "size": 30}),
    ("/link?per_page=30", {"type": "link"}),
    ("/offset", {"type": "offset", "size": 30}),
    ("/offset", {"type": "offset", "size": 30, "total": "total"}),
    ("/cursor?limit=30", {"type": "cursor", "param": "cursor", "cursor": "next_cursor", "more": "has_more"}),
    ("/cursor?limit=30", {"type": "cursor", "param": "cursor", "cursor": "next_cursor"}),
]


@pytest.fixture(scope="module")
def desk() -> Iterator[str]:
    command = [sys.executable, "-m", "poller.sandbox", "--tickets", "100", "--seed", "7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())["helpdesk"]
        process.terminate()


def source(url: str, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": url, "records": "tickets", "key": "id", "fields": FIELDS}
    return HttpSource(HttpSourceSettings.model_validate({**given, **keys}))


@pytest.mark.parametrize(("path", "paging"), PAGINGS)
def test_every_paging_type_gives_every_ticket_once(desk: str, path: str, paging: dict[str, Any]) -> None:
    pages = list(
        source(f"{desk}/api/tickets{path}", paging=paging, checkpoint="updated_at", version="updated_at").poll(None)
    )

    keys = [record.key for page in pages for record in page.records]
    assert len(keys) == len({*keys}) == 100
    assert [page.last for page in pages] == [False] * (len(pages) - 1) + [True]
    assert pages[-1].checkpoint
    assert not any(page.malformed for page in pages)


def test_the_next_poll_asks_from_the_checkpoint_on(desk: str) -> None:
    polled = source(
        f"{desk}/api/tickets/offset",
        params={"since": "{{ checkpoint }}"},
        checkpoint="updated_at",
        overlap="0s",
        paging={"type": "offset", "size": 30},
    )
    checkpoint = list(polled.poll(None))[-1].checkpoint
    again = list(polled.poll(checkpoint))

    assert 1 <= sum(len(page.records) for page in again) < 100
    assert again[-1].checkpoint == checkpoint


@pytest.mark.parametrize(
    "fault", ["500", "html_200", "null_200", "truncated_json", "cut_connection", "lost_answer", "reset"]
)
def test_a_fault_in_the_middle_leaves_the_poll_open_and_the_next_one_is_whole(desk: str, fault: str) -> None:
    polled = source(f"{desk}/api/tickets/offset", paging={"type": "offset", "size": 30})
    order = {"fault": fault, "contains": "offset=60", "count": 1}
    request = urllib.request.Request(f"{desk}/sandbox/next", json.dumps(order).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status < 300
    pages = polled.poll(None)
    before = [next(pages), next(pages)]
    with pytest.raises(TransientError):
        next(pages)

    assert not any(page.last for page in before)
    assert sum(len(page.records) for page in polled.poll(None)) == 100


# Tokens of the source's own.


def test_a_revoked_token_is_renewed_once_and_then_the_route_is_blocked() -> None:
    issued: list[str] = []

    def answer(asked: Asked) -> Say:
        return Say({"tickets": []}) if asked.headers.get("Authorization") == f"Bearer {good}" else Say({}, status=401)

    def token(asked: Asked) -> Say:
        issued.append(f"t{len(issued) + 1}")
        return Say({"access_token": issued[-1], "token_type": "Bearer", "expires_in": 600})

    with serving(answer) as fake, serving(token) as endpoint:
        auth = {"type": "client_credentials", "token_url": endpoint.url, "client_id": "a", "client_secret": "b"}
        polled = source(fake.url, auth=auth)
        good = "t1"
        list(polled.poll(None))
        good = "t2"
        list(polled.poll(None))
        after_revocation = list(issued)
        good = "none"
        with pytest.raises(BlockedError):
            list(polled.poll(None))

    assert after_revocation == ["t1", "t2"]
    assert issued == ["t1", "t2", "t3"]
