"""The difference between a provider's file and the ledger, by cause, to the nano-dollar."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounting.bills.booked import Key, Ours, TokenKind
from accounting.bills.reconcile import Reconciled, Theirs, compare, reconcile
from accounting.bills.usage_files import CACHED, INPUT, OUTPUT, WRITE, Used
from accounting.files import ledger
from accounting.files.ledger import US_PER_DAY, LocalStore
from accounting.reports.flat import flat_nano
from broker.call import Usage
from broker.clock import utc_day
from broker.pricebook import parse
from broker.settings import Settings
from broker.settings import parse as settings_of
from broker.settings.prices import FlatCost
from tests.accounting.calls import DAY, NOON_US, row, written
from tests.accounting.reference_rows import AttemptRow

SETTINGS = settings_of(
    """
    [lanes.mid]
    engine = "openai"
    model = "gpt-4o-mini"
    [lanes.new]
    engine = "openai"
    model = "gpt-4o"
    [lanes.gateway]
    engine = "openai"
    model = "m"
    base_url = "https://gateway.acme.example/v1"
    price = { input_mtok = "1", output_mtok = "3" }
    [lanes.own]
    engine = "openai"
    model = "gpt-9"
    price = { input_mtok = "2", output_mtok = "8", batch_discount = "0.5" }
    [lanes.unknown]
    engine = "openai"
    model = "mystery-1"
    [types.general]
    chain = ["mid"]
    [[prices.monthly]]
    name = "watcher"
    usd_per_month = "300"
    [[prices.discounts]]
    provider = "openai"
    model = "o3"
    factor = "0.5"
    """
)
MTOK = 1_000_000
TINY = "lane:mid@2026-01-01=500,500,500,500,500"
THREE = "lane:gateway@1970-01-01=1000000,1000000,1000000,1000000,3000000"
NEXT_DAY = "2026-01-02"
NEXT_DAY_US = NOON_US + 13 * 3_600_000_000


def reconciled(
    store: LocalStore,
    rows: list[AttemptRow],
    lines: list[Used],
    provider: str = "openai",
    settings: Settings = SETTINGS,
) -> Reconciled:
    written(store, rows)
    made = reconcile(store, settings, provider, lines, ["gateway"] if provider == "acme" else [])
    for one in made.models:
        assert sum(one.causes.values()) == (one.billed_nano or 0) - one.booked_nano
        assert abs(one.causes.get("rounding", 0)) <= one.calls + 1
    return made


def used(model: str, fresh: int, out: int, requests: int | None, usd: str | None = None) -> Used:
    nanos = None if usd is None else int(Decimal(usd) * 10**9)
    return Used(DAY, model, {INPUT: fresh, CACHED: 0, OUTPUT: out}, False, requests, nanos)


def test_the_same_calls_at_the_same_prices_leave_nothing(store: LocalStore) -> None:
    rows = [row("mid", Usage(MTOK, output_tokens=MTOK)), row("mid", Usage(MTOK))]
    made = reconciled(store, rows, [used("gpt-4o-mini-2024-07-18", 2 * MTOK, MTOK, 2)])
    [one] = made.models
    assert (one.model, one.requests, one.calls, one.booked_nano) == ("gpt-4o-mini", 2, 2, 900_000_000)
    assert (made.causes, made.priced_by_us) == ({}, True)


@pytest.mark.parametrize(
    ("rows", "lines", "causes"),
    [
        (
            [row("mid", Usage(MTOK))],
            [used("gpt-4o-mini", 3 * MTOK, 0, 3)],
            {"calls": 300_000_000},
        ),
        (
            [row("mid", Usage(MTOK))],
            [used("gpt-4o-mini", MTOK, MTOK, 1)],
            {"tokens": 600_000_000},
        ),
        (
            [row("mid", Usage(MTOK))],
            [used("gpt-4o-mini", MTOK, 0, 1, "0.16")],
            {"price": 10_000_000},
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(), settled=False, cost_nano=7_000)],
            [used("gpt-4o-mini", MTOK, 0, None)],
            {"unsettled": -7_000},
        ),
        (
            [row("new", Usage(MTOK), cost_nano=None, price_ref=None)],
            [used("gpt-4o", MTOK, 0, 1)],
            {"unpriced": 2_500_000_000},
        ),
        (
            [row("mid", Usage(MTOK))],
            [used("gpt-4o-mini", MTOK, 0, 1), used("gpt-4o", MTOK, 0, 9)],
            {"not in the ledger": 2_500_000_000},
        ),
        (
            [row("mid", Usage(MTOK)), row("new", Usage(MTOK))],
            [used("gpt-4o-mini", MTOK, 0, 1)],
            {"not billed": -2_500_000_000},
        ),
        (
            [row("mid", Usage(MTOK))],
            [used("gpt-4o-mini", MTOK, 0, 1, "0.15"), Used(DAY, "", nano=5, what="seats")],
            {"beside tokens": 5},
        ),
        (
            [row("mid", Usage(1), price_ref=TINY, cost_nano=0), row("mid", Usage(1), price_ref=TINY, cost_nano=0)],
            [used("gpt-4o-mini", 2, 0, 2)],
            {"rounding": 1},  # half a nano-dollar twice, each booked as 0
        ),
        (
            [row("mid", Usage(MTOK), cost_nano=160_000_000)],
            [used("gpt-4o-mini", MTOK, 0, 1)],
            {"booked otherwise": -10_000_000},
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(), cost_nano=0, failure="rate_limited")],
            [used("gpt-4o-mini", 2 * MTOK, 0, 1)],
            {"tokens": 150_000_000},  # a call that was turned away is none of the provider's: their numbers are alike
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(MTOK), ended_us=NEXT_DAY_US)],
            [used("gpt-4o-mini", MTOK, 0, 1)],
            {},  # the other one ended on the next day
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(MTOK), ended_us=NEXT_DAY_US)],
            [used("gpt-4o-mini", MTOK, 0, 1), Used("2026-11-25", "")],
            {"calls": -150_000_000},  # they say that nothing was used on that day
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(MTOK), batch=True)],
            [used("gpt-4o-mini", MTOK, 0, 1), Used(DAY, "gpt-4o-mini", {INPUT: MTOK, OUTPUT: 0}, True, 1)],
            {},
        ),
        (
            [row("mid", Usage(MTOK)), row("mid", Usage(MTOK))],
            [Used(DAY, "gpt-4o-mini", nano=310_000_000)],
            {"price": 10_000_000},
        ),
    ],
)  # fmt: skip
def test_each_cause_has_its_part_of_the_difference(
    store: LocalStore, rows: list[AttemptRow], lines: list[Used], causes: dict[str, int]
) -> None:
    made = reconciled(store, rows, lines)
    assert made.causes == causes


def test_a_call_is_found_however_long_its_task_had_waited(store: LocalStore) -> None:
    written(store, [row("mid", Usage(MTOK)), row("mid", Usage(MTOK), ended_us=0)], "2026-03-01")
    written(store, [row("mid", Usage(MTOK), ended_us=NOON_US - US_PER_DAY)] * 5, "2026-11-20")
    damage(store, "2026-11-20")  # of which nothing is read, as all of it was settled before
    made = reconciled(store, [row("mid", Usage(MTOK))], [used("gpt-4o-mini", 2 * MTOK, 0, 2)])
    assert ([one.calls for one in made.models], made.causes) == ([2], {})


def damage(store: LocalStore, day: str) -> None:
    """Leaves nothing of the day's file but its footer."""
    [name] = store.list(f"attempts/date={day}")
    file = store.root / f"attempts/date={day}/{name}"
    data = file.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little") + 8
    file.write_bytes(data[:4] + bytes(len(data) - 4 - footer) + data[-footer:])


