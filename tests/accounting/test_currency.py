"""Dollars in another currency, at the rate of their day."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.reports.currency import rates_of
from broker.errors import ConfigError
from broker.settings import parse

TOML = """
[lanes.local]
engine = "echo"
price = "free"
[types.general]
chain = ["local"]
[rates.GBP]
2026-02-01 = "0.75"
2026-01-01 = "0.80"
[rates.JPY]
2026-01-01 = "151.25"
"""
TABLE = parse(TOML).rates
USD = 10**9


@pytest.mark.parametrize(
    ("nano_usd", "currency", "day", "worth"),
    [
        (10 * USD, "GBP", "2026-01-01", 8 * USD),
        (10 * USD, "GBP", "2026-01-31", 8 * USD),
        (10 * USD, "GBP", "2026-02-01", 75 * USD // 10),
        (10 * USD, "gbp", "2027-01-01", 75 * USD // 10),
        (USD, "JPY", "2026-06-01", 15_125 * USD // 100),
        (2, "GBP", "2026-02-01", 2),  # 1.5, ties to the even one
        (6, "GBP", "2026-02-01", 4),  # 4.5
        (-10 * USD, "GBP", "2026-01-01", -8 * USD),
        (7, "USD", "1999-01-01", 7),
    ],
)
def test_an_amount_is_worth_what_the_last_rate_before_its_day_says(
    nano_usd: int, currency: str, day: str, worth: int
) -> None:
    assert rates_of(currency, TABLE).convert(nano_usd, day) == worth


@given(st.lists(st.integers(-(10**18), 10**18), max_size=20))
def test_parts_converted_one_by_one_are_within_a_half_of_a_billionth_each(parts: list[int]) -> None:
    pounds = rates_of("GBP", TABLE)
    whole = pounds.convert(sum(parts), "2026-01-01")
    assert abs(sum(pounds.convert(one, "2026-01-01") for one in parts) - whole) * 2 <= len(parts) + 1


def test_a_day_before_the_first_rate_and_a_currency_without_any_are_told() -> None:
    with pytest.raises(ConfigError, match="no rate holds on 2025-12-31, the first one is from 2026-01-01"):
        rates_of("GBP", TABLE).convert(1, "2025-12-31")
    with pytest.raises(ConfigError, match="no rates for 'EUR'; there are USD, GBP, JPY"):
        rates_of("EUR", TABLE)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2026-01-01 = nan", "rates.GBP.2026-01-01"),
        ('2026-01-01 = "0"', "rates.GBP.2026-01-01"),
        ('2026-01-01 = "0.1234567"', "rates.GBP.2026-01-01"),
        ('2026-02-30 = "0.8"', "no day"),
        ('yesterday = "0.8"', "rates.GBP.yesterday"),
    ],
)
def test_a_rate_that_is_none_stops_the_start(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(TOML.partition("[rates.GBP]")[0] + f"[rates.GBP]\n{line}\n")


def test_a_currency_is_three_capital_letters() -> None:
    with pytest.raises(ConfigError, match="rates"):
        parse(TOML + '[rates.pounds]\n2026-01-01 = "0.8"\n')
