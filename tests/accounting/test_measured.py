"""What the calculators take from the ledger, by hand and against DuckDB."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from accounting.files import ledger, schema
from accounting.files.ledger import LocalStore
from accounting.reports import measured
from accounting.rollup import drafts
from broker.events import Escalated, Event, Fact, Finished, Routed, Submitted
from tests.accounting.rolling import rolled
from tests.accounting.stories import CHAIN, DAY, NOON_US, attempted, day_of_stories, story

NEXT = "2026-01-02"
CENT = 10_000_000
ENDED = Finished("succeeded", True)
US_PER_DAY = ledger.US_PER_DAY


def of_type(name: str) -> list[Fact]:
    return [Submitted("sync"), Routed(name, "extractive", "regex", "", 1.0, CHAIN, "local", "")]


def told(task_id: str, task_type: str, *facts: Fact, day: int = 0) -> list[Event]:
    return story(task_id, [*of_type(task_type), *facts], at_us=NOON_US + day * US_PER_DAY)


@pytest.fixture
def small(client: redis.Redis, store: LocalStore, quarantine: LocalStore) -> LocalStore:
    """Of "intent": six tries on local: three pass, one of them unpriced, one fails, one breaks, one is broken off;
    one on midtier. Of "email": one without a gate, two days later."""
    ok = {
        "verdict": "pass",
        "cost_nano": CENT,
        "marginal_nano": CENT // 10,
        "input_tokens": 90,
        "output_tokens": 10,
    }
    stories = [
        told("a", "intent", attempted("a-1", cached_input_tokens=10, reasoning_tokens=5, **ok), ENDED),
        told(
            "b",
            "intent",
            attempted("b-1", failure="timeout", cost_nano=3 * CENT),
            attempted("b-2", purpose="retry", **ok),
            Finished("succeeded", True),
        ),
        told(
            "c",
            "intent",
            attempted("c-1", verdict="fail", cost_nano=CENT),
            Escalated("local", "midtier", "gate"),
            attempted("c-2", hop=1, lane="midtier", verdict="pass", cost_nano=20 * CENT, latency_ms=400.0),
            attempted("c-3", hop=2, lane="human", engine="human", purpose="human", cost_nano=100 * CENT),
            Finished("failed", False),
        ),
        told("d", "intent", attempted("d-1", failure="cancelled", cost_nano=CENT), Finished("cancelled", None)),
        told("e", "intent", attempted("e-1", cost_nano=None, verdict="pass"), ENDED),
        told("f", "email", attempted("f-1", cost_nano=CENT), Finished("succeeded", None), day=2),
    ]  # fmt: skip
    return rolled(client, store, quarantine, stories)


def taken(store: LocalStore, since: str = DAY, until: str = "2026-01-03") -> measured.Measured:
    found = measured.measure(store, since, until)
    assert found is not None
    return found


def test_tries_by_hand(small: LocalStore) -> None:
    local = taken(small).tries("intent", "local")
    assert (local.tries, local.judged, local.passed, local.priced) == (6, 5, 3, 5)
    assert local.success_share == Fraction(3, 5)
    assert local.attempts_per_success == Fraction(5, 3)
    assert local.try_usd == Fraction(7, 500)
    assert local.success_usd == Fraction(6, 400) * Fraction(
        5, 3
    )  # a mean of four judged ones, the fifth is unpriced
    assert local.marginal_usd == Fraction("0.0004")
    assert (local.input_tokens, local.output_tokens, local.priced_tokens) == (190, 25, 215)
    assert (local.cached_tokens, local.batched) == (10, 0)
    assert local.mtok_usd == Fraction(7, 100) / 215 * 1_000_000
    assert local.busy_ms == 6 * 90
    midtier = taken(small).tries("intent", "midtier")
    assert (midtier.try_usd, midtier.busy_ms) == (Fraction("0.2"), 400)


def test_a_call_that_nobody_wanted_any_more_is_no_failure_of_its_lane(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    unwanted = [attempted(f"a-{failure}", failure=failure) for failure in ("cancelled", "never_made")]
    rolled(
        client, store, quarantine, [told("a", "intent", *unwanted, attempted("a-3", verdict="pass"), ENDED)]
    )
    assert taken(store).tries("intent", "local").success_share == 1


def test_people_are_no_try_and_first_calls_stand_apart(small: LocalStore) -> None:
    found = taken(small)
    assert found.lanes == (("email", "local"), ("intent", "local"), ("intent", "midtier"))
    assert found.tries().tries == 8
    assert found.tries(first=True).tries == 7
    assert found.tries("intent", "local", first=False).tries == 1


def test_work_by_hand(small: LocalStore) -> None:
    work = taken(small).work("intent")
    assert (work.tasks, work.judged, work.succeeded) == (5, 4, 3)
    assert work.success_share == Fraction(3, 5)
    assert work.cost_nano == 127 * CENT
    assert (work.inference_nano, work.redone_nano, work.human_nano) == (26 * CENT, CENT, 100 * CENT)
    assert (work.reviewed, work.eval_nano) == (1, 0)
    assert work.p95_nano == 121 * CENT
    assert taken(small).work().tasks == 6


def test_days_count_from_the_first_that_has_tasks(small: LocalStore) -> None:
    assert (taken(small, "2025-12-01").since, taken(small, "2025-12-01").days) == (DAY, 3)
    assert taken(small, NEXT, "2026-01-05").days == 3
    assert taken(small).types == ("email", "intent")


def test_a_day_that_was_not_rolled_is_told_and_is_none_of_the_days(small: LocalStore) -> None:
    for dataset in (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY):
        folder = small.root / ledger.partition(dataset, "2026-01-03")
        folder.rename(small.root / f"{dataset}-put-by")
    found = taken(small)
    assert (found.days, found.unrolled, found.work().tasks) == (2, ("2026-01-03",), 5)
    folder = small.root / ledger.partition(ledger.TASKS, "2026-01-03")
    (small.root / "tasks-put-by").rename(folder)
    assert taken(small).work().tasks == 5  # of a day that is half rolled nothing is taken


def test_what_was_not_measured_is_none(small: LocalStore) -> None:
    email = taken(small).tries("email")
    assert (email.success_share, email.success_usd, email.attempts_per_success) == (None, None, None)
    assert email.try_usd == Fraction("0.01")
    nothing = taken(small).tries("email", "midtier")
    assert (nothing.tries, nothing.try_usd, nothing.marginal_success_usd) == (0, None, None)
    assert measured.measure(small, "2025-01-01", "2025-12-31") is None


def test_tasks_that_wait_for_their_first_call_are_work_without_tries(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    rolled(client, store, quarantine, [told("waits", "intent")])
    found = taken(store)
    assert (found.work().tasks, found.tries().tries, found.lanes) == (1, 0, ())


ORACLE = """
    SELECT t.task_type, a.lane, count(*) AS tries,
           count(*) FILTER (judged) AS judged, count(*) FILTER (coalesce(verdict = 'pass', false)) AS passed,
           count(a.cost_usd) AS priced,
           coalesce(sum(a.cost_usd), 0) AS cost, coalesce(sum(a.cost_usd) FILTER (judged), 0) AS judged_cost,
           sum(a.input_tokens + a.cached_input_tokens + a.cache_write_tokens) AS read,
           sum(a.output_tokens + a.reasoning_tokens) AS written
    FROM (SELECT *, coalesce(verdict IN ('pass', 'fail'), false) OR coalesce(failure <> 'cancelled', false) AS judged
          FROM read_parquet('{root}/attempts/*/*.parquet')) a
    JOIN read_parquet('{root}/tasks/*/*.parquet') t USING (task_id)
    WHERE purpose IN ('task', 'retry', 'reprompt') GROUP BY ALL ORDER BY ALL
