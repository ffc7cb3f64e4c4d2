"""Which endpoint a call goes to, and what a task does when none takes it: tables of cases and properties."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.budget import Unusable, Wait
from dispatcher.endpoints import Choice, choose, crowded

choices = st.lists(
    st.builds(
        Choice,
        st.none() | st.integers(0, 10**9),
        st.floats(0.01, 100),
        st.integers(0, 20),
        st.booleans(),
    ),
    max_size=6,
)


def shares(*all_of_them: Choice) -> list[float]:
    """How often each is taken, of a hundred."""
    taken = Counter(choose(all_of_them, pick / 1000) for pick in range(1000))
    return [round(taken[at] / 10) for at in range(len(all_of_them))]


@pytest.mark.parametrize(
    ("given_ones", "expected"),
    [
        ([Choice(5)], [100]),
        ([Choice(5), Choice(5)], [50, 50]),
        ([Choice(5, weight=3), Choice(5)], [75, 25]),
        ([Choice(1), Choice(3)], [75, 25]),
        ([Choice(5, failures=3), Choice(5)], [20, 80]),
        ([Choice(0), Choice(5), Choice(0)], [50, 0, 50]),
        ([Choice(1), Choice(3), Choice(None)], [60, 20, 20]),
        ([Choice(None), Choice(None)], [50, 50]),
        ([Choice(1, shut=True), Choice(900)], [0, 100]),
    ],
)
def test_calls_are_shared_by_price_weight_and_health(given_ones: list[Choice], expected: list[int]) -> None:
    assert shares(*given_ones) == expected


@given(choices, st.floats(0, 1, exclude_max=True))
def test_one_that_is_open_is_taken_where_there_is_any(given_ones: list[Choice], pick: float) -> None:
    at = choose(given_ones, pick)
    assert (at is None) == all(one.shut for one in given_ones)
    assert at is None or not given_ones[at].shut


@pytest.mark.parametrize(
    ("wait_s", "mode", "left_s", "waits"),
    [
        (5, "sync", None, True),
        (31, "sync", None, False),
        (3600, "async", None, True),
        (5, "sync", 4, False),
        (3600, "async", 3601, True),
        (3600, "async", 3600, False),
    ],
)
def test_a_task_waits_for_its_turn_unless_somebody_waits_for_it(
    wait_s: float, mode: str, left_s: float | None, waits: bool
) -> None:
    step = crowded(wait_s, mode=mode, left_s=left_s)
    why = f"its endpoints take no calls for {wait_s} s"
    assert step == (Wait(wait_s, why) if waits else Unusable(why))
