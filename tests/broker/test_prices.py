from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.call import Usage
from broker.prices import (
    PPM,
    Band,
    HardwarePrice,
    Hours,
    Price,
    TokenPrice,
    Writes,
    batch_ppm,
    cost_nano,
    hardware_price,
    marginal_nano,
    mtok_usd,
    per_mtok,
    row_of,
    worst_nano,
)
from broker.settings.lanes import Lane
from broker.settings.prices import Hardware, PriceRow
from broker.tariff import cpu_price, price_of

HALF = TokenPrice("t+batch", 1_250_000, 625_000, 1_250_000, 5_000_000, 1_250_000)
GPT_4O = TokenPrice(
    "t", per_mtok("2.50"), per_mtok("1.25"), per_mtok("2.50"), per_mtok("10"), per_mtok("2.50"), batch=HALF
)
tokens = st.integers(0, 200_000)


def test_five_hundred_conversations_of_four_calls_cost_twenty_dollars() -> None:
    one = cost_nano(GPT_4O, Usage(input_tokens=2_000, output_tokens=500), busy_ms=0)
    assert one is not None
    assert one * 4 * 500 == 20 * 10**9


def test_a_batch_line_pays_its_part_of_the_price() -> None:
    usage = Usage(input_tokens=2_000, output_tokens=500)
    assert cost_nano(GPT_4O, usage, busy_ms=0, batch=True) == 5_000_000


def test_an_unknown_price_is_none_and_never_nothing() -> None:
    assert cost_nano(None, Usage(10, 0, 0, 10), busy_ms=5) is None
    assert price_of("x", Lane(engine="openai", model="nobody-knows-it"), "2026-11-22") is None


@given(st.decimals(0, 100_000, places=6))
def test_a_price_of_a_million_tokens_is_told_as_it_was_given(usd: Decimal) -> None:
    assert Decimal(mtok_usd(per_mtok(usd))) == usd


def test_a_price_of_a_million_tokens_reads_as_all_money_does() -> None:
    assert [mtok_usd(pico) for pico in (1, 75_000, 2_500_000, 100_000_000)] == [
        "0.000001",
        "0.075",
        "2.5",
        "100.0",
    ]


def test_a_token_price_without_usage_is_unknown() -> None:
    assert cost_nano(GPT_4O, None, busy_ms=5) is None


@given(tokens, tokens, tokens, tokens, tokens)
def test_no_call_costs_more_than_its_worst_case(
    fresh: int, cached: int, written: int, out: int, spare: int
) -> None:
    usage = Usage(fresh, cached, written, out)
    worst = worst_nano(GPT_4O, input_tokens=fresh + cached + written + spare, max_tokens=out, timeout_s=1)
    cost = cost_nano(GPT_4O, usage, busy_ms=0)
    assert cost is not None
    assert worst is not None
    assert cost <= worst


def test_a_node_used_for_all_of_its_life_pays_for_itself() -> None:
    price = hardware_price(
        "h", price_usd=Decimal(3000), life_years=Decimal(4), watts=Decimal(0), usd_per_kwh=Decimal(0), slots=4
    )
    year_ms = 365 * 24 * 3600 * 1000
    four_slots = 4 * (cost_nano(price, None, busy_ms=4 * year_ms) or 0)
    assert abs(four_slots - 3000 * 10**9) < 3000 * 10**9 // 10**6


def test_the_marginal_cost_of_own_hardware_is_its_energy() -> None:
    price = hardware_price(
        "h",
        price_usd=Decimal(3000),
        life_years=Decimal(4),
        watts=Decimal(200),
        usd_per_kwh=Decimal("0.30"),
        slots=1,
    )
    hour_ms = 3_600_000
    assert marginal_nano(price, None, busy_ms=hour_ms) == pytest.approx(60_000_000, rel=1e-6)
    assert marginal_nano(GPT_4O, 7, busy_ms=hour_ms) == 7


def test_the_latest_row_that_had_begun_holds() -> None:
    rows = tuple(
        PriceRow.model_validate({"from": day, "input_mtok": usd, "output_mtok": usd})
        for day, usd in (("2026-01-01", "2"), ("2026-06-01", "1"))
    )
    lane = Lane(engine="openai", model="m", price=rows)
    refs = {day: price_of("x", lane, day) for day in ("2025-12-31", "2026-05-31", "2026-06-01")}
    assert refs["2025-12-31"] is None
    rows_held = [price.ref.partition("=")[0] for price in refs.values() if price]
    assert rows_held == ["lane:x@2026-01-01", "lane:x@2026-06-01"]


def test_a_free_lane_is_declared_free_and_hardware_is_priced_by_the_second() -> None:
    free = price_of("x", Lane(engine="echo", price="free"), "2026-11-22")
    assert cost_nano(free, Usage(5, 0, 0, 5), busy_ms=9) == 0
    own = Hardware(price_usd=Decimal(1), life_years=Decimal(1), watts=Decimal(1), usd_per_kwh=Decimal(1))
    priced = price_of("x", Lane(engine="llamacpp", hardware=own, threads=2), "2026-11-22")
    assert priced is not None
    assert priced.ref == "hardware:x"
    assert (cost_nano(cpu_price(Decimal("0.05")), None, busy_ms=3_600_000) or 0) == pytest.approx(
        50_000_000, rel=1e-6
    )


