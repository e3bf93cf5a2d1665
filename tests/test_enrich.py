"""
The content enricher: whatever a name holds, no query ever means something else, and nobody else is ever found.

What an instance would make of a query is asked of the sandbox's parser, which was written from ServiceNow's documentation
alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import given, settings, strategies as st

from poller.clients.query import Query
from poller.enrich import Lookups, Question
from poller.enrich.lookups import HIT_SECONDS, MISS_SECONDS
from poller.enrich.matching import clean, folded
from poller.enrich.trust import BELIEVED
from poller.errors import BlockedError, TransientError
from poller.model import Fields
from poller.sandbox.encoded_query import Context, compiled, parse

USERS = Question(table="sys_user", by=("user_name",))
LOGINS = (
    "abel.tuter", "admin", "ops^night", "ops^day^night", "a,b", "a", "b", "Carla.Case", "carla.case", "", "50%", "*", "OR",
    "NQ", "zoë", unicodedata.normalize("NFD", "rené"), "javascript:gs.getUserID()", "x=y", "user_name", "trailing ", "straße",
)  # fmt: skip
#: Names that were made to be misread, and pieces to make more of.
HOSTILE = st.lists(
    st.sampled_from(
        [
            *LOGINS, "^", "^OR", "^NQ", "^EQ", "^ORDERBY", "^ORDERBYDESC", "user_name", "=", "!=", "IN", "LIKE", "STARTSWITH",
            "ISNOTEMPTY", "ANYTHING", ",", "@", "javascript:", "gs.getUserName()", " ", "\t", "\n", "\x00", "\u200b", "\u202e",
            "\ud800", "&", "%5E", "active=true", "sys_id", "DYNAMIC", "é", "e\u0301", "😀",
        ]
    ),
    max_size=6,
).map("".join)  # fmt: skip
ANY = st.one_of(HOSTILE, st.text(max_size=30), st.text(alphabet="^=,ORNQabINE*%", max_size=12))


class Instance:
    """Rows of one table behind the sandbox's query parser; keeps every query."""

    def __init__(self, rows: Sequence[Fields]) -> None:
        self.rows = list(rows)
        self.asked: list[str] = []
        self.dropping: set[str] = set()
        self.hiding: set[str] = set()
        self.down = False

    def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
        if self.down:
            raise TransientError("503")
        self.asked.append(str(query))
        parsed = parse(str(query), lambda name: name not in self.dropping)
        context = Context(read=lambda row, name: row.get(name, ""), script=lambda _text: "abel.tuter")
        test = compiled(parsed, context)
        found = [row for row in self.rows if test(row)][:limit]
        return [{name: row.get(name, "") for name in fields if name not in self.hiding} for row in found]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def people(*logins: str) -> list[Fields]:
    return [{"sys_id": f"{n + 1:032x}", "user_name": login, "active": "true"} for n, login in enumerate(logins)]


def whose(instance: Instance) -> dict[str, str]:
    return {row["sys_id"]: row["user_name"] for row in instance.rows}


# Properties.


@settings(max_examples=400, deadline=None)
@given(st.lists(ANY, max_size=8))
def test_s01_s02_s03_whatever_is_asked_is_one_condition_on_the_name(names: list[str]) -> None:
    instance = Instance(people(*LOGINS))

    Lookups(instance).find(USERS, names)

    wanted = {form for name in names for form in (clean(name), unicodedata.normalize("NFD", clean(name)))}
    for asked in instance.asked:
        parsed = parse(asked, lambda name: name in {"user_name", "sys_id"})
        assert not parsed.dropped
        assert parsed.order == [("sys_id", False)]
        (conditions,) = parsed.sets
        assert all(len(either) == 1 for either in conditions)
        operators = [(one.field, one.operator) for (one,) in conditions]
        assert operators in (
            [("user_name", "IN")],
            [("user_name", "=")],
            [("user_name", "STARTSWITH"), ("user_name", "ENDSWITH")],
            [("user_name", "STARTSWITH")],
            [("user_name", "ENDSWITH")],
            [("user_name", "ISNOTEMPTY")],
        )
        for (one,) in conditions:
            assert not one.value.lower().lstrip().startswith("javascript:")
            assert not re.search(r"[\x00-\x1f]", one.value)
            assert one.value.strip() or one.operator == "ISNOTEMPTY"
            if one.operator == "IN":
                assert set(one.value.split(",")) <= wanted
            elif one.operator == "=" and not one.value.startswith("poller-probe:"):
                assert one.value in wanted


@settings(max_examples=400, deadline=None)
@given(st.lists(ANY, max_size=8), st.booleans())
def test_s05_a_name_never_finds_another_user(names: list[str], drops: bool) -> None:
    instance = Instance(people(*LOGINS))
    if drops:
        instance.dropping = {"user_name"}

    try:
        found = Lookups(instance).find(USERS, names)
    except BlockedError:
        assert drops
        return

    logins = whose(instance)
    for name, one in found.items():
        if one.sys_id is not None:
            assert folded(logins[one.sys_id]) == folded(name)
            exact = [sys_id for sys_id, login in logins.items() if clean(login) == clean(name)]
            assert exact == [one.sys_id] or (not exact and one.how == "folded")
        elif one.how == "ambiguous":
            assert sum(folded(login) == folded(name) for login in logins.values()) > 1


