"""
Encoded queries: ``field OP value`` joined by ``^``, with all that makes them dangerous.

Invalid parts are dropped and the rest runs, so a mistyped column returns the whole table. ``^`` has no escape:
a value that holds one ends there and the remainder is read as further conditions. A value that begins with
``javascript:`` is evaluated. ``^OR`` binds to the condition beside it, ``^NQ`` starts a new set.

Supported: the operators in ``_OPERATORS``, dot-walks, ``^OR``, ``^NQ``, ``^EQ``, ``^ORDERBY``, ``^ORDERBYDESC``.
Any other operator counts as invalid here, although real instances know more.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Row = Mapping[str, str]
Test = Callable[[Row], bool]

# Longer ones first where one begins with the other.
_OPERATORS = (
    "ISNOTEMPTY", "ISEMPTY", "EMPTYSTRING", "ANYTHING", "NOT IN", "NOT LIKE", "NOTLIKE", "STARTSWITH", "ENDSWITH",
    "BETWEEN", "LIKE", "IN", "!=", ">=", "<=", "!*", "=", ">", "<", "*", "%",
)  # fmt: skip
_SAME = {"NOTLIKE": "NOT LIKE", "!*": "NOT LIKE", "*": "LIKE", "%": "ENDSWITH", "EMPTYSTRING": "ISEMPTY"}
_TERM = re.compile(rf"([a-z0-9_.]+)({'|'.join(re.escape(one) for one in _OPERATORS)})(.*)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One ``field OP value``; the operator is in its long spelling."""

    field: str
    operator: str
    value: str


@dataclass(kw_only=True)
class Query:
    """A parsed query: any of *sets*, each of them all of its alternatives, each of these any of its conditions."""

    sets: list[list[list[Condition]]] = field(default_factory=list)
    order: list[tuple[str, bool]] = field(default_factory=list)  # (field, descending)
    dropped: list[str] = field(default_factory=list)  # the parts nobody understood


def parse(text: str, known: Callable[[str], bool]) -> Query:
    """
    Parse *text*; never fails, as on a real instance.

    Args:
        text: The decoded value of ``sysparm_query``.

        known: Tells whether a column, or a dot-walk, exists in the table.
    """
    query = Query()
    current: list[list[Condition]] = []
    beside = False  # whether the part before was a condition that an ^OR can bind to
    query.sets.append(current)
    for part in text.split("^"):
        if part.startswith("ORDERBY"):
            _take_order(part, query, known)
            continue
        if part in {"", "EQ"}:
            if part == "" and text:
                query.dropped.append(part)
            continue
        term, binds = part, False
        if part.startswith("NQ"):
            current = []
            query.sets.append(current)
            term = part[2:]
        elif part.startswith("OR"):
            term, binds = part[2:], True
        condition = _condition(term, known)
        if condition is None:
            query.dropped.append(part)
            beside = beside if binds else False
        elif binds and beside and current:
            current[-1].append(condition)
        else:
            current.append([condition])
            beside = True
    return query


def _take_order(part: str, query: Query, known: Callable[[str], bool]) -> None:
    descending = part.startswith("ORDERBYDESC")
    name = part.removeprefix("ORDERBYDESC" if descending else "ORDERBY")
    if known(name):
        query.order.append((name, descending))
    else:
        query.dropped.append(part)


def _condition(term: str, known: Callable[[str], bool]) -> Condition | None:
    found = _TERM.fullmatch(term)
    if found is None or not known(found[1]):
        return None
    operator = _SAME.get(found[2], found[2])
    if operator == "BETWEEN" and "@" not in found[3]:
        return None
    if operator in {">", "<", ">=", "<="} and not found[3]:
        return None
    return Condition(field=found[1], operator=operator, value=found[3])


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a query is run in."""

    read: Callable[[Row, str], str]  # value of a column or dot-walk
    script: Callable[[str], str]  # value of "javascript:..."
    case_sensitive: bool = False

    def folded(self, text: str) -> str:
        """Return *text* as it is compared."""
        return text if self.case_sensitive else text.casefold()

    def evaluated(self, value: str) -> str:
        """Return *value*, run as a script when it is one."""
        return self.script(value) if value.startswith("javascript:") else value


def compiled(query: Query, context: Context) -> Test:
    """Return a test that tells whether a row matches *query*."""
    sets = [[[_test(one, context) for one in either] for either in every] for every in query.sets]
    if not sets or any(not every for every in sets):
        return lambda _row: True  # a set without conditions holds for every row
    return lambda row: any(all(any(test(row) for test in either) for either in every) for every in sets)


def sorted_rows(rows: Iterable[Row], query: Query, context: Context) -> list[Row]:
    """Return *rows* in the order *query* asks for; stable, so the last key is sorted by first."""
    result = list(rows)
    for name, descending in reversed(query.order):
        result.sort(key=lambda row, name=name: _rank(context.folded(context.read(row, name))), reverse=descending)  # type: ignore[misc]
    return result


def _rank(text: str) -> tuple[int, float, str]:
    """Return a sort key that puts 9 before 10 and numbers before words."""
    if text.isdigit() and len(text) < 16:
        return (0, float(text), text)
    return (1, 0.0, text)


def _test(condition: Condition, context: Context) -> Test:
    read, fold, name = context.read, context.folded, condition.field
    operator = condition.operator
    value = fold(context.evaluated(condition.value))
    if operator == "IN":
        wanted = {fold(context.evaluated(one)) for one in condition.value.split(",")}
        return lambda row: fold(read(row, name)) in wanted
    if operator == "NOT IN":
        unwanted = {fold(context.evaluated(one)) for one in condition.value.split(",")}
        return lambda row: fold(read(row, name)) not in unwanted
    if operator == "BETWEEN":
        low, _, high = condition.value.partition("@")
        least, most = _rank(fold(context.evaluated(low))), _rank(fold(context.evaluated(high)))
        return lambda row: least <= _rank(fold(read(row, name))) <= most
    simple = _SIMPLE[operator]
    return lambda row: simple(fold(read(row, name)), value)


# "is not" also holds for empty values; "greater" and "less" never do.
_SIMPLE: dict[str, Callable[[str, str], bool]] = {
    "=": lambda stored, value: stored == value,
    "!=": lambda stored, value: stored != value,
    ">": lambda stored, value: stored != "" and _rank(stored) > _rank(value),
    ">=": lambda stored, value: stored != "" and _rank(stored) >= _rank(value),
    "<": lambda stored, value: stored != "" and _rank(stored) < _rank(value),
    "<=": lambda stored, value: stored != "" and _rank(stored) <= _rank(value),
    "LIKE": lambda stored, value: value in stored,
    "NOT LIKE": lambda stored, value: value not in stored,
    "STARTSWITH": lambda stored, value: stored.startswith(value),
    "ENDSWITH": lambda stored, value: stored.endswith(value),
    "ISEMPTY": lambda stored, _value: stored == "",
    "ISNOTEMPTY": lambda stored, _value: stored != "",
    "ANYTHING": lambda _stored, _value: True,
}


def narrowing(query: Query, indexed: Iterable[str]) -> tuple[str, list[str]] | None:
    """
    Return an indexed column and the values that a row must have one of, if *query* demands that.

    Only a short cut: the rows found by it are still tested.
    """
    columns = set(indexed)
    if len(query.sets) != 1:
        return None
    for either in query.sets[0]:
        if len(either) == 1 and either[0].field in columns and "javascript:" not in either[0].value:
            if either[0].operator == "=":
                return either[0].field, [either[0].value]
            if either[0].operator == "IN":
                return either[0].field, either[0].value.split(",")
    return None
