"""The report's figures, against figures worked out by hand and by DuckDB, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
import redis

from accounting.files.ledger import LocalStore
from accounting.reports import choices, report
from accounting.reports.figures import Odd, Within
from accounting.reports.groups import CATEGORIES
from accounting.reports.report import Question
from accounting.reports.sums import PARTS
from accounting.reports.wording import Amounts
from accounting.reports.wording import usd as usd_of
from broker.errors import LedgerError
from broker.events import (
    Allotted,
    Attempted,
    Escalated,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Routed,
    Submitted,
)
from tests.accounting.rolling import page, rolled
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, day_of_stories, story

NEXT = "2026-01-02"


def usd(nano: int) -> Decimal:
    return Decimal(nano).scaleb(-9)


def routed(lane: str = "local", **said: Any) -> Routed:
    return Routed("intent", "extractive", "regex", "", 1.0, CHAIN, lane, "", **said)


@pytest.fixture
def small(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    """Ten successes at a cent, one failure at two dollars, one without a gate, one parked; two calls unpriced."""
    usd = 10**9
    cheap: list[list[Event]] = [
        story(
            f"ok-{n}",
            [
                Submitted("sync", user=f"u-{n}"),
                routed(),
                attempted(f"ok-{n}-1", cost_nano=usd // 100, verdict="pass", output_tokens=9),
                Finished("succeeded", True, "local"),
            ],
        )
        for n in range(10)
    ]
    failed: list[Fact] = [
        Submitted("sync"),
        routed(),
        attempted("bad-1", cost_nano=usd // 2, verdict="fail"),
        attempted("bad-2", cost_nano=usd // 2, purpose="retry", verdict="fail", failure="timeout"),
        Escalated("local", "frontier", "gate"),
        attempted("bad-3", hop=1, lane="frontier", model="gpt-4o", cost_nano=usd, verdict="fail"),
        attempted("bad-4", hop=1, lane="frontier", model="gpt-4o", cost_nano=None, purpose="reprompt"),
        Finished("failed", False, "frontier"),
    ]
    ungated: list[Fact] = [
        Submitted("async"),
        routed(),
        attempted("n-1", cost_nano=None),
        Finished("succeeded", None),
    ]
    parked: list[Fact] = [
        Submitted("sync"),
        routed(),
        attempted("p-1", cost_nano=usd, settled=False),
        Parked("budget"),
    ]
    return rolled(
        client, store, quarantine, [*cheap, story("bad", failed), story("n", ungated), story("p", parked)]
    )


def test_figures_by_hand(small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY)
    total = made.totals
    assert (total.tasks, total.judged, total.succeeded) == (13, 11, 10)
    assert total.cost_nano == 3_100_000_000
    assert total.cost_per_success_nano == 310_000_000
    assert total.cost_per_task_nano == 238_461_538
    assert made.open.cost_per_judged_success_nano == 210_000_000
    assert (made.open.unjudged_tasks, made.open.unjudged_nano, made.open.failed_nano) == (2, 10**9, 2 * 10**9)
    assert (made.open.unpriced_calls, made.open.unsettled_calls) == (2, 1)
    assert (made.open.parked_tasks, made.open.parked_nano) == (1, 10**9)
    assert (total.p50_nano, total.p95_nano, total.max_nano) == (10_000_000, 2_000_000_000, 2_000_000_000)
    assert {part.name: part.nano for part in made.parts if part.nano} == {
        "inference": 2_600_000_000,
        "retry": 500_000_000,
    }
    assert made.overhead_nano == 500_000_000
    assert made.statuses == {"failed": 1, "parked": 1, "succeeded": 11}
    assert (made.escalated_tasks, made.escalations) == (1, 1)
    lanes = {lane.name: lane for lane in made.lanes}
    assert (lanes["local"].attempts, lanes["local"].passed, lanes["local"].not_passed) == (14, 10, 2)
    assert lanes["local"].failures == 1
    assert lanes["frontier"].pass_rate == 0.0
    [cell] = [cell for cell in made.cells if cell.lane == "frontier"]
    assert cell.cost_per_1k_nano == 2_000 * 10**9
    assert {one.lane: (one.tasks, one.cost_per_1k_nano) for one in made.visits} == {
        "local": (13, round(2_100 * 10**9 / 13)),
        "frontier": (1, 1_000 * 10**9),
    }
    assert [(line.tasks, line.cost_nano) for line in made.dearest] == [(1, 2 * 10**9), (2, 3 * 10**9)]


@pytest.mark.parametrize("name", report.BY)
def test_every_breakdown_sums_to_the_total(name: str, small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY, asked=Question(by=[name]))
    for field in ("tasks", "judged", "succeeded", "cost_nano"):
        assert sum(getattr(group, field) for group in made.groups[name]) == getattr(made.totals, field)
    assert made.within is not None
    lanes = sum(lane.cost_nano for lane in made.lanes) + made.within.machine_nano
    assert lanes == made.totals.cost_nano == sum(part.nano for part in made.parts)


def test_speeds_by_type_and_lane_are_those_of_the_calls_that_answered(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    def task(name: str, *waits: float) -> list[Event]:
        calls = [
            attempted(
                f"{name}-{n}",
                queue_wait_ms=wait,
                latency_ms=200.0,
                output_tokens=10,
                time_to_first_token_ms=wait / 2,
            )
            for n, wait in enumerate(waits)
        ]
        broken = attempted(f"{name}-x", latency_ms=9e9, output_tokens=1, failure="timeout")
        person = attempted(f"{name}-y", lane="human", purpose="human", latency_ms=9e9)
        return story(name, [Submitted("sync"), routed(), *calls, broken, person, Finished("succeeded", True)])

    made = report.build(
        rolled(client, store, quarantine, [task("a", 10, 30), task("b", 20)]), since=DAY, until=DAY
    )
    (speed,) = made.speeds
    assert (speed.task_type, speed.lane, speed.calls) == ("intent", "local", 3)
    assert (speed.queue_wait_p50_ms, speed.queue_wait_p95_ms) == (20, 30)
    assert (speed.time_to_first_token_p50_ms, speed.time_to_first_token_p95_ms) == (10, 15)
    assert speed.output_tokens_per_s == 50


def test_days_on_which_nothing_was_called_have_no_lanes(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    waiting = rolled(client, store, quarantine, [story("a", [Submitted("sync")])])
    made = report.build(waiting, since=DAY, until=DAY)
    assert (made.totals.tasks, made.lanes, made.speeds) == (1, (), ())
    assert made.within is not None
    assert (made.within.machine_nano, made.within.climbed_nano) == (0, 0)


def test_duckdb_agrees(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> None:
    two_days = [*day_of_stories(400), *day_of_stories(200, 9, at_us=NOON_US + 86_400_000_000)]
    made = report.build(
        rolled(client, store, quarantine, two_days), since=DAY, until=NEXT, asked=Question(by=["type"])
    )
    amounts = ("cost_nano", "p50_nano", "p95_nano", "p99_nano", "max_nano")
    oracle = """
        select {key}, count(*), count(succeeded), count(*) filter (succeeded), sum(cost_usd),
               quantile_disc(cost_usd, 0.5), quantile_disc(cost_usd, 0.95), quantile_disc(cost_usd, 0.99), max(cost_usd)
        from '{root}/tasks/*/*.parquet' group by 1 order by 1
    """
    for groups, key in (
        (made.groups["type"], "task_type"),
        (made.days, "date::varchar"),
        ((made.totals,), "'total'"),
    ):
        ours = [
            (g.name, g.tasks, g.judged, g.succeeded, *(usd(getattr(g, field)) for field in amounts))
            for g in sorted(groups, key=lambda group: group.name)
        ]
        assert ours == duckdb.connect().execute(oracle.format(key=key, root=store.root)).fetchall()


def test_only_the_days_asked_for(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> None:
    two_days = [*day_of_stories(4), *day_of_stories(3, 9, at_us=NOON_US + 86_400_000_000)]
    rolled(client, store, quarantine, two_days)
    assert report.build(store, since=NEXT, until=NEXT).totals.tasks == 3
    assert report.build(store, since=DAY, until=NEXT).totals.tasks == 7
    assert report.build(store, since="2026-01-03", until="2026-01-31").totals.tasks == 0


def test_calls_that_were_not_read_are_said_to_be_left_out(small: LocalStore) -> None:
    for calls in (True, False):
        made = report.build(small, since=DAY, until=DAY, asked=Question(calls=calls))
        assert report.to_dict(made)["calls_read"] is calls
        assert ("Calls were not read one by one" in page(made)) is not calls


def test_json_has_money_as_exact_text(small: LocalStore) -> None:
    made = json.loads(json.dumps(report.to_dict(report.build(small, since=DAY, until=DAY))))
    assert made["currency"] == "USD"
    assert made["totals"]["cost_usd"] == "3.1"
    assert made["totals"]["cost_per_success_usd"] == "0.31"
    assert made["totals"]["success_rate"] == pytest.approx(10 / 11)
    assert made["open"]["parked_usd"] == "1.0"
    assert made["groups"]["lane"][0]["name"] == "frontier"
    assert made["overhead_usd"] == "0.5"


def test_nothing_to_report(store: LocalStore) -> None:
    made = report.build(store, since=DAY, until=DAY, asked=Question(by=list(report.BY)))
    assert made.totals.cost_per_task_nano is None
    assert made.totals.cost_per_success_nano is None
    assert "No tasks" in page(made)
    json.dumps(report.to_dict(made))


def test_what_cannot_be_asked(store: LocalStore) -> None:
    with pytest.raises(ValueError, match="'colour'"):
        Question(by=["colour"])
    with pytest.raises(ValueError, match="month"):
        report.build(store, since="2026-13-01", until=DAY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"PAR1",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-400] + bytes(392) + data[-8:],
    ],
)
def test_a_damaged_file_names_the_mend(damage: Callable[[bytes], bytes], small: LocalStore) -> None:
    path = small.root / "tasks" / f"date={DAY}" / "tasks.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LedgerError, match=f"laneway rollup --date {DAY}"):
        report.build(small, since=DAY, until=DAY)


def test_the_page_says_what_the_figures_leave_open(small: LocalStore) -> None:
    text = " ".join(page(report.build(small, since=DAY, until=DAY)).split())
    for said in (
        "Cost per successful task ≥$0.310",
        "90.9% (10 of 11)",
        "No verdict on 2 tasks (≥$1.00)",
        "a success costs ≥$0.210",
        "Waiting for a person: 1 task, ≥$1.00 spent so far",
        "No price is known of 2 calls.",
        "1 call got lost on the way",
        "of which overhead (all but inference) $0.5000 16.1%",
        "frontier",
    ):
        assert said in text


def succeeded(name: str, *costs: int | None, day: int = 0, lane: str = "local") -> list[Event]:
    """A task that succeeded, with a call for each cost."""
    calls = [
        attempted(f"{name}-{number}", lane=lane, cost_nano=cost, verdict="pass")
        for number, cost in enumerate(costs)
    ]
    facts: list[Fact] = [Submitted("sync"), routed(lane), *calls, Finished("succeeded", True, lane)]
    return story(name, facts, at_us=NOON_US + day * 86_400_000_000)


def test_where_no_call_has_a_known_price_no_task_is_said_to_cost_nothing(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, [succeeded(f"u-{number}", None) for number in range(3)])
    made = report.build(store, since=DAY, until=DAY)
    for one in (made.totals, *made.groups["type"], *made.days):
        assert (one.tasks, one.unpriced_calls) == (3, 3)
        assert {
            one.cost_per_task_nano,
            one.cost_per_success_nano,
            one.p50_nano,
            one.p95_nano,
            one.max_nano,
        } == {None}
    assert (made.window.unpriced_calls, made.window.cost_per_success_nano) == (3, None)
    assert [one.cost_per_1k_nano for one in (*made.cells, *made.visits)] == [None, None]
    told = report.to_dict(made)
    assert (told["totals"]["unpriced_calls"], told["totals"]["cost_per_success_usd"]) == (3, None)
    lines = [" ".join(line.split()) for line in page(made).splitlines()]
    for line in (
        "Spent -",
        "Cost per successful task -",
        "Cost of a task, p50 · p95 · p99 · max - · - · - · -",
    ):
        assert line in lines
    assert any(line.startswith("intent 3 100.0% - ") for line in lines)


def test_amounts_that_unpriced_calls_are_missing_from_are_marked_and_others_are_not(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [
        succeeded("a", 10**7), succeeded("b", 10**7, None, lane="midtier"), succeeded("c", None, lane="frontier"),
    ]  # fmt: skip
    rolled(client, store, quarantine, stories)
    made = report.build(store, since=DAY, until=DAY, asked=Question(by=["lane"], p95_nano=10**9))
    assert {one.name: one.unpriced_calls for one in made.groups["lane"]} == {
        "local": 0,
        "midtier": 1,
        "frontier": 1,
    }
    lines = [" ".join(line.split()) for line in page(made).splitlines()]
    for line in (
        "Spent ≥$0.020000",
        "Spent on tasks that failed their judge $0.000000",
        "Cost per successful task ≥$0.00667",
        "The same since 2025-12-03 (30 days, 1 of them in the ledger) ≥$0.00667",
        "Cost of a task, p50 · p95 · p99 · max ≥$0.0100 · ≥$0.0100 · ≥$0.0100 · ≥$0.0100",
        "95 of 100 tasks under $1.00 ≥$0.0100; kept on at most 1 of 1 days",
        "local 1 100.0% $0.010000 50.0% $0.0100 $0.0100 $0.0100 $0.0100 $0.0100 $0.0100 0.0%",
        "midtier 1 100.0% ≥$0.010000 50.0% ≥$0.0100 ≥$0.0100 ≥$0.0100 ≥$0.0100 ≥$0.0100 ≥$0.0100 0.0%",
        "frontier 1 100.0% - 0.0% - - - - - - -",
        "Where the money went (without the calls of unknown price)",
    ):
        assert line in lines


def test_the_last_30_days_know_of_calls_without_a_price_that_the_report_has_not(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Also where parts are near, and where tasks are chosen."""
    part: list[Fact] = [
        Submitted("sync", parent="a"), Routed("judge", "", "regex", "", 1.0, CHAIN, "local", "", root="a"),
        attempted("p-1", cost_nano=None), Finished("succeeded", True),
    ]  # fmt: skip
    rolled(
        client,
        store,
        quarantine,
        [succeeded("a", 10**7, None), succeeded("b", 10**7, day=1), story("p", part)],
    )
    for where, unknown in (
        (None, 2),
        ({"workspace": ["acme"]}, 2),
        ({"type": ["intent"]}, 2),
        ({"type": ["judge"]}, 0),
    ):
        made = report.build(store, since=NEXT, until=NEXT, asked=Question(where=where))
        assert (made.totals.unpriced_calls, made.window.unpriced_calls) == (0, unknown)
    text = " ".join(page(report.build(store, since=NEXT, until=NEXT)).split())
    assert "2 of them in the ledger) ≥$0.0100" in text
    assert "No price is known of 2 calls since 2025-12-04." in text


