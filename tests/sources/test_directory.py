"""The source directory against real folders, and against everything that may lie in one."""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from poller.errors import BlockedError, TransientError
from poller.model import Page
from poller.ports import Known
from poller.sources.directory import DirectorySource, DirectorySourceSettings
from poller.sources.in_flight import NAME
from poller.sources.inbox import Inbox, shown
from poller.store import Store
from poller.tables import records
from tests.house import House

LONG_AGO = 1_000_000_000


def nothing(asked: Sequence[tuple[str, str]]) -> set[str]:
    """Stand for an empty store; not the port's own default, with which a source only looks."""
    return set()


def stored(*keys: str) -> Known:
    return lambda asked: {key for key, _ in asked} & {*keys}


class Folder:
    """A folder to drop files into, and a source on it whose clocks stand still."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 2_000_000_000.0
        self.seconds = 0.0

    def drop(self, name: str | bytes, content: Any, *, at: float = LONG_AGO) -> Path:
        path = self.path / os.fsdecode(name)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        os.utime(path, (at, at))
        return path

    def source(self, **keys: Any) -> DirectorySource:
        given = {"type": "directory", "path": str(self.path), "fields": {"title": "subject"}, **keys}
        settings = DirectorySourceSettings.model_validate(given)
        inbox = Inbox(
            settings.path, settings.glob, settle=settings.settle, now=lambda: self.now, monotonic=lambda: self.seconds
        )
        return DirectorySource(settings, inbox=inbox)

    def poll(self, known: Known = nothing, **keys: Any) -> list[Page]:
        return list(self.source(key="id", **keys).poll(None, known))

    def names(self, folder: str = ".") -> list[str]:
        return sorted(path.name for path in (self.path / folder).iterdir() if path.is_file() or path.is_symlink())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = tmp_path / "in"
    path.mkdir()
    return Folder(path)


def ticket(number: object, subject: str = "Printer") -> dict[str, Any]:
    return {"id": number, "subject": subject}


def keys(pages: Sequence[Page]) -> list[str]:
    return [record.key for page in pages for record in page.records]


def refused(**given: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        DirectorySourceSettings.model_validate({"type": "directory", "path": "in", "fields": {"a": "b"}, **given})
    return " | ".join(str(detail["msg"]) for detail in caught.value.errors(include_input=False))


# Files and records.


def test_records_are_taken_and_the_file_is_done(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1), ticket(2)])

    pages = folder.poll()

    assert keys(pages) == ["1", "2"]
    assert [page.last for page in pages] == [False, True]
    assert folder.names() == []
    assert folder.names("done") == ["a.json"]


def test_an_empty_folder_is_one_empty_page(folder: Folder) -> None:
    assert folder.poll() == [Page(last=True)]


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ({"format": "csv", "delimiter": ";", "encoding": "latin-1"}, "id;subject\n1;Müll\n".encode("latin-1")),
        ({"format": "csv"}, b"\xef\xbb\xbfid,subject\r\n1,M\xc3\xbcll\r\n"),
        (
            {"format": "xml"},
            '<?xml version="1.0" encoding="ISO-8859-1"?><l><t><id>1</id><subject>Müll</subject></t></l>'.encode(
                "latin-1"
            ),
        ),
        (
            {
                "format": "xml",
                "records": "//h:t",
                "key": "h:id",
                "namespaces": {"h": "urn:h"},
                "fields": {"title": "h:subject"},
            },
            '<l xmlns="urn:h"><x><t><id>1</id><subject>Müll</subject></t></x></l>'.encode(),
        ),
        ({"records": "tickets"}, '{"tickets": [{"id": 1, "subject": "Müll"}]}'.encode()),
    ],
)
def test_every_format_is_read_as_elsewhere(folder: Folder, given: dict[str, Any], content: bytes) -> None:
    folder.drop("a", content)

    pages = list(folder.source(**{"key": "id", **given}).poll(None, nothing))

    assert [(record.key, record.fields) for page in pages for record in page.records] == [("1", {"title": "Müll"})]


def test_without_a_key_file_name_and_position_are_the_key(folder: Folder) -> None:
    folder.drop("a.json", [ticket(7), "no object", ticket(9)])

    (page, _) = folder.source(required=["title"]).poll(None, nothing)

    assert keys([page]) == ["a.json:1", "a.json:3"]
    assert [each.key for each in page.malformed] == ["a.json:2"]


def test_many_small_files_share_a_page_and_a_large_one_has_several(folder: Folder) -> None:
    for number in range(30):
        folder.drop(f"small-{number}.json", [ticket(number)])
    folder.drop("large.json", [ticket(number) for number in range(100, 2600)], at=LONG_AGO + 1)

    pages = folder.poll()

    assert [len(page.records) for page in pages] == [30, 1000, 1000, 500, 0]
    assert len(folder.names("done")) == 31


def test_the_oldest_file_comes_first_and_the_same_key_never_shares_a_page(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1, "new")], at=LONG_AGO + 5)
    folder.drop("b.json", [ticket(1, "old")])

    pages = folder.poll()

    assert [record.fields["title"] for page in pages for record in page.records] == ["old", "new"]
    assert len(pages) == 3


def test_a_file_without_records_is_done(folder: Folder) -> None:
    folder.drop("none.json", [])

    assert folder.poll() == [Page(last=True)]
    assert folder.names("done") == ["none.json"]


# What is given away is committed before it is moved.


def test_a_file_stays_until_its_last_page_is_committed(folder: Folder) -> None:
    folder.drop("a.json", [ticket(number) for number in range(1500)])
    pages = folder.source(key="id").poll(None, nothing)

    next(pages)
    next(pages)
    assert folder.names() == ["a.json"]
    next(pages)
    assert folder.names() == []


def test_f03_a_poll_that_ends_between_commit_and_move_is_made_up_for_by_the_next(folder: Folder, store: Store) -> None:
    folder.drop("a.json", [ticket(1), ticket(2)])
    house = House(store)
    stopped = replace(house.route, source=folder.source(key="id"), stopping=lambda: True)

    stopped.poll(store, house.clock)
    between = folder.names()
    replace(stopped, stopping=lambda: False).poll(store, house.clock)

    assert between == ["a.json"]
    assert folder.names("done") == ["a.json"]
    assert len(house.rows(records)) == 2


def test_who_does_not_say_what_is_known_only_looks(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1)])
    folder.drop("b.json", b"{")

    pages = list(folder.source(key="id").poll(None))

    assert keys(pages) == ["1"]
    assert "b.json cannot be read" in pages[0].malformed[0].reason
    assert sorted(path.name for path in folder.path.iterdir()) == ["a.json", "b.json"]


# Files that cannot be read, f43.


@pytest.mark.parametrize(
    ("content", "given"),
    [
        (b"", {}),
        (b'[{"id": 1}', {}),
        (b"<html><body>Log in</body></html>", {}),
        (b'[{"id": 1, "subject": "M\xfcll"}]', {}),
        (b'{"id": 1}', {}),
        (b'{"tickets": 5}', {"records": "tickets"}),
        (b"<a><b></a>", {"format": "xml"}),
        (b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><id>&x;</id></a>', {"format": "xml"}),
        (b'id,subject\n1,"never ends', {"format": "csv"}),
        (b"number,subject\n1,x\n", {"format": "csv"}),
        (b"\x00" * 1000, {}),
    ],
)
def test_f43_a_file_that_cannot_be_read_goes_to_failed_and_stops_no_other(
    folder: Folder, content: bytes, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    good = {"xml": b"<l><t><id>7</id></t></l>", "csv": b"id,subject\n7,x\n"}.get(
        given.get("format", ""), b'[{"id": 7}]'
    )
    folder.drop("bad", content)
    folder.drop("good", good if "records" not in given else b'{"tickets": [{"id": 7}]}')

    pages = folder.poll(**given)

    assert keys(pages) == ["7"]
    assert pages[-1].last
    assert folder.names("failed") == ["bad"]
    assert (folder.path / "failed" / "bad").read_bytes() == content
    assert folder.names("done") == ["good"]


def test_f44_a_bad_record_is_a_dead_letter_and_its_file_is_done(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1), ticket(None), ticket(3)])

    pages = folder.poll()

    assert keys(pages) == ["1", "3"]
    assert pages[0].malformed[0].reason == "the key is missing"
    assert folder.names("done") == ["a.json"]


def test_f43_a_file_of_50_mb_is_refused_without_being_read(folder: Folder) -> None:
    with (folder.path / "huge.json").open("wb") as file:
        file.truncate(50_000_000)
    os.utime(folder.path / "huge.json", (LONG_AGO, LONG_AGO))
    folder.drop("good.json", [ticket(1)])
    started = time.process_time()

    pages = folder.poll()

    assert time.process_time() - started < 1
    assert keys(pages) == ["1"]
    assert folder.names("failed") == ["huge.json"]


# Files that are not whole yet.


def test_a_file_that_was_just_written_is_left_until_it_has_settled(folder: Folder) -> None:
    made = folder.source(key="id", settle="5s")
    folder.drop("a.json", [ticket(1)], at=folder.now - 1)

    first = keys(list(made.poll(None, nothing)))
    folder.now += 4
    second = keys(list(made.poll(None, nothing)))

    assert (first, second) == ([], ["1"])


def test_a_file_that_grows_is_left_however_old_it_says_it_is(folder: Folder) -> None:
    made = folder.source(key="id", settle="5s")
    at = folder.now - 1
    taken = []
    for size in range(1, 4):
        folder.drop("a.json", [ticket(number) for number in range(size)], at=at)
        at = LONG_AGO
        taken.append(keys(list(made.poll(None, nothing))))
        folder.seconds += 4
        folder.now += 4
    folder.seconds += 1
    taken.append(keys(list(made.poll(None, nothing))))

    assert taken == [[], [], [], ["0", "1", "2"]]


def test_a_file_from_the_future_is_taken_once_it_stands_still(folder: Folder) -> None:
    made = folder.source(key="id")
    folder.drop("a.json", [ticket(1)], at=folder.now + 86_400)

    first = keys(list(made.poll(None, nothing)))
    folder.seconds += 5
    second = keys(list(made.poll(None, nothing)))

    assert (first, second) == ([], ["1"])


def test_a_file_that_grows_while_it_is_polled_stays_and_is_read_again(folder: Folder) -> None:
    made = folder.source(key="id")
    folder.drop("a.json", [ticket(1)])
    pages = made.poll(None, nothing)
    first = keys([next(pages)])
    folder.drop("a.json", [ticket(1), ticket(2)])
    rest = list(pages)
    at_once = list(made.poll(None, stored("1")))
    folder.seconds += 5
    second = keys(list(made.poll(None, stored("1"))))

    assert first == ["1"]
    assert rest == at_once == [Page(last=True)]
    assert second == ["1", "2"]
    assert folder.names("done") == ["a.json"]


def test_a_file_that_is_replaced_while_it_is_polled_is_not_moved_unread(folder: Folder) -> None:
    made = folder.source(key="id")
    folder.drop("a.json", [ticket(1)])
    pages = made.poll(None, nothing)
    next(pages)
    folder.drop("new", [ticket(2)]).replace(folder.path / "a.json")
    list(pages)
    list(made.poll(None, nothing))
    folder.seconds += 5

    assert folder.names("done") == []
    assert keys(list(made.poll(None, nothing))) == ["2"]


def test_a_file_that_is_replaced_just_as_it_is_moved_is_put_back(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder.source(key="id")
    folder.drop("a.json", [ticket(1)])
    pages = made.poll(None, nothing)
    next(pages)
    plain = Path.rename

    def late(path: Path, target: Path) -> Path:
        folder.drop(".new", [ticket(2)]).replace(path)
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", late)
    list(pages)
    monkeypatch.undo()
    put_back = folder.names(), folder.names("done")
    list(made.poll(None, nothing))
    folder.seconds += 5

    assert put_back == (["a.json"], [])
    assert keys(list(made.poll(None, nothing))) == ["2"]


def test_hidden_and_unfinished_names_are_left_unless_the_glob_names_them(folder: Folder) -> None:
    for number, name in enumerate((".a.json", "b.json.tmp", "c.part", "d.json")):
        folder.drop(name, [ticket(number)])

    assert keys(folder.poll()) == ["3"]
    assert keys(folder.poll(glob="*.tmp")) == ["1"]
    assert keys(folder.poll(glob=".*")) == ["0"]
    assert folder.names() == ["c.part"]


def test_a_file_that_is_gone_before_it_is_read_is_nobodys_fault(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.drop("a.json", [ticket(1)])
    plain = os.open

    def late(path: Any, *rest: Any, **more: Any) -> int:
        if str(path).endswith("a.json"):
            Path(path).unlink()
        return plain(path, *rest, **more)

    monkeypatch.setattr(os, "open", late)

    assert folder.poll() == [Page(last=True)]


# What else may lie there.


def test_s45_links_pipes_and_folders_are_left_alone(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps([ticket("stolen")]))
    (folder.path / "link.json").symlink_to(secret)
    (folder.path / "dangling.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder.path / "pipe.json")
    (folder.path / "folder.json").mkdir()
    folder.drop("good.json", [ticket(1)])

    pages = folder.poll()

    assert keys(pages) == ["1"]
    assert secret.exists()
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "dangling.json",
        "done",
        "failed",
        "folder.json",
        "link.json",
        "pipe.json",
    ]


def test_s45_a_link_that_takes_a_files_place_is_not_followed(folder: Folder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps([ticket("stolen")]))
    path = folder.drop("a.json", [ticket(1)])
    made = folder.source(key="id")
    entries, _ = made._inbox.look()
    path.unlink()
    path.symlink_to(secret)
    made._inbox.look = lambda: (entries, [])  # type: ignore[method-assign]

    assert list(made.poll(None, nothing)) == [Page(last=True)]
    assert secret.exists()


@pytest.mark.parametrize(
    "name", [b"two\nlines.json", b"\xff\xfe.json", "名前 ☃.json".encode(), b"-rf.json", b"a" * 255]
)
def test_a_file_of_any_name_is_read_and_moved(folder: Folder, name: bytes) -> None:
    folder.drop(name, [ticket(1)])
    folder.poll()
    folder.drop(name, [ticket(2)])

    pages = folder.poll()

    assert keys(pages) == ["2"]
    assert len(folder.names("done")) == 2
    assert os.fsdecode(name) in folder.names("done")


@pytest.mark.parametrize("name", [b"two\nlines.json", b"\xff\xfe.json"])
def test_a_name_that_can_be_no_key_fails_where_it_would_be_one(folder: Folder, name: bytes) -> None:
    folder.drop(name, [ticket(1)])

    assert list(folder.source().poll(None, nothing)) == [Page(last=True)]
    assert folder.names("failed") == [os.fsdecode(name)]


def test_s09_a_file_name_is_one_line_of_plain_text_in_logs_and_errors() -> None:
    name = os.fsdecode(b"a\n\x1b[31m\xff\xe2\x80\xa8\xe5\x90\x8d.json")

    assert shown(name) == r"a\n\x1b[31m\udcff\u2028名.json"


# Moving.


def test_nothing_is_overwritten_in_done(folder: Folder) -> None:
    for number in range(3):
        folder.drop("a.json", [ticket(number)])
        folder.poll()

    assert folder.names("done") == ["a.json", "a.json.1", "a.json.2"]
    assert [json.loads((folder.path / "done" / name).read_bytes())[0]["id"] for name in folder.names("done")] == [
        0,
        1,
        2,
    ]


def test_a_file_that_cannot_be_moved_is_told_read_once_and_the_others_go_on(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = folder.source(key="id")
    folder.drop("a.json", [ticket(1)])
    folder.drop("b.json", [ticket(2)])
    plain = Path.rename

    def sticky(path: Path, target: Path) -> Path:
        if path.name == "a.json":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return plain(path, target)

    monkeypatch.setattr(Path, "rename", sticky)
    first: list[Page] = []
    with pytest.raises(
        TransientError, match=r"1 files are read and cannot be moved.*a\.json to .*done: Operation not perm"
    ):
        first.extend(made.poll(None, nothing))
    second: list[Page] = []
    with pytest.raises(TransientError):
        second.extend(made.poll(None, nothing))
    monkeypatch.undo()
    third = list(made.poll(None, nothing))

    assert (keys(first), keys(second), keys(third)) == (["1", "2"], [], [])
    assert folder.names("done") == ["a.json", "b.json"]


def test_a_folder_that_is_not_there_blocks_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BlockedError, match=r"absent cannot be looked into: No such file"):
        Folder(tmp_path / "absent").poll()


def test_a_folder_for_done_that_cannot_be_made_blocks_before_anything_is_read(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1)])
    folder.drop("elsewhere", b"a file")

    with pytest.raises(BlockedError, match=r"elsewhere cannot be written to; let poller's user"):
        folder.poll(done="elsewhere", glob="*.json")

    assert "a.json" in folder.names()


def test_a_folder_that_cannot_be_written_to_blocks_also_whoever_only_looks(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.drop("a.json", [ticket(1)])
    # root may write anywhere, so the system's answer is given for it.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "in")

    with pytest.raises(BlockedError, match=r"/in cannot be written to; let poller's user"):
        next(folder.source(key="id").poll(None))

    assert folder.names() == ["a.json"]


# The same name again, where names are keys.


def test_another_file_of_the_same_name_fails_loudly_instead_of_being_lost(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1)])
    list(folder.source().poll(None, nothing))
    folder.drop("a.json", [ticket(2)])

    pages = list(folder.source().poll(None, stored("a.json:1")))

    assert keys(pages) == []
    assert folder.names("failed") == ["a.json"]


def test_another_file_of_the_same_name_fails_also_where_done_was_cleaned(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1)])
    list(folder.source().poll(None, nothing))
    shutil.rmtree(folder.path / "done")
    folder.drop("a.json", [ticket(2)])

    list(folder.source().poll(None, stored("a.json:1")))

    assert folder.names("failed") == ["a.json"]


def test_the_same_file_sent_again_is_known_and_done(folder: Folder) -> None:
    for _ in range(2):
        folder.drop("a.json", [ticket(1)])
        list(folder.source().poll(None, stored("a.json:1") if folder.path.joinpath("done").exists() else nothing))

    assert folder.names("done") == [NAME, "a.json", "a.json.1"]
    assert folder.names() == []


def test_a_crash_between_commit_and_move_is_no_other_file_of_the_same_name(folder: Folder) -> None:
    folder.drop("a.json", [ticket(1)])
    crashed: Iterator[Page] = folder.source().poll(None, nothing)
    next(crashed)
    crashed.close()  # type: ignore[attr-defined]

    again = list(folder.source().poll(None, stored("a.json:1")))

    assert keys(again) == ["a.json:1"]
    assert folder.names("done") == [NAME, "a.json"]
    assert json.loads((folder.path / "done" / NAME).read_text()) == {}


def test_a_baseline_takes_every_file_as_known_and_fails_none(folder: Folder, store: Store) -> None:
    folder.drop("a.json", [ticket(1)])
    house = House(store, baseline=True)

    went_well = replace(house.route, source=folder.source()).poll(store, house.clock)

    assert went_well
    assert house.states() == {"a.json:1": "skipped"}
    assert "a.json" in folder.names("done")


# Settings.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"glob": "sub/*.json"}, "put the folder into path"),
        ({"done": "."}, "would be read for ever"),
        ({"failed": "done/.."}, "would be read for ever"),
        ({"format": "csv", "records": "rows"}, "CSV has none"),
        ({"format": "xml", "key": "id["}, "XPath"),
        ({"fields": {"a": "nope(id)"}}, "no function nope()"),
        ({"format": "xml", "delimiter": ";"}, 'only for format = "csv"'),
        ({"required": ["absent"]}, "absent is not among the fields"),
        ({"checkpoint": "updated_at"}, "Extra inputs"),
        ({"settle": "-1s"}, "a duration is text"),
        ({"encoding": "klingon"}, "is no known encoding"),
    ],
)
def test_what_cannot_work_is_told_at_load(given: dict[str, Any], said: str) -> None:
    assert said in refused(**given)


def test_settings_are_read_as_from_the_file_where_defaults_count_too() -> None:
    given = {"type": "directory", "path": "in", "fields": {"a": "b"}}

    made = DirectorySourceSettings.model_validate_json(json.dumps(given), strict=True, context={"base": Path("/srv")})

    assert (made.done, made.failed) == (Path("/srv/in/done"), Path("/srv/in/failed"))


def test_folders_are_relative_to_the_settings_file_and_to_path() -> None:
    given = {"type": "directory", "path": "in", "done": "../out", "fields": {"a": "b"}}
    made = DirectorySourceSettings.model_validate(given, context={"base": Path("/srv")})

    assert (made.path, made.done, made.failed) == (Path("/srv/in"), Path("/srv/out"), Path("/srv/in/failed"))
    assert made.settle == timedelta(seconds=5)
