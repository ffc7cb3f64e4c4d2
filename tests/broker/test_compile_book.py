"""The committed book: what it is made of, and what may never change in it."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from broker.call import Usage
from broker.errors import ConfigError
from broker.pricebook import NO_PRICE, OVERLAY, TABLE, Book, book, read
from broker.prices import cost_nano
from scripts.compile_book import FOLDER, compiled, merged, source, taken

AS_OF = date(2026, 11, 25)
USAGE = Usage(7_001, 503, 0, 211)
THEIR_USAGE = TheirUsage(input_tokens=7_504, cache_read_tokens=503, output_tokens=211)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
OVERLAY_TEXT = (FOLDER / OVERLAY).read_text(encoding="utf-8")


def test_the_committed_table_is_what_its_sources_give() -> None:
    committed = (FOLDER / TABLE).read_text(encoding="utf-8")
    assert f"Source: {source()}," in committed
    anew = compiled(providers, OVERLAY_TEXT, Book({}, {}), AS_OF, said=source())
    grown = compiled(providers, OVERLAY_TEXT, book(), AS_OF, said=source())
    assert anew.text == grown.text == committed
    assert grown.added == ()
    assert sum(anew.left_out.values()) < anew.rows / 5


def test_a_row_of_the_old_book_stays_and_a_new_price_is_a_new_row() -> None:
    old = {
        "a/same": {"1970-01-01": "1"},
        "a/dearer": {"1970-01-01": "1"},
        "a/gone": {"1970-01-01": "1"},
        "a/ours": {"1970-01-01": "1"},
        "a/announced": {"1970-01-01": "1", "2026-12-01": "2"},
    }
    new = {
        "a/same": {"1970-01-01": "1"},
        "a/dearer": {"1970-01-01": "2"},
        "a/ours": {"1970-01-01": "1", "2026-12-01": "3"},
        "a/announced": {"1970-01-01": "1", "2026-12-15": "2"},
        "a/new": {"1970-01-01": "5"},
        "a/ended": {"1970-01-01": "1", "2026-11-01": NO_PRICE},
    }
    grown = merged(new, old, "2026-11-25", {"a/ours"})
    assert grown == {
        "a/same": {"1970-01-01": "1"},
        "a/dearer": {"1970-01-01": "1", "2026-11-25": "2"},
        "a/gone": {"1970-01-01": "1"},
        "a/ours": {"1970-01-01": "1", "2026-12-01": "3"},
        "a/announced": {"1970-01-01": "1", "2026-12-15": "2"},
        "a/new": {"1970-01-01": "5"},
        "a/ended": {"1970-01-01": "1", "2026-11-01": NO_PRICE},
    }


def test_a_row_of_the_day_of_the_compiling_is_not_changed_either() -> None:
    old = {"a/m": {"1970-01-01": "1", "2026-11-25": "2"}}
    assert merged({"a/m": {"1970-01-01": "2"}}, old, "2026-11-25", set()) == old
    with pytest.raises(ConfigError, match=r"a/m from 2026-11-25 .* other figures \(2\)"):
        merged({"a/m": {"1970-01-01": "3"}}, old, "2026-11-25", set())
    assert merged({"a/m": {"1970-01-01": "3"}}, old, "2026-11-26", set())["a/m"]["2026-11-26"] == "3"


def test_a_day_before_that_of_the_book_is_refused() -> None:
    with pytest.raises(ConfigError, match="as of 2026-11-25, and rows that began since would be lost"):
        compiled(providers, OVERLAY_TEXT, book(), date(2026, 11, 24), said=source())


MTOK = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(2))
TIERED = ModelPrice(input_mtok=TieredPrices(Decimal(1), [Tier(9, Decimal(2))]), output_mtok=Decimal(2))
BOTH = "priced by the hour and by the size of a call"
NIGHT = TimeOfDateConstraint(time(1, tzinfo=UTC), time(2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        ([ConditionalPrice(prices=TIERED), ConditionalPrice(NIGHT, prices=MTOK)], BOTH),
        ([ConditionalPrice(prices=MTOK), ConditionalPrice(NIGHT, prices=TIERED)], BOTH),
        (
            [
                ConditionalPrice(prices=MTOK),
                ConditionalPrice(NIGHT, prices=MTOK),
                ConditionalPrice(StartDateConstraint(date(2026, 1, 1)), prices=MTOK),
            ],
            "hours that another price ends",
        ),
        (ModelPrice(**vars(MTOK), requests_kcount=Decimal(5)), "priced by requests_kcount too"),
    ],
)  # fmt: skip
def test_a_model_whose_price_a_line_cannot_say_is_left_out_with_the_reason(prices: Any, reason: str) -> None:
    model = ModelInfo(id="m", match=ClauseEquals("m"), prices=prices)
    rows, _, left_out = taken([Provider("acme", "Acme", "acme", models=[model])], AS_OF)
    assert (rows, left_out) == ({}, {reason: 1})


def test_an_overlay_that_changes_a_row_is_refused() -> None:
    before = read("acme/m\t1970-01-01\t1000000,1000000,1000000,1000000,2000000\n")
    row = '[[price."acme/m"]]\ninput_mtok = "1"\noutput_mtok = "{}"\n'
    compiled([], row.format("2"), before, AS_OF, said="nobody")
    with pytest.raises(ConfigError, match=r"acme/m from 1970-01-01 .* other figures"):
        compiled([], row.format("3"), before, AS_OF, said="nobody")


def test_what_we_take_from_the_source_costs_what_the_source_says() -> None:
    ours, checked, odd = book(), 0, []
    own = {line.split('"')[1] for line in OVERLAY_TEXT.splitlines() if line.startswith('[[price."')}
    for provider in providers:
        for model in provider.models:
            key = f"{provider.id}/{model.id}".lower()
            price = ours.price(key, "2026-11-24")
            if price is None or key in own:
                continue
            theirs = model.calc_price(THEIR_USAGE, provider, genai_request_timestamp=NOON)
            nanos = cost_nano(price, USAGE, busy_ms=0, at_us=int(NOON.timestamp() * 1e6))
            checked += 1
            if nanos is None or abs(Decimal(nanos).scaleb(-9) - theirs.total_price) > Decimal("0.0000000006"):
                odd.append((key, nanos, theirs.total_price))
    assert odd == []
    assert checked > 1_500
