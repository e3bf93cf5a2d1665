"""The parts of the ingress that hold back: threads, held refusals, their pace."""

import threading

from poller.ingress.holding import Holding
from poller.ingress.limits import Pace
from poller.ingress.threads import Threads


def test_threads_are_as_many_as_are_busy_and_no_more_than_allowed() -> None:
    busy, go, done = threading.Barrier(4), threading.Event(), threading.Semaphore(0)

    def serve(number: int) -> None:
        if number < 3:
            busy.wait(10)
            go.wait(10)
        done.release()

    pool = Threads(serve, 3)
    for number in range(10):
        pool.put(number)
    busy.wait(10)

    assert pool.count == 3
    go.set()
    for _ in range(10):
        assert done.acquire(timeout=10)
    pool.stop(0)


def test_what_is_held_is_released_in_turn_and_all_of_it_at_the_end() -> None:
    released: list[int] = []
    first, all_of_them = threading.Event(), threading.Event()

    def release(number: int) -> None:
        released.append(number)
        first.set()
        if len(released) == 3:
            all_of_them.set()

    holding = Holding(release)
    holding.start()
    holding.put(1, 0.0)
    assert first.wait(10)
    holding.put(2, float("1e12"))
    holding.put(3, float("1e12"))

    assert released == [1]
    holding.stop()
    assert all_of_them.wait(10)
    assert released == [1, 2, 3]


def test_refusals_take_turns_and_end_without_a_word_where_the_queue_is_too_long() -> None:
    pace = Pace(per_second=(10, 10), at_once=1, longest=0.5, now=lambda: 100.0)

    turns = [pace.turn() for _ in range(8)]

    assert turns[:2] == [100.0, 100.0]
    assert [round(turn, 1) for turn in turns[2:7] if turn is not None] == [100.1, 100.2, 100.3, 100.4, 100.5]
    assert turns[7] is None


def test_refusals_are_slower_where_many_wait_to_be_looked_at() -> None:
    pace = Pace((100.0, 10.0), 1, 1.0, now=lambda: 100.0)

    assert [round(pace.turn(crowd=True) or 0, 2) for _ in range(3)] == [100.0, 100.09, 100.19]
