"""One task's facts give one set of rows, in whatever order and however often they come."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.fold import PART_OF, add_to_day, fold
from accounting.rows import Cost, DailyKey, TaskRow
from broker.events import (
    Attempted,
    DeadLettered,
    Escalated,
    Fact,
    Finished,
    Parked,
    Rated,
    Resumed,
    Routed,
    Submitted,
)
from tests.accounting.stories import NOON_US, attempted, random_story, story

ROUTED = Routed(
    "intent", "extractive", "regex", "", 1.0, ("local", "midtier", "human"), "local", "first rung"
)


def task_of(*facts: Fact) -> TaskRow:
    return fold(story("t", facts)).task


def test_a_plain_task() -> None:
    submitted = Submitted("sync", "support", "triage", "u-17", value_nano=5, parent="p")
    call = attempted("t-1", input_tokens=10, output_tokens=2, time_to_first_token_ms=7.0, verdict="pass")
    task, attempts = fold(story("t", [submitted, ROUTED, call, Finished("succeeded", True, "local")]))
    assert (task.workspace, task.workflow, task.pipeline, task.user) == ("acme", "support", "triage", "u-17")
    assert (task.task_type, task.category, task.classified_by, task.confidence) == (
        "intent",
        "extractive",
        "regex",
        1.0,
    )
    assert (task.status, task.succeeded, task.mode) == ("succeeded", True, "sync")
    assert (task.first_lane, task.final_lane, task.lanes, task.models) == (
        "local",
        "local",
        ("local",),
        ("smollm2",),
    )
    assert (task.attempts, task.llm_calls, task.tool_calls, task.hops) == (1, 1, 0, 0)
    assert (task.tokens.input, task.tokens.output) == (10, 2)
    assert task.cost == Cost(total=1_000, inference=1_000)
    assert task.overhead_share == 0.0
    assert (task.submitted_us, task.started_us, task.finished_us) == (
        NOON_US,
        NOON_US + 1_000,
        NOON_US + 4_000,
    )
    assert (task.latency_ms, task.queue_wait_ms, task.time_to_first_token_ms) == (4.0, 1.0, 7.0)
    assert (task.value_nano, task.parent_task_id) == (5, "p")
    [attempt] = attempts
    assert (attempt.attempt_id, attempt.settled_us, attempt.verdict) == ("t-1", NOON_US + 3_000, "pass")
    assert (attempt.failure, attempt.parent_attempt_id, attempt.gate) == (None, None, None)


STATUSES: list[tuple[Sequence[Fact], str]] = [
    ([Submitted("sync")], "queued"),
    ([Submitted("sync"), ROUTED], "queued"),
    ([ROUTED, attempted("a")], "running"),
    ([ROUTED, attempted("a"), Escalated("local", "midtier", "gate")], "running"),
    ([ROUTED, attempted("a"), Parked("budget")], "parked"),
    ([Parked("human"), attempted("a", settled=True)], "parked"),
    ([ROUTED, Parked("human"), Resumed("ann", "local")], "queued"),
    ([attempted("a"), Parked("human"), Resumed("ann", "local")], "running"),
    ([Finished("budget_exceeded", None)], "budget_exceeded"),
    ([Finished("cancelled", None), attempted("a")], "cancelled"),
    ([Finished("failed", False), Rated(ok=True)], "failed"),
    ([DeadLettered("3 starts"), Finished("failed", None)], "failed"),
    ([Finished("failed", None), DeadLettered("3 starts")], "failed"),
    ([Finished("failed", None), Resumed("replay", "local"), attempted("a")], "running"),
    ([Finished("failed", False), Resumed("replay", "local"), Finished("succeeded", True)], "succeeded"),
]


@pytest.mark.parametrize(("facts", "status"), STATUSES)
def test_status(facts: Sequence[Fact], status: str) -> None:
    assert task_of(*facts).status == status


def test_a_resumed_task_has_no_end_yet() -> None:
    task = task_of(Finished("failed", False), Resumed("replay", "local"))
    assert (task.finished_us, task.latency_ms, task.succeeded) == (None, None, None)


def test_no_gate_no_verdict_until_somebody_rates_it() -> None:
    assert task_of(Finished("succeeded", None)).succeeded is None
    rated = task_of(Finished("succeeded", None), Rated(ok=False, value_nano=3))
    assert (rated.succeeded, rated.value_nano, rated.status) == (False, 3, "succeeded")
    said_later = task_of(
        Submitted("sync", value_nano=9), Finished("succeeded", True), Rated(comment="thanks")
    )
    assert (said_later.succeeded, said_later.value_nano) == (True, 9)


@pytest.mark.parametrize(("purpose", "part"), PART_OF.items())
def test_each_purpose_has_its_part_of_the_cost(purpose: str, part: str) -> None:
    task = task_of(attempted("a", purpose=purpose, cost_nano=70))
    assert task.cost == Cost(total=70)._replace(**{part: 70})
    assert task.overhead_share == (0.0 if part == "inference" else 1.0)


def test_routing_and_gates_cost_too_and_have_rows_that_sum() -> None:
    task, attempts = fold(
        story(
            "t",
            [
                Routed("i", "", "regex", "", 1.0, (), "local", "", cost_nano=4),
                attempted("t-1", gate_cost_nano=6),
            ],
        )
    )
    assert task.cost == Cost(total=1_010, inference=1_000, routing=4, validation=6)
    assert task.attempts == 1
    assert [(row.purpose, row.lane, row.parent_attempt_id, row.cost_nano) for row in attempts] == [
        ("task", "local", None, 1_000),
        ("embed", "", None, 4),
        ("judge", "", "t-1", 6),
    ]


def test_a_late_settlement_replaces_the_lost_call() -> None:
    lost = attempted("t-1", cost_nano=900, settled=False)
    task, attempts = fold(story("t", [lost, attempted("t-2", cost_nano=1), attempted("t-1", cost_nano=300)]))
    assert (task.cost.total, task.attempts, task.unsettled_calls) == (301, 2, 0)
    assert {row.attempt_id: row.settled_us - NOON_US for row in attempts} == {"t-1": 3_000, "t-2": 2_000}
    assert task_of(lost).unsettled_calls == 1


def test_an_unpriced_call_is_counted_and_is_not_free() -> None:
    task, attempts = fold(story("t", [attempted("a", cost_nano=None), attempted("b", cost_nano=5)]))
    assert (task.cost.total, task.unpriced_calls, task.attempts) == (5, 1, 2)
    assert [row.cost_nano for row in attempts] == [None, 5]
    assert task_of(attempted("a", cost_nano=None)).overhead_share is None


def test_lanes_and_models_stand_in_the_order_of_first_use() -> None:
    task = task_of(
        ROUTED,
        attempted("t-3", hop=1, lane="midtier", model="gpt", time_to_first_token_ms=3.0),
        attempted("t-1", hop=0),
        attempted("t-2", hop=0, started_us=NOON_US + 5_000, purpose="retry"),
        Escalated("local", "midtier", ""),
        Escalated("midtier", "human", ""),
    )
    assert (task.lanes, task.models) == (("local", "midtier"), ("smollm2", "gpt"))
    assert (task.hops, task.first_lane, task.final_lane) == (2, "local", "human")
    assert task.time_to_first_token_ms == 3.0


def test_two_facts_under_one_number_are_both_money() -> None:
    """A Redis that lost its last second may give a number again; a fact that was paid for is not dropped."""
    one, other = story("t", [attempted("t-1")]), story("t", [attempted("t-2")])
    assert fold([*one, *other, *one]).task.cost.total == 2_000
    assert fold([*one, *other]) == fold([*other, *one, *other])


def test_no_events_no_task() -> None:
    with pytest.raises(ValueError, match="no events"):
        fold([])


@settings(max_examples=300, deadline=None)
@given(number=st.integers(0, 10_000), seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(number: int, seed: int, order: random.Random) -> None:
    events = random_story(number, random.Random(seed))
    shuffled = [event for event in events for _ in range(order.randint(1, 5))]
    order.shuffle(shuffled)
    assert fold(shuffled) == fold(events)


@settings(max_examples=300, deadline=None)
@given(number=st.integers(0, 10_000), seed=st.integers(0, 2**32))
def test_parts_attempts_and_the_day_sum_to_the_cost(number: int, seed: int) -> None:
    events = random_story(number, random.Random(seed))
    folded = fold(events)
    total, *parts = folded.task.cost
    assert sum(parts) == total
    assert sum(row.cost_nano or 0 for row in folded.attempts) == total
    day: dict[DailyKey, list[int]] = {}
    add_to_day(day, folded)
    columns = list(zip(*day.values(), strict=True))
    assert tuple(map(sum, columns[9:])) == folded.task.cost
    assert tuple(map(sum, columns[4:9])) == folded.task.tokens
    assert sum(columns[0]) == 1
    assert sum(columns[3]) == folded.task.attempts
    paid = {
        e.fact.attempt_id: e.fact
        for e in random_story(number, random.Random(seed))
        if isinstance(e.fact, Attempted)
    }
    assert total == 3 + sum((call.cost_nano or 0) + call.gate_cost_nano for call in paid.values())
