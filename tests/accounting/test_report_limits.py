"""How far is far, how few are too few: what a report says from where on, told from both sides of each limit."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from accounting.reports import choices, odd, trends
from tests.accounting.made_days import CENT, day, found, kinds, usual


def swinging(number: int, figure: str, low: int, high: int, **said: Any) -> dict[str, Any]:
    """A day like all others, but for one figure that is low on one day and high on the next."""
    return usual(number, **{figure: high if number % 2 else low, **said})


def kinds_of(rows: list[dict[str, Any]], at: int, scope: str = "intent") -> set[str]:
    """What is odd about that day."""
    return {kind for on, kind, of in found(rows) if (on, of) == (day(at), scope)}


@pytest.mark.parametrize(("calls", "is_odd"), [(149, False), (151, True), (66, False), (1, False)])
def test_half_as_much_again_as_on_days_that_are_all_alike_is_odd_and_less_is_not(
    calls: int, is_odd: bool
) -> None:
    rows = [*(usual(number) for number in range(10)), usual(10, attempts=calls)]
    assert ("calls" in kinds_of(rows, 10)) is is_odd


@pytest.mark.parametrize(("calls", "is_odd"), [(160, False), (170, False), (180, True), (200, True)])
def test_where_days_differ_much_only_what_is_far_from_all_of_them_is_odd(calls: int, is_odd: bool) -> None:
    """Between 90 and 110 calls: 10 beside the usual 100, which is a deviation of 14.8, and five of these are far."""
    rows = [*(swinging(number, "attempts", 90, 110) for number in range(10)), usual(10, attempts=calls)]
    assert ("calls" in kinds_of(rows, 10)) is is_odd


@pytest.mark.parametrize(
    ("low", "high", "succeeded", "is_odd"),
    [
        (95, 95, 86, False),
        (95, 95, 84, True),
        (95, 95, 100, False),
        (90, 100, 60, False),
        (90, 100, 55, True),
        (75, 95, 50, False),
        (75, 95, 20, False),
        (75, 95, 5, True),
    ],
)
def test_a_slump_is_ten_points_below_the_usual_and_far_from_how_days_differ(
    low: int, high: int, succeeded: int, is_odd: bool
) -> None:
    days = [swinging(number, "succeeded", low, high) for number in range(10)]
    assert ("success rate" in kinds_of([*days, usual(10, succeeded=succeeded)], 10)) is is_odd


@pytest.mark.parametrize(("at", "is_odd"), [(5, False), (6, False), (7, True), (8, True)])
def test_seven_days_before_it_tell_what_is_usual(at: int, is_odd: bool) -> None:
    rows = [*(usual(number) for number in range(at)), usual(at, attempts=300)]
    assert ("calls" in kinds_of(rows, at)) is is_odd


def test_what_was_so_for_half_of_four_weeks_is_usual_whatever_was_before() -> None:
    rows = [usual(number, attempts=100 if number < 60 else 300) for number in range(100)]
    assert {on for on, kind, _ in found(rows) if kind == "calls"} == {
        day(60 + number) for number in range(14)
    }


@pytest.mark.parametrize(("tasks", "is_odd"), [(15, False), (25, True)])
def test_a_type_with_fewer_than_twenty_tasks_a_day_is_looked_at_with_all_others_only(
    tasks: int, is_odd: bool
) -> None:
    few = {"tasks": tasks, "judged": tasks, "succeeded": tasks, "attempts": tasks, "cost": tasks * CENT}
    rows = [usual(number, **few) for number in range(10)]
    rows.append(usual(10, **few | {"attempts": 3 * tasks}))
    assert ("calls" in kinds_of(rows, 10)) is is_odd
    assert "calls" in kinds_of(rows, 10, "all tasks")


@pytest.mark.parametrize(
    ("at", "cents", "is_odd"), [(8, 4, False), (8, 6, True), (7, 6, True), (6, 6, False), (6, 90, False)]
)
def test_a_new_workflow_is_named_from_a_twentieth_of_the_day_on_and_after_a_week(
    at: int, cents: int, is_odd: bool
) -> None:
    old = [{"date": day(number), "workflow": "old", "cost": 100 * CENT} for number in range(at)]
    flows = [
        *old,
        {"date": day(at), "workflow": "old", "cost": (100 - cents) * CENT},
        {"date": day(at), "workflow": "new", "cost": cents * CENT},
    ]
    rows = [usual(number) for number in range(at + 1)]
    assert found(rows, flows) == ({(day(at), "new workflow", "new")} if is_odd else set())


@pytest.mark.parametrize(
    ("a_day", "fires", "is_odd"),
    [(100, 50, False), (100, 12, False), (100, 8, True), (100, 0, True), (25, 0, True), (15, 0, False)],
)
def test_a_rule_is_silent_below_a_tenth_of_what_it_usually_finds(
    a_day: int, fires: int, is_odd: bool
) -> None:
    """So many of a hundred tasks a day; the others are found by likeness. What it finds of too few says nothing."""

    def of_day(number: int, by_rule: int) -> list[dict[str, Any]]:
        return [usual(number, tasks=by_rule), usual(number, classified_by="embedding", tasks=100 - by_rule)]

    rows = [row for number in range(10) for row in of_day(number, a_day)]
    rows += of_day(10, fires)
    assert ("silent rule" in kinds_of(rows, 10)) is is_odd


@pytest.mark.parametrize(
    ("tasks", "parts", "by", "told"),
    [
        (19, 0, "embedding", ()),
        (20, 0, "embedding", ("card", "refund")),
        (200, 0, "regex", ("refund",)),
        (200, 1, "regex", ()),
        (200, 1, "embedding", ("card", "refund")),
        (200, 0, "declared", ()),
        (200, 0, "", ()),
    ],
)
def test_patterns_that_find_nothing_are_named_from_twenty_tasks_without_a_type_on(
    tasks: int, parts: int, by: str, told: tuple[str, ...]
) -> None:
    made = kinds([usual(0, task_type="card", classified_by=by, tasks=tasks, parts=parts)])
    classified = 0 if by in ("declared", "") else tasks
    assert odd.unfired(made, ["card", "refund"]) == (classified, told)


@pytest.mark.parametrize(
    ("judged", "succeeded", "floor", "below"),
    [
        (30, 27, "0.9", False),
        (30, 26, "0.9", True),
        (29, 20, "0.9", None),
        (1_000_000_000, 949_999_999, "0.95", True),
        (30, 30, "1", False),
        (30, 26, None, None),
    ],
)
def test_a_lane_is_below_its_types_floor_where_it_was_judged_often_and_succeeds_less(
    judged: int, succeeded: int, floor: str | None, below: bool | None
) -> None:
    made = [usual(0, tasks=judged, judged=judged, succeeded=succeeded, attempts=judged)]
    [one] = choices.choices(kinds(made), {} if floor is None else {"intent": Decimal(floor)})
    assert (one.task_type, one.below_floor) == ("intent", below)


@pytest.mark.parametrize(
    ("rows", "dominated"),
    [
        ([(100, 95, 100), (100, 95, 200)], {"one": "zero"}),
        ([(100, 95, 100), (100, 90, 100)], {"one": "zero"}),
        ([(100, 95, 100), (100, 95, 100)], {}),
        ([(100, 90, 50), (100, 95, 100)], {}),
        ([(100, 94, 1), (100, 95, 9_000)], {}),
        ([(100, 95, 100), (100, 0, 50)], {"one": "zero"}),
        ([(100, 0, 100), (100, 0, 50)], {}),
        ([(40, 38, 40), (40, 38, 80)], {"one": "zero"}),
        ([(20, 19, 20), (100, 95, 200)], {}),
        ([(100, 95, 100), (20, 19, 40)], {}),
        ([(20, 19, 20), (20, 19, 40)], {}),
        ([(30, 27, 30), (30, 27, 60)], {"one": "zero"}),
        ([(29, 29, 29), (30, 27, 60)], {}),
        ([(30, 30, 30), (29, 27, 60)], {}),
    ],
)  # fmt: skip
def test_a_lane_beats_another_where_it_is_no_worse_in_anything_and_both_were_judged_often(
    rows: list[tuple[int, int, int]], dominated: dict[str, str]
) -> None:
    """(judged, succeeded, cents in all) of each lane."""
    made = [
        usual(0, final_lane=lane, tasks=judged, judged=judged, succeeded=succeeded, attempts=judged, cost=cents * CENT)
        for lane, (judged, succeeded, cents) in zip(("zero", "one"), rows, strict=True)
    ]  # fmt: skip
    told = choices.choices(kinds(made), {})
    assert {one.lane: one.dominated_by for one in told if one.dominated_by} == dominated
    assert {one.lane for one in told} == {"zero", "one"}


@pytest.mark.parametrize(
    ("said", "lanes", "action"),
    [
        ({"human": 49}, 1.0, choices.AS_USUAL),
        ({"human": 50}, 1.0, choices.ASK_PEOPLE_LESS),
        ({"cost": 109}, 9.0, choices.AS_USUAL),
        ({"cost": 109, "tasks": 90}, 1.0, choices.NOT_KNOWN),
        ({"cost": 200}, 1.49, choices.NOT_KNOWN),
        ({"cost": 200}, 1.51, choices.CLIMB_LESS),
        ({"cost": 200, "tokens": 149, "input": 149}, 1.0, choices.NOT_KNOWN),
        ({"cost": 200, "tokens": 151, "input": 151}, 1.0, choices.READ_LESS),
        ({"cost": 200, "tokens": 160, "output": 15}, 1.0, choices.WRITE_LESS),
        ({"cost": 200, "calls": 149, "llm_calls": 149}, 1.0, choices.NOT_KNOWN),
        ({"cost": 200, "calls": 151}, 1.0, choices.CALL_LESS),
        ({"cost": 200, "calls": 151}, 1.6, choices.CLIMB_LESS),
        ({"cost": 200, "calls": 300, "unpriced_calls": 1}, 9.0, choices.NOT_KNOWN),
    ],
)
def test_what_would_lower_the_cost_is_told_where_tasks_are_a_tenth_dearer_than_those_of_others(
    said: dict[str, int], lanes: float, action: str
) -> None:
    """A hundred tasks of one of two workflows, each of a call of a token for a cent, as the other's are, but for what
    is said."""
    usual_ones = dict.fromkeys(("tasks", "cost", "calls", "llm_calls", "tokens", "input"), 100)
    usual_ones |= dict.fromkeys(("output", "human", "unpriced_calls"), 0)
    assert choices.action({**usual_ones, **said}, usual_ones, lanes, 2) == action


def drifting(rows: list[dict[str, Any]], scope: str = "intent") -> dict[str, float]:
    return {
        one.figure: round(one.times or 0.0, 3) for one in trends.drifts(kinds(rows)) if one.scope == scope
    }


@pytest.mark.parametrize(
    ("last", "times"),
    [(470, {}), (430, {}), (500, {"input tokens a model call": 1.25}), (800, {"input tokens a model call": 2.0}),
     (340, {}), (320, {"input tokens a model call": 0.8}), (200, {"input tokens a model call": 0.5})],
)  # fmt: skip
def test_a_fifth_more_or_less_than_at_first_is_a_drift(last: int, times: dict[str, float]) -> None:
    """From 400 tokens a call, on ten days and on the ten after them."""
    rows = [usual(number, input=100 * (400 if number < 10 else last)) for number in range(20)]
    assert drifting(rows) == times


@pytest.mark.parametrize(
    ("days", "times"), [(1, {}), (3, {}), (4, {"calls a task": 0.5}), (7, {"calls a task": 0.5})]
)
def test_most_of_a_week_must_be_otherwise_for_a_drift(days: int, times: dict[str, float]) -> None:
    dear = {"attempts": 200, "llm_calls": 200, "input": 80_000, "output": 4_000}
    rows = [usual(number, **(dear if number < days else {})) for number in range(20)]
    assert drifting(rows) == times


@pytest.mark.parametrize(
    ("days", "times"), [(2, {}), (3, {}), (4, {"cost of a task": 2.0, "cost of a success": 2.0})]
)
def test_a_drift_takes_four_days(days: int, times: dict[str, float]) -> None:
    rows = [usual(number, cost=100 * CENT * (2 if number >= 2 else 1)) for number in range(days)]
    assert drifting(rows) == times


@pytest.mark.parametrize(("tasks", "drifts"), [(10, False), (19, False), (20, True), (30, True)])
def test_a_type_of_a_few_tasks_a_day_does_not_drift_by_itself(tasks: int, drifts: bool) -> None:
    rows = [
        usual(number, tasks=tasks, attempts=tasks, input=tasks * (100 if number < 5 else 300), output=tasks)
        for number in range(10)
    ]
    assert ("input tokens a model call" in drifting(rows)) is drifts
    assert drifting(rows, "all tasks")["input tokens a model call"] == 3.0
