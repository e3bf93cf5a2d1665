"""
``[routes.NAME.sink]`` of type ``servicenow``: what each column is made of.

A column is a template, or one of three forms that a table in braces tells by its key: ``user`` and ``lookup`` are found at
the instance, ``from`` is mapped to fixed texts. Whatever can be wrong with them is found here, before anything starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from poller.clients.query import check_field, check_table, check_value
from poller.enrich import Question
from poller.translate import Template, compile_template
from poller.values import Duration, Model

#: Keys of a route, of its sink or of ``unknown_user``; typed below ``[….sink.fields]`` they would become columns.
_MISPLACED: Final = frozenset(
    {
        "cron", "enabled", "every", "fields", "first_run", "for", "inactive", "max_new_per_hour", "on_change", "policy",
        "previously", "push", "reply", "sink", "source", "table", "timezone", "type", "unknown_user", "update_fields",
        "username",
    }
)  # fmt: skip
#: What the sink itself writes, or the instance.
_OURS: Final = frozenset({"correlation_id", "correlation_display", "number"})
#: Columns that an update sends where nothing else is said: what the record itself says, and no decision of a person.
_UPDATED: Final = frozenset({"short_description", "description"})
#: Of ``wait`` where nothing else is said.
_DAY, _HOUR = timedelta(hours=24), timedelta(hours=1)


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


#: One column or several.
ColumnNames = Annotated[
    tuple[str, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
]


def _fixed(text: str) -> str:
    """Return *text*, which is no template."""
    if "{{" in text or "{%" in text:
        raise ValueError("is a fixed text, not a template")
    return text


def _asked(text: str) -> str:
    return check_value(_fixed(text))


class UserField(Model):
    """A user of the instance, found by one of its columns."""

    user: Annotated[str, Field(description="template of the name")]
    by: Annotated[
        ColumnNames, Field(min_length=1, description='columns of sys_user, tried in turn: ["user_name", "email"]')
    ] = ("user_name",)

    @field_validator("by")
    @classmethod
    def _columns(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_field(name) for name in by)

    @property
    def template(self) -> str:
        """The template of the name."""
        return self.user


class LookupField(Model):
    """A row of any table, found by one of its columns."""

    lookup: Annotated[str, Field(description='the table, such as "sys_user_group"')]
    by: Annotated[ColumnNames, Field(min_length=1, description='its column, or several that are tried in turn: "name"')]
    value: Annotated[str, Field(description="template of the name; where it renders empty, the column is left out")]
    where: dict[str, str] = Field(default={}, description='what the row must have besides, such as { active = "true" }')
    unknown: Annotated[
        Literal["dead", "omit"] | None,
        Field(description='a name that no row has: "dead", a dead letter (as if left out), or "omit", not sent'),
    ] = None
    default: Annotated[
        str | None, Field(description="the name to take for one that no row has; instead of unknown")
    ] = None

    @field_validator("lookup")
    @classmethod
    def _table(cls, name: str) -> str:
        return check_table(name)

    @field_validator("by")
    @classmethod
    def _columns(cls, by: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(check_field(name) for name in by)

    @field_validator("where")
    @classmethod
    def _conditions(cls, where: dict[str, str]) -> dict[str, str]:
        return {check_field(name): _asked(value) for name, value in where.items()}

    @field_validator("default")
    @classmethod
    def _name(cls, default: str | None) -> str | None:
        return default if default is None else _asked(default)

    @model_validator(mode="after")
    def _either(self) -> LookupField:
        if self.default is not None and self.unknown is not None:
            raise ValueError("unknown and default say two different things; keep one")
        return self

    @property
    def template(self) -> str:
        """The template of the name."""
        return self.value


class MapField(Model):
    """A fixed text for each of the record's values."""

    from_: Annotated[str, Field(alias="from", description="template of the record's value")]
    map: Annotated[
        dict[str, str], Field(min_length=1, description='what is sent for each value: { high = "1", low = "3" }')
    ]
    default: Annotated[
        str | None,
        Field(description="what is sent for any other value; left out: such a record is a dead letter"),
    ] = None

    @field_validator("map")
    @classmethod
    def _told_apart(cls, given: dict[str, str]) -> dict[str, str]:
        for value in given.values():
            _fixed(value)
        counts = Counter(name.strip().casefold() for name in given)
        if twice := [name for name in given if counts[name.strip().casefold()] > 1]:
            raise ValueError(f"{' and '.join(twice)[:160]} are the same but for case or blanks; keep one")
        return given

    @field_validator("default")
    @classmethod
    def _text(cls, default: str | None) -> str | None:
        return default if default is None else _fixed(default)

    @property
    def template(self) -> str:
        """The template of the record's value."""
        return self.from_

    @cached_property
    def folded(self) -> Mapping[str, str]:
        """What is sent, by the value without regard to case."""
        return {name.strip().casefold(): value for name, value in self.map.items()}