"""


def test_two_thousand_tasks_over_two_days_as_duckdb_sums_them(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    stories = [*day_of_stories(1000), *day_of_stories(1000, seed=8, at_us=NOON_US + US_PER_DAY)]
    rolled(client, store, quarantine, stories)
    found = taken(store, DAY, NEXT)
    rows: list[tuple[Any, ...]] = duckdb.execute(ORACLE.format(root=store.root)).fetchall()
    assert [row[:2] for row in rows] == list(found.lanes)
    for task_type, lane, *figures in rows:
        tries = found.tries(task_type, lane)
        nano = [int(figure * 10**9) for figure in figures[4:6]]
        assert [
            tries.tries, tries.judged, tries.passed, tries.priced, tries.cost_nano, tries.judged_nano,
            tries.input_tokens, tries.output_tokens,
        ] == [*figures[:4], *nano, *figures[6:]]  # fmt: skip
    assert found.work().tasks == 2000
    assert sum(found.work(name).cost_nano for name in found.types) == found.work().cost_nano


TASK_ROWS = st.fixed_dictionaries({
    "workspace": st.sampled_from("ab"), "task_id": st.sampled_from("12345"), "task_type": st.sampled_from(["x", "y"]),
    "succeeded": st.none() | st.booleans(), "cost_usd": st.integers(0, 99).map(lambda cents: Decimal(cents) / 100),
})  # fmt: skip
CALL_ROWS = st.fixed_dictionaries({
    "lane": st.sampled_from(["", "local", "midtier"]), "purpose": st.sampled_from(["task", "retry", "human"]),
    "verdict": st.sampled_from([None, "pass", "fail"]), "failure": st.sampled_from([None, "timeout", "cancelled"]),
    "cost_usd": st.none() | st.integers(0, 9).map(Decimal), "latency_ms": st.just(2.0),
    **dict.fromkeys(schema.TOKENS, st.integers(0, 9)),
})  # fmt: skip
DAYS_OF_ROWS = st.lists(
    st.lists(
        st.tuples(TASK_ROWS, st.lists(CALL_ROWS, max_size=3)),
        unique_by=lambda said: (said[0]["workspace"], said[0]["task_id"]),
        max_size=8,
    ),
    min_size=1,
    max_size=2,
)


@given(DAYS_OF_ROWS, st.integers(1, 4), st.randoms(use_true_random=False), st.booleans())
def test_in_pieces_of_any_size_and_any_order_the_figures_are_those_of_all_rows_at_once(
    days: list[Any], size: int, chance: Any, in_order: bool
) -> None:
    """Two workspaces share ids."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(Path(folder))
        for day, told_of in zip((DAY, NEXT), days, strict=False):
            calls = [{**call, "workspace": task["workspace"], "task_id": task["task_id"]}
                     for task, its_calls in told_of for call in its_calls]  # fmt: skip
            if not in_order:
                chance.shuffle(calls)
            for dataset, columns, rows in (
                (ledger.TASKS, schema.TASKS, [task for task, _ in told_of]),
                (ledger.ATTEMPTS, schema.ATTEMPTS, calls),
            ):
                path = store.root / ledger.partition(dataset, day) / f"{dataset}.parquet"
                path.parent.mkdir(parents=True)
                pq.write_table(pa.Table.from_pylist(rows, schema=columns), path, row_group_size=size)
        found = measured.measure(store, DAY, NEXT)
    tasks = [task for told_of in days for task, _ in told_of]
    assert (found is None) == (not tasks)
    if found is None:
        return
    for task_type in (None, "x", "y"):
        of_type = [task for task in tasks if task_type in (None, task["task_type"])]
        nanos = sorted(int(task["cost_usd"] * 10**9) for task in of_type)
        work = found.work(task_type)
        assert (work.tasks, work.cost_nano) == (len(of_type), sum(nanos))
        assert work.succeeded == sum(task["succeeded"] is True for task in of_type)
        assert work.p95_nano == (nanos[-(-len(nanos) * 95 // 100) - 1] if nanos else 0)
        tries = [call for told_of in days for task, calls in told_of for call in calls
                 if task_type in (None, task["task_type"]) and call["lane"] and call["purpose"] != "human"]  # fmt: skip
        for lane in (None, "local", "midtier"):
            for first in (None, True, False):
                mine = [call for call in tries if lane in (None, call["lane"])
                        and first in (None, call["purpose"] == "task")]  # fmt: skip
                judged = [call for call in mine if call["verdict"] or call["failure"] == "timeout"]
                made = found.tries(task_type, lane, first=first)
                assert (made.tries, made.judged) == (len(mine), len(judged))
                assert made.passed == sum(call["verdict"] == "pass" for call in mine)
                assert made.priced == sum(call["cost_usd"] is not None for call in mine)
                assert made.judged_nano == sum(int(call["cost_usd"] or 0) for call in judged) * 10**9
                assert made.output_tokens == sum(
                    call["output_tokens"] + call["reasoning_tokens"] for call in mine
                )
                assert made.busy_ms == 2 * len(mine)


def test_each_part_of_what_tasks_cost_is_in_one_figure_of_their_work(
    client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    """Each part another power of two, so that no sum of others is the same. What data and orchestration cost, other
    writers of the files may say."""
    routed = Routed("intent", "extractive", "regex", "", 1.0, CHAIN, "local", "", cost_nano=2 * CENT)
    purposes = {
        "task": 1,
        "retry": 4,
        "reprompt": 8,
        "judge": 16,
        "tool": 32,
        "embed": 64,
        "eval": 128,
        "human": 256,
    }
    calls = [
        attempted(
            f"a-{name}", purpose=name, cost_nano=cents * CENT, gate_cost_nano=512 * CENT * (name == "task")
        )
        for name, cents in purposes.items()
    ]
    rolled(client, store, quarantine, [story("a", [Submitted("sync"), routed, *calls, ENDED])])
    path = f"tasks/date={DAY}/tasks.parquet"
    rows = pq.read_table(store.root / path, partitioning=None)
    for name, cents in (("data_usd", 1024), ("orchestration_usd", 2048), ("cost_usd", 4095)):
        amount = schema.money(pa.array([cents * CENT], schema.COUNT))
        rows = rows.set_column(rows.column_names.index(name), name, amount)
    store.put(path, drafts.encode(rows))
    work = taken(store).work("intent")
    assert work.inference_nano == CENT
    assert work.redone_nano == (4 + 8 + 16 + 512) * CENT
    assert work.around_nano == (2 + 64 + 32 + 1024 + 2048) * CENT
    assert (work.eval_nano, work.human_nano) == (128 * CENT, 256 * CENT)
    parts = work.inference_nano + work.redone_nano + work.around_nano + work.eval_nano + work.human_nano
    assert parts == work.cost_nano == work.p95_nano == 4095 * CENT
