from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from poller.clients.http import Answer, Headers
from poller.clients.retry_after import retry_after
from poller.clients.skew import Skew

AT = datetime(2026, 11, 23, 19, 0, 0, tzinfo=UTC)


def test_clocks_that_agree_within_the_grain_have_no_skew() -> None:
    skew = Skew()
    assert skew.seconds == 0
    skew.measure(AT.timestamp() + 0.4, AT.timestamp() + 0.9, AT)
    assert skew.seconds == 0


def test_many_answers_narrow_it_and_a_clock_that_was_set_starts_afresh() -> None:
    skew = Skew()
    for step in range(100):
        theirs = AT.timestamp() + step * 0.37
        ours = theirs + 7.5
        skew.measure(ours - 0.01, ours + 0.01, datetime.fromtimestamp(int(theirs), UTC))
    assert 7.4 <= skew.seconds <= 7.5
    skew.measure(AT.timestamp() - 3600.1, AT.timestamp() - 3600.0, AT)
    assert -3600.1 <= skew.seconds <= -3599
    skew.measure(AT.timestamp(), AT.timestamp() - 5, AT)
    assert skew.seconds < -3000


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 1),
        ("-5", 1),
        ("1000000000", 7200),
        ("1.5", 1.5),
        ("nan", None),
        ("inf", 7200),
        ("soon", None),
        ("", None),
        ("Mon, 23 Nov 2026 19:01:00 GMT", 60),
        ("Mon, 23 Nov 2020 19:01:00 GMT", 1),
    ],
)
def test_retry_after_is_kept_within_reason(text: str, seconds: float | None) -> None:
    headers = Headers([("Retry-After", text), ("Date", "Mon, 23 Nov 2026 19:00:00 GMT")])
    got = retry_after(Answer(status=429, headers=headers, body=b"", url=""))
    assert got == (None if seconds is None else timedelta(seconds=seconds))
