"""Turns at the engine: one at a time, in order of arrival, not too many, none for ever."""

from __future__ import annotations

import threading
import time

import pytest

from client.engine.turns import Turns
from common.reason_codes import EngineBusyError


def waiting(turns: Turns, many: int) -> None:
    for _ in range(2000):
        if len(turns._queue) == many:
            return
        time.sleep(0.005)
    pytest.fail("the threads did not come to wait")


def test_turns_are_one_by_one_and_in_order_of_arrival() -> None:
    turns, order, at_work = Turns(), list[int](), list[int]()

    def work(number: int) -> None:
        with turns.take():
            at_work.append(number)
            assert at_work == [number]
            order.append(number)
            at_work.clear()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    with turns.take():
        for number, thread in enumerate(threads):
            thread.start()
            waiting(turns, number + 2)
    for thread in threads:
        thread.join(60)
    assert order == list(range(8))
    assert not turns._queue


def test_one_more_than_may_wait_is_told_at_once() -> None:
    turns = Turns(max_waiting=2)
    ended = threading.Event()

    def work() -> None:
        with turns.take():
            ended.wait(60)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        waiting(turns, number + 1)
    with pytest.raises(EngineBusyError, match="2 requests wait"), turns.take():
        pass
    ended.set()
    for thread in threads:
        thread.join(60)
    with turns.take():
        pass


def test_nobody_waits_for_ever_and_who_gave_up_holds_nobody_back() -> None:
    turns = Turns(max_wait_s=0.05)
    with turns.take():
        refused: list[str] = []

        def work() -> None:
            try:
                with turns.take():
                    pass
            except EngineBusyError as error:
                refused.append(error.message)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(refused) == 3
        assert len(turns._queue) == 1
    with turns.take():
        pass


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns()
    with pytest.raises(ValueError, match="broken"), turns.take():
        raise ValueError("broken")
    with turns.take():
        pass
