"""Calls reckoned again by the hundred thousand come to what each of them came to alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.bills.reprice import CLASSES, Finder, Kind, again, columns_of, priced, reprice
from accounting.files.ledger import LocalStore
from broker.call import Usage
from broker.pricebook import parse
from broker.prices import TokenPrice, cost_nano
from broker.settings.lanes import Lane
from tests.accounting.calls import DAY, LANES, NOON_US, batch_of, row, written

pico = st.integers(0, 200_000_000)
figures = st.tuples(pico, pico, pico, pico, pico).map(lambda one: ",".join(map(str, one)))
HOURS = ("~0100-0400", "~0600-1000w", "~2200-0200")
tokens = st.integers(0, 200_000)
usages = st.builds(Usage, tokens, tokens, tokens, tokens, tokens, tokens)


@st.composite
def prices(draw: st.DrawFn) -> TokenPrice:
    tiers = [f">{one}" for one in draw(st.lists(st.integers(1, 300_000), unique=True, max_size=3))]
    conditions = tiers or sorted(draw(st.sets(st.sampled_from(HOURS))))
    parts = [draw(figures), *(f"{one}={draw(figures)}" for one in conditions)]
    if draw(st.booleans()):
        parts += [f"+batch={draw(figures)}", *(f"+batch{one}={draw(figures)}" for one in conditions)]
    return parse("book:a/m@2026-01-01", " ".join(parts))


calls = st.lists(st.tuples(st.integers(0, 2), usages, st.booleans(), st.integers(0, 2**50)), max_size=30)


@settings(max_examples=60)
@given(st.tuples(prices(), prices(), st.none() | prices()), calls)
def test_many_calls_cost_what_each_one_costs(
    three: tuple[TokenPrice | None, ...], made: list[tuple[int, Usage, bool, int]]
) -> None:
    rows = [
        row("x", usage, batch=batch, ended_us=at, price_ref=str(which)) for which, usage, batch, at in made
    ]
    columns = columns_of(batch_of(rows))
    places = [three[int(kind.ref)] for kind in columns.kinds]
    found = priced(columns, places).tolist()
    alone = [
        cost_nano(three[which], usage, busy_ms=0, batch=batch, at_us=at) or 0
        for which, usage, batch, at in made
    ]
    assert found == alone


def test_amounts_beyond_64_bits_of_pico_dollars_are_exact() -> None:
    usage = Usage(2**40 + 1, 0, 0, 2**40 + 3)
    columns = columns_of(batch_of([row("x", usage)]))
    price = parse("book:a/m@2026-01-01", "600000000,1,1,1,2000000001")
    assert priced(columns, [price]).tolist() == [cost_nano(price, usage, busy_ms=0)]


DAY_OF_CALLS: list[tuple[str, Usage, dict[str, Any]]] = [
    ("mid", Usage(1_000, 500, output_tokens=300), {}),
    ("mid", Usage(1_001, 3, output_tokens=7), {"batch": True}),
    ("cheap", Usage(5, output_tokens=5), {}),
    ("hourly", Usage(999, 1, output_tokens=77), {"ended_us": NOON_US - 10 * 3_600_000_000}),
    ("hourly", Usage(999, 1, output_tokens=77), {}),
]


def test_every_call_of_a_day_comes_to_what_it_was_booked_at_by_its_own_price(store: LocalStore) -> None:
    rows = [row(lane, usage, **said) for lane, usage, said in DAY_OF_CALLS]
    written(store, rows)
    made = reprice(store, [DAY], {})  # the configuration may be gone
    assert sum(one.again_nano for one in made.kinds) == sum(one.cost_nano or 0 for one in rows)
    assert sum(one.calls for one in made.kinds) == len(rows)
    assert (made.examples, sum(one.differ + one.kept + one.unpriced for one in made.kinds)) == ((), 0)
    assert {one.kind.ref for one in made.kinds} == {one.price_ref for one in rows}
    assert any("~0100-0400w" in one.kind.ref for one in made.kinds)
    assert any("+batch" in one.kind.ref for one in made.kinds)


def test_a_call_that_comes_to_another_amount_is_named(store: LocalStore) -> None:
    good, bad = row("mid", Usage(1_000)), row("mid", Usage(1_000))
    written(store, [good, bad._replace(cost_nano=(bad.cost_nano or 0) + 1)])
    [kind] = reprice(store, [DAY], LANES).kinds
    assert (kind.differ, kind.again_nano - kind.booked_nano) == (1, -1)
    assert reprice(store, [DAY], LANES).examples == (bad.attempt_id,)


def test_a_call_whose_price_nobody_knows_any_more_is_named(store: LocalStore) -> None:
    lost = row("gone", Usage(1_000), cost_nano=5, price_ref="book:nobody/none@2026-01-01")
    written(store, [row("mid", Usage(1_000)), lost])
    made = reprice(store, [DAY], LANES)
    assert [(one.kind.lane, one.differ, one.unpriced) for one in made.kinds if one.differ] == [("gone", 1, 1)]
    assert made.examples == (lost.attempt_id,)


def test_what_is_paid_by_time_or_use_or_was_never_settled_is_kept_and_the_unpriced_get_a_price(
    store: LocalStore,
) -> None:
    rows = [
        row("own", Usage(1_000), cost_nano=77, price_ref="hardware:own"),
        row("human", Usage(), cost_nano=2 * 10**9, price_ref="human:minute"),
        row("cheap", Usage(), cost_nano=55, price_ref="tool:search"),
        row("", Usage(), cost_nano=3),
        row("mid", Usage(), cost_nano=5_000, settled=False),
        row("new", Usage(1_000_000, output_tokens=0), cost_nano=None, price_ref=None),
        row("gone", Usage(1_000), cost_nano=None, price_ref=None),
        row("new", Usage(), cost_nano=None, price_ref=None, settled=False),
    ]
    written(store, rows)
    for at in (None, "2026-06-01"):
        by_lane = {one.kind.lane: one for one in reprice(store, [DAY], LANES, at).kinds}
        for lane, nanos in (("own", 77), ("human", 2 * 10**9), ("cheap", 55), ("", 3), ("mid", 5_000)):
            one = by_lane[lane]
            assert (one.kept, one.unpriced, one.booked_nano, one.again_nano) == (1, 0, nanos, nanos)
        new, gone = by_lane["new"], by_lane["gone"]
        assert (new.calls, new.unpriced_before, new.unpriced, new.booked_nano) == (2, 2, 1, 0)
        assert new.again_nano == 2_500_000_000  # gpt-4o: $2.50 a million
        assert (gone.unpriced, gone.again_nano) == (1, 0)


def test_calls_without_a_price_get_that_of_the_day_on_which_they_began_however_long_their_task_had_waited(
    store: LocalStore,
) -> None:
    rising = [
        {"input_mtok": "1", "output_mtok": "1"},
        {"from": "2026-11-26", "input_mtok": "7", "output_mtok": "1"},
    ]
    lane = Lane.model_validate({"engine": "openai", "model": "m", "price": rising})
    begun = (0, 86_399_999_999, 86_400_000_000, 3 * 86_400_000_000)
    midnight_us = NOON_US + 12 * 3_600_000_000
    rows = [
        row("late", Usage(1_000_000), price_ref=None, ended_us=midnight_us + after + 5)._replace(
            started_us=midnight_us + after
        )
        for after in begun
    ]
    written(store, rows)
    [kind] = reprice(store, [DAY], {"late": lane}).kinds
    assert (kind.calls, kind.unpriced_before, kind.unpriced) == (4, 4, 0)
    assert kind.again_nano == (1 + 1 + 7 + 7) * 10**9


def test_a_model_that_answered_under_a_dated_name_has_the_price_of_its_own_endpoint(
    store: LocalStore,
) -> None:
    doors = [
        {"model": name, "price": {"input_mtok": usd, "output_mtok": "1"}}
        for name, usd in (("big", "9"), ("big-mini", "2"), ("other", "5"))
    ]
    lane = Lane.model_validate({"engine": "openai", "endpoints": doors})
    names = ("big-2026-01-01", "big-mini-2026-01-01", "big-mini", "other")
    written(store, [row("doors", Usage(1_000_000), price_ref=None, model=name) for name in names])
    found = {one.kind.model: one.again_nano for one in reprice(store, [DAY], {"doors": lane}).kinds}
    assert list(found.values()) == [9 * 10**9, 2 * 10**9, 2 * 10**9, 5 * 10**9]


def test_another_days_prices_hold_for_all_calls_with_the_hours_at_which_they_ended(store: LocalStore) -> None:
    usage = Usage(1_000_000, output_tokens=1_000_000)
    night = NOON_US - 10 * 3_600_000_000
    written(store, [row("hourly", usage), row("hourly", usage, ended_us=night), row("cheap", usage)])
    made = reprice(store, [DAY], LANES, "2026-10-05")  # a holiday: the same price at all hours
    assert sorted((one.kind.lane, one.booked_nano, one.again_nano) for one in made.kinds) == [
        ("cheap", 4 * 10**9, 4 * 10**9),
        ("hourly", 75 * 10**7, 75 * 10**7),
        ("hourly", 150 * 10**7, 75 * 10**7),
    ]


def test_a_discount_of_that_day_is_taken_off(store: LocalStore) -> None:
    written(store, [row("mid", Usage(1_000_000))])
    agreed = LANES["mid"].model_copy(
        update={
            "discounts": Lane.model_validate(
                {"engine": "openai", "discounts": [{"provider": "openai", "factor": "0.5"}]}
            ).discounts
        }
    )
    [kind] = reprice(store, [DAY], {**LANES, "mid": agreed}, DAY).kinds
    assert (kind.booked_nano, kind.again_nano) == (150_000_000, 75_000_000)


def test_files_from_before_writes_for_an_hour_were_told_apart_can_be_read() -> None:
    table = batch_of([row("mid", Usage(1, 2, 3, 4, 5, 6))])
    old = columns_of(table.select([one for one in table.schema.names if one != "cache_write_1h_tokens"]))
    new = columns_of(table)
    assert [new.tokens[name].tolist() for name in CLASSES] == [[1], [2], [3], [6], [4], [5]]
    assert old.tokens["cache_write_tokens"].tolist() == [9]
    nanos, known, kept = again(new, Finder(LANES, None))
    assert (known.tolist(), kept.tolist()) == ([True], [False])
    assert nanos.tolist() == new.booked.tolist()


@pytest.mark.parametrize("rows", [0, 1])
def test_kinds_are_found_whatever_is_missing(rows: int) -> None:
    columns = columns_of(batch_of([row("gone", Usage(), price_ref=None)] * rows))
    assert columns.kinds == [Kind("", "gone", "", DAY)] * rows
    assert np.array_equal(columns.code, np.zeros(rows))


def test_the_first_calls_that_differ_are_named_of_all_days(store: LocalStore) -> None:
    """Eighteen on the first day, five on the next; one that comes to what it was booked at is no example."""
    wrong = [row("mid", Usage(1_000), cost_nano=1) for _ in range(23)]
    written(store, [row("mid", Usage(1_000)), *wrong[:18]])
    written(store, [*wrong[18:], row("mid", Usage(1_000))], "2026-11-25")
    made = reprice(store, [DAY, "2026-11-25"], LANES)
    assert made.examples == tuple(one.attempt_id for one in wrong[:20])
    assert [(one.calls, one.differ) for one in made.kinds] == [(25, 23)]
    assert reprice(store, ["2026-11-25"], LANES).examples == tuple(one.attempt_id for one in wrong[18:])