def test_what_nobody_knows_a_price_of_is_in_no_sum_and_told(store: LocalStore) -> None:
    lines = [used("gpt-4o-mini", MTOK, 0, 1), used("mystery-1", MTOK, 0, 300)]
    made = reconciled(store, [row("mid", Usage(MTOK))], lines)
    assert [(one.model, one.billed_nano) for one in made.models] == [
        ("gpt-4o-mini", 150_000_000),
        ("mystery-1", None),
    ]
    assert (made.causes, made.billed_nano) == ({}, 150_000_000)
    [note] = made.notes
    assert "no price of mystery-1" in note


def test_where_money_is_named_a_model_without_any_is_billed_at_nothing_and_told(store: LocalStore) -> None:
    lines = [used("gpt-4o-mini", MTOK, 0, 1, "0.14"), used("gpt-4o", MTOK, 0, 1), used("o1", MTOK, 0, 1)]
    made = reconciled(store, [row("mid", Usage(MTOK)), row("new", Usage(MTOK))], lines)
    assert (made.priced_by_us, made.billed_nano) == (False, 140_000_000)
    assert {one.model: (one.billed_nano, one.causes) for one in made.models} == {
        "gpt-4o-mini": (140_000_000, {"price": -10_000_000}),
        "gpt-4o": (0, {"price": -2_500_000_000}),
        "o1": (0, {}),
    }
    [note] = made.notes
    assert "none for gpt-4o, o1: billed at nothing" in note


