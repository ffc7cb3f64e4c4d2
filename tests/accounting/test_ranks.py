"""Percentiles by reading twice are those of all values in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.reports import ranks
from accounting.reports.ranks import HELD_KEYS, HISTOGRAM_KEYS, Ranks, added, held, histograms, seen

PERCENTS = (1, 50, 95, 99, 100)
AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, 10**15), st.integers(-(10**9), 2**53 + 2))
NAMES = {"letter": ["a", "b", "c"], "digit": ["", "1"]}
ROWS = st.tuples(st.sampled_from("ab"), st.sampled_from(NAMES["digit"]), AMOUNTS)
PIECES = st.lists(st.lists(ROWS, max_size=30), min_size=1, max_size=4)


@settings(deadline=None)
@given(PIECES, st.sampled_from([1, 1 << 12]), st.sampled_from([0, 1 << 22]))
def test_ranks_and_the_greatest_are_exact_however_the_values_lie_in_pieces(
    pieces: list[list[tuple[str, str, int]]], most_cells: int, dense: int
) -> None:
    """Columns taken together or one by one, counters in an array of their own or only those that count something."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "MOST_CELLS", most_cells)
        patch.setattr(ranks, "DENSE", dense)
        read = [
            seen(
                np.array([row[2] for row in piece], dtype=np.int64),
                {
                    column: (
                        pa.array(names),
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
    for place, column in enumerate(NAMES):
        answers = found[column].answers(added((made[column] for made in kept), HELD_KEYS))
        for name in NAMES[column]:
            ordered = sorted(row[2] for piece in pieces for row in piece if row[place] == name)
            for percent in PERCENTS:
                wanted = ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
                assert answers.percent(name, percent) == wanted
            for count in (1, 3):
                if len(ordered) >= count:
                    top = ordered[-count:]
                    assert answers.greatest[name][count] == (top[0], sum(top))
