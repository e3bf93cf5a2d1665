"""Follow-up requests: for new records alone, never elsewhere than the settings say."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from poller.errors import BlockedError, PollerError, TransientError
from poller.model import Page
from poller.ports import nothing_known
from poller.sources.http import HttpSource, HttpSourceSettings
from poller.store import Store
from poller.tables import deliveries, payloads
from tests.house import House
from tests.sources.fake import Asked, Fake, Say, serving

Known = Callable[[Sequence[tuple[str, str]]], set[str]]
AUTHOR = {"url": "/api/users/{{ author }}", "fields": {"username": "login"}}


def source(fake: Fake, *details: dict[str, Any], **keys: Any) -> HttpSource:
    given: dict[str, Any] = {"type": "http", "url": f"{fake.url}/api/tickets", "records": "tickets", "key": "id"}
    given |= {"fields": {"author": "author_id", "title": "subject"}, "detail": list(details) or [AUTHOR]}
    return HttpSource(HttpSourceSettings.model_validate({**given, **keys}))


def ticket(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "subject": f"t{number}", "author_id": number % 2 + 10, **more}


def live(tickets: list[dict[str, Any]]) -> Callable[[Asked], Say]:
    """Return a source of what *tickets* holds at each moment."""

    def answer(asked: Asked) -> Say:
        return desk(*tickets)(asked)

    return answer


def desk(*tickets: dict[str, Any], **users: Say) -> Callable[[Asked], Say]:
    """Return a source of these tickets, where user N is called uN; *users* are answers to other questions, by id."""

    def answer(asked: Asked) -> Say:
        if asked.path == "/api/tickets":
            return Say({"tickets": list(tickets)})
        name = asked.path.rpartition("/")[2]
        return users.get(f"_{name}") or Say({"login": f"u{name}", "name": name.upper()})

    return answer


def only(polled: HttpSource, known: Known = nothing_known) -> Page:
    (page,) = polled.poll(None, known)
    assert page.last
    return page


def names(page: Page) -> dict[str, str]:
    return {record.key: record.fields["username"] for record in page.records}


def paths(fake: Fake) -> list[str]:
    return [asked.path for asked in fake.asked[1:]]


def failing(polled: HttpSource) -> PollerError:
    with pytest.raises(PollerError) as caught:
        list(polled.poll(None))
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_new_record_has_the_fields_of_its_detail_and_one_author_is_asked_for_once() -> None:
    with serving(desk(*(ticket(n) for n in range(1, 7)))) as fake:
        page = only(source(fake))

    assert names(page) == {"1": "u11", "2": "u10", "3": "u11", "4": "u10", "5": "u11", "6": "u10"}
    assert sorted(paths(fake)) == ["/api/users/10", "/api/users/11"]


def test_nothing_is_asked_for_a_record_that_is_known() -> None:
    asked: list[tuple[str, str]] = []

    def known(records: Sequence[tuple[str, str]]) -> set[str]:
        asked.extend(records)
        return {"1"}

    with serving(desk(ticket(1, v=7), ticket(2, v=8))) as fake:
        page = only(source(fake, version="v"), known)

    assert asked == [("1", "7"), ("2", "8")]
    assert paths(fake) == ["/api/users/10"]
    # The same names for all, so that no template lacks one.
    assert names(page) == {"1": "", "2": "u10"}


def test_the_version_does_not_depend_on_details() -> None:
    body = {"url": "/api/tickets/{{ key }}", "fields": {"body": "name"}}
    with serving(desk(ticket(1))) as fake:
        versions = {
            only(source(fake, AUTHOR, body)).records[0].version,
            only(source(fake, body, AUTHOR)).records[0].version,
            only(source(fake, AUTHOR, body), lambda _: {"1"}).records[0].version,
        }

    assert len(versions) == 1


def test_the_cache_ends_and_may_be_off() -> None:
    with serving(desk(ticket(1), ticket(3))) as fake:
        off = source(fake, {**AUTHOR, "cache": "0s"})
        only(off)
        kept = source(fake)
        only(kept)
        only(kept)

    assert [asked.path for asked in fake.asked].count("/api/users/11") == 3


def test_a_detail_may_use_the_fields_of_the_one_before() -> None:
    def answer(asked: Asked) -> Say:
        if asked.path == "/api/tickets":
            return Say({"tickets": [{"id": 1}]})
        return Say({"author": "a b/c"} if asked.path == "/api/tickets/1" else {"login": asked.path})

    details = [
        {"url": "/api/tickets/{{ key }}", "fields": {"author": "author"}},
        {"url": "/api/users/{{ author }}?who={{ author }}", "fields": {"username": "login"}},
    ]
    with serving(answer) as fake:
        page = only(source(fake, *details, fields={}))

    assert names(page) == {"1": "/api/users/a%20b%2Fc"}
    assert fake.asked[2].query == {"who": "a b/c"}


def test_an_empty_value_is_not_asked_for() -> None:
    with serving(desk(ticket(1, author_id=None), ticket(2, author_id=" "))) as fake:
        page = only(source(fake))

    assert names(page) == {"1": "", "2": ""}
    assert paths(fake) == []


def test_details_in_xml_of_a_list_in_csv() -> None:
    def answer(asked: Asked) -> Say:
        return Say(b"id,author_id,subject\n1,5,a\n" if asked.path == "/api/tickets" else b"<user><login>zo\xe9</login></user>",
                   headers={"Content-Type": "text/xml; charset=latin-1"})  # fmt: skip

    detail = {"url": "/api/users/{{ author }}", "format": "xml", "fields": {"username": "login"}}
    with serving(answer) as fake:
        page = only(source(fake, detail, format="csv", records=None))

    assert names(page) == {"1": "zoé"}
    assert fake.asked[1].headers["Accept"].startswith("application/xml")


@pytest.mark.parametrize("status", [404, 410])
def test_f44_a_record_whose_detail_is_gone_is_one_dead_letter(status: int) -> None:
    with serving(desk(ticket(1), ticket(2), ticket(3), _10=Say({}, status=status))) as fake:
        page = only(source(fake))

    assert names(page) == {"1": "u11", "3": "u11"}
    (dead,) = page.malformed
    assert dead.key == "2"
    assert str(status) in dead.reason
    assert dead.raw == '{"author":"10","title":"t2"}'


def test_a_required_field_of_a_detail() -> None:
    with serving(desk(ticket(1), ticket(2), _10=Say({"login": None}))) as fake:
        page = only(source(fake, required=["username", "title"]))

    assert names(page) == {"1": "u11"}
    assert page.malformed[0].reason == "the required field username is missing"


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_block_the_route(status: int) -> None:
    with serving(desk(ticket(1), _11=Say({}, status=status))) as fake:
        assert isinstance(failing(source(fake)), BlockedError)


@pytest.mark.parametrize(
    "say", [Say({}, status=500), Say({}, status=429), Say({}, status=302), Say(b"<html>"), Say(b"{"), Say(b"")]
)
def test_any_other_fault_is_one_of_the_page_and_nothing_of_it_counts(say: Say) -> None:
    with serving(desk(ticket(1), ticket(2), _11=say)) as fake:
        assert isinstance(failing(source(fake)), TransientError)


# Where a detail may lead.


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("../../admin", "/api/users/..%2F..%2Fadmin"),
        ("1?all=true#x", "/api/users/1%3Fall%3Dtrue%23x"),
        ("%2e%2e%2f", "/api/users/%252e%252e%252f"),
        ("a\nb\x00", "/api/users/a%0Ab%EF%BF%BD"),
        ("@evil.example/", "/api/users/%40evil.example%2F"),
        ("https://evil.example/", "/api/users/https%3A%2F%2Fevil.example%2F"),
        ("zoë", "/api/users/zo%C3%AB"),
    ],
)
def test_s06_a_value_stays_one_part_of_the_path(value: str, path: str) -> None:
    with serving(desk(ticket(1, author_id=value))) as fake:
        only(source(fake))

    assert paths(fake) == [path]


@pytest.mark.parametrize("value", [".", ".."])
def test_s06_a_value_that_leads_out_of_the_folder_is_not_asked(value: str) -> None:
    with serving(desk(ticket(1, author_id=value), ticket(2))) as fake:
        page = only(source(fake))

    assert paths(fake) == ["/api/users/10"]
    assert "leave its folder" in page.malformed[0].reason


def test_s34_an_address_that_the_source_gives_is_followed_on_its_own_host_alone() -> None:
    given = {"url": "{{ link }}", "fields": {"username": "login"}}
    with serving(lambda _: Say({"login": "stolen"})) as other:
        links = [
            f"{other.url}/x",
            f"//{other.url[7:]}/x",
            "file:///etc/passwd",
            "gopher://127.0.0.1/",
            "http://[",
            "javascript:x",
        ]
        tickets = [{"id": n, "link": link} for n, link in enumerate(links)]
        with serving(desk(*tickets, {"id": 7, "link": "/api/users/7"}, {"id": 8, "link": "users/8"})) as fake:
            page = only(source(fake, given, fields={"link": "link"}))

    assert other.asked == []
    assert len(page.malformed) == len(links)
    assert names(page) == {"7": "u7", "8": "u8"}
    assert paths(fake) == ["/api/users/7", "/api/users/8"]


def test_s34_credentials_and_headers_never_go_to_another_host() -> None:
    """Another port is another host; the admin wrote it, so it is asked, but by nobody in particular."""
    with serving(lambda _: Say({"login": "u"})) as other:
        detail = {"url": f"{other.url}/users/{{{{ author }}}}", "fields": {"username": "login"}}
        with serving(desk(ticket(1))) as fake:
            auth = {"type": "bearer", "token": "hush"}
            page = only(source(fake, detail, auth=auth, headers={"X-Api-Key": "hush"}, params={"key": "hush"}))

    assert names(page) == {"1": "u"}
    assert fake.asked[0].headers["Authorization"] == "Bearer hush"
    assert "hush" not in str(other.asked)


# With a store behind it.


class Reaching:
    """A source whose tickets and answers a test changes."""

    def __init__(self, house: House, fake: Fake, **keys: Any) -> None:
        self.house = house
        object.__setattr__(house.route, "source", source(fake, **keys))


def test_known_records_cost_no_requests_and_f41_a_changed_one_neither(store: Store) -> None:
    house, tickets = House(store), [ticket(1), ticket(2)]
    with serving(live(tickets)) as fake:
        Reaching(house, fake)
        assert house.poll()
        before = len(fake.asked)
        tickets[0] = ticket(1, subject="changed")
        tickets.append(ticket(3, author_id=77))
        assert house.poll()

    assert [asked.path for asked in fake.asked[before:]] == ["/api/tickets", "/api/users/77"]
    stored = [row["fields"] for row in house.rows(payloads)]
    assert len(stored) == 3
    assert all('"username":"u' in fields for fields in stored)


def test_a_record_whose_detail_was_gone_is_received_once_it_is_there(store: Store) -> None:
    house, gone = House(store), [Say({}, status=404)]
    with serving(lambda asked: desk(ticket(1), _11=gone[0])(asked) if gone else desk(ticket(1))(asked)) as fake:
        Reaching(house, fake, detail=[{**AUTHOR, "cache": "0s"}])
        house.poll()
        dead = house.states()
        gone.clear()
        house.poll()
        house.turn()

    assert dead == {"1": "dead"}
    assert house.states() == {"1": "delivered"}


def test_what_a_baseline_skips_costs_no_requests(store: Store) -> None:
    house = House(store, baseline=True)
    tickets = [ticket(1), ticket(2)]
    with serving(live(tickets)) as fake:
        Reaching(house, fake)
        house.poll()
        assert paths(fake) == []
        tickets.append(ticket(3))
        house.poll()

    assert paths(fake) == ["/api/tickets", "/api/users/11"]
    assert {row["state"] for row in house.rows(deliveries)} == {"skipped", "pending"}


def test_a_detail_that_fails_holds_the_checkpoint_and_keeps_the_pages_before(store: Store) -> None:
    house = House(store)

    def answer(asked: Asked) -> Say:
        if asked.path == "/api/tickets":
            number = int(asked.query["page"])
            return Say({"tickets": [ticket(number, author_id=number, at=number)] if number < 4 else []})
        return Say({}, status=500) if asked.path.endswith("/2") else Say({"login": "u"})

    with serving(answer) as fake:
        Reaching(house, fake, paging={"type": "page"}, checkpoint="at")
        assert not house.poll()

    assert house.states() == {"1": "pending"}
    with store.read() as connection:
        assert connection.exec_driver_sql("SELECT value FROM checkpoints").scalar_one() is None


def test_f44_a_detail_that_fails_for_ever_is_one_dead_letter_and_stops_nobody() -> None:
    tickets = [ticket(1), ticket(2), ticket(3)]
    broken: dict[str, Say] = {"_11": Say(status=500)}
    with serving(desk(*tickets, **broken)) as fake, serving(desk(*tickets)) as repaired:
        polled = source(fake)
        for _ in range(3):
            assert isinstance(failing(polled), TransientError)
        page = only(polled)
        mended = only(source(repaired))

    assert names(page) == {"2": "u10"}
    assert {each.key for each in page.malformed} == {"1", "3"}
    assert all("answered 500" in each.reason for each in page.malformed)
    assert names(mended) == {"1": "u11", "2": "u10", "3": "u11"}


def test_details_that_fail_for_everybody_bury_nobody() -> None:
    broken = {"_10": Say(status=500), "_11": Say(status=500)}
    with serving(desk(ticket(1), ticket(2), **broken)) as fake:
        polled = source(fake)

        assert all(isinstance(failing(polled), TransientError) for _ in range(10))


def test_a_detail_that_fails_beside_one_known_record_is_compared_with_that_one() -> None:
    def known(asked: Sequence[tuple[str, str]]) -> set[str]:
        return {"2"}

    with serving(desk(ticket(1), ticket(2), _11=Say(status=500))) as fake:
        polled = source(fake)
        for _ in range(3):
            with pytest.raises(TransientError):
                list(polled.poll(None, known))
        page = only(polled, known)

    assert [each.key for each in page.malformed] == ["1"]
    assert names(page) == {"2": ""}


def test_a_detail_that_was_not_there_is_asked_for_again_at_the_next_poll() -> None:
    missing: dict[str, Say] = {"_11": Say(status=404)}

    def answer(asked: Asked) -> Say:
        return desk(ticket(1), ticket(3), **missing)(asked)

    with serving(answer) as fake:
        polled = source(fake)
        first = only(polled)
        asked_once = paths(fake)
        missing.clear()
        second = only(polled)

    assert {each.key for each in first.malformed} == {"1", "3"}
    # Once for both records of the page, and then anew.
    assert asked_once == ["/api/users/11"]
    assert names(second) == {"1": "u11", "3": "u11"}


def test_a_detail_in_plain_text() -> None:
    def answer(asked: Asked) -> Say:
        if asked.path.endswith("/text"):
            return Say("Räuch & Qualm".encode("latin-1"), headers={"Content-Type": "text/plain; charset=iso-8859-1"})
        return desk(ticket(1))(asked)

    text = {"url": "/api/tickets/{{ key }}/text", "fields": {"description": "@"}, "format": "text"}
    with serving(answer) as fake:
        page = only(source(fake, text))

    assert [record.fields["description"] for record in page.records] == ["Räuch & Qualm"]
