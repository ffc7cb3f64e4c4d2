"""The committed book: what it is made of, and what may never change in it."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as TheirUsage
from genai_prices.data import providers

from broker.call import Usage
from broker.errors import ConfigError
from broker.pricebook import NO_PRICE, OVERLAY, TABLE, Book, book, read
from broker.prices import cost_nano
from scripts.compile_book import FOLDER, compiled, merged, source

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
