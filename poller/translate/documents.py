"""
The message translator for what goes out: from a record's fields to one document in JSON, XML or text.

    fields ── templates ──► JSON | text
                       └──► XML ── xslt ──► XML or text ── xsd ──► sent only if valid

Everything that can be wrong with templates, stylesheet and schema is found when the settings are read; what is wrong with
one record is that record's fault alone. What renders empty is left out. Fields that the settings do not name are sent as
the source has them, each under its name as a whole; in XML, what a name cannot have becomes ``_``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from lxml import etree
from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from poller.formats.texts import to_text
from poller.translate import Template, TemplateFault, compile_template, markup
from poller.translate.escaping import escape_json
from poller.translate.schema import Schema
from poller.translate.stylesheet import Stylesheet, StylesheetFault, load_stylesheet
from poller.values import Model

_TYPES: Final = {
    "json": "application/json",
    "xml": "application/xml; charset=utf-8",
    "text": "text/plain; charset=utf-8",
}
_ESCAPES: Final = {"json": escape_json, "xml": markup.escape, "text": None}


class TranslateFault(ValueError):
    """A record cannot be translated. ``str`` is one line without the record's texts."""


def _beside(value: object, info: ValidationInfo) -> object:
    """Take a path relative to the settings file."""
    return str(((info.context or {}).get("base") or Path()) / value) if isinstance(value, str) else value


def _readable(path: Path) -> Path:
    markup.read_file(path)
    return path


#: A file that the settings name, relative to their own.
File = Annotated[Path, BeforeValidator(_beside), AfterValidator(_readable)]


#: What finds out what is wrong with a key's value.
_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "root": markup.check_name,
    "namespace": markup.check_namespace,
    "xslt": load_stylesheet,
    "xsd": Schema,
}


