"""Sums that are larger than a column: they are right, or it is said that they cannot be told."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest
import redis

from accounting.files import schema
from accounting.files.ledger import US_PER_DAY, LocalStore
from accounting.intake import ingest
from accounting.reports import report
from accounting.reports.currency import Rates
from accounting.reports.report import Question
from accounting.reports.sums import grouped, nanos, total
from accounting.rollup import rollup
from broker.errors import LedgerError
from broker.events import Fact, Finished, Routed, Submitted
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, entry, publish, story

RUPIAH = Rates("IDR", (("2026-01-01", 16_000 * 10**6),))
USD = 10**9


def test_a_sum_that_does_not_fit_is_told_and_one_over_sums_that_do_is_exact() -> None:
    rows = pa.table({"name": ["a", "a", "b"], "cost": [2**62, 2**62, 7]})
    with pytest.raises(LedgerError, match="do not fit into 64 bits"):
        grouped(rows, ["name"])
    apart = grouped(pa.table({"name": ["a", "b", "c"], "cost": [2**62, 2**62 + 1, 2**62]}), ["name"])
    assert total(apart, "cost") == 3 * 2**62 + 1
    assert total(pa.table({"cost": [-5, 3, None]}), "cost") == -2
    assert total(rows.slice(0, 0), "cost") == 0


def test_amounts_that_fit_one_by_one_and_not_together_in_another_currency_are_told() -> None:
    dear = pa.table({"cost_usd": pa.array([Decimal(200_000)] * 3, schema.MONEY)})
    with pytest.raises(LedgerError, match="IDR"):
        nanos(dear, "cost_usd", DAY, RUPIAH)
    assert nanos(dear.slice(1), "cost_usd", DAY, RUPIAH).tolist() == [3_200_000_000 * USD] * 2


def test_what_a_success_costs_over_a_month_is_right_where_the_sum_of_the_month_is_larger_than_a_column(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    for number in range(6):
        facts: list[Fact] = [
            Submitted("sync"),
            routed,
            attempted("a", cost_nano=110_000 * USD, verdict="pass"),
            Finished("succeeded", True, "local"),
        ]
        publish(client, [entry(story(f"t-{number}", facts, at_us=NOON_US + number // 2 * US_PER_DAY))])
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    asked = Question(rates=RUPIAH)
    last = "2026-01-03"
    made = report.build(store, since=last, until=last, asked=asked)
    assert made.window.tasks == 6
    assert made.window.cost_nano == 6 * 110_000 * 16_000 * USD > 2**63
    assert made.window.cost_per_success_nano == made.totals.p50_nano == 110_000 * 16_000 * USD
    with pytest.raises(LedgerError, match="do not fit into 64 bits"):
        report.build(store, since=DAY, until=last, asked=asked)