_FORMS: Final[Mapping[str, type[UserField | LookupField | MapField]]] = {
    "user": UserField,
    "lookup": LookupField,
    "from": MapField,
}


def _form(value: object) -> object:
    """Return the form that *value* is, told by the one key that makes it one."""
    if isinstance(value, str | UserField | LookupField | MapField):
        return value
    if not isinstance(value, dict):
        raise ValueError("must be a template in quotes, or a table with user, lookup or from")  # noqa: TRY004  for pydantic
    marks = [name for name in _FORMS if name in value]
    if len(marks) != 1:
        named = " and ".join(marks) or "none of user, lookup and from"
        raise ValueError(
            f'holds {named}; a column is a template, {{ user = "…" }}, {{ lookup = "TABLE", by = "COLUMN", value = "…" }} '
            'or { from = "…", map = { … } }'
        )
    return _FORMS[marks[0]].model_validate(value)


#: What a column is made of.
FieldForm = Annotated[str | UserField | LookupField | MapField, BeforeValidator(_form)]


class UnknownUser(Model):
    """What becomes of a record whose user is not known; ambiguous users are unknown."""

    policy: Annotated[
        Literal["dead", "omit", "default", "wait"],
        Field(
            description="dead: a dead letter; omit: the column is not sent; default: username is taken instead; "
            "wait: asked for again, and dead after a while"
        ),
    ] = "dead"
    username: Annotated[
        str | None, Field(description="the user to take instead, by the first column of the field; only with default")
    ] = None
    for_: Annotated[
        Duration | None,
        Field(alias="for", description="how long to wait, from when the record was first seen: 24h; only with wait"),
    ] = None
    every: Annotated[
        Duration | None, Field(description="time between two look-ups while waiting: 1h; only with wait")
    ] = None
    inactive: Annotated[
        Literal["accept", "unknown"], Field(description="whether a user who is not active counts as unknown")
    ] = "accept"

    @model_validator(mode="after")
    def _whom(self) -> UnknownUser:
        if (self.policy == "default") != (self.username is not None):
            raise ValueError('policy = "default" and username go together')
        if self.username is not None and not self.username.strip():
            raise ValueError("username is empty")
        for name, value in (("for", self.for_), ("every", self.every)):
            if value is not None and self.policy != "wait":
                raise ValueError(f'{name} has a meaning only with policy = "wait"; leave it out')
            if value is not None and value <= timedelta(0):
                raise ValueError(f"{name} must be longer than nothing")
        return self

    @property
    def patience(self) -> timedelta:
        """How long a record waits for its user."""
        return self.for_ or _DAY

    @property
    def interval(self) -> timedelta:
        """How long until the next look."""
        return self.every or _HOUR