OWN = "lane:own@1970-01-01=2000000,2000000,2000000,2000000,8000000"
OWN_BATCH = "lane:own@1970-01-01+batch=1000000,1000000,1000000,1000000,4000000"


def own(*, batch: bool) -> AttemptRow:
    """A call of a million tokens at the lane's own price."""
    ref, nanos = (OWN_BATCH, 10**9) if batch else (OWN, 2 * 10**9)
    return row("own", Usage(MTOK), price_ref=ref, cost_nano=nanos, batch=batch, model="gpt-9")


@pytest.mark.parametrize("dated", ["gpt-9", "gpt-9-2026-03-04", "gpt-9-20260304"])
def test_a_model_that_is_not_in_the_book_is_the_same_with_the_date_that_its_provider_writes(
    dated: str, store: LocalStore
) -> None:
    made = reconciled(store, [own(batch=False)], [used(dated, MTOK, 0, 1, "2.10")])
    assert made.causes == {"price": 100_000_000}


def test_models_whose_names_end_in_another_number_are_two(store: LocalStore) -> None:
    made = reconciled(store, [own(batch=False)], [used("gpt-9-2048", MTOK, 0, 1, "2.10")])
    assert made.causes == {"not in the ledger": 2_100_000_000, "not billed": -2_000_000_000}


