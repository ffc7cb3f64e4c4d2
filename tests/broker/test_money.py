from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.money import dollars, half_even, nano, round_half_even, shown, split, text


@pytest.mark.parametrize(
    ("usd", "expected"),
    [
        ("0.15", 150_000_000),
        ("1", 1_000_000_000),
        (3, 3_000_000_000),
        (Decimal("0.0000000005"), 0),
        ("0.0000000015", 2),
        ("-0.25", -250_000_000),
    ],
)
def test_nano_is_half_even_of_the_decimal(usd: Decimal | str | int, expected: int) -> None:
    assert nano(usd) == expected


@pytest.mark.parametrize("bad", [0.15, "NaN", "Infinity", "a lot", "", "1e999999"])
def test_money_is_never_a_float_or_a_word(bad: object) -> None:
    with pytest.raises(ValueError, match="money"):
        nano(bad)  # type: ignore[arg-type]


@given(st.integers(-(10**18), 10**18))
def test_dollars_and_text_lose_nothing(amount: int) -> None:
    assert nano(dollars(amount)) == amount
    assert nano(text(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (0, "$0.00"),
        (2_400_000_000, "$2.40"),
        (10**11, "$100.00"),
        (120_000, "$0.00012"),
        (-5 * 10**8, "-$0.50"),
    ],
)
def test_an_amount_for_a_person_has_its_cents_and_all_its_figures(amount: int, words: str) -> None:
    assert shown(text(amount)) == words


@given(st.integers(-(10**15), 10**15), st.integers(1, 10**9))
def test_round_half_even_is_the_decimal_rounding(numerator: int, denominator: int) -> None:
    exact = (Decimal(numerator) / Decimal(denominator)).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)
    assert round_half_even(numerator, denominator) == int(exact)


@given(st.lists(st.integers(-(10**12), 10**12)), st.integers(1, 10**6), st.sampled_from([np.int64, object]))
def test_arrays_are_rounded_as_each_of_their_numbers_is(made: list[int], parts: int, kind: type) -> None:
    whole, rest = np.array([*zip(*(divmod(one, parts) for one in made), strict=True)] or [(), ()], kind)
    assert half_even(whole, rest, parts).tolist() == [round_half_even(one, parts) for one in made]


@given(st.integers(-(10**15), 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_parts_sum_to_the_whole_and_none_is_off_by_a_unit(total: int, weights: list[int]) -> None:
    parts = split(total, weights)
    assert sum(parts) == total
    if sum(weights):
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part * sum(weights) - total * weight) < sum(weights)


def test_a_split_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no weights"):
        split(1, [])
    with pytest.raises(ValueError, match="negative"):
        split(1, [1, -1])


@pytest.mark.parametrize(
    ("numerator", "denominator", "nearest"),
    [(1, 2, 0), (3, 2, 2), (5, 2, 2), (7, 2, 4), (-1, 2, 0), (-3, 2, -2), (-5, 2, -2), (2, 3, 1), (1, 3, 0), (4, 2, 2)],
)  # fmt: skip
def test_a_half_goes_to_the_even_neighbour(numerator: int, denominator: int, nearest: int) -> None:
    assert round_half_even(numerator, denominator) == nearest


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (0, "0.0"), (1, "0.000000001"), (10**9, "1.0"), (120_000, "0.00012"), (-5 * 10**8, "-0.5"),
        (12_345_678_900_000_000, "12345678.9"), (10**10, "10.0"),
    ],
)  # fmt: skip
def test_an_amount_is_written_in_full_with_one_decimal_at_least(amount: int, written: str) -> None:
    assert text(amount) == written


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (10, [1, 1], [5, 5]),
        (10, [1, 1, 1], [4, 3, 3]),
        (11, [1, 1, 1], [4, 4, 3]),
        (-10, [1, 1, 1], [-4, -3, -3]),
        (10, [1, 2, 4], [1, 3, 6]),
        (7, [0, 0, 0], [7, 0, 0]),
        (-7, [0], [-7]),
        (1, [0, 5, 0], [0, 1, 0]),
        (0, [3, 4], [0, 0]),
    ],
)
def test_the_largest_remainders_have_what_is_left(total: int, weights: list[int], parts: list[int]) -> None:
    assert split(total, weights) == parts
