"""A report of some tasks only, in another currency, against another range, over many pieces."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import redis

from accounting.files import ledger, schema
from accounting.files.ledger import LocalStore
from accounting.intake import ingest
from accounting.reports import beside, calls, report, rows, sums, tasks
from accounting.reports.currency import rates_of
from accounting.reports.report import Question
from accounting.reports.tasks import DATE, TOTAL, choose, rank, tally
from accounting.rollup import drafts, rollup
from broker.errors import ConfigError, LedgerError
from broker.events import Fact, Finished, Rated, Routed, Submitted
from broker.settings.prices import FlatCost
from tests.accounting.rolling import page
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, day_of_stories, entry, publish, story

NEXT = "2026-01-02"
POUNDS = rates_of("GBP", {"GBP": {DAY: Decimal("0.75"), NEXT: Decimal("0.8")}})


@pytest.fixture
def two_days(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    """Files of small row groups, so that they are read in many pieces."""
    stories = [*day_of_stories(300), *day_of_stories(200, 9, at_us=NOON_US + ledger.US_PER_DAY)]
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    for path in (*store.root.glob("tasks/*/*.parquet"), *store.root.glob("attempts/*/*.parquet")):
        pq.write_table(pq.read_table(path), path, row_group_size=16, store_decimal_as_integer=True)
    return store


def ask(store: LocalStore, **said: Any) -> report.Report:
    return report.build(store, since=DAY, until=NEXT, asked=Question(**said))


def rows_of(store: LocalStore, query: str) -> list[tuple[Any, ...]]:
    return duckdb.connect().execute(query.format(tasks=f"'{store.root}/tasks/*/*.parquet'")).fetchall()


def test_the_tasks_chosen_are_those_that_duckdb_chooses(two_days: LocalStore) -> None:
    where = {"type": ["email", "summary"], "workspace": ["globex"], "user": [f"u-{n}" for n in range(5)]}
    made = ask(two_days, where=where, by=["user", "pipeline"])
    condition = "task_type in ('email', 'summary') and workspace = 'globex' and user_id < 'u-5'"
    [(count, cost, p95, top)] = rows_of(
        two_days,
        "select count(*), sum(cost_usd), quantile_disc(cost_usd, 0.95), max(cost_usd) from {tasks} where "
        + condition,
    )
    total = made.totals
    assert total.tasks == count > 0
    assert [Decimal(n or 0).scaleb(-9) for n in (total.cost_nano, total.p95_nano, total.max_nano)] == [
        cost,
        p95,
        top,
    ]
    assert sum(part.nano for part in made.parts) == total.cost_nano
    assert made.window.cost_nano == total.cost_nano
    assert made.within is not None
    assert sum(lane.cost_nano for lane in made.lanes) + made.within.machine_nano == total.cost_nano
    users = rows_of(
        two_days, f"select user_id, sum(cost_usd) from {{tasks}} where {condition} group by 1 order by 1"
    )
    ours = {group.name: Decimal(group.cost_nano).scaleb(-9) for group in made.groups["user"]}
    assert ours == dict(users)


@pytest.mark.parametrize("most_kept", [0, 5_000, calls.MOST_KEPT])
@pytest.mark.parametrize("where", [None, {"workspace": ["globex"], "type": ["email", "summary"]}])
def test_lanes_and_speeds_are_those_that_duckdb_finds(
    where: dict[str, list[str]] | None, most_kept: int, two_days: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MOST_KEPT", most_kept)
    made = ask(two_days, where=where)
    condition = "true" if where is None else "workspace = 'globex' and task_type in ('email', 'summary')"
    found = f"""
        from '{two_days.root}/attempts/*/*.parquet' join (
            select task_id, date, task_type from {{tasks}} where {condition}
        ) using (task_id, date) where not (lane = '' and engine in ('dispatcher', 'gate'))
    """
    lanes = rows_of(
        two_days,
        f"""
        select lane, count(*), count(*) filter (verdict = 'pass'), count(*) filter (verdict = 'fail'), count(failure),
               coalesce(sum(cost_usd), 0), round(quantile_disc(latency_ms, 0.5) filter (failure is null), 3),
               round(quantile_disc(latency_ms, 0.95) filter (failure is null), 3),
               round(quantile_disc(time_to_first_token_ms, 0.5) filter (failure is null), 3)
        {found} group by 1 order by 6 desc, 1
        """,
    )
    assert len(lanes) > 1
    assert lanes == [
        (
            lane.name, lane.attempts, lane.passed, lane.not_passed, lane.failures, Decimal(lane.cost_nano).scaleb(-9),
            lane.latency_p50_ms, lane.latency_p95_ms, lane.time_to_first_token_p50_ms,
        )
        for lane in made.lanes
    ]  # fmt: skip
    speeds = rows_of(
        two_days,
        f"""
        select task_type, lane, count(*),
               round(quantile_disc(queue_wait_ms, 0.5), 3), round(quantile_disc(queue_wait_ms, 0.95), 3),
               round(quantile_disc(time_to_first_token_ms, 0.5), 3),
               round(quantile_disc(time_to_first_token_ms, 0.95), 3)
        {found} and failure is null and purpose in ('task', 'retry', 'reprompt') group by 1, 2 order by 1, 2
        """,
    )
    assert speeds
    assert speeds == [
        (
            one.task_type, one.lane, one.calls, one.queue_wait_p50_ms, one.queue_wait_p95_ms,
            one.time_to_first_token_p50_ms, one.time_to_first_token_p95_ms,
        )
        for one in made.speeds
    ]  # fmt: skip


@pytest.mark.parametrize("where", [None, {"user": ["u-1", "u-2"]}])
def test_calls_are_looked_at_with_few_tasks_in_hand(
    where: dict[str, list[str]] | None, two_days: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hand = []

    def noted(tasks: Any, some_calls: Any) -> Iterator[Any]:
        for some, near, places in beside.beside(tasks, some_calls):
            in_hand.append(near.num_rows)
            yield some, near, places

    monkeypatch.setattr(calls, "beside", noted)
    assert ask(two_days, where=where).lanes
    assert (len(in_hand) > 20, max(in_hand) <= 3 * 16) == (True, True)


def test_by_model_and_version_every_task_counts_once(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    def task(name: str, *calls: tuple[str, str]) -> Any:
        made = [
            attempted(f"{name}-{n}", model=model, model_revision=said)
            for n, (model, said) in enumerate(calls)
        ]
        routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
        return story(name, [Submitted("sync"), routed, *made, Finished("succeeded", True)])

    stories = [
        task("a", ("m", "1")), task("b", ("m", "1"), ("m", "2")), task("c", ("m", "1"), ("n", "")),
        task("d", ("m", "2")), task("e"),
    ]  # fmt: skip
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    made = report.build(store, since=DAY, until=DAY, asked=Question(by=["model", "version"]))
    assert {group.name: group.tasks for group in made.groups["model"]} == {"m": 3, "n": 1, "": 1}
    assert {group.name: group.tasks for group in made.groups["version"]} == {
        "m 1": 1,
        "m 2": 2,
        "n": 1,
        "": 1,
    }


def test_versions_of_workspaces_that_share_an_id_are_told_apart(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    for workspace, revision, usd in (("acme", "1", 1), ("globex", "2", 3)):
        facts: list[Fact] = [
            Submitted("sync"),
            Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", ""),
            attempted("t-1", model="m", model_revision=revision, cost_nano=usd * 10**9),
            Finished("succeeded", True),
        ]
        publish(client, [entry(story("t", facts, workspace=workspace))])
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    asked = Question(by=["version"])
    made = report.build(store, since=DAY, until=DAY, asked=asked)
    assert {one.name: one.cost_nano for one in made.groups["version"]} == {"m 1": 10**9, "m 2": 3 * 10**9}
    only = report.build(store, since=DAY, until=DAY, asked=Question(where={"version": ["m 1"]}))
    assert only.totals.cost_nano == 10**9
    path = store.root / "attempts" / f"date={DAY}" / "attempts.parquet"
    older = pq.read_table(path, partitioning=None).drop_columns(["workspace"])
    pq.write_table(older, path, store_decimal_as_integer=True)
    made = report.build(store, since=DAY, until=DAY, asked=asked)
    of_one = {one.name: one.tasks for one in made.groups["version"]}
    assert of_one == {"m 2": 1, "m": 1}, "the id alone tells no more"


def test_the_calls_of_a_day_are_gone_through_once_for_its_versions(two_days: LocalStore) -> None:
    opened: list[str] = []

    class Counted(LocalStore):
        def open(self, path: str) -> Any:
            opened.append(path)
            return super().open(path)

    made = report.build(
        Counted(two_days.root),
        since=DAY,
        until=NEXT,
        asked=Question(by=["version"], where={"version": ["gpt-4o", "smollm2 rev-1"]}, calls=False),
    )
    assert made.totals.tasks
    of_calls = [path for path in opened if path.startswith(ledger.ATTEMPTS)]
    assert len(of_calls) == 2, "two days, which are all of the 30 that there are"


def test_each_task_is_converted_at_the_rate_of_its_day(two_days: LocalStore) -> None:
    dollars, pounds = ask(two_days), ask(two_days, rates=POUNDS)
    found = rows_of(two_days, f"select date::varchar, {', '.join(schema.PARTS)} from {{tasks}}")
    cost = sum(POUNDS.convert(int(part.scaleb(9)), day) for day, *parts in found for part in parts)
    assert pounds.currency == "GBP"
    assert pounds.totals.cost_nano == cost == sum(part.nano for part in pounds.parts)
    assert pounds.totals.tasks == dollars.totals.tasks
    assert dollars.days[1].max_nano is not None
    assert pounds.days[1].max_nano == pytest.approx(dollars.days[1].max_nano * 0.8, abs=len(schema.PARTS))
    assert report.to_dict(pounds)["totals"]["cost_gbp"]


def test_a_day_by_itself_is_held_against_the_weeks_before_it(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    for number in range(9):
        at_us = NOON_US + number * ledger.US_PER_DAY
        cost_nano = 50_000_000 if number == 8 else 1_000_000 + number % 3
        facts: list[Fact] = [
            Submitted("async"),
            attempted("a", cost_nano=cost_nano),
            Finished("succeeded", True),
        ]
        publish(client, [entry(story(f"t{number}-{n}", facts, at_us=at_us)) for n in range(10)])
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    last = "2026-01-09"
    alone = report.build(store, since=last, until=last)
    whole = report.build(store, since=DAY, until=last)
    assert {(one.day, one.kind) for one in alone.odd} >= {
        (last, "cost of a task"),
        (last, "cost of a success"),
    }
    assert alone.odd == whole.odd
    assert alone.totals.tasks == 10
    late = rates_of("GBP", {"GBP": {last: Decimal("0.8")}})
    pounds = report.build(store, since=last, until=last, asked=Question(rates=late))
    assert (pounds.odd, pounds.window.since) == ((), last), "days without a rate are left out"
    assert "The same since 2026-01-09 (1 day with a rate)" in page(pounds)
    assert "The same since 2025-12-11 (30 days, 9 of them in the ledger)" in page(alone)


def test_a_day_before_the_first_rate_is_refused_and_dollars_need_none(two_days: LocalStore) -> None:
    late = rates_of("GBP", {"GBP": {NEXT: Decimal("0.8")}})
    with pytest.raises(ConfigError, match="no rate holds on 2026-01-01"):
        ask(two_days, rates=late)
    assert ask(two_days, rates=rates_of("USD", {})) == ask(two_days)


def test_amounts_that_do_not_fit_are_refused(two_days: LocalStore) -> None:
    with pytest.raises(LedgerError, match="do not fit"):
        ask(two_days, rates=rates_of("XXX", {"XXX": {DAY: Decimal(999_999_999)}}))


def test_a_price_or_what_people_said_makes_a_margin(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    stories = [
        story(
            f"t-{n}",
            [
                Submitted("sync"), routed, attempted(f"t-{n}-1", cost_nano=10**9), Finished("succeeded", n > 0),
                *([Rated(ok=True, value_nano=5 * 10**9)] if n == 1 else []),
            ],
        )
        for n in range(3)
    ]  # fmt: skip
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    told = report.build(store, since=DAY, until=DAY).totals
    assert (told.value_nano, told.valued, told.valued_cost_nano) == (5 * 10**9, 1, 10**9)
    assert (told.margin_nano, told.margin_share) == (4 * 10**9, 0.8), "the other two's worth is not known"
    sold = report.build(store, since=DAY, until=DAY, asked=Question(price_nano=10**9)).totals
    assert (sold.value_nano, sold.margin_nano) == (2 * 10**9, -(10**9))
    assert (sold.valued, sold.valued_cost_nano) == (3, 3 * 10**9), "what failed was not sold, and is paid for"


def test_margins_of_groups_add_up_and_say_of_how_many_tasks_they_are(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Ten tasks for a dollar each; of two of acme's somebody said what they are worth, and one of these failed."""
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "")
    stories = [
        story(
            f"t-{n}",
            [
                Submitted("sync", value_nano=5 * 10**9 if n < 2 else None), routed,
                attempted(f"t-{n}-1", cost_nano=10**9), Finished("succeeded", n > 0),
            ],
            workspace="acme" if n < 5 else "globex",
        )
        for n in range(10)
    ]  # fmt: skip
    publish(client, map(entry, stories))
    ingest.drain_all(client, store, quarantine)
    rollup.rollup_dirty(client, store)
    seat = FlatCost.model_validate({"name": "seat", "usd_per_month": "31"})
    made = report.build(store, since=DAY, until=DAY, asked=Question(by=["workspace"], monthly=[seat]))
    margins = {one.name: (one.valued, one.margin_nano) for one in made.groups["workspace"]}
    assert margins == {"acme": (2, 3 * 10**9), "globex": (0, None)}
    assert (made.totals.valued, made.totals.margin_nano) == (2, 3 * 10**9)
    assert made.loaded is not None
    assert made.loaded.margin_nano is None, "the seat is paid for all tasks"
    lines = [" ".join(line.split()) for line in page(made, 160).splitlines()]
    for line in (
        "Worth of what succeeded, where told $5.00 (told of 2 of 10 tasks)",
        "Margin over what these tasks cost $3.00 (60.0%)",
    ):
        assert line in lines
    start = lines.index("By workspace") + 2
    ends = [line.split()[-2:] for line in lines[start : start + 3]]
    assert ends == [["2", "$3.00"], ["0", "-"], ["2", "$3.00"]]
    told = report.to_dict(made)["totals"]
    assert (told["valued"], told["valued_cost_usd"], told["margin_usd"]) == (2, "2.0", "3.0")


