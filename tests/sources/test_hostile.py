"""What a source may answer to harm whoever polls it; what harms by its format is in test_xml, test_csv and test_formats."""

import gzip
import time
import zlib
from typing import Any

import pytest

from poller.errors import TransientError
from poller.sources.http import HttpSource, HttpSourceSettings
from tests.sources.fake import Fake, Say, serving

BODIES = {
    "json": b'[{"id": "1"}]',
    "xml": b"<r><a><id>1</id></a></r>",
    "csv": b"id\n1\n",
}


def source(fake: Fake, **keys: Any) -> HttpSource:
    given = {"type": "http", "url": f"{fake.url}/api", "key": "id", "fields": {"a": "id"}, **keys}
    return HttpSource(HttpSourceSettings.model_validate(given))


def refused(say: Say, words: str, **keys: Any) -> None:
    with serving(lambda _: say) as fake, pytest.raises(TransientError) as caught:
        list(source(fake, **keys).poll(None))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def bomb() -> bytes:
    """Return a few hundred kilobytes that become 200 megabytes of blanks."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(squeeze.compress(b" " * 1_000_000) for _ in range(200)) + squeeze.flush()


@pytest.mark.parametrize("format", BODIES)
def test_gzip_is_read(format: str) -> None:
    say = Say(gzip.compress(BODIES[format]), headers={"Content-Encoding": "gzip"})
    with serving(lambda _: say) as fake:
        (page,) = source(fake, format=format).poll(None)

    assert [record.key for record in page.records] == ["1"]
    assert fake.asked[0].headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("format", BODIES)
def test_s32_a_gzip_bomb_is_stopped_at_the_cap(format: str) -> None:
    began = time.process_time()
    refused(Say(bomb(), headers={"Content-Encoding": "gzip"}), "larger than max_body", format=format, max_body="1MB")

    assert time.process_time() - began < 5


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip, deflate", "deflate", "br", "zstd", "compress", "x"])
def test_s32_other_and_nested_encodings_are_refused(encoding: str) -> None:
    twice = gzip.compress(gzip.compress(BODIES["json"]))

    refused(Say(twice, headers={"Content-Encoding": encoding}), "not asked for")


def test_s32_what_is_nested_within_gzip_is_not_opened() -> None:
    """The outer layer alone is taken off; what is in it is no JSON."""
    refused(Say(gzip.compress(bomb()), headers={"Content-Encoding": "gzip"}), "200, but")


def test_s32_a_cut_gzip_is_refused() -> None:
    refused(Say(gzip.compress(BODIES["json"])[:-4], headers={"Content-Encoding": "gzip"}), "cut")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'[{"id": 1, "id": 2}]', "twice"),
        (b'[{"id": NaN}]', "NaN"),
        (b"[" + b"{}," * 100_001 + b"{}]", "more than 100000 records"),
    ],
)
def test_s33_json_bombs_are_refused(body: bytes, words: str) -> None:
    refused(Say(body), words)


def test_s33_a_huge_number_is_a_text_and_no_key() -> None:
    with serving(lambda _: Say(b'[{"id": ' + b"9" * 10_000_000 + b'}, {"id": 2}]')) as fake:
        (page,) = source(fake).poll(None)

    assert [record.key for record in page.records] == ["2"]
    assert len(page.malformed) == 1


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE r [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><r><a><id>&a;</id></a></r>", b"<!DOCTYPE r><r/>"]
)
def test_s11_s12_a_doctype_is_refused(body: bytes) -> None:
    refused(Say(body), "DOCTYPE", format="xml")


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_s34_the_environments_proxy_is_not_used(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda _: Say([])) as proxy, serving(lambda _: Say([])) as fake:
        monkeypatch.setenv(variable, proxy.url)
        list(source(fake).poll(None))

    assert (len(fake.asked), proxy.asked) == (1, [])
