"""A task and its parts are one task in the report: counted once, with all that its critics and sub-tasks spent."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis

from accounting import ledger, measured, report
from accounting.ledger import LocalStore
from accounting.report import Question, Report
from broker.events import Event, Fact, Finished, Routed, Submitted
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, story
from tests.accounting.test_report import page, rolled

CENT = 10_000_000
NEXT, THIRD = "2026-01-02", "2026-01-03"
DAYS = (DAY, NEXT, THIRD)


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
    assert (first.totals.max_nano, second.totals.tasks, second.totals.max_nano) == (43 * CENT, 0, None)
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
    judged = found.tries("judge", "frontier", first=True)
    assert (judged.tries, judged.cost_nano) == (3, 61 * CENT)  # of a try, its own type


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
    made = of_days(store, DAY, THIRD, by=("type", "user"))
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
        assert group.max_nano == max(one.cents for one in mine) * CENT
        assert group.p50_nano == sorted(one.cents for one in mine)[-(-len(mine) // 2) - 1] * CENT
