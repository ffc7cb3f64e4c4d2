"""Percentiles by reading twice are those of all values in order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.reports.ranks import HELD_KEYS, HISTOGRAM_KEYS, Ranks, added, buckets_of, histogram

PERCENTS = (1, 50, 95, 99, 100)
AMOUNTS = st.one_of(st.integers(0, 20), st.integers(0, 10**15), st.integers(-(10**9), 2**53 + 2))
PIECES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), AMOUNTS), max_size=30), min_size=1, max_size=4)


@settings(deadline=None)
@given(PIECES)
def test_ranks_and_the_greatest_are_exact_however_the_values_lie_in_pieces(
    pieces: list[list[tuple[str, int]]],
) -> None:
    names = ["a", "b", "c"]
    read = [
        (
            np.array([names.index(name) for name, _ in piece], dtype=np.int32),
            np.array([value for _, value in piece], dtype=np.int64),
        )
        for piece in pieces
    ]
    counted = added(
        (histogram(names, codes, values, buckets_of(values)) for codes, values in read), HISTOGRAM_KEYS
    )
    ranks = Ranks(counted, PERCENTS, (1, 3))
    held = added((ranks.held(names, codes, values, buckets_of(values)) for codes, values in read), HELD_KEYS)
    answers = ranks.answers(held)
    for name in names:
        ordered = sorted(value for piece in pieces for one, value in piece if one == name)
        for percent in PERCENTS:
            wanted = ordered[max(0, -(-len(ordered) * percent // 100) - 1)] if ordered else None
            assert answers.percent(name, percent) == wanted
        for count in (1, 3):
            if len(ordered) >= count:
                top = ordered[-count:]
                assert answers.greatest[name][count] == (top[0], sum(top))
