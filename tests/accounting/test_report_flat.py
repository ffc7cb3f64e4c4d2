"""What is paid by the month, beside what tasks cost: worked out by hand, to the nano-dollar."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.reports import files, report
from accounting.reports.currency import rates_of
from accounting.reports.loaded import flat
from accounting.reports.report import Question
from accounting.rollup import rollup
from broker.errors import LedgerError
from broker.events import Fact, Finished, Routed, Submitted
from broker.settings.prices import FlatCost
from tests.accounting.rolling import page
from tests.accounting.stories import CHAIN, NOON_US, attempted, entry, publish, story

USD = 10**9
FIRST, LAST = "2026-01-30", "2026-02-02"


def price(name: str, usd: str, **when: str) -> FlatCost:
    return FlatCost.model_validate({"name": name, "usd_per_month": usd, **when})


SEAT, MACHINE = price("seat", "31"), price("machine", "280", **{"from": "2026-02-01", "until": "2026-02-02"})


@pytest.fixture
def two_tasks(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    """A success for a dollar on January 30th, another one on February 2nd; nothing on the days between."""
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    for name, day in (("a", 29), ("b", 32)):
        facts: list[Fact] = [
            Submitted("sync", pipeline="a"),
            routed,
            attempted(name, cost_nano=USD),
            Finished("succeeded", True),
        ]
        publish(client, [entry(story(name, facts, at_us=NOON_US + day * ledger.US_PER_DAY))])
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    return store


def ask(store: LocalStore, *monthly: FlatCost, since: str = FIRST, **said: Any) -> report.Report:
    return report.build(store, since=since, until=LAST, asked=Question(monthly=monthly, **said))


def test_a_monthly_price_falls_on_days_with_tasks_and_without(two_tasks: LocalStore) -> None:
    made = ask(two_tasks, SEAT, MACHINE)
    # A seat is 31 / 31 dollars a day in January, and 31 / 28 = 1.107142857… in February, whose first days have the
    # nano-dollars that are left. The machine was there on February 1st alone: 280 / 28.
    seat_nano = 2 * 1_107_142_858
    assert [(one.month, one.name, one.days, one.nano) for one in made.flat] == [
        ("2026-01", "seat", 2, 2 * USD),
        ("2026-02", "machine", 1, 10 * USD),
        ("2026-02", "seat", 2, seat_nano),
    ]
    loaded = made.loaded
    assert loaded is not None
    assert loaded.flat_nano == 12 * USD + seat_nano
    assert loaded.cost_nano == 14 * USD + seat_nano == 16_214_285_716
    assert loaded.cost_per_success_nano == 8_107_142_858
    assert loaded.window_cost_per_success_nano == loaded.cost_per_success_nano


def test_each_of_the_four_categories_has_what_is_paid_for_it(two_tasks: LocalStore) -> None:
    made = ask(two_tasks, SEAT, price("bucket", "28", category="data", **{"from": "2026-02-01"}), MACHINE)
    assert {one.name: one.nano for one in made.loaded_categories} == {
        "inference": 2 * USD,
        "orchestration": 12 * USD + 2 * 1_107_142_858,
        "data": 2 * USD,
        "human": 0,
    }
    assert made.loaded is not None
    assert sum(one.nano for one in made.loaded_categories) == made.loaded.cost_nano


def test_no_figure_of_the_tasks_has_any_of_it(two_tasks: LocalStore) -> None:
    without, with_it = (report.to_dict(ask(two_tasks, *some)) for some in ((), (SEAT, MACHINE)))
    assert (without.pop("flat"), without.pop("loaded"), without.pop("loaded_categories")) == ([], None, [])
    assert [len(with_it.pop(name)) for name in ("flat", "loaded", "loaded_categories")] == [3, 5, 4]
    assert with_it == without
    assert without["totals"]["cost_per_success_usd"] == "1.0"


def test_days_before_the_ledgers_first_are_paid_by_nobody(two_tasks: LocalStore) -> None:
    assert ask(two_tasks, SEAT, since="2020-01-01").flat == ask(two_tasks, SEAT).flat


def test_a_day_that_has_only_such_a_price_shows_it(two_tasks: LocalStore, tmp_path: Path) -> None:
    quiet = "2026-01-31"
    made = report.build(two_tasks, since=quiet, until=quiet, asked=Question(monthly=[SEAT]))
    html = files.write_page(made, tmp_path / "r.html").read_text(encoding="utf-8")
    for text in (page(made), html):
        assert "No tasks in these days" not in text
        assert "Spent with monthly prices" in text
        assert "$1.00" in text
        assert "By task type" not in text, "a table without rows"
    with pytest.raises(LedgerError, match="nothing to draw"):
        files.write_plot(made, tmp_path / "r.png")


def test_a_price_that_did_not_hold_is_not_there(two_tasks: LocalStore) -> None:
    made = ask(two_tasks, price("old", "9", until=FIRST), price("new", "9", **{"from": "2026-02-03"}))
    assert (made.flat, made.loaded) == ((), None)
    assert "onthly prices" not in page(made)


def test_some_tasks_alone_have_no_part_of_it(two_tasks: LocalStore) -> None:
    made = ask(two_tasks, SEAT, where={"pipeline": ["a"]})
    assert made.loaded is None
    assert made.flat == ask(two_tasks, SEAT).flat
    assert "no part of them is in the spend of the tasks chosen here" in " ".join(page(made).split())


def test_a_margin_is_told_with_and_without(two_tasks: LocalStore) -> None:
    made = ask(two_tasks, price("seat", "62", until="2026-02-01"), price_nano=3 * USD)
    assert made.loaded is not None
    assert (made.totals.margin_nano, made.loaded.margin_nano) == (4 * USD, 0)


def test_each_day_of_it_is_exchanged_at_its_own_rate(two_tasks: LocalStore) -> None:
    pounds = rates_of("GBP", {"GBP": {FIRST: Decimal("0.5"), "2026-02-01": Decimal("0.25")}})
    made = ask(two_tasks, MACHINE, price("seat", "31", until="2026-02-01"), rates=pounds)
    assert [(one.name, one.nano) for one in made.flat] == [("seat", USD), ("machine", 2_500_000_000)]
    assert made.loaded is not None
    assert made.loaded.cost_nano == 3_500_000_000 + made.totals.cost_nano


def test_the_page_the_json_and_the_tables_say_it_in_lines_of_their_own(
    two_tasks: LocalStore, tmp_path: Path
) -> None:
    made = ask(two_tasks, price("seat", "62", until="2026-02-01"))
    for text in (page(made), files.write_page(made, tmp_path / "r.html").read_text(encoding="utf-8")):
        for said in (
            "Spent",
            "Monthly prices, what falls on these days",
            "Spent with monthly prices",
            "Cost per successful task with monthly prices",
            "Monthly prices are paid whatever is done",
        ):
            assert said in text
    lines = [" ".join(line.split()) for line in page(made).splitlines()]
    for line in (
        "Spent $2.0000",
        "Monthly prices, what falls on these days $4.0000",
        "Spent with monthly prices $6.0000",
        "Cost per successful task $1.00",
        "Cost per successful task with monthly prices $3.00",
        "seat orchestration 2026-01 2 $4.0000",
        "Inference: first calls, gates and judges, evaluation $2.0000 100.0% $2.0000 33.3%",
        "Orchestration: finding the lane, calls made again, queues $0.0000 0.0% $4.0000 66.7%",
    ):
        assert line in lines
    told = json.loads(json.dumps(report.to_dict(made)))
    assert told["flat"] == [
        {"month": "2026-01", "name": "seat", "category": "orchestration", "days": 2, "usd": "4.0"}
    ]
    assert told["loaded"] == {
        "flat_usd": "4.0", "cost_usd": "6.0", "cost_per_success_usd": "3.0", "window_cost_per_success_usd": "3.0",
        "margin_usd": None,
    }  # fmt: skip
    files.write_tables(made, tmp_path)
    with (tmp_path / "loaded.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["cost_usd"] for row in csv.DictReader(file)] == ["6.0"]
    with (tmp_path / "flat.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [(row["name"], row["usd"]) for row in csv.DictReader(file)] == [("seat", "4.0")]


@pytest.mark.parametrize(
    ("month", "days"), [("2026-02", 28), ("2028-02", 29), ("2026-04", 30), ("2026-12", 31)]
)
def test_a_whole_month_is_its_price_to_the_cent(month: str, days: int) -> None:
    found = flat([price("seat", "99.99")], ledger.days_of(f"{month}-01", f"{month}-{days}"))
    assert [(one.month, one.days, one.nano) for one in found] == [(month, days, 99_990_000_000)]


@given(
    st.decimals(min_value=0, max_value=100_000, places=9),
    st.integers(0, 399),
    st.integers(1, 400),
    st.integers(0, 400),
)
def test_reports_of_neighbouring_days_sum_to_that_of_both(
    usd: Decimal, start: int, held: int, length: int
) -> None:
    days = list(ledger.days_of("2027-12-20", "2029-02-20"))
    rows = [price("a", f"{usd:f}", **{"from": days[start], "until": days[min(start + held, 400)]})]
    first, then = (sum(one.nano for one in flat(rows, some)) for some in (days[:length], days[length:]))
    assert first + then == sum(one.nano for one in flat(rows, days))
