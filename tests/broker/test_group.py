import threading
from collections.abc import Sequence

import pytest

from broker.group import Grouped
from tests.awaited import eventually


def test_callers_that_come_meanwhile_go_together_and_each_gets_its_own_answers() -> None:
    entered, go_on = threading.Event(), threading.Event()
    calls: list[Sequence[int]] = []

    def call(rows: Sequence[int]) -> list[int]:
        calls.append(rows)
        if len(calls) == 1:
            entered.set()
            assert go_on.wait(10)
        return [row * 10 for row in rows]

    grouped = Grouped(call)
    answers: dict[int, Sequence[int]] = {}

    def caller(number: int) -> None:
        answers[number] = grouped([number, number + 100])

    first = threading.Thread(target=caller, args=(0,))
    first.start()
    assert entered.wait(10)
    others = [threading.Thread(target=caller, args=(number,)) for number in range(1, 20)]
    for thread in others:
        thread.start()
    eventually(lambda: len(grouped._waiting) == 19)
    go_on.set()
    for thread in (first, *others):
        thread.join()
    assert answers == {number: [number * 10, number * 10 + 1000] for number in range(20)}
    assert len(calls) == 2


def test_an_error_is_raised_in_every_caller_of_the_group_and_in_no_other() -> None:
    def call(rows: Sequence[int]) -> list[int]:
        if 13 in rows:
            raise ValueError("13")
        return list(rows)

    grouped = Grouped(call)
    with pytest.raises(ValueError, match="13"):
        grouped([13])
    assert grouped([1]) == [1]


def test_many_callers_all_come_through_and_no_group_is_above_the_limit() -> None:
    sizes = []

    def call(rows: Sequence[int]) -> list[int]:
        sizes.append(len(rows))
        return list(rows)

    grouped = Grouped(call, limit=4)
    seen: list[int] = []

    def caller(number: int) -> None:
        for turn in range(200):
            row = number * 1000 + turn
            seen.extend(grouped([row]))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == sorted(number * 1000 + turn for number in range(16) for turn in range(200))
    assert max(sizes) <= 4