def test_spend_where_nothing_is_usual_is_said_in_words_and_not_in_times(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    days = [succeeded(f"t-{day}", 0 if day < 7 else 10**9, day=day) for day in range(14)]
    made = report.build(rolled(client, store, quarantine, days), since=DAY, until="2026-01-14")
    lines = [" ".join(line.split()) for line in page(made).splitlines()]
    assert "all tasks cost of a task $0.00 $1.00 from nothing" in lines
    assert "2026-01-08 cost of a task of all tasks: usually nothing $1.00 $0.00" in lines
    assert [one["times"] for one in report.to_dict(made)["drifts"]] == [None, None]


def test_a_workflow_that_climbs_is_told_to_go_to_cheaper_lanes_and_not_to_call_less(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    def told(name: str, workflow: str, *lanes: str) -> list[Event]:
        calls: list[Fact] = []
        for hop, lane in enumerate(lanes):
            calls += [Escalated(lanes[hop - 1], lane, "gate")] if hop else []
            cost = 10**9 if lane == "frontier" else 10**6
            calls.append(attempted(f"{name}-{hop}", hop=hop, lane=lane, cost_nano=cost, input_tokens=100))
        facts = [
            Submitted("sync", workflow=workflow),
            routed(),
            *calls,
            Finished("succeeded", True, lanes[-1]),
        ]
        return story(name, facts)

    stories = [told(f"b-{number}", "plain", "local") for number in range(5)]
    rolled(client, store, quarantine, [*stories, told("a", "climbing", "local", "frontier")])
    climbing, plain = report.build(store, since=DAY, until=DAY).costly
    assert (climbing.workflow, climbing.action, climbing.times_usual) == (
        "climbing",
        choices.CLIMB_LESS,
        1_001,
    )
    assert (plain.action, plain.tasks) == (choices.AS_USUAL, 5)


def test_of_few_tasks_that_people_did_the_page_says_nothing_that_is_not_so(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """One of three is no hundredth of them, a person writes no tokens a second, and no success costs nothing."""
    by_hand: list[list[Event]] = [
        story(
            f"t-{number}",
            [
                Submitted("sync"),
                routed("human"),
                attempted("c", lane="human", engine="human", model="", purpose="human", cost_nano=10**9),
                Finished("succeeded", None, "human"),
            ],
        )
        for number in range(3)
    ]
    made = report.build(rolled(client, store, quarantine, by_hand), since=DAY, until=DAY)
    assert [(one.name, one.output_tokens_per_s) for one in made.lanes] == [("human", None)]
    text = page(made)
    for said in (
        "How the spend is spread",
        "How fast lanes answer",
        "Over judged tasks alone",
        "1% of tasks",
    ):
        assert said not in text
    assert "10% of tasks" in page(
        report.build(rolled(client, store, quarantine, day_of_stories(12)), since=DAY, until=DAY)
    )


def rated_days() -> list[list[Event]]:
    """Of six tasks four were rated, one of them twice: two are good in the end, all are on two lanes and two types."""

    def one(name: str, task_type: str, *said: bool | None) -> list[Event]:
        lane = "local" if task_type == "intent" else "frontier"
        return story(
            name,
            [
                Submitted("sync", task_type=task_type, user=name),
                Routed(task_type, "extractive", "declared", "", 1.0, CHAIN, lane, ""),
                attempted(f"{name}-1", lane=lane, cost_nano=10**9, verdict="pass"),
                Finished("succeeded", True, lane),
                *(Rated(ok=ok, comment="so so") for ok in said),
            ],
        )

    return [
        one("a", "intent", True),
        one("b", "intent", False),
        one("c", "intent", False, True, None),
        one("d", "intent", None),
        one("e", "draft", False),
        one("f", "draft"),
    ]


def test_satisfaction_stands_beside_cost_and_completion(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, rated_days())
    made = report.build(store, since=DAY, until=DAY, asked=Question(by=("type", "lane", "user")))
    assert (made.totals.rated, made.totals.satisfied, made.totals.satisfaction) == (4, 2, 0.5)
    of_types = {one.name: (one.rated, one.satisfied) for one in made.groups["type"]}
    assert of_types == {"intent": (3, 2), "draft": (1, 0)}
    assert {one.name: one.rated for one in made.groups["lane"]} == {"local": 3, "frontier": 1}
    assert {one.rated for one in made.groups["user"]} == {None}  # the daily sums do not know users
    text = page(made, 160)
    assert "Satisfied, of those who rated the outcome" in text
    assert "50.0% (2 of 4)" in text
    only = report.build(store, since=DAY, until=DAY, asked=Question(where={"type": ["draft"]}))
    assert (only.totals.rated, only.totals.satisfied) == (1, 0)
    of_user = report.build(store, since=DAY, until=DAY, asked=Question(where={"user": ["a"]}))
    assert (of_user.totals.rated, of_user.totals.satisfaction) == (None, None)


def test_days_rolled_before_ratings_were_counted_are_read_and_have_none(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, rated_days())
    path = store.root / "daily" / f"date={DAY}" / "daily.parquet"
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["rated", "satisfied"]), path)
    made = report.build(store, since=DAY, until=DAY)
    assert (made.totals.tasks, made.totals.cost_nano) == (6, 6 * 10**9)
    assert (made.totals.rated, made.totals.satisfaction) == (0, None)
    assert "Satisfied" not in page(made)


def test_four_categories_sum_to_the_spend(small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY)
    assert {one.name: one.nano for one in made.categories} == {
        "inference": 2_600_000_000,
        "orchestration": 500_000_000,
        "data": 0,
        "human": 0,
    }
    assert sorted(sum(CATEGORIES.values(), ())) == sorted(PARTS)


def test_a_month_of_which_the_ledger_has_a_day_says_so(small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY)
    assert (made.window.since, made.window.days) == ("2025-12-03", 1)
    assert "The same since 2025-12-03 (30 days, 1 of them in the ledger)" in page(made)


def test_patterns_that_found_nothing_are_named(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    def found_by(number: int, by: str) -> list[Event]:
        found = Routed("intent", "extractive", by, "", 1.0, CHAIN, "local", "")
        return story(f"{by}-{number}", [Submitted("sync"), found, Finished("succeeded", True, "local")])

    told = [found_by(number, "declared") for number in range(30)]
    untold = [found_by(number, by) for by in ("regex", "embedding") for number in range(10)]
    rolled(client, store, quarantine, [*told, *untold])
    made = report.build(store, since=DAY, until=DAY, asked=Question(ruled=("intent", "draft", "research")))
    assert (made.classified, made.unfired) == (20, ("draft", "research"))
    text = " ".join(page(made).split())
    assert "The patterns of draft, research found none of 20 tasks that came without a type" in text
    some = report.build(
        store, since=DAY, until=DAY, asked=Question(ruled=("draft",), where={"lane": ["local"]})
    )
    assert (some.classified, some.unfired) == (None, ())


def test_of_few_tasks_no_pattern_is_called_useless(small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY, asked=Question(ruled=("draft",)))
    assert (made.classified, made.unfired) == (13, ())


def test_days_that_were_never_rolled_are_told(small: LocalStore) -> None:
    (small.root / "events" / "date=2026-01-02").mkdir(parents=True)
    made = report.build(small, since=DAY, until="2026-01-03")
    assert made.unrolled == ("2026-01-02",)
    assert "1 day has events and no nightly files" in page(made, 200)
    assert report.build(small, since=DAY, until=DAY).unrolled == ()


def test_of_days_that_have_none_of_the_chosen_tasks_it_is_said_that_they_have_none(small: LocalStore) -> None:
    (small.root / "events" / f"date={NEXT}").mkdir(parents=True)
    for asked, says in ((Question(where={"workflow": ["nope"]}), True), (Question(), False)):
        text = page(report.build(small, since=DAY, until=DAY, asked=asked))
        assert ("No task of these days is one of those that were chosen" in text) is says
        assert "rollup" not in text
    both = Question(where={"workflow": ["nope"]})
    assert "laneway rollup --since 2026-01-02" in page(
        report.build(small, since=DAY, until=NEXT, asked=both), 200
    )


def test_days_that_were_never_rolled_are_told_of_the_month_and_of_the_range_compared_with(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    two_days = [*day_of_stories(4), *day_of_stories(3, 9, at_us=NOON_US + 2 * 86_400_000_000)]
    rolled(client, store, quarantine, two_days)
    asked = Question(against=DAY)
    assert "no nightly files" not in page(
        report.build(store, since="2026-01-03", until="2026-01-04", asked=asked)
    )
    (store.root / "events" / f"date={NEXT}").mkdir()
    made = report.build(store, since="2026-01-03", until="2026-01-04", asked=asked)
    assert made.change is not None
    assert (made.change.before.unrolled, made.change.now.unrolled) == ((NEXT,), ())
    assert (made.window.unrolled, made.unrolled) == ((NEXT,), ())
    told = report.to_dict(made)
    assert told["window"]["unrolled"] == told["change"]["before"]["unrolled"] == [NEXT]
    text = " ".join(page(made).split())
    assert "Of the days compared with, 1 day has events and no nightly files" in text
    assert "Of the days since 2025-12-06, 1 day has events and no nightly files" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_figure_is_ever_cut(
    width: int, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, day_of_stories(200))
    text = page(report.build(store, since=DAY, until=DAY, asked=Question(by=list(report.BY))), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("amounts", "decimals", "printed"),
    [
        ([1_000_000_000] * 3, 2, ["$1.00"] * 3),
        ([333_333_333, 333_333_333, 333_333_334], 2, ["$0.33", "$0.33", "$0.34"]),
        ([1, 2_000_000_000], 2, ["<$0.01", "$2.00"]),
        ([0, 5_000_000], 2, ["$0.00", "<$0.01"]),
        ([], 2, []),
    ],
)
def test_columns_add_up_as_printed(amounts: list[int], decimals: int, printed: list[str]) -> None:
    assert Amounts().column(amounts, decimals) == printed


@pytest.mark.parametrize(
    ("nano", "printed"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (1_234, "$0.00000123"),
        (12_345_678, "$0.0123"),
        (1_234_567_890, "$1.23"),
        (1_234_567_890_123, "$1,234.57"),
        (-38_830_000_000, "-$38.83"),
        (-1, "-$0.000000001"),
        (None, "-"),
    ],
)
def test_amounts_have_the_figures_that_count(nano: int | None, printed: str) -> None:
    assert usd_of(nano) == printed


def test_what_is_within_the_spend_by_hand(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """A cent of routing and two of checking are ours. First calls on further lanes cost 400 and 800 cents; the further
    ones there are another thing. Of two calls on a machine 15 of 16 and 30 of 32 cents are its wear and idle time."""
    cent = 10**7

    def call(number: int, cents: int, **said: Any) -> Attempted:
        return attempted(f"w-{number}", cost_nano=cents * cent, **said)

    calls = [
        call(1, 6, marginal_nano=cent),
        call(2, 32, marginal_nano=2 * cent, purpose="retry", gate_cost_nano=2 * cent),
        call(3, 400, hop=1, lane="midtier"),
        call(4, 100, hop=1, lane="midtier", purpose="retry"),
        call(5, 200, hop=1, lane="midtier", purpose="tool"),
        call(6, 800, hop=2, lane="frontier", marginal_nano=800 * cent),
        call(7, 3_000, hop=3, lane="human", purpose="human"),
    ]
    facts: list[Fact] = [
        Submitted("sync"), routed(cost_nano=cent), *calls, Allotted("w-1", 10 * cent), Finished("succeeded", True),
    ]  # fmt: skip
    made = report.build(rolled(client, store, quarantine, [story("w", facts)]), since=DAY, until=DAY)
    assert made.within == Within(3 * cent, (400 + 800) * cent, (15 + 30) * cent)
    assert made.totals.cost_nano == (1 + 16 + 34 + 400 + 100 + 200 + 800 + 3_000) * cent


def test_tasks_that_wait_and_tasks_in_hand_are_unfinished_and_parked_ones_are_told_apart(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    started: list[Fact] = [Submitted("sync"), routed(), attempted("r-1")]
    stories = [
        story("q-1", [Submitted("sync")]),
        story("q-2", [Submitted("sync"), routed()]),
        story("r", started),
        story("p", [*started, Parked("budget")]),
        story("f", [*started, Finished("failed", False)]),
        story("c", [Submitted("sync"), Finished("cancelled", None)]),
    ]
    made = report.build(rolled(client, store, quarantine, stories), since=DAY, until=DAY)
    assert made.statuses == {"queued": 2, "running": 1, "parked": 1, "failed": 1, "cancelled": 1}
    assert (made.open.unfinished_tasks, made.open.parked_tasks) == (3, 1)


def test_what_is_too_little_to_be_printed_is_not_printed_as_nothing() -> None:
    assert [usd_of(nano, 4) for nano in (0, 37_035, 100_000)] == ["$0.0000", "<$0.0001", "$0.0001"]
    assert Amounts("GBP").one(-38_830_000_000, 2) == "-GBP 38.83"


def test_what_is_odd_is_told_without_obeying_the_names_in_it(small: LocalStore) -> None:
    made = report.build(small, since=DAY, until=DAY)
    words = "workflow \x1b[31mred\nline is new"
    told = (
        Odd(DAY, "new workflow", "", 0.5, 0.0, "share", words),
        Odd(DAY, "calls", "", 1105.0, 82.5, "count", "calls of all tasks"),
    )
    text = page(replace(made, odd=told))
    assert "\x1b" not in text
    assert "workflow \ufffd[31mred\ufffdline is new" in text
    assert [line.split()[-2:] for line in text.splitlines() if "calls of all tasks" in line] == [
        ["1,105", "82.50"]
    ]