@pytest.mark.parametrize("batch", [False, True])
def test_usage_tells_batches_apart_where_the_lines_of_money_do_not(batch: bool, store: LocalStore) -> None:
    """Two calls that the ledger has not cost what such calls do, and no price is another one."""
    usage = [replace(used("gpt-9", MTOK, 0, 1), batch=flag) for flag in (False, True)]
    lost = replace(used("gpt-9", 2 * MTOK, 0, 2), batch=batch)
    each = 10**9 if batch else 2 * 10**9
    money = Used(DAY, "gpt-9", nano=3 * 10**9 + 2 * each)
    made = reconciled(store, [own(batch=False), own(batch=True)], [*usage, lost, money])
    assert made.causes == {"calls": 2 * each}


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("call", "model", "single_nano"),
    [(own, "gpt-9", 2 * 10**9), (lambda batch: row("new", Usage(MTOK), batch=batch), "gpt-4o", 25 * 10**8)],
)
def test_a_batch_on_the_bill_alone_costs_what_batches_do_and_single_calls_what_these_do(
    call: Any, model: str, single_nano: int, batch: bool, store: LocalStore
) -> None:
    lines = [used(model, MTOK, 0, 1), replace(used(model, MTOK, 0, 1), batch=True)]
    made = reconciled(store, [call(batch=not batch)], lines)
    assert made.causes == {"not in the ledger": single_nano // 2 if batch else single_nano}


def test_a_model_on_the_bill_alone_costs_what_was_agreed_on(store: LocalStore) -> None:
    made = reconciled(
        store, [row("mid", Usage(MTOK))], [used("gpt-4o-mini", MTOK, 0, 1), used("o3", MTOK, 0, 1)]
    )
    assert made.causes == {"not in the ledger": 10**9}  # half of $2


def unknown(tokens: int = MTOK) -> AttemptRow:
    return row("unknown", Usage(tokens), cost_nano=None, price_ref=None, model="mystery-1")


def test_what_is_billed_for_calls_that_nobody_knows_a_price_of_is_unpriced(store: LocalStore) -> None:
    for line in (used("mystery-1", MTOK, 0, 1, "0.70"), Used(DAY, "mystery-1", nano=700_000_000)):
        assert reconciled(store, [unknown()], [line]).causes == {"unpriced": 700_000_000}


def test_calls_that_nobody_knows_a_price_of_are_in_no_sum_where_no_money_is_named(store: LocalStore) -> None:
    made = reconciled(store, [row("mid", Usage(MTOK)), unknown()], [
        used("gpt-4o-mini", MTOK, 0, 1), used("mystery-1", MTOK, 0, 1),
    ])  # fmt: skip
    assert [(one.model, one.calls, one.unpriced, one.billed_nano) for one in made.models] == [
        ("gpt-4o-mini", 1, 0, 150_000_000),
        ("mystery-1", 1, 1, None),
    ]
    [note] = made.notes
    assert "no price of mystery-1" in note


def test_calls_without_a_price_leave_that_of_the_others_as_it_is(store: LocalStore) -> None:
    """They are taken at what the others paid."""
    paid = row(
        "gone", Usage(MTOK), price_ref="lane:gone@2026-01-01=5000000,0,0,0,0", cost_nano=5 * 10**9, model="m"
    )
    unpriced = row("gone", Usage(3 * MTOK), price_ref=None, cost_nano=None, model="m")
    written(store, [paid, unpriced])
    made = reconcile(store, SETTINGS, "openai", [used("m", 5 * MTOK, 0, 3, "25.50")], ["gone"])
    assert made.causes == {"unpriced": 15 * 10**9, "calls": 5 * 10**9, "price": 500_000_000}


def test_what_our_calls_have_not_is_at_the_prices_of_these_days_however_long_their_task_had_waited(
    store: LocalStore,
) -> None:
    """A line of a batch that the ledger has not, beside a single call of the model."""
    rising = """
    [lanes.late]
    engine = "openai"
    model = "m"
    price = [
        { input_mtok = "1", output_mtok = "1", batch_discount = "0.5" },
        { from = "2026-11-24", input_mtok = "4", output_mtok = "1", batch_discount = "0.5" },
    ]
    [types.general]
    chain = ["late"]
    """
    ref = "lane:late@2026-11-24=4000000,4000000,4000000,4000000,1000000"
    written(store, [row("late", Usage(MTOK), price_ref=ref, cost_nano=4 * 10**9, model="m")], "2026-11-01")
    lines = [used("m", MTOK, 0, 1), replace(used("m", MTOK, 0, 1), batch=True)]
    made = reconcile(store, settings_of(rising), "openai", lines, [])
    assert sum(one.billed_nano or 0 for one in made.models) == (4 + 2) * 10**9


def test_a_provider_of_whom_the_ledger_has_no_call_is_told_of(store: LocalStore) -> None:
    """Its name may be written in another way than the book's: what is not in the ledger then says nothing."""
    rows, lines = [row("mid", Usage(MTOK))], [used("gpt-4o-mini", MTOK, 0, 1, "0.15")]
    assert reconciled(store, rows, lines).notes == ()
    [note] = reconciled(store, rows, lines, "opnai").notes
    assert "no call of these days that opnai bills" in note
    assert "--lane NAME" in note


def test_days_that_only_one_kind_of_line_has_and_days_without_nightly_files_are_told(
    store: LocalStore,
) -> None:
    (store.root / "events" / f"date={NEXT_DAY}").mkdir(parents=True)
    money = Used(NEXT_DAY, "gpt-4o-mini", nano=150_000_000)
    made = reconciled(store, [row("mid", Usage(MTOK))], [used("gpt-4o-mini", MTOK, 0, 1), money])
    spans, missing = made.notes
    assert f"usage is of {DAY} to {DAY}, money of {NEXT_DAY} to {NEXT_DAY}" in spans
    assert f"1 day has events and no nightly files, and are in no figure: {NEXT_DAY}" in missing


def test_classes_that_the_file_does_not_tell_apart_are_compared_together(store: LocalStore) -> None:
    line = Used(DAY, "m", {INPUT: 100, OUTPUT: 10}, None, 1, 130_000)
    ours = row("gateway", Usage(30, 40, 30, 4, 6), cost_nano=130_000, price_ref=THREE, model="m")
    made = reconciled(store, [ours], [line], "acme")
    assert made.causes == {}
    assert [(one.model, one.batch, one.calls) for one in made.models] == [("m", None, 1)]


def test_what_is_paid_by_the_month_is_booked_beside_tokens(store: LocalStore) -> None:
    made = reconciled(store, [], [Used(DAY, "", nano=11 * 10**9)], "watcher")
    assert made.causes == {"beside tokens": 10**9}


def test_the_days_of_a_month_sum_to_what_is_paid_for_it() -> None:
    rows = [
        FlatCost(name="w", usd_per_month=Decimal(100)),
        FlatCost.model_validate(
            {"name": "w", "usd_per_month": "28", "from": "2026-02-10", "until": "2026-02-12"}
        ),
    ]
    days = [nano for day in range(1, 29) for _, nano in flat_nano(rows, f"2026-02-{day:02}")]
    assert sum(days) == 102 * 10**9
    assert sorted({nano for day in range(1, 32) for _, nano in flat_nano(rows[:1], f"2026-03-{day:02}")}) == [
        3225806451,
        3225806452,
    ]


count = st.integers(0, 10**9)
tokens = st.dictionaries(st.sampled_from([INPUT, CACHED, WRITE, OUTPUT]), count)
money = st.integers(0, 10**15)


@given(
    st.none() | tokens,
    st.none() | money,
    st.none() | count,
    tokens,
    money,
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_the_causes_sum_to_the_difference_whatever_both_sides_say(
    theirs: dict[int, int] | None,
    billed: int | None,
    requests: int | None,
    mine: dict[int, int],
    booked: int,
    calls: int,
    lost: int,
) -> None:
    ours = Ours(calls=calls + lost, unsettled=lost, booked_nano=booked, unsettled_nano=lost * 1_234_567)
    for place, number in mine.items():
        ours.tokens[TokenKind(None, place)], ours.pico[TokenKind(None, place)] = number, number * 777
    price = parse("book:a/m@2026-01-01", "1,2,3,4,5")
    told = None if theirs is None else {TokenKind(None, place): number for place, number in theirs.items()}
    one = compare(Key("m", None), Theirs(told, requests, billed), ours, {False: price, True: price})
    assert one.billed_nano is not None
    assert sum(one.causes.values()) == one.billed_nano - one.booked_nano
    assert one.booked_nano == booked + ours.unsettled_nano
    if billed is not None:
        assert one.billed_nano == billed


@pytest.mark.parametrize(
    ("usage", "said", "calls"),
    [
        (Usage(), {"failure": "rate_limited"}, 0),
        (Usage(), {"failure": "timeout", "settled": False}, 1),
        (Usage(1), {"failure": "gate"}, 1),
        (Usage(0, 1), {}, 1),
        (Usage(0, 0, 1), {}, 1),
        (Usage(0, 0, 0, 1), {}, 1),
        (Usage(0, 0, 0, 0, 1), {}, 1),
        (Usage(0, 0, 0, 0, 0, 1), {}, 1),
    ],
)
def test_a_provider_counts_no_call_that_it_turned_away(
    store: LocalStore, usage: Usage, said: dict[str, Any], calls: int
) -> None:
    """One that used no token, and whose end is known."""
    rows = [row("mid", Usage(MTOK)), row("mid", usage, cost_nano=0, **said)]
    [one] = reconciled(store, rows, [used("gpt-4o-mini", MTOK, 0, 1)]).models
    assert one.calls == 1 + calls


DAY_US = NOON_US - 12 * 3_600_000_000


@pytest.mark.parametrize("submitted_days_ago", [0, 1, 3])
@pytest.mark.parametrize(
    ("ended_us", "calls"),
    [(DAY_US - 1, 0), (DAY_US, 1), (DAY_US + ledger.US_PER_DAY - 1, 1), (DAY_US + ledger.US_PER_DAY, 0)],
)
def test_a_call_is_billed_on_the_day_on_which_it_ends_whenever_its_task_was_submitted(
    store: LocalStore, submitted_days_ago: int, ended_us: int, calls: int
) -> None:
    submitted = utc_day(NOON_US - submitted_days_ago * ledger.US_PER_DAY)
    written(store, [row("mid", Usage(MTOK), ended_us=ended_us)], submitted)
    made = reconcile(store, SETTINGS, "openai", [used("gpt-4o-mini", MTOK, 0, 1)])
    assert [one.calls for one in made.models] == [calls]
    assert made.causes == ({} if calls else {"not in the ledger": 150_000_000})


@pytest.mark.parametrize(
    ("one", "calls"),
    [
        (row("mid", Usage(MTOK)), 1),
        (
            row(
                "gone",
                Usage(MTOK),
                price_ref="book:openai/gpt-4o-mini@2026-01-01",
                cost_nano=1,
                model="gpt-4o-mini",
            ),
            1,
        ),
        (
            row(
                "gone",
                Usage(MTOK),
                price_ref="book:azure/gpt-4o-mini@2026-01-01",
                cost_nano=1,
                model="gpt-4o-mini",
            ),
            0,
        ),
        (row("mid", Usage(MTOK), price_ref="tool:search", cost_nano=1), 0),
        (row("", Usage(MTOK), price_ref="book:openai/gpt-4o-mini@2026-01-01", cost_nano=1), 0),
        (row("gateway", Usage(MTOK), price_ref=THREE, cost_nano=10**9, model="gpt-4o-mini"), 0),
    ],
)
def test_calls_are_a_providers_by_the_address_of_their_lane_or_by_their_price(
    store: LocalStore, one: AttemptRow, calls: int
) -> None:
    made = reconciled(store, [one], [used("gpt-4o-mini", MTOK, 0, 1)])
    assert [one.calls for one in made.models] == [calls]


def test_what_we_never_used_has_the_price_that_our_calls_were_booked_at(store: LocalStore) -> None:
    ours = row("gateway", Usage(MTOK), price_ref=THREE, cost_nano=10**9, model="m")
    made = reconciled(store, [ours], [Used(DAY, "m", {INPUT: MTOK, OUTPUT: MTOK}, None, 1)], "acme")
    assert made.causes == {"tokens": 3 * 10**9}


def test_calls_of_all_days_of_the_file_are_counted_and_those_that_nobody_settled_or_priced_told(
    store: LocalStore,
) -> None:
    rows = [
        row("mid", Usage(MTOK)),
        row("mid", Usage(MTOK), ended_us=NOON_US + ledger.US_PER_DAY),
        row("mid", Usage(), settled=False, cost_nano=7_000),
        row("mid", Usage(MTOK), cost_nano=None, price_ref=None),
    ]
    days = [utc_day(NOON_US + number * ledger.US_PER_DAY) for number in (0, 1)]
    lines = [replace(used("gpt-4o-mini", MTOK, 0, 2), day=one) for one in days]
    [one] = reconciled(store, rows, lines).models
    assert (one.requests, one.calls, one.unsettled, one.unpriced) == (4, 4, 1, 1)
    assert one.booked_nano == 2 * 150_000_000 + 7_000
