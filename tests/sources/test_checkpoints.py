"""Which of two checkpoints is later, and how one is handed back."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, strategies as st

from poller.sources.checkpoints import CheckpointFormat, Seen, check_format, newer

RECOGNISED = CheckpointFormat(name=None, overlap=timedelta(minutes=5))
ISO = CheckpointFormat(name="iso", overlap=timedelta(minutes=5))

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=ZONES)  # noqa: DTZ001  timezones= says it


@given(MOMENTS, MOMENTS)
def test_times_are_compared_as_instants_whatever_their_zones(one: datetime, two: datetime) -> None:
    first, second = RECOGNISED.read(one.isoformat()), RECOGNISED.read(two.isoformat())

    assert (first.order < second.order) == (one < two)
    assert (first.order == second.order) == (one == two)


@given(MOMENTS, st.timedeltas(timedelta(0), timedelta(days=400)))
def test_what_is_handed_is_the_overlap_earlier_and_never_later(moment: datetime, overlap: timedelta) -> None:
    given_back = CheckpointFormat(name=None, overlap=overlap)
    stored = moment.isoformat()

    handed = datetime.fromisoformat(given_back.handed(stored))

    # Whole seconds where the source writes whole seconds: rounded down.
    exact = moment - overlap
    assert handed <= exact
    assert exact - handed < timedelta(seconds=1)
    assert handed.utcoffset() == moment.utcoffset()


@given(st.integers(10**9, 10**10 - 1), st.integers(0, 3), st.integers(0, 86_400))
def test_epoch_keeps_its_digits(number: int, digits: int, overlap: int) -> None:
    stored = f"{number}.{'7' * digits}" if digits else str(number)
    epoch = CheckpointFormat(name="epoch", overlap=timedelta(seconds=overlap))

    assert float(epoch.handed(stored)) == pytest.approx(float(stored) - overlap)
    assert len(epoch.handed(stored).partition(".")[2]) == digits


@given(st.integers(min_value=0) | st.integers(0, 10**8))
def test_integers_are_compared_as_integers(number: int) -> None:
    if len(str(number)) > 40:
        return

    assert RECOGNISED.read(number).order == number
    assert RECOGNISED.read(str(number)).order == number


@given(st.text() | st.floats() | st.booleans() | st.lists(st.integers()) | st.integers())
def test_anything_is_read_or_refused(value: object) -> None:
    for name in (None, "iso", "epoch", "%Y-%m-%d"):
        try:
            CheckpointFormat(name=name, overlap=timedelta(days=1)).read(value)
        except ValueError as fault:
            assert "\n" not in str(fault)  # noqa: PT017  either is right


@pytest.mark.parametrize(
    ("stored", "handed"),
    [
        ("2026-06-01", "2026-05-31"),
        ("2026-06-01T00:02", "2026-05-31T23:57"),
        ("2026-06-01 00:02:03,5", "2026-05-31 23:57:03,5"),
        ("2026-06-01t00:02:03.123456789z", "2026-05-31t23:57:03.123456789z"),
        ("2026-06-01T00:02:03.120+0200", "2026-05-31T23:57:03.120+0200"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:55:00Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
    ],
)
def test_iso_is_handed_back_in_its_own_writing(stored: str, handed: str) -> None:
    assert ISO.handed(stored) == handed


@pytest.mark.parametrize(
    "value",
    ["2026-02-30T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T10:00:00", "2026-01-01", "now", "1e3", True, []],
)
def test_what_is_not_recognised(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any text will do
        RECOGNISED.read(value)


def test_a_time_without_a_zone_is_utc_where_iso_is_stated() -> None:
    assert ISO.read("2026-06-01T12:00:00").order == ISO.read("2026-06-01T14:00:00+02:00").order


def test_milliseconds_and_seconds_of_a_stated_epoch_are_the_same_instants() -> None:
    epoch = CheckpointFormat(name="epoch", overlap=timedelta(0))

    assert epoch.read(1780000000).order == epoch.read("1780000000000").order == epoch.read("1780000000000000").order


@pytest.mark.parametrize("name", ["iso", "epoch", "%Y-%m-%d", "%d/%b/%Y:%H:%M:%S %z", "%Y%m%d%H%M%S"])
def test_formats_that_hold_a_date(name: str) -> None:
    assert check_format(name) == name


@pytest.mark.parametrize("name", ["", "ISO", "%H:%M", "%Y-%m", "%Y-%m-%d %Z", "%Q", "yyyy-mm-dd"])
def test_formats_that_do_not(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any text will do
        check_format(name)


@given(st.lists(MOMENTS, min_size=1), MOMENTS)
def test_f45_the_largest_is_never_later_than_the_answer_and_never_earlier_than_before(
    moments: list[datetime], answered: datetime
) -> None:
    answered = answered.astimezone(UTC).replace(microsecond=0)
    seen = Seen(RECOGNISED, answered.isoformat())
    refused = seen.page([moment.isoformat() for moment in moments], answered)

    assert seen.largest is not None
    assert answered <= datetime.fromisoformat(seen.largest) < answered + timedelta(seconds=1)
    assert len(refused) == sum(moment >= answered + timedelta(seconds=1) for moment in moments)


@pytest.mark.parametrize(
    ("version", "other", "replaces"),
    [
        ("1", "1", False),
        ("10", "9", True),
        ("9", "10", False),
        ("b", "a", True),
        ("a", "b", True),
        ("2026-01-01T00:00:00Z", "5", True),
    ],
)
def test_newer(version: str, other: str, replaces: bool) -> None:
    assert newer(version, other) is replaces


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("name", "writing"), [("iso", "%Y-%m-%dT%H:%M:%S"), ("%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M"), ("iso", "%Y-%m-%d %H:%M")]
)
def test_f45_times_without_a_zone_skip_nothing_in_the_hour_that_comes_twice(name: str, writing: str) -> None:
    """A record a minute through the night of 26 October 2025, read every minute: what is handed shows each in time."""
    local = CheckpointFormat(name=name, overlap=timedelta(minutes=5), zone=BERLIN)
    began = datetime(2025, 10, 25, 23, 0, tzinfo=UTC)
    records: list[tuple[datetime, str]] = []
    taken: set[datetime] = set()
    stored: str | None = None
    for minute in range(240):
        now = began + timedelta(minutes=minute)
        records.append((now, now.astimezone(BERLIN).strftime(writing)))
        asked = local.handed(stored) if stored else ""
        # The source compares its own local times, as texts of one writing are compared.
        shown = [(at, text) for at, text in records if not asked or _moment(text, writing) >= _moment(asked, writing)]
        taken |= {at for at, _ in shown}
        seen = Seen(local, stored)

        assert seen.page([text for _, text in shown], now) == (), "nothing lies in the future"
        stored = seen.largest

    assert taken == {at for at, _ in records}


def _moment(text: str, writing: str) -> datetime:
    return datetime.strptime(text, writing)  # noqa: DTZ007  local on purpose


def test_f45_a_time_without_a_zone_is_in_the_zone_that_is_stated() -> None:
    local = CheckpointFormat(name="iso", overlap=timedelta(minutes=5), zone=BERLIN)
    now = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    seen, utc = Seen(local, None), Seen(ISO, None)

    assert seen.page(["2026-06-01T14:00:00"], now) == ()
    assert utc.page(["2026-06-01T14:00:00"], now) == ("2026-06-01T14:00:00",)
    assert local.handed("2026-06-01T14:00:00") == "2026-06-01T13:55:00"
    assert local.read("2026-06-01T14:00:00Z").order == ISO.read("2026-06-01T14:00:00").order


@pytest.mark.parametrize(
    ("stored", "handed"),
    [("1.78e9", "1779999700"), ("1780000000.123", "1779999700.123"), ("1780000000", "1779999700"), (" 5 ", "-295")],
)
def test_epoch_in_any_writing(stored: str, handed: str) -> None:
    assert CheckpointFormat(name="epoch", overlap=timedelta(minutes=5)).handed(stored) == handed


def test_a_pattern_of_digits_alone_is_no_number() -> None:
    assert (
        CheckpointFormat(name="%Y%m%d%H%M%S", overlap=timedelta(minutes=5)).handed("20260601000200") == "20260531235700"
    )