def test_against_another_day_the_difference_is_explained_to_the_nano(two_days: LocalStore) -> None:
    made = report.build(two_days, since=NEXT, until=NEXT, asked=Question(against=DAY))
    found = made.change
    assert found is not None
    before = report.build(two_days, since=DAY, until=DAY).totals
    assert (found.before.cost_nano, found.now.cost_nano) == (before.cost_nano, made.totals.cost_nano)
    assert found.volume_nano + found.mix_nano + found.unit_nano == made.totals.cost_nano - before.cost_nano
    assert set(found.groups) == {"type", "lane", "workspace"}


@pytest.mark.parametrize("most_kept", [0, 1_000, tasks.MOST_KEPT])
def test_a_day_published_anew_between_the_two_readings_changes_nothing(
    two_days: LocalStore, most_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether costs are read once more, some of them, or none."""
    monkeypatch.setattr(tasks, "MOST_KEPT", most_kept)
    days = (DAY, NEXT)
    wanted = rank(one := choose(two_days, days, {}), tally(one), (1,))
    chosen = choose(two_days, days, {})
    tallies = tally(chosen)
    kept = [some is not None for some in tallies.kept]
    assert (any(kept), all(kept)) == (most_kept > 0, most_kept > 1_000)
    path = f"tasks/date={DAY}/tasks.parquet"
    two_days.put(path, drafts.encode(pq.read_table(two_days.root / path, partitioning=None).slice(0, 3)))
    assert rank(chosen, tallies, (1,)) == wanted
    assert wanted[TOTAL].percents.keys() == {TOTAL}
    assert wanted[DATE].percents.keys() == set(days)


def test_where_the_daily_sums_are_missing_the_tasks_tell_the_parts(two_days: LocalStore) -> None:
    whole = ask(two_days)
    (two_days.root / "daily" / f"date={DAY}" / "daily.parquet").unlink()
    assert ask(two_days).parts == whole.parts


def test_a_limit_on_the_95th_percentile_names_the_days_that_broke_it(two_days: LocalStore) -> None:
    p95 = {day.name: day.p95_nano or 0 for day in ask(two_days).days}
    made = ask(two_days, p95_nano=min(p95.values())).goal
    assert made is not None
    assert made.broken_on == tuple(day for day, one in p95.items() if one > min(p95.values()))


def test_such_a_limit_is_broken_on_the_same_days_in_whatever_currency(two_days: LocalStore) -> None:
    falling = rates_of("GBP", {"GBP": {DAY: Decimal("0.75"), NEXT: Decimal("0.25")}})
    p95 = [day.p95_nano or 0 for day in ask(two_days).days]
    for limit in (min(p95) // 2, min(p95) + 1_000, max(p95) + 1_000):
        dollars, pounds = (
            ask(two_days, p95_nano=limit).goal,
            ask(two_days, p95_nano=limit, rates=falling).goal,
        )
        assert dollars is not None
        assert pounds is not None
        assert (pounds.broken_on, pounds.limit_nano) == (dollars.broken_on, round(limit / 4))


@pytest.mark.parametrize(
    "asked",
    [
        {"by": ["workflow", "user"], "calls": True},
        {"where": {"lane": ["local"]}, "against": DAY, "rates": POUNDS},
    ],
)
def test_sums_that_are_added_up_on_the_way_are_those_of_all_at_once(
    asked: dict[str, Any], two_days: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = report.to_dict(ask(two_days, **asked))
    monkeypatch.setattr(sums, "PENDING_ROWS", 1)
    assert report.to_dict(ask(two_days, **asked)) == at_once


@pytest.mark.parametrize("kept", [0, tasks.MOST_KEPT])
def test_columns_of_many_names_have_the_percentiles_of_those_of_few(
    kept: int, two_days: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"by": ["user", "type", "version"], "calls": False}
    of_few = report.to_dict(ask(two_days, **asked))
    monkeypatch.setattr(tasks, "MOST_KEPT", kept)
    monkeypatch.setattr(tasks, "MOST_HISTOGRAMS", 3)
    assert report.to_dict(ask(two_days, **asked)) == of_few


def test_row_groups_that_hold_no_wanted_row_are_not_read(two_days: LocalStore, tmp_path: Path) -> None:
    path = two_days.root / "tasks" / f"date={DAY}" / "tasks.parquet"
    table = pq.read_table(path, partitioning=None).sort_by("workspace")
    pq.write_table(table, path, row_group_size=5)
    every = rows.pieces(two_days, ledger.TASKS, (DAY,), {})
    some = rows.pieces(two_days, ledger.TASKS, (DAY,), {"workspace": frozenset({"acme"})})
    assert 0 < sum(len(piece.groups) for piece in some) < sum(len(piece.groups) for piece in every)
