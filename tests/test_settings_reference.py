"""The reference of the settings is that of the models, and says something of every key."""

from pathlib import Path

from poller.settings import reference

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"


def test_the_committed_reference_is_that_of_the_models() -> None:
    assert PAGE.read_text("utf-8") == reference.text(), "run: python -m poller.settings --reference > docs/settings.md"


def test_every_key_is_described() -> None:
    assert reference.undescribed() == [], "give it Field(description=...)"


def test_every_link_within_the_page_leads_somewhere() -> None:
    page = PAGE.read_text("utf-8")
    headings = {reference.anchor(line[3:]) for line in page.splitlines() if line.startswith("## ")}

    linked = {part.partition(")")[0] for part in page.split("](#")[1:]}

    assert linked
    assert linked <= headings


def test_defaults_are_written_as_settings_are() -> None:
    page = PAGE.read_text("utf-8")

    for row in (
        '| `read_timeout` | duration | `"70s"` |',
        '| `max_body` | size | `"20MB"` |',
        "| `enabled` | `true` or `false` | `true` |",
        "| `instance` | text | *required* |",
        "| `fields` | table of text | *required* |",
    ):
        assert row in page