def at(moment: str) -> int:
    """Microseconds since the epoch of a time in UTC."""
    return round(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()) * 1_000_000


DAYTIME, NIGHT = Hours(8 * 60, 20 * 60), Hours(22 * 60, 6 * 60)
ALL_DAY, WORKDAYS = Hours(0, 0), Hours(8 * 60, 20 * 60, workdays=True)


@pytest.mark.parametrize(
    ("hours", "moment", "hold"),
    [
        (DAYTIME, "2026-11-22T07:59:59", False),
        (DAYTIME, "2026-11-22T08:00:00", True),
        (DAYTIME, "2026-11-22T19:59:59", True),
        (DAYTIME, "2026-11-22T20:00:00", False),
        (NIGHT, "2026-11-22T21:59:59", False),
        (NIGHT, "2026-11-22T22:00:00", True),
        (NIGHT, "2026-11-22T00:00:00", True),
        (NIGHT, "2026-11-22T05:59:59", True),
        (NIGHT, "2026-11-22T06:00:00", False),
        (ALL_DAY, "2026-11-22T12:00:00", True),
        (WORKDAYS, "2026-11-20T12:00:00", True),  # a Friday
        (WORKDAYS, "2026-11-21T12:00:00", False),
        (WORKDAYS, "2026-11-22T12:00:00", False),
        (WORKDAYS, "2026-11-23T12:00:00", True),  # a Monday
        (WORKDAYS, "2026-11-23T07:59:59", False),
        (WORKDAYS, "1970-01-01T12:00:00", True),  # a Thursday
        (WORKDAYS, "1970-01-03T12:00:00", False),
    ],
)
def test_hours_hold_from_their_first_minute_to_before_their_last(
    hours: Hours, moment: str, hold: bool
) -> None:
    assert hours.hold(at(moment)) is hold


def test_of_each_week_five_days_are_workdays() -> None:
    days = [datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp() + 86_400 * number for number in range(70)]
    found = [WORKDAYS.hold(round(day) * 1_000_000) for day in days]
    assert found == [datetime.fromtimestamp(day, tz=UTC).isoweekday() <= 5 for day in days]


#: Nano-dollars of a token: 10 fresh, 1 from the cache, 12 into it, 20 for an hour, 50 out.
PLAIN = TokenPrice("plain", 10_000, 1_000, 12_000, 50_000, 20_000)
LARGE = TokenPrice("large", 20_000, 2_000, 24_000, 100_000, 40_000)
CHEAP = TokenPrice("cheap", 5_000, 500, 6_000, 25_000, 10_000)
TIERED = replace(PLAIN, bands=(Band(LARGE, above=100),))
HOURLY = replace(PLAIN, bands=(Band(CHEAP, hours=NIGHT),))
BATCHED = replace(TIERED, batch=replace(CHEAP, bands=(Band(PLAIN, above=100),)))


def test_each_class_of_tokens_is_paid_at_its_own_price() -> None:
    for usage, nanos in (
        (Usage(3), 30),
        (Usage(0, 3), 3),
        (Usage(0, 0, 3), 36),
        (Usage(0, 0, 0, 3), 150),
        (Usage(0, 0, 0, 0, 3), 150),
        (Usage(0, 0, 0, 0, 0, 3), 60),
        (Usage(1, 2, 3, 4, 5, 6), 10 + 2 + 36 + 200 + 250 + 120),
    ):
        assert cost_nano(PLAIN, usage, busy_ms=0) == nanos


@pytest.mark.parametrize(
    ("tokens", "nanos"), [(499, 0), (500, 0), (501, 1), (1_500, 2), (2_500, 2), (2_501, 3)]
)
def test_a_call_is_rounded_once_half_even(tokens: int, nanos: int) -> None:
    assert cost_nano(replace(PLAIN, input_pico=1), Usage(tokens), busy_ms=0) == nanos


@pytest.mark.parametrize(
    ("usage", "row"),
    [
        (Usage(100), "plain"),
        (Usage(101), "large"),
        (Usage(25, 25, 25, 0, 0, 25), "plain"),
        (Usage(26, 25, 25, 0, 0, 25), "large"),
        (Usage(25, 26, 25, 0, 0, 25), "large"),
        (Usage(25, 25, 26, 0, 0, 25), "large"),
        (Usage(25, 25, 25, 0, 0, 26), "large"),
        (Usage(100, output_tokens=900, reasoning_tokens=900), "plain"),
    ],
)
def test_a_dearer_row_holds_for_calls_whose_whole_input_is_above_its_bound(usage: Usage, row: str) -> None:
    assert row_of(TIERED, usage).ref == row


