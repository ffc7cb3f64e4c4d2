"""A task and its parts are one task in the report: counted once, with all that its critics and sub-tasks spent."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from accounting.files import ledger
from accounting.files.ledger import LocalStore
from accounting.reports import beside, families, files, measured, report
from accounting.reports.calls import Calls
from accounting.reports.currency import Rates
from accounting.reports.report import Question, Report
from accounting.reports.tasks import choose
from broker.events import Escalated, Event, Fact, Finished, Rated, Routed, Submitted
from tests.accounting.rolling import page, rolled
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, story

CENT = 10_000_000
NEXT, THIRD = "2026-01-02", "2026-01-03"
DAYS = (DAY, NEXT, THIRD)
POUNDS = Rates("GBP", (("2025-01-01", 500_000),))


def told(
    name: str,
    task_type: str,
    cents: int,
    *,
    root: str = "",
    ok: bool | None = True,
    lane: str = "local",
    day: int = 0,
    purpose: str = "task",
    workspace: str = "acme",
) -> list[Event]:
    """A task of one call, a part of ``root`` where there is one."""
    facts: list[Fact] = [
        Submitted("sync", "flow", "pipe", f"u-{name}", parent=root or None),
        Routed(task_type, "extractive", "regex", "", 1.0, CHAIN, lane, "", root=root),
        attempted(
            f"{name}-1", lane=lane, cost_nano=cents * CENT, purpose=purpose, verdict="pass" if ok else "fail"
        ),
        Finished("succeeded" if ok else "failed", ok, lane),
    ]
    return story(name, facts, at_us=NOON_US + day * ledger.US_PER_DAY, workspace=workspace)


@pytest.fixture
def family(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    """Two tasks of "draft", one good and one bad, each with a critic; the good one has a sub-task of its critic too,
    and one on the next day. A task of "intent" has no part, and one names a parent that nobody knows."""
    return rolled(
        client,
        store,
        quarantine,
        [
            told("a", "draft", 10),
            told("a-critic1", "judge", 30, root="a", purpose="judge", ok=None, lane="frontier"),
            told("a-critic1-x", "judge", 1, root="a", lane="frontier"),
            told("a-late", "research", 2, root="a", day=1, ok=False),
            told("b", "draft", 10, ok=False),
            told("b-critic1", "judge", 30, root="b", purpose="judge", lane="frontier"),
            told("c", "intent", 1),
            told("d", "intent", 1),
        ],
    )


def of_days(store: LocalStore, since: str = DAY, until: str = NEXT, **asked: object) -> Report:
    return report.build(store, since=since, until=until, asked=Question(**asked))  # type: ignore[arg-type]


def test_parts_are_no_tasks_and_what_they_spent_is_their_roots(family: LocalStore) -> None:
    made = of_days(family, by=("type", "lane", "user"))
    total = made.totals
    assert (total.tasks, total.judged, total.succeeded, total.cost_nano) == (4, 4, 3, 85 * CENT)
    assert total.cost_per_success_nano == round(85 * CENT / 3)
    assert (made.parts_of_tasks, made.parts_of_tasks_nano) == (4, 63 * CENT)
    of_types = {one.name: (one.tasks, one.succeeded, one.cost_nano) for one in made.groups["type"]}
    assert of_types == {"draft": (2, 1, 83 * CENT), "intent": (2, 2, 2 * CENT)}
    assert {one.name: one.cost_nano for one in made.groups["lane"]} == {"local": 85 * CENT}
    assert {one.name: one.cost_nano for one in made.groups["user"]}["u-a"] == 43 * CENT
    assert made.open.failed_nano == 40 * CENT
    assert "4: $0.63" in page(made)


def test_the_dearest_task_is_one_with_its_parts(family: LocalStore) -> None:
    total = of_days(family).totals
    assert (total.p50_nano, total.p95_nano, total.max_nano) == (CENT, 43 * CENT, 43 * CENT)


def test_a_critic_s_calls_are_validation(family: LocalStore) -> None:
    parts = {one.name: one.nano for one in of_days(family).parts if one.nano}
    assert parts == {"inference": 25 * CENT, "validation": 60 * CENT}


def test_money_stays_on_its_day_and_days_add_up(family: LocalStore) -> None:
    both = of_days(family)
    assert [(one.name, one.tasks, one.cost_nano) for one in both.days] == [
        (DAY, 4, 83 * CENT),
        (NEXT, 0, 2 * CENT),
    ]
    first, second = of_days(family, DAY, DAY), of_days(family, NEXT, NEXT)
    assert first.totals.cost_nano + second.totals.cost_nano == both.totals.cost_nano
    assert (first.totals.max_nano, second.totals.tasks, second.totals.max_nano) == (41 * CENT, 0, None)
    assert {one.name for one in second.groups["type"]} == {"draft"}  # of the root, which came the day before


def test_the_last_thirty_days_count_tasks_and_not_their_parts(family: LocalStore) -> None:
    for where in ({}, {"type": ["draft"]}, {"workspace": ["acme"]}, {"user": ["u-a"]}):
        made = of_days(family, where=where)
        window, total = made.window, made.totals
        assert (window.tasks, window.succeeded, window.cost_nano) == (
            total.tasks,
            total.succeeded,
            total.cost_nano,
        )


def test_who_chooses_a_type_chooses_the_parts_of_its_tasks(family: LocalStore) -> None:
    made = of_days(family, where={"type": ["draft"]}, calls=True)
    assert (made.totals.tasks, made.totals.cost_nano) == (2, 83 * CENT)
    assert sum(one.nano for one in made.parts) == 83 * CENT
    assert {one.name: one.cost_nano for one in made.lanes} == {"frontier": 61 * CENT, "local": 22 * CENT}
    assert {one.task_type for one in made.speeds} == {"draft", "judge", "research"}  # of each call, its own
    assert of_days(family, where={"type": ["judge"]}).totals.cost_nano == 0


def test_a_part_that_came_days_later_is_no_task_either_and_its_money_is_not_lost(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, [told("a", "draft", 1), told("p", "judge", 5, root="a", day=2)])
    made = of_days(store, DAY, THIRD)
    assert (made.totals.tasks, made.totals.succeeded, made.totals.cost_nano) == (1, 1, 6 * CENT)
    assert {one.name: (one.tasks, one.cost_nano) for one in made.groups["type"]} == {
        "draft": (1, CENT),
        "judge": (0, 5 * CENT),
    }


def test_tasks_of_two_workspaces_that_share_an_id_have_parts_of_their_own(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [
        told("a", "draft", 1),
        told("a", "intent", 1, workspace="globex"),
        told("p", "judge", 5, root="a", workspace="globex"),
    ]
    rolled(client, store, quarantine, stories)
    made = of_days(store, DAY, DAY, by=("type", "workspace"))
    assert {one.name: one.cost_nano for one in made.groups["type"]} == {"draft": CENT, "intent": 6 * CENT}
    assert {one.name: one.cost_nano for one in made.groups["workspace"]} == {"acme": CENT, "globex": 6 * CENT}


def test_calculators_take_a_task_with_its_parts(family: LocalStore) -> None:
    found = measured.measure(family, DAY, NEXT)
    assert found is not None
    work = found.work("draft")
    assert (work.tasks, work.judged, work.succeeded, work.cost_nano, work.p95_nano) == (
        2,
        2,
        1,
        83 * CENT,
        43 * CENT,
    )
    assert (found.work().tasks, found.work().cost_nano) == (4, 85 * CENT)
    judged = found.tries("judge", "frontier")
    assert (judged.tries, judged.cost_nano) == (3, 61 * CENT)  # of a try, its own type
    assert found.tries(root_type="judge").tries == 0
    assert found.tries(root_type="draft").cost_nano == 83 * CENT  # with those of its parts, as its work has
    assert found.tries("draft", root_type="draft").cost_nano == 20 * CENT
    assert found.types == ("draft", "intent", "judge", "research")
    assert found.root_types == ("draft", "intent")
    assert (found.work("judge").tasks, found.work("judge").cost_nano) == (0, 0)


def test_a_plan_from_the_ledger_comes_to_what_tasks_with_critics_spent(family: LocalStore) -> None:
    found = measured.measure(family, DAY, DAY)
    assert found is not None
    work, calls = found.work(), found.tries(first=True)
    assert calls.cost_nano == 23 * CENT  # the first calls of tasks and of the sub-task, of no critic
    assert work.inference_nano == calls.cost_nano
    assert work.redone_nano == 60 * CENT
    assert work.cost_nano == work.inference_nano + work.redone_nano


def test_nothing_is_dearer_than_the_spend_it_is_a_share_of(family: LocalStore) -> None:
    for since, until in ((DAY, DAY), (DAY, NEXT), (NEXT, NEXT)):
        made = of_days(family, since, until)
        assert all(one.cost_nano <= made.totals.cost_nano for one in made.dearest)


def test_a_day_of_parts_alone_has_its_money_on_the_page(family: LocalStore) -> None:
    text = page(of_days(family, NEXT, NEXT))
    assert "No tasks in these days" not in text
    assert "$0.0200" in text


def test_a_day_of_parts_alone_is_drawn_and_has_its_page(family: LocalStore, tmp_path: Path) -> None:
    made = of_days(family, NEXT, NEXT)
    html = files.write_page(made, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No tasks in these days" not in html
    assert "$0.0200" in html
    assert "<svg" in html
    assert files.write_plot(made, tmp_path / "r.png").stat().st_size


@pytest.mark.parametrize(
    "asked",
    [{}, {"where": {"lane": ["local"]}}, {"calls": True, "where": {"type": ["draft"]}}, {"rates": POUNDS}],
)
def test_many_days_with_parts_are_told_in_whatever_way(
    asked: dict[str, Any], client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    days = 12
    stories = [told(f"t{day}", "draft", 10, day=day) for day in range(days)]
    stories += [told(f"p{day}", "judge", 30, root=f"t{day}", day=day, lane="frontier") for day in range(days)]
    rolled(client, store, quarantine, stories)
    made = of_days(store, DAY, "2026-01-12", **asked)
    unit = 2 if "rates" in asked else 1
    assert (made.totals.tasks, made.totals.cost_nano) == (days, days * 40 * CENT // unit)
    assert (made.totals.p50_nano, made.totals.max_nano) == (40 * CENT // unit, 40 * CENT // unit)


def test_a_root_of_a_day_without_a_rate_is_looked_up_all_the_same(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [
        told("a", "draft", 10),
        told("x", "judge", 5, root="a"),
        told("p", "judge", 30, root="a", day=1),
    ]
    rolled(client, store, quarantine, stories)
    made = of_days(store, NEXT, NEXT, rates=Rates("GBP", ((NEXT, 500_000),)))
    assert {one.name: one.cost_nano for one in made.groups["type"]} == {"draft": 15 * CENT}


def test_a_kind_that_had_parts_and_no_task_before_is_compared(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [told("a", "draft", 10), told("p", "judge", 5, root="a", day=1), told("b", "draft", 7, day=2)]
    rolled(client, store, quarantine, stories)
    change = of_days(store, THIRD, THIRD, against=NEXT).change
    assert change is not None
    assert change.volume_nano + change.mix_nano + change.unit_nano == change.difference_nano == 2 * CENT


def test_moves_worth_and_ratings_are_of_tasks_and_not_of_their_parts(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    part: list[Fact] = [
        Submitted("sync", parent="a", value_nano=9 * CENT),
        Routed("judge", "extractive", "regex", "", 1.0, CHAIN, "local", "", root="a"),
        attempted("p-1", cost_nano=CENT, verdict="fail"),
        Escalated("local", "frontier", "the gate said fail"),
        attempted("p-2", cost_nano=CENT, lane="frontier", hop=1, verdict="pass"),
        attempted("p-3", cost_nano=5 * CENT, lane="human", hop=2, engine="human", purpose="human"),
        Finished("succeeded", True, "frontier"),
        Rated(ok=True),
    ]
    rolled(client, store, quarantine, [told("a", "draft", 10), story("p", part)])
    made = of_days(store, DAY, DAY, ruled=("draft", "intent"))
    assert (made.escalated_tasks, made.escalations) == (0, 0)
    assert (made.totals.value_nano, made.totals.rated) == (None, 0)
    assert {(one.task_type, one.lane): one.tasks for one in made.visits} == {
        ("draft", "local"): 1,
        ("judge", "local"): 1,
        ("judge", "frontier"): 1,
        ("judge", "human"): 1,
    }
    found = measured.measure(store, DAY, DAY)
    assert found is not None
    assert (found.work().reviewed, found.work().human_nano) == (1, 5 * CENT)


def test_what_parts_spent_is_in_the_margin_of_their_root_and_a_part_s_own_worth_is_not(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """The root is worth a dollar; a part of it came a day later, and one of a root that nobody valued says its own."""
    stories = [told("a", "draft", 10), told("b", "draft", 7)]
    stories[0].append(Event("acme", "a", 5, NOON_US + 5_000, NOON_US, Rated(value_nano=100 * CENT)))
    parts = [
        told("p", "judge", 5, root="a"),
        told("q", "judge", 3, root="a", day=1),
        told("r", "judge", 2, root="b"),
    ]
    parts[2].append(Event("acme", "r", 5, NOON_US + 5_000, NOON_US, Rated(value_nano=9 * CENT)))
    rolled(client, store, quarantine, [*stories, *parts])
    made = of_days(store)
    assert (made.totals.valued, made.totals.valued_cost_nano) == (1, 18 * CENT)
    assert made.totals.margin_nano == 82 * CENT
    assert [one.margin_nano for one in made.days] == [85 * CENT, -3 * CENT]


def test_a_pattern_that_found_parts_is_not_called_useless(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    tasks = [told(f"t{number}", "draft", 1) for number in range(25)]
    rolled(client, store, quarantine, tasks)
    assert of_days(store, DAY, DAY, ruled=("draft", "research")).unfired == ("research",)
    rolled(client, store, quarantine, [told("p", "research", 1, root="t1")])
    assert of_days(store, DAY, DAY, ruled=("draft", "research")).unfired == ()


def test_one_id_on_two_days_is_two_tasks_and_a_part_is_of_the_one_on_its_day(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [told("a", "draft", 10), told("a", "intent", 20, day=1), told("p", "judge", 5, root="a", day=1)]
    rolled(client, store, quarantine, stories)
    made = of_days(store, DAY, NEXT)
    assert {one.name: (one.cost_nano, one.max_nano) for one in made.groups["type"]} == {
        "draft": (10 * CENT, 10 * CENT),
        "intent": (25 * CENT, 25 * CENT),
    }


def test_calls_of_workspaces_that_share_an_id_are_told_apart(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [told("a", "draft", 1), told("a", "intent", 4, workspace="globex", lane="frontier")]
    rolled(client, store, quarantine, stories)
    made = of_days(store, DAY, DAY, where={"workspace": ["globex"]}, calls=True)
    assert made.totals.cost_nano == 4 * CENT
    assert {one.name: one.cost_nano for one in made.lanes} == {"frontier": 4 * CENT}
    assert {(one.task_type, one.lane) for one in made.speeds} == {("intent", "frontier")}
    found = measured.measure(store, DAY, DAY)
    assert found is not None
    assert {one: found.tries(one).cost_nano for one in found.types} == {"draft": CENT, "intent": 4 * CENT}


def test_a_day_that_is_published_anew_meanwhile_is_told_as_it_was(family: LocalStore) -> None:
    found = choose(family, (DAY,), {"task_type": frozenset({"draft"})})
    before = Calls(family, (DAY,), found.where, None, found.families).lanes()
    path = family.root / "tasks" / f"date={DAY}" / "tasks.parquet"
    table = pq.read_table(path, partitioning=None)
    draft = path.with_suffix(".draft")  # another file takes its place
    pq.write_table(pa.concat_tables([table.slice(3), table]), draft, store_decimal_as_integer=True)
    draft.replace(path)
    assert Calls(family, (DAY,), found.where, None, found.families).lanes() == before
    assert sum(one.cost_nano for one in before) == 81 * CENT


def test_what_a_lane_cost_is_not_told_of_days_that_did_not_count_who_was_there(family: LocalStore) -> None:
    without(family.root / "daily" / f"date={DAY}" / "daily.parquet", "visits")
    assert {(one.task_type, one.lane): one.tasks for one in of_days(family).visits} == {
        ("research", "local"): 1
    }


def test_a_cache_that_cost_more_than_it_saved_is_said_to(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    def cached(name: str, cents: int) -> list[Event]:
        return story(
            name, [Submitted("sync"), attempted(f"{name}-1", cost_nano=9 * CENT, avoided_nano=cents * CENT)]
        )

    rolled(client, store, quarantine, [cached("a", -3), cached("b", 1)])
    assert "Writing to caches cost $0.0200 more" in page(of_days(store, DAY, DAY))
    rolled(client, store, quarantine, [cached("c", 7)])
    assert "Caches saved $0.0500" in page(of_days(store, DAY, DAY))


def test_files_from_before_parts_were_told_are_read_as_they_were(family: LocalStore) -> None:
    path = family.root / "tasks" / f"date={DAY}" / "tasks.parquet"
    without(path, "root_task_id")
    without(
        family.root / "daily" / f"date={DAY}" / "daily.parquet", "part_tasks", "part_judged", "part_successes"
    )
    made = of_days(family)
    assert (made.totals.tasks, made.totals.cost_nano, made.window.tasks) == (7, 85 * CENT, 7)


def without(path: Path, *columns: str) -> None:
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(list(columns)), path, store_decimal_as_integer=True)


def test_no_more_names_are_looked_for_than_there_are_parts(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = [told(f"t{number}", "draft", 1, day=number % 2) for number in range(200)]
    stories += [told(f"p{day}", "judge", 5, root="t0", day=day) for day in range(2)]
    rolled(client, store, quarantine, stories)
    indexed: list[int] = []

    def counted(names: Any, among: Any) -> Any:
        indexed.append(len(names))
        return beside.first_of(names, among)

    monkeypatch.setattr(families, "first_of", counted)
    made = of_days(store, where={"type": ["draft"]})
    assert (made.totals.tasks, made.totals.cost_nano) == (200, 210 * CENT)
    assert set(indexed) == {1}


@dataclass
class Whole:
    """What a task and its parts come to."""

    task_type: str
    day: int
    ok: bool | None
    cents: int


@pytest.mark.parametrize("seed", range(4))
def test_random_families_against_sums_by_hand(
    seed: int, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    chance = random.Random(seed)
    stories, wholes, spent_on = [], {}, dict.fromkeys(DAYS, 0)
    for number in range(60):
        one = Whole(
            chance.choice("xyz"),
            chance.randrange(2),
            chance.choice((True, False, None)),
            chance.randrange(90),
        )
        stories.append(told(f"t{number}", one.task_type, one.cents, ok=one.ok, day=one.day))
        spent_on[DAYS[one.day]] += one.cents
        for part in range(chance.choice((0, 0, 1, 3))):
            cents, day = chance.randrange(90), one.day + (chance.random() < 0.2)
            stories.append(
                told(f"t{number}-{part}", "part", cents, root=f"t{number}", day=day, lane="frontier")
            )
            spent_on[DAYS[day]] += cents
            one.cents += cents
        wholes[f"t{number}"] = one
    rolled(client, store, quarantine, stories)
    for path in store.root.glob("tasks/*/*.parquet"):  # files of many pieces
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table, path, row_group_size=chance.randrange(2, 20), store_decimal_as_integer=True)
    made = of_days(store, DAY, THIRD, by=("type", "user"))
    found = measured.measure(store, DAY, THIRD)
    assert found is not None
    assert {one.name: one.cost_nano for one in made.days} == {
        day: cents * CENT for day, cents in spent_on.items()
    }
    assert {one.name: one.cost_nano for one in made.groups["user"]} == {
        f"u-{name}": one.cents * CENT for name, one in wholes.items()
    }
    for group in made.groups["type"]:
        mine = [one for one in wholes.values() if one.task_type == group.name]
        assert (group.tasks, group.succeeded) == (len(mine), sum(one.ok is True for one in mine))
        assert group.judged == sum(one.ok is not None for one in mine)
        assert group.cost_nano == sum(one.cents for one in mine) * CENT
        assert (
            found.work(group.name).cost_nano == found.tries(root_type=group.name).cost_nano == group.cost_nano
        )
        assert group.max_nano == max(one.cents for one in mine) * CENT
        assert group.p50_nano == sorted(one.cents for one in mine)[-(-len(mine) // 2) - 1] * CENT
