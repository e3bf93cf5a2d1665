"""Routes that come, go and change their names while work is under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from poller.errors import UnknownOutcome
from poller.store.standing import enter_route
from tests.fakes import last
from tests.house import House


def lost() -> UnknownOutcome:
    return UnknownOutcome("no answer")


# Routes that come and go.


def test_a_route_removed_while_it_is_looked_up_does_not_end_the_dispatcher(house: House) -> None:
    house.prove()
    house.sink.script = [lost()]
    house.source.pages = [last("1")]
    house.poll()
    house.turn()
    house.executor.keeping = True
    house.let(seconds=1.1)
    assert len(house.executor.kept) == 1
    house.dispatcher.replace_routes({})
    house.clock.move(seconds=1)
    house.turn(1)
    house.executor.release()
    house.turn(1)

    assert house.states()["1"] in {"ready", "unknown"}


def test_a_route_renamed_while_it_sends_does_not_end_the_dispatcher(house: House) -> None:
    house.source.pages = [last("1")]
    house.poll()
    house.executor.keeping = True
    house.turn(1)
    house.executor.release()
    house.turn(1)
    assert house.states()["1"] == "sending"
    with house.store.write() as connection:
        enter_route(connection, "service-desk", "helpdesk", now=house.clock.now())
    house.clock.move(seconds=1)
    house.turn(1)  # before the new routes are handed over
    house.dispatcher.replace_routes({"service-desk": replace(house.route, name="service-desk")})
    house.turn(1)
    house.executor.release()
    house.turn(1)

    assert house.states()["1"] == "delivered"


def test_a_route_added_in_the_middle_of_a_turn_waits_for_the_next(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.turn()
    added = house.other_route("second")
    effects = house.dispatcher._effects
    refresh = effects.refresh

    def at_once(*arguments: Any) -> None:
        refresh(*arguments)
        house.dispatcher.routes = {"helpdesk": house.route, "second": added}  # what replace_routes does, on SIGHUP

    monkeypatch.setattr(effects, "refresh", at_once)
    house.turn(1)