class DocumentSettings(Model):
    """The keys that say what a document is made of."""

    format: Annotated[Literal["json", "xml", "text"], Field(description="json, xml or text")] = "json"
    root: Annotated[str | None, Field(description='XML only: the root element; left out: "Record"')] = None
    namespace: Annotated[str | None, Field(min_length=1, description="XML only: of all elements, as xmlns")] = None
    template: Annotated[
        File | None, Field(description="a file with one template for the whole document; instead of fields")
    ] = None
    xslt: Annotated[File | None, Field(description="XML only: a stylesheet that the document goes through")] = None
    xsd: Annotated[File | None, Field(description="XML only: a schema; what is not valid is a dead letter")] = None
    fields: Annotated[
        dict[str, str | tuple[str, ...]],
        Field(
            default_factory=dict,
            description='name = template, nested by dots; XML: "@id" is an attribute, a list of templates repeats the '
            "element; left out: the source's fields as they are",
        ),
    ]

    @field_validator("root", "namespace", "xslt", "xsd")
    @classmethod
    def _of_xml(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401  of several keys
        if value is None:
            return value
        if info.data.get("format", "xml") != "xml":
            raise ValueError('has a meaning only for format = "xml"')
        _CHECKS[info.field_name or ""](value)
        if info.field_name == "xsd" and (sheet := info.data.get("xslt")) and load_stylesheet(sheet).text:
            raise ValueError("the stylesheet's output is text, which no schema describes; leave xsd out")
        return value

    @field_validator("template")
    @classmethod
    def _compiles(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        if path is None:
            return None
        for key in ("root", "namespace"):
            if info.data.get(key) is not None:
                raise ValueError(f"template makes the whole document; leave {key} or template out")
        if "format" in info.data:
            _template(path, info.data["format"])
        return path

    @field_validator("fields")
    @classmethod
    def _names(cls, fields: dict[str, str | tuple[str, ...]], info: ValidationInfo) -> dict[str, Any]:
        if fields and info.data.get("template") is not None:
            raise ValueError("template makes the whole document; leave fields or template out")
        if fields and "format" in info.data:
            _check_names(fields, info.data["format"])
        for texts in fields.values():
            for text in _listed(texts):
                compile_template(text)
        return fields


class Translator:
    """
    Makes documents, for any number of threads.

    Args:
        settings: As they were read; its files are read anew.
    """

    def __init__(self, settings: DocumentSettings) -> None:
        self._settings = settings
        self._format = settings.format
        self._fields = {
            name: tuple(compile_template(text) for text in _listed(texts)) for name, texts in settings.fields.items()
        }
        self._whole = None if settings.template is None else _template(settings.template, self._format)
        self._stylesheet: Stylesheet | None = None if settings.xslt is None else load_stylesheet(settings.xslt)
        self._schema = None if settings.xsd is None else Schema(settings.xsd)

    @property
    def content_type(self) -> str:
        """What HTTP calls the documents."""
        made_text = self._stylesheet is not None and self._stylesheet.text
        return _TYPES["text" if made_text else self._format]

    def close(self) -> None:
        """End what a stylesheet runs in."""
        if self._stylesheet is not None:
            self._stylesheet.close()

    def render(self, fields: Mapping[str, object], /, **besides: object) -> str:
        """
        Return the document of one record; it is UTF-8 once it is sent.

        Args:
            fields: Of the record; a name of theirs goes before one of *besides*.

            besides: What templates see too, such as ``key``.

        Raises:
            TranslateFault: It has none.
            TransientError: Not now: this machine could start no process for the stylesheet.
        """
        try:
            text = self._rendered(fields, {**besides, **fields})
        except (TemplateFault, StylesheetFault) as error:
            raise TranslateFault(str(error)) from error
        if len(text) > markup.LARGEST:
            raise TranslateFault(f"the document is longer than {markup.LARGEST} characters")
        return text

    def _rendered(self, fields: Mapping[str, object], variables: Mapping[str, object]) -> str:
        if self._whole is not None:
            return self._checked(self._whole.render(variables))
        texts = self._texts(fields, variables)
        if self._format == "json":
            return _sendable(json.dumps(self._nested(texts), ensure_ascii=False))
        if self._format == "text":
            return _sendable("".join(f"{name}: {text}\n" for name, each in texts.items() for text in each))
        parts = [(self._path(name), each) for name, each in texts.items()]
        return self._finished(markup.document(self._settings.root or "Record", self._settings.namespace, parts))

    def _checked(self, text: str) -> str:
        """Return what a template for the whole document gave, if it is one."""
        if self._format == "xml":
            return self._finished(_well_formed(text))
        if self._format == "json":
            _check_json(text)
        return _sendable(text)

    def _path(self, name: str) -> tuple[str, ...]:
        # Names of the source are taken as they are; those of the settings are nested by their dots.
        if self._fields:
            return tuple(name.split("."))
        return (name,) if self._format == "json" else (markup.name_of(name),)

    def _texts(self, fields: Mapping[str, object], variables: Mapping[str, object]) -> dict[str, list[str]]:
        """Return what is not empty, by name."""
        if self._fields:
            made = {name: [each.render(variables) for each in some] for name, some in self._fields.items()}
        else:
            made = {name: [to_text(value)] for name, value in fields.items()}
        return {name: kept for name, texts in made.items() if (kept := [text for text in texts if text])}

    def _nested(self, texts: Mapping[str, list[str]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for name, some in texts.items():
            place = made
            *parents, last = self._path(name)
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = some if isinstance(self._settings.fields.get(name), tuple) else some[0]
        return made

    def _finished(self, tree: etree._Element) -> str:
        text = markup.written(tree)
        if self._stylesheet is not None:
            text = self._stylesheet.transform(text)
            if self._stylesheet.text:
                return text
            _well_formed(text)
            text = markup.DECLARATION + text + "\n"
        if self._schema is not None and (problem := self._schema.problem(text)) is not None:
            raise TranslateFault(problem)
        return text


def _listed(texts: str | tuple[str, ...]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else texts


def _check_names(fields: Mapping[str, str | tuple[str, ...]], form: str) -> None:
    """Raise ValueError for names that make no document, or one in which a text and a nest have the same place."""
    for name in fields:
        path = tuple(markup.path_of(name) if form == "xml" else name.split("."))
        if not all(path):
            raise ValueError(f'"{name[:80]}" has an empty part between its dots')
        attribute = form == "xml" and path[-1].startswith("@")
        if attribute and not isinstance(fields[name], str):
            raise ValueError(f"{name[:80]}: an attribute has one text")
        for size in range(1, len(path)):
            above = fields.get(".".join(path[:size]))
            if isinstance(above, tuple) or (above is not None and not (attribute and size == len(path) - 1)):
                raise ValueError(f'"{name[:80]}": what is before the dot has a text of its own')


def _template(path: Path, form: str) -> Template:
    try:
        text = markup.read_file(path).decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8") from None
    try:
        return compile_template(text, escape=_ESCAPES[form])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _well_formed(text: str) -> etree._Element:
    try:
        return markup.parsed(text)
    except ValueError as error:
        raise TranslateFault(f"the document cannot be sent: {error}") from None


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _check_json(text: str) -> None:
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        said = 'write values as "{{ name }}" within quotes, or as {{ name|tojson }} without'
        raise TranslateFault(f"the template gives no JSON{where}; {said}") from None


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