class ServiceNowSinkSettings(Model):
    """``[routes.NAME.sink]`` of type ``servicenow``."""

    type: Literal["servicenow"]
    table: Annotated[str, Field(description="where the incidents are made")] = "incident"
    fields: dict[str, FieldForm] = Field(
        default={
            "caller_id": UserField(user="{{ username }}"),
            "short_description": "{{ title }}",
            "description": "{{ description }}",
        },
        min_length=1,
        description="column = template, or a user or row to be found, or a mapped value; what renders empty is not sent",
    )
    update_fields: Annotated[
        dict[str, FieldForm] | None,
        Field(
            min_length=1,
            description='with on_change = "update": what a changed record changes; journals such as work_notes are appended '
            "to; left out: short_description and description, as they are under fields",
        ),
    ] = None
    update_unless: Annotated[
        str,
        Field(description='an incident like this is not updated: "column=value", several joined by ^; "" updates all'),
    ] = "active=false"
    unknown_user: Annotated[UnknownUser, Field(description="whose name sys_user does not know")] = UnknownUser()

    @field_validator("table")
    @classmethod
    def _table(cls, name: str) -> str:
        return check_table(name)

    @field_validator("update_unless")
    @classmethod
    def _conditions(cls, text: str) -> str:
        _conditions(text)
        return text

    @field_validator("fields", "update_fields")
    @classmethod
    def _columns(cls, fields: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, value in (fields or {}).items():
            if name in _MISPLACED:
                raise ValueError(
                    f'"{name}" is a key of the route or its sink, not a column: put it above [….sink.fields]'
                )
            if name in _OURS or name.startswith("sys_"):
                raise ValueError(f'"{name}" is not yours to set')
            if "." in check_field(name):
                raise ValueError(f'"{name}": only columns of the table itself can be written')
            try:
                compile_template(_template(value))
            except ValueError as error:
                raise ValueError(f'"{name}": {error}') from None
        return fields

    @property
    def unless(self) -> tuple[tuple[str, str], ...]:
        """Columns and values of which all are true of an incident that is left alone."""
        return _conditions(self.update_unless)

    def for_updates(self) -> ServiceNowSinkSettings:
        """Return the same settings with what an update sends as their fields; none where there is nothing to update."""
        usual = {name: form for name, form in self.fields.items() if name in _UPDATED}
        return self.model_copy(update={"fields": usual if self.update_fields is None else self.update_fields})

    def templates(self) -> Mapping[str, Template]:
        """Return the compiled templates by column, in the order of the settings."""
        return {name: compile_template(_template(value)) for name, value in self.fields.items()}

    def names(self) -> frozenset[str]:
        """Return the variables that the templates need."""
        return frozenset().union(*(template.names for template in self.templates().values()))

    def questions(self) -> Mapping[str, Question]:
        """Return where names are looked for, by the column that wants them."""
        return {
            name: self.question(form) for name, form in self.fields.items() if isinstance(form, UserField | LookupField)
        }

    def questions_by_key(self) -> Mapping[str, Question]:
        """Return the same for creates and updates, by the key of the settings: ``fields.caller_id``."""
        found = {f"fields.{name}": question for name, question in self.questions().items()}
        if self.update_fields is not None:
            changing = self.for_updates().questions()
            found |= {f"update_fields.{name}": question for name, question in changing.items()}
        return found

    def question(self, form: UserField | LookupField) -> Question:
        """Return where the names of *form* are looked for."""
        if isinstance(form, UserField):
            return Question(table="sys_user", by=form.by, active=self.unknown_user.inactive == "unknown")
        return Question(table=form.lookup, by=form.by, where=tuple(form.where.items()))


def _conditions(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    for part in text.split("^") if text else ():
        name, sign, value = part.partition("=")
        if not sign or name.endswith(("!", ">", "<")):
            raise ValueError('is made of "column=value", joined by ^: it is compared here, not by the instance')
        found.append((check_field(name), _asked(value)))
    return tuple(found)


def _template(value: FieldForm) -> str:
    return value if isinstance(value, str) else value.template
