"""Percentiles by reading twice are those of all values in order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.reports import ranks
from accounting.reports.ranks import HELD_KEYS, HISTOGRAM_KEYS, Ranks, added, held, histograms, in_order, seen

PERCENTS = (1, 50, 95, 99, 100)
AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, 10**15), st.integers(-(10**9), 2**53 + 2))
NAMES = {"letter": ["a", "b", "c"], "digit": ["", "1"]}
ROWS = st.tuples(st.sampled_from("ab"), st.sampled_from(NAMES["digit"]), AMOUNTS)
PIECES = st.lists(st.lists(ROWS, max_size=30), min_size=1, max_size=4)


@settings(deadline=None)
@given(
    PIECES, st.sampled_from([1, 1 << 12]), st.sampled_from([0, 1 << 21]), st.sampled_from([1, 40, 1 << 22])
)
def test_ranks_and_the_greatest_are_exact_however_the_values_lie_in_pieces(
    pieces: list[list[tuple[str, str, int]]], most_cells: int, dense: int, most_sorted: int
) -> None:
    """Columns taken together or one by one, counters in an array of their own or only those that count something; by
    histograms, or by putting the values in order, all at once or some keys at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "MOST_CELLS", most_cells)
        patch.setattr(ranks, "DENSE", dense)
        patch.setattr(ranks, "MOST_SORTED", most_sorted)
        read = [
            seen(
                np.array([row[2] for row in piece], dtype=np.int64),
                {
                    column: (
                        np.arange(len(names), dtype=np.int32),
                        np.array([names.index(str(row[place])) for row in piece], dtype=np.int32),
                    )
                    for place, (column, names) in enumerate(NAMES.items())
                },
            )
            for piece in pieces
        ]
        assert {len(some.cells) for some in read} == {2 if most_cells == 1 else 1}
        counted = [histograms(some) for some in read]
        found = {
            column: Ranks(added((made[column] for made in counted), HISTOGRAM_KEYS), PERCENTS, (1, 3))
            for column in NAMES
        }
        kept = [held(some, found) for some in read]
        by_order = {
            column: in_order(read, column, pa.array(names), PERCENTS) for column, names in NAMES.items()
        }
    for place, column in enumerate(NAMES):
        answers = found[column].answers(
            added((made[column] for made in kept), HELD_KEYS), pa.array(NAMES[column])
        )
        for name in NAMES[column]:
            ordered = sorted(row[2] for piece in pieces for row in piece if row[place] == name)
            for percent in PERCENTS:
                wanted = ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
                assert answers.percent(name, percent) == by_order[column].percent(name, percent) == wanted
            for count in (1, 3):
                if len(ordered) >= count:
                    top = ordered[-count:]
                    assert answers.greatest[name][count] == (top[0], sum(top))


def test_values_that_fill_an_integer_are_put_in_order_all_the_same() -> None:
    values = np.array([2**62, -(2**62), 1, 7, 0])
    some = seen(values, {"letter": (np.arange(2, dtype=np.int32), np.array([0, 0, 0, 1, 1]))})
    answers = in_order([some], "letter", pa.array(["a", "b"]), PERCENTS)
    assert [answers.percent("a", one) for one in (1, 50, 100)] == [-(2**62), 1, 2**62]
    assert [answers.percent("b", one) for one in (1, 50, 100)] == [0, 0, 7]


def test_values_far_apart_take_no_room_between_them() -> None:
    """A task that cost nothing is two hundred powers of two away from one of a dollar, and many users have one."""
    users = np.arange(20_000, dtype=np.int32)
    some = seen(np.where(users % 2, 10**9, 0), {"user": (users, users)})
    counted = histograms(some)["user"]
    made = Ranks(counted, PERCENTS)
    tracemalloc.start()
    kept = held(some, {"user": made})["user"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
    answers = made.answers(kept, pa.array([f"u-{user}" for user in users]))
    assert (answers.percent("u-0", 95), answers.percent("u-1", 95)) == (0, 10**9)
