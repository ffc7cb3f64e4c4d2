"""One task's facts give one set of rows, in whatever order and however often they come."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounting.rollup import daily
from broker.events import (
    Allotted,
    Attempted,
    DeadLettered,
    Escalated,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Resumed,
    Routed,
    Submitted,
)
from broker.purpose import PART_OF
from tests.accounting import reference
from tests.accounting.folding import folded as fold
from tests.accounting.folding import rolled, shuffled
from tests.accounting.reference_rows import AttemptRow, Cost, DailyKey, Folded, TaskRow
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
    assert {(row.purpose, row.lane, row.parent_attempt_id, row.cost_nano) for row in attempts} == {
        ("task", "local", None, 1_000),
        ("embed", "", None, 4),
        ("judge", "", "t-1", 6),
    }


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


LANES = ("local", "midtier", "frontier", "human", "")


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Facts of a few tasks, whatever their order and number: most of it would never happen."""
    chance = draw(st.randoms(use_true_random=False))
    return [event for number in range(chance.randint(1, 4)) for event in _any_task(number, chance)]


def _any_task(number: int, chance: random.Random) -> list[Event]:
    task_id, workspace = chance.choice((f"t{number}", "same")), chance.choice(("acme", "globex"))
    submitted_us = NOON_US + chance.choice((0, 0, number))
    seqs = sorted(chance.choice((1, 1, 1, 2, 0)) for _ in range(chance.randint(1, 9)))
    seqs = [sum(seqs[: place + 1]) for place in range(len(seqs))]
    return [
        Event(workspace, task_id, seq, submitted_us + 7 * place, submitted_us, _any_fact(task_id, chance))
        for place, seq in enumerate(seqs)
    ]


def _any_fact(task_id: str, chance: random.Random) -> Fact:
    lane = chance.choice(LANES)
    verdict = chance.choice((None, True, False))
    value = chance.choice((None, 0, 5 * 10**9))
    match chance.randrange(12):
        case 0:
            return Submitted("sync", "w", chance.choice(("", "p")), "u", chance.choice(("", "t")), "p", value)
        case 1:
            kinds = (chance.choice(("", "intent")), "extractive", chance.choice(("", "regex")), "")
            return Routed(
                *kinds, chance.random(), (), lane, "", (), chance.choice((0, 3)), chance.choice(("", "r"))
            )
        case 2:
            return Escalated("local", lane, "")
        case 3:
            return Parked("human")
        case 4:
            return Resumed("ann", lane)
        case 5:
            return Finished(chance.choice(("succeeded", "failed", "")), verdict, lane)
        case 6:
            return Rated(verdict, value)
        case 7:
            return chance.choice((DeadLettered("x"), Allotted(f"{task_id}-{chance.randrange(4)}", -2)))
        case _:
            return _any_call(task_id, lane, chance)


def _any_call(task_id: str, lane: str, chance: random.Random) -> Attempted:
    return attempted(
        chance.choice((f"{task_id}-{chance.randrange(4)}", "shared")), hop=chance.randrange(2), lane=lane,
        engine=chance.choice(("echo", "gate")), model=chance.choice(("", "m", "n")),
        purpose=chance.choice((*PART_OF, "unforeseen")), started_us=NOON_US + chance.randrange(3),
        ended_us=NOON_US + chance.randrange(3, 6), queue_wait_ms=chance.choice((0, 0.5, 8)),
        cost_nano=chance.choice((None, 0, 900)), gate_cost_nano=chance.choice((0, 4)),
        marginal_nano=chance.choice((None, 1)), time_to_first_token_ms=chance.choice((None, 2.5)),
        input_tokens=chance.randrange(9), cache_write_1h_tokens=chance.randrange(2),
        avoided_nano=chance.choice((0, -2, 50)), batch=chance.random() < 0.2, settled=chance.random() < 0.8,
        verdict=chance.choice(("", "pass")), failure=chance.choice(("", "timeout")), gate=chance.choice(("", "choice")),
        price_ref=chance.choice(("", "book")), parent_attempt_id=chance.choice(("", "x")),
    )  # fmt: skip


def by_reference(events: Sequence[Event]) -> tuple[list[Folded], list[tuple[object, ...]]]:
    tasks: dict[tuple[str, str, int], list[Event]] = {}
    for event in events:
        tasks.setdefault((event.workspace, event.task_id, event.submitted_us), []).append(event)
    rows = [reference.fold(mine) for mine in tasks.values()]
    day: dict[DailyKey, list[int]] = {}
    for one, mine in zip(rows, tasks.values(), strict=True):
        reference.add_to_day(day, one, reference.satisfied(mine))
    return rows, [(*key, *sums) for key, sums in sorted(day.items())]


def apart(tasks: Sequence[Folded]) -> tuple[list[TaskRow], list[AttemptRow]]:
    """The tasks and the attempts, each kind in an order of its own."""
    attempts = [row for one in tasks for row in one.attempts]
    return sorted((one.task for one in tasks), key=repr), sorted(attempts, key=repr)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=streams(), seed=st.integers(0, 2**32), parts=st.integers(1, 3), rows=st.sampled_from((8, 10**6)),
    pending=st.sampled_from((1, 10**6)),
)  # fmt: skip
def test_many_tasks_at_once_are_each_task_alone(
    events: list[Event], seed: int, parts: int, rows: int, pending: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(daily, "PENDING_ROWS", pending)
        tasks, day = rolled(shuffled(events, random.Random(seed), parts), rows=rows)
    known_tasks, known_day = by_reference(events)
    assert apart(tasks) == apart(known_tasks)
    assert day == known_day


@settings(max_examples=50, deadline=None)
@given(number=st.integers(0, 10_000), seed=st.integers(0, 2**32), order=st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing(number: int, seed: int, order: random.Random) -> None:
    events = random_story(number, random.Random(seed))
    assert rolled(shuffled(events, order, 3)) == rolled([events])


@settings(max_examples=50, deadline=None)
@given(number=st.integers(0, 10_000), seed=st.integers(0, 2**32))
def test_parts_attempts_and_the_day_sum_to_the_cost(number: int, seed: int) -> None:
    events = random_story(number, random.Random(seed))
    [folded], day = rolled([events])
    total, *parts = folded.task.cost
    assert sum(parts) == total
    assert sum(row.cost_nano or 0 for row in folded.attempts) == total
    columns = list(zip(*day, strict=True))[5:]
    assert tuple(map(sum, columns[9:20])) == folded.task.cost
    assert list(map(sum, columns[22:])) == [0, 0, 0, len(folded.task.lanes)]
    assert tuple(map(sum, columns[4:9])) == folded.task.tokens
    assert sum(columns[0]) == 1
    assert sum(columns[3]) == folded.task.attempts
    paid = {e.fact.attempt_id: e.fact for e in events if isinstance(e.fact, Attempted)}
    assert total == 3 + sum((call.cost_nano or 0) + call.gate_cost_nano for call in paid.values())