@pytest.mark.parametrize(
    ("price", "batch", "size", "ref"),
    [
        (PLAIN, True, 1, "plain"),
        (BATCHED, True, 100, "cheap"),
        (BATCHED, True, 101, "plain"),
        (BATCHED, False, 101, "large"),
    ],
)
def test_a_line_of_a_batch_has_rows_of_its_own(price: TokenPrice, batch: bool, size: int, ref: str) -> None:
    assert row_of(price, Usage(size), batch=batch).ref == ref


def test_a_price_by_the_hour_needs_the_hour() -> None:
    assert row_of(HOURLY, Usage(1), at_us=at("2026-11-22T23:00:00")).ref == "cheap"
    assert row_of(HOURLY, Usage(1), at_us=at("2026-11-22T12:00:00")).ref == "plain"
    assert row_of(HOURLY, Usage(1)).ref == "plain"


@pytest.mark.parametrize(
    ("price", "tokens", "out", "batch", "writes", "nanos"),
    [
        (PLAIN, 7, 3, False, "none", 70 + 150),
        (PLAIN, 7, 3, False, "short", 84 + 150),
        (PLAIN, 7, 3, False, "long", 140 + 150),
        (replace(PLAIN, cached_input_pico=99_000), 7, 3, False, "long", 693 + 150),
        (TIERED, 100, 3, False, "none", 1_000 + 150),
        (TIERED, 101, 3, False, "none", 2_020 + 300),
        (HOURLY, 7, 3, False, "none", 70 + 150),
        (replace(CHEAP, bands=(Band(PLAIN, hours=NIGHT),)), 7, 3, False, "none", 70 + 150),
        (BATCHED, 7, 3, True, "none", 35 + 75),
        (BATCHED, 101, 3, True, "none", 1_010 + 150),
        (PLAIN, 7, 3, True, "none", 70 + 150),
        (replace(PLAIN, input_pico=1, cached_input_pico=0, output_pico=0), 1, 0, False, "none", 1),
        (replace(PLAIN, input_pico=1, cached_input_pico=0, output_pico=0), 1_000, 0, False, "none", 1),
        (replace(PLAIN, input_pico=1, cached_input_pico=0, output_pico=0), 1_001, 0, False, "none", 2),
        (None, 7, 3, False, "long", None),
        (HardwarePrice("h", 70_000, 30_000, 2), 7, 3, False, "long", 200),
    ],
)
def test_the_worst_case_of_a_call_by_hand(
    price: Price | None, tokens: int, out: int, batch: bool, writes: Writes, nanos: int | None
) -> None:
    """Each token at the dearest class that it can come to; of a machine, four seconds of one of its two slots."""
    found = worst_nano(price, input_tokens=tokens, max_tokens=out, timeout_s=4, batch=batch, writes=writes)
    assert found == nanos


@pytest.mark.parametrize(
    ("busy_ms", "nanos", "energy"), [(0, 0, 0), (4_000, 200, 60), (1, 0, 0), (10, 0, 0), (30.01, 2, 0)]
)
def test_a_machine_is_paid_by_the_share_of_its_seconds(busy_ms: float, nanos: int, energy: int) -> None:
    """A second costs 100 nano-dollars, 30 of them for energy; two calls share it."""
    price = HardwarePrice("h", 70_000, 30_000, 2)
    assert cost_nano(price, None, busy_ms=busy_ms) == nanos
    assert marginal_nano(price, nanos, busy_ms=busy_ms) == energy


def test_a_machine_wears_off_by_the_second_and_draws_power() -> None:
    """31,536,000 dollars over a year are one a second; 3.6 kW at a dollar a kWh are a tenth of a cent."""
    price = hardware_price(
        "h",
        price_usd=Decimal(31_536_000),
        life_years=Decimal(1),
        watts=Decimal(3_600),
        usd_per_kwh=Decimal(1),
        slots=4,
    )
    assert price == HardwarePrice("h", 10**12, 10**9, 4)


@pytest.mark.parametrize(
    ("price", "ppm"),
    [
        (None, PPM),
        (HardwarePrice("h", 1, 1), PPM),
        (PLAIN, PPM),
        (replace(PLAIN, batch=CHEAP), PPM // 2),
        (replace(PLAIN, batch=replace(CHEAP, input_pico=10_000, output_pico=5_000)), PPM // 4),
        (TokenPrice("free", 0, 0, 0, 0, 0, batch=CHEAP), PPM),
    ],
)
def test_a_batch_is_held_against_a_single_call_with_as_many_tokens_out_as_in(
    price: Price | None, ppm: int
) -> None:
    assert batch_ppm(price) == ppm


def test_what_is_free_is_free_in_each_class_and_our_own_processors_have_no_second_price() -> None:
    assert price_of("x", Lane(engine="echo", price="free"), "2026-11-22") == TokenPrice(
        "free:x", 0, 0, 0, 0, 0
    )
    assert cpu_price(Decimal("0.36")) == HardwarePrice("fleet:cpu", 100_000_000, 0)
