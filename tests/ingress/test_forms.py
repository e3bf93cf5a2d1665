"""How records come: alone, in lists, under an expression, and with whatever keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ingress.daemon import Ingress, files, running


def test_records_come_alone_in_a_list_or_under_an_expression(tmp_path: Path) -> None:
    routes = files("push", "other") + files("listed", more='records = "data.items"')
    with running(tmp_path, routes=routes) as ingress:
        one = {"id": 1, "version": "1"}
        values: list[Any] = [one, [one], [one, one], []]
        for value in values:
            assert ingress.push(value).status == 202
        assert ingress.push({"data": {"items": [one, {"id": 2}]}}, "listed").status == 202
        assert ingress.push({"id": 3}, "listed").status == 202
        wrongs: list[Any] = [{"data": {"items": "x"}}, {"data": {}}, {"other": 1}]
        for wrong in wrongs:
            assert ingress.push(wrong, "listed").status == 400
        mixed = ingress.push([{"id": "good"}, {"no": "key"}, {"id": "good too"}])

        assert ingress.stored()[:1] == ["1"]
        assert sorted(ingress.stored("listed")) == ["1", "2", "3"]
        states = [record["state"] for record in mixed.json["records"]]
        assert (mixed.status, states[-1], states.count("dead")) == (202, "dead", 1)
        assert {"good", "good too"} < set(ingress.stored())
        odd_keys(ingress)


def odd_keys(ingress: Ingress) -> None:
    """Hold that a key can be asked for as it was pushed, whatever is in it."""
    long = "k" * 600
    odd = [
        "a/b",
        "a b",
        "..",
        ".",
        "%2F",
        "%",
        "a?b#c",
        "ключ/🔑",
        "'; DROP TABLE records; --",
        "a\\b",
        "+",
        "é",
        "e\u0301",
        long,
    ]
    for key in odd:
        assert ingress.push({"id": key, "version": "1"}).json["records"][0]["key"] == key
        asked = ingress.record(key)
        assert (asked.status, asked.json["key"]) == (200, key)
    too_long = ingress.push({"id": long + "k", "version": "1"}).json["records"][0]
    assert too_long["state"] == "dead"
    assert ingress.record(too_long["key"]).json["state"] == "dead"
    assert ingress.record(long + "k").status == 404
    assert ingress.ask("GET", "/routes/push/records/", token=ingress.token()).status == 404
    assert ingress.ask("GET", "/routes/push/records/a/b", token=ingress.token()).status == 404
    for path in (
        "/routes/push/records/%",
        "/routes/push/records/%zz",
        "/routes/push/records/%ff",
        "/routes/push/records/%00",
    ):
        assert ingress.ask("GET", path, token=ingress.token()).status == 400
