from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.call import Usage
from broker.prices import TokenPrice, cost_nano, hardware_price, marginal_nano, mtok_usd, per_mtok, worst_nano
from broker.settings import Hardware, Lane, PriceRow
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
