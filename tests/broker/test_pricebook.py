"""The book that is shipped, how names find a row in it, and what a ref means."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.call import Usage
from broker.errors import ConfigError
from broker.pricebook import Book, book, discounted, line_of, parse, read
from broker.prices import Price, TokenPrice, cost_nano, row_of, worst_nano
from broker.settings import parse as settings_of
from broker.settings.lanes import Lane
from broker.settings.prices import Discount, PriceRow
from broker.tariff import book_price, key_of, price_of, seller

DAY = "2026-11-25"
MILLION = 1_000_000
US = 1_000_000


def at(clock: str) -> int:
    """A time of Wednesday, 25 November 2026."""
    hours, minutes = map(int, clock.split(":"))
    return (1_795_564_800 + hours * 3600 + minutes * 60) * US


def usd(price: Price | None, usage: Usage, **how: object) -> Decimal:
    nanos = cost_nano(price, usage, busy_ms=0, **how)  # type: ignore[arg-type]
    assert nanos is not None
    return Decimal(nanos).scaleb(-9)


def found(model: str, day: str = DAY) -> TokenPrice:
    price = book_price(model, day)
    assert price is not None
    return price


@pytest.mark.parametrize(
    ("model", "input_usd", "output_usd"),
    [
        ("gpt-4o", "2.50", "10.00"),
        ("gpt-4o-mini", "0.15", "0.60"),
        ("o1", "15", "60"),
        ("claude-3-5-sonnet-20241022", "3.00", "15.00"),
        ("claude-3-5-haiku-20241022", "0.80", "4.00"),
        ("gemini-1.5-pro", "1.25", "5.00"),
        ("gemini-1.5-flash", "0.075", "0.30"),
        ("deepseek-v3", "0.27", "1.10"),
        ("deepseek-r1", "0.55", "2.19"),
    ],
)
def test_the_models_of_early_2026_cost_what_operators_quoted(
    model: str, input_usd: str, output_usd: str
) -> None:
    price = found(model, "2026-02-01")
    assert usd(price, Usage(MILLION // 10)) * 10 == Decimal(input_usd)
    assert usd(price, Usage(output_tokens=MILLION // 10)) * 10 == Decimal(output_usd)


def test_every_row_of_the_book_is_a_price_that_its_ref_gives_back() -> None:
    ours = book()
    rows = 0
    for key, days in ours.rows.items():
        for day in days:
            price = ours.price(key, day)
            for one in [] if price is None else _all(price):
                again = ours.of_ref(one.ref)
                assert again is not None
                assert again.ref == one.ref
                assert _figures(again) == _figures(one)
                rows += 1
    assert len(ours.rows) > 2000
    assert rows > len(ours.rows)
    assert any("genai-prices" in line and "MIT" in line for line in ours.head)


def _all(price: TokenPrice) -> list[TokenPrice]:
    rows = [price, *(band.price for band in price.bands)]
    return rows if price.batch is None else [*rows, *_all(price.batch)]


def _figures(row: TokenPrice) -> tuple[int, ...]:
    return (
        row.input_pico, row.cached_input_pico, row.cache_write_pico, row.cache_write_1h_pico, row.output_pico
    )  # fmt: skip


def test_the_size_of_the_input_chooses_the_tier_for_all_of_a_calls_tokens() -> None:
    sonnet = found("claude-sonnet-4-5")
    small, large = Usage(100_000, 100_000, output_tokens=1000), Usage(100_000, 100_001, output_tokens=1000)
    assert usd(sonnet, small) == Decimal("0.3") + Decimal("0.03") + Decimal("0.015")
    assert usd(sonnet, large) == Decimal("0.6") + Decimal("0.0600006") + Decimal("0.0225")
    assert row_of(sonnet, large).ref == f"{sonnet.ref}>200000"
    assert usd(sonnet, large, batch=True) * 2 == usd(sonnet, large)
    assert row_of(sonnet, large, batch=True).ref == f"{sonnet.ref}+batch>200000"
    gemini = found("gemini-1.5-pro", "2026-02-01")
    assert usd(gemini, Usage(0, 128_000)) == Decimal("0.3125") * 128 / 1000
    assert usd(gemini, Usage(1, 128_000)) == Decimal("0.0000025") + Decimal("0.625") * 128 / 1000


def test_both_writes_of_anthropic_have_their_own_price() -> None:
    haiku = found("claude-haiku-4-5")
    assert usd(haiku, Usage(cache_write_tokens=MILLION)) == Decimal("1.25")
    assert usd(haiku, Usage(cache_write_1h_tokens=MILLION)) == Decimal(2)


def test_the_hour_in_which_a_call_ends_chooses_its_price() -> None:
    flash = found("deepseek-flash", "2026-11-24")
    one = Usage(MILLION, output_tokens=MILLION)
    assert [
        usd(flash, one, at_us=at(clock)) for clock in ("00:59", "01:00", "03:59", "04:00", "06:00", "10:00")
    ] == [Decimal(figure) for figure in ("0.75", "1.5", "1.5", "0.75", "1.5", "0.75")]
    assert row_of(flash, one, at_us=at("01:00")).ref == f"{flash.ref}~0100-0400w"
    saturday = at("02:00") + 3 * 86_400 * US
    assert usd(flash, one, at_us=saturday) == Decimal("0.75")
    assert usd(found("deepseek-flash", "2026-10-05"), one, at_us=at("02:00")) == Decimal("0.75")
    night = found("deepseek-chat", "2025-06-01")
    hours = [
        usd(night, one, at_us=at(clock)) for clock in ("16:29", "16:30", "23:59", "00:00", "00:29", "00:30")
    ]
    assert hours == [Decimal("1.37"), *[Decimal("0.685")] * 4, Decimal("1.37")]


def test_a_batch_costs_less_long_before_the_source_says_so_and_cached_reads_as_the_provider_says() -> None:
    one = Usage(MILLION, output_tokens=MILLION)
    for model, day in (("gpt-4o", "2025-01-01"), ("claude-3-5-sonnet", "2025-01-01"), ("gpt-4o", DAY)):
        assert usd(found(model, day), one, batch=True) * 2 == usd(found(model, day), one)
    cached = Usage(0, MILLION)
    assert usd(found("gpt-4o"), cached, batch=True) == usd(found("gpt-4o"), cached)
    assert usd(found("claude-3-5-haiku-20241022"), cached, batch=True) == Decimal("0.04")


@pytest.mark.parametrize(
    ("name", "provider", "key"),
    [
        ("gpt-4o-2024-08-06", "openai", "openai/gpt-4o"),
        ("GPT-4o", "openai", "openai/gpt-4o"),
        ("gpt-4o-2024-05-13", "openai", "openai/gpt-4o-2024-05-13"),
        ("claude-sonnet-4-5-20250929", "anthropic", "anthropic/claude-sonnet-4-5"),
        ("claude-sonnet-4-5-latest", "", "anthropic/claude-sonnet-4-5"),
        ("claude-sonnet-4-20250514", "anthropic", "anthropic/claude-sonnet-4-0"),
        ("claude-sonnet-4-5-thinking", "anthropic", None),
        ("gpt-5-nano-2025-08-07", "openai", "openai/gpt-5-nano"),
        ("claude-opus-4-9", "anthropic", None),
        ("gpt-4o-audio", "openai", None),
        ("gpt-4o", "groq", None),
        ("openrouter/google/gemini-2.5-pro", "", "openrouter/google/gemini-2.5-pro"),
        ("openai/gpt-4o-2024-08-06", "", "openai/gpt-4o"),
        ("anthropic/claude-sonnet-4-5-20250929", "", "anthropic/claude-sonnet-4-5"),
        ("anthropic/claude-3.5-haiku", "", "anthropic/claude-3-5-haiku-latest"),
        ("gemini-1.5-flash-002", "google", "google/gemini-1.5-flash"),
        ("deepseek-v3-0324", "deepseek", "deepseek/deepseek-v3"),
        ("gpt-nobody", "", None),
    ],
)
def test_a_name_finds_its_row_or_none_and_never_a_relatives(
    name: str, provider: str, key: str | None
) -> None:
    assert book().find(name, provider) == key


@pytest.mark.parametrize(
    ("lane", "sold_by", "key"),
    [
        ({"engine": "openai", "model": "gpt-4o"}, "openai", "openai/gpt-4o"),
        (
            {"engine": "openai", "model": "deepseek-flash", "base_url": "https://api.deepseek.com"},
            "deepseek",
            "deepseek/deepseek-flash",
        ),
        (
            {
                "engine": "openai",
                "model": "gemini-2.5-pro",
                "base_url": "https://generativelanguage.googleapis.com/v1beta/openai",
            },
            "google",
            "google/gemini-2.5-pro",
        ),
        (
            {"engine": "openai", "model": "gpt-4o", "base_url": "https://acme.openai.azure.com/openai/v1"},
            "azure",
            "openai/gpt-4o",
        ),
        ({"engine": "openai", "model": "gpt-4o", "base_url": "https://gateway.acme.example/v1"}, "", None),
        ({"engine": "openai", "model": "gpt-4o", "base_url": "https://notopenai.com/v1"}, "", None),
        (
            {
                "engine": "openai",
                "model": "ours",
                "base_url": "https://gateway.acme.example/v1",
                "price": "book:openai/gpt-4o",
            },
            "",
            "openai/gpt-4o",
        ),
        ({"engine": "anthropic", "model": "claude-haiku-4-5"}, "anthropic", "anthropic/claude-haiku-4-5"),
        ({"engine": "vllm", "model": "gpt-4o", "base_url": "http://127.0.0.1:8000/v1"}, "", None),
    ],
)
def test_the_book_is_asked_by_who_sells_the_model(
    lane: dict[str, str], sold_by: str, key: str | None
) -> None:
    row = Lane.model_validate(lane)
    assert (seller(row), key_of(row, book())) == (sold_by, key)
    price = price_of("x", row, DAY)
    assert (price.ref.partition("@")[0] if price else None) == (key and f"book:{key}")


def test_a_discount_that_was_agreed_on_stands_in_the_ref_and_leaves_a_lanes_own_price_alone() -> None:
    settings = settings_of(
        """
        [[prices.discounts]]
        provider = "openai"
        factor = "0.9"
        [[prices.discounts]]
        provider = "openai"
        model = "gpt-4o-2024-08-06"
        factor = "0.85"
        from = "2026-06-01"
        until = "2026-12-01"
        [lanes.a]
        engine = "openai"
        model = "gpt-4o"
        [lanes.b]
        engine = "openai"
        model = "o1"
        [lanes.c]
        engine = "anthropic"
        model = "claude-haiku-4-5"
        [lanes.d]
        engine = "openai"
        model = "gpt-4o"
        price = { input_mtok = "2.50", output_mtok = "10" }
        [types.general]
        chain = ["a"]
        """
    )
    refs = {
        (name, day): price.ref
        for name, lane in settings.lanes.items()
        for day in ("2026-05-31", "2026-06-01", "2026-12-01")
        if (price := price_of(name, lane, day))
    }
    assert [refs["a", day] for day in ("2026-05-31", "2026-06-01", "2026-12-01")] == [
        f"book:openai/gpt-4o@1970-01-01*{factor}" for factor in ("0.9", "0.85", "0.9")
    ]
    assert refs["b", "2026-06-01"] == "book:openai/o1@1970-01-01*0.9"
    assert refs["c", "2026-06-01"] == "book:anthropic/claude-haiku-4-5@1970-01-01"
    assert refs["d", "2026-06-01"] == "lane:d@1970-01-01=2500000,2500000,2500000,2500000,10000000"
    agreed = price_of("a", settings.lanes["a"], "2026-06-01")
    assert usd(agreed, Usage(MILLION)) == Decimal("2.125")
    assert usd(agreed, Usage(MILLION), batch=True) == Decimal("1.0625")
    assert isinstance(agreed, TokenPrice)
    again = book().of_ref(row_of(agreed, Usage(1), batch=True).ref)
    assert again is not None
    assert usd(again, Usage(MILLION)) == Decimal("1.0625")


def test_a_lanes_own_price_can_be_read_from_its_ref_when_the_configuration_has_another_by_now() -> None:
    above = {"tokens": 100, "input_mtok": "4", "output_mtok": "8"}
    row = {
        "from": "2026-01-01", "input_mtok": "2", "output_mtok": "4", "cached_input_mtok": "1",
        "batch_discount": "0.5", "above": [above],
    }  # fmt: skip
    lane = Lane.model_validate({"engine": "openai", "model": "m", "price": row})
    price = price_of("x", lane, "2026-03-01")
    assert isinstance(price, TokenPrice)
    for usage in (Usage(100), Usage(101)):
        for batch in (False, True):
            one = row_of(price, usage, batch=batch)
            again = book().of_ref(one.ref)
            assert again is not None
            assert (again.ref, _figures(again)) == (one.ref, _figures(one))
    assert row_of(price, Usage(101), batch=True).ref == (
        "lane:x@2026-01-01+batch>100=2000000,2000000,2000000,2000000,4000000"
    )


def test_a_price_that_ended_is_no_price() -> None:
    ended = read("a/m\t1970-01-01\t1,1,1,1,1\na/m\t2026-01-01\t-\n")
    assert ended.price("a/m", "2025-12-31") is not None
    assert ended.price("a/m", "2026-01-01") is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("a/m 1970-01-01 1,1,1,1,1", "line 1"),
        ("a/m\t1970-01-01\t1,1,1,1", "not a price"),
        ("a/m\t1970-01-01\t1,1,1,1,x", "not a price"),
        ("a/m\t1970-01-01\t1,1,1,1,1 ?3=1,1,1,1,1", "not a price"),
        ("a/m\t1970-01-01\t1,1,1,1,1 +batch>3=1,1,1,1,1", "not a price"),
    ],
)
def test_a_line_that_is_no_price_is_named(table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(table).price("a/m", DAY)


pico = st.integers(0, 200_000_000)
figures = st.tuples(pico, pico, pico, pico, pico).map(lambda one: ",".join(map(str, one)))
tiers = st.lists(st.integers(1, 300_000), unique=True, max_size=3)
HOURS = ("~0100-0400", "~0600-1000w", "~2200-0200")
tokens = st.integers(0, 200_000)


@st.composite
def prices(draw: st.DrawFn) -> TokenPrice:
    conditions = [f">{one}" for one in draw(tiers)] or list(draw(st.sets(st.sampled_from(HOURS))))
    parts = [draw(figures), *(f"{one}={draw(figures)}" for one in conditions)]
    if draw(st.booleans()):
        parts += [f"+batch={draw(figures)}", *(f"+batch{one}={draw(figures)}" for one in conditions)]
    return parse("book:a/m@2026-01-01", " ".join(parts))


@given(prices(), tokens, tokens, tokens, tokens, tokens, tokens, st.booleans(), st.integers(0, 2**50))
def test_no_call_costs_more_than_its_worst_case_at_any_size_and_hour(
    price: TokenPrice,
    fresh: int,
    cached: int,
    written: int,
    long: int,
    out: int,
    spare: int,
    batch: bool,
    at_us: int,
) -> None:
    size = fresh + cached + written + long
    usage = Usage(fresh, cached, written, out // 2, out - out // 2, long)
    worst = worst_nano(price, input_tokens=size + spare, max_tokens=out, timeout_s=1, batch=batch)
    assert worst is not None
    assert worst >= (cost_nano(price, usage, busy_ms=0, batch=batch, at_us=at_us) or 0)
    less = Usage(fresh, cached, written, out)
    short = worst_nano(price, input_tokens=size, max_tokens=out, timeout_s=1, batch=batch, writes="short")
    assert short is not None
    assert short >= (cost_nano(price, less, busy_ms=0, batch=batch, at_us=at_us) or 0)
    none = worst_nano(price, input_tokens=size, max_tokens=out, timeout_s=1, batch=batch, writes="none")
    read_only = Usage(fresh + written + long, cached, 0, out)
    assert none is not None
    assert none >= (cost_nano(price, read_only, busy_ms=0, batch=batch, at_us=at_us) or 0)


def test_the_worst_case_counts_the_writes_that_the_lane_can_make() -> None:
    sonnet = found("claude-haiku-4-5")
    bounds = [
        worst_nano(sonnet, input_tokens=MILLION, max_tokens=0, timeout_s=1, writes=lane.writes)
        for lane in (Lane(engine="anthropic", cache=cache) for cache in ("off", "5m", "1h"))
    ]
    assert bounds == [10**9, 125 * 10**7, 2 * 10**9]
    assert Lane(engine="openai").writes == "short"


@given(prices(), tokens, tokens, st.booleans(), st.integers(0, 2**50))
def test_the_ref_of_a_call_names_the_very_figures_that_it_cost(
    price: TokenPrice, fresh: int, out: int, batch: bool, at_us: int
) -> None:
    usage = Usage(fresh, output_tokens=out)
    row = row_of(price, usage, batch=batch, at_us=at_us)
    assert not row.bands or row.ref in (price.ref, f"{price.ref}+batch")
    assert (
        cost_nano(row, usage, busy_ms=0) == cost_nano(price, usage, busy_ms=0, batch=batch, at_us=at_us)
        or row.bands
    )


def test_a_row_of_a_file_and_its_line_are_the_same_price() -> None:
    row = PriceRow.model_validate(
        {
            "input_mtok": "1.25",
            "output_mtok": "10",
            "cached_input_mtok": "0.125",
            "batch_discount": "0.5",
            "batch_cached_discount": "0",
            "above": [
                {"tokens": 200_000, "input_mtok": "2.50", "output_mtok": "15", "cached_input_mtok": "0.25"}
            ],
        }
    )
    assert line_of(row) == (
        "1250000,125000,1250000,1250000,10000000 >200000=2500000,250000,2500000,2500000,15000000"
        " +batch=625000,125000,625000,625000,5000000 +batch>200000=1250000,250000,1250000,1250000,7500000"
    )
    alone = {"input_mtok": "1", "output_mtok": "2", "batch_cached_discount": "0.5"}
    assert line_of(PriceRow.model_validate(alone)).endswith(" +batch=1000000,500000,1000000,1000000,2000000")
    hours = {"utc": "16:30-00:30", "workdays": True, "input_mtok": "0.1", "output_mtok": "0.2"}
    both = {"input_mtok": "1", "output_mtok": "1", "hours": [hours]}
    assert line_of(PriceRow.model_validate(both)).endswith(" ~1630-0030w=100000,100000,100000,100000,200000")
    with pytest.raises(ValueError, match="both above and hours"):
        PriceRow.model_validate({**both, "above": [{"tokens": 1, "input_mtok": "1", "output_mtok": "1"}]})


def test_a_discounted_price_is_each_figure_times_the_factor() -> None:
    price = parse("book:a/m@2026-01-01", "1000000,3,0,7,2000000 >10=5,5,5,5,5")
    less = discounted(price, Decimal("0.5"))
    assert _figures(less) == (500_000, 2, 0, 4, 1_000_000)  # halves go to the even one
    assert less.bands[0].price.ref == "book:a/m@2026-01-01>10*0.5"


@pytest.mark.parametrize("factor", ["1", "1e1", "9e-6", "0.90"])
def test_a_factor_can_be_read_from_its_ref_however_it_was_written(factor: str) -> None:
    whole = book().price("openai/gpt-4o", DAY)
    assert whole is not None
    less = discounted(whole, Discount.model_validate({"provider": "openai", "factor": factor}).factor)
    again = book().of_ref(less.ref)
    assert again is not None
    assert (again.ref, _figures(again)) == (less.ref, _figures(less))


def test_a_book_of_nobody_has_no_price() -> None:
    empty = Book({}, {})
    assert empty.price("openai/gpt-4o", DAY) is None
    assert empty.of_ref("book:openai/gpt-4o@1970-01-01") is None
    assert book().of_ref("lane:x@2026-01-01") is None
    assert Discount(provider="x", factor=Decimal("0.5")).until is None