@settings(max_examples=200, deadline=None)
# A blank at the end in the table itself is between the instance and its database.
@given(
    st.lists(st.sampled_from([login for login in LOGINS if login and login == login.strip()]), min_size=1, unique=True)
)
def test_whoever_can_be_asked_for_is_found_in_any_company(names: list[str]) -> None:
    found = Lookups(Instance(people(*LOGINS))).find(USERS, names)

    for name, one in found.items():
        assert (one.sys_id is not None) == (not name.startswith("javascript:")), name


# Trust.


def test_a_name_that_is_not_there_is_unknown_and_the_table_is_looked_at_once() -> None:
    instance, clock = Instance(people("abel.tuter")), Clock()
    lookups = Lookups(instance, clock=clock)

    for name in ("x", "y", "z"):
        assert lookups.find(USERS, [name])[name].how == "unknown"
    assert [asked for asked in instance.asked if "ISNOTEMPTY" in asked] == ["user_nameISNOTEMPTY^ORDERBYsys_id"]

    clock.now = BELIEVED
    lookups.find(USERS, ["w"])
    assert len([asked for asked in instance.asked if "ISNOTEMPTY" in asked]) == 2


def test_a_fault_of_the_set_up_is_not_remembered_as_an_unknown_name() -> None:
    instance = Instance(people("abel.tuter"))
    lookups = Lookups(instance)
    instance.hiding = {"user_name"}
    with pytest.raises(BlockedError, match="no row can be seen that shows user_name"):
        lookups.find(USERS, ["abel.tuter"])

    instance.hiding = set()

    assert lookups.find(USERS, ["abel.tuter"])["abel.tuter"].how == "exact"


def test_a_column_that_is_empty_for_all_does_not_matter_beside_one_that_is_not() -> None:
    question = Question(table="sys_user", by=("user_name", "employee_number"))

    found = Lookups(Instance(people("abel.tuter"))).find(question, ["4711", "abel.tuter"])

    assert [found[name].how for name in ("4711", "abel.tuter")] == ["unknown", "exact"]


def test_rows_that_only_look_alike_to_the_instance_are_no_reason_for_distrust() -> None:
    class Loose(Instance):
        def table_get(self, table: str, query: Query, fields: Sequence[str], limit: int) -> list[Fields]:
            rows = super().table_get(table, query, fields, limit)
            return self.rows[:1] if "zoe" in str(query) else rows

    found = Lookups(Loose(people("zoë", "abel.tuter"))).find(USERS, ["zoe", "abel.tuter"])

    assert found["zoe"].how == "unknown"


def test_an_answer_that_does_not_come_is_never_nobody() -> None:
    instance = Instance(people("abel.tuter"))
    lookups = Lookups(instance)
    instance.down = True
    with pytest.raises(TransientError):
        lookups.find(USERS, ["abel.tuter"])
    instance.down = False

    assert lookups.find(USERS, ["abel.tuter"])["abel.tuter"].how == "exact"


# Memory.


def test_hits_are_believed_for_an_hour_and_misses_for_minutes() -> None:
    instance, clock = Instance(people("abel.tuter")), Clock()
    lookups = Lookups(instance, clock=clock)
    lookups.find(USERS, ["abel.tuter", "new.hire"])
    instance.rows += people("a", "b", "new.hire")[2:]

    clock.now = MISS_SECONDS - 1
    assert lookups.find(USERS, ["new.hire"])["new.hire"].how == "unknown"
    assert lookups.find(USERS, ["new.hire"], fresh=True)["new.hire"].how == "exact"
    instance.rows = []
    clock.now = HIT_SECONDS - 1
    assert lookups.find(USERS, ["abel.tuter"])["abel.tuter"].how == "exact"
    clock.now = 2 * HIT_SECONDS
    with pytest.raises(BlockedError):
        lookups.find(USERS, ["abel.tuter"])


def test_one_table_and_condition_is_not_another() -> None:
    rows = [{"sys_id": "1" * 32, "user_name": "x", "name": "x", "type": "a"}]
    lookups = Lookups(Instance(rows))
    one, other = (Question(table="t", by=("name",), where=(("type", value),)) for value in "ab")

    assert lookups.find(one, ["x"])["x"].how == "exact"
    with pytest.raises(BlockedError, match="no row can be seen that shows name and type = b"):
        lookups.find(other, ["x"])


def test_what_is_kept_is_bounded() -> None:
    instance = Instance(people(*(f"user{n}" for n in range(20))))
    lookups = Lookups(instance, size=5)
    lookups.find(USERS, [f"user{n}" for n in range(20)])
    asked = len(instance.asked)

    lookups.find(USERS, [f"user{n}" for n in range(15, 20)])
    assert len(instance.asked) == asked
    lookups.find(USERS, ["user0"])
    assert len(instance.asked) == asked + 1
