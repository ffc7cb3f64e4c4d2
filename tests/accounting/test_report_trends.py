"""What moved, what is odd and what to do about it, from sums by day that are made up."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.reports import change, choices, further, odd, report, trends
from accounting.reports.figures import Drift, Group, Odd
from accounting.reports.tasks import Tallies
from tests.accounting.made_days import CENT, day, found, kinds, usual, workflows


def test_amounts_of_odd_days_and_drifts_are_told_as_amounts_and_shares_as_numbers() -> None:
    dear = Odd(day(9), "cost of a task", "intent", Fraction("25000000.4"), Fraction(10**7), "usd", "dear")
    rises = Drift("cost of a task", "intent", Fraction(10**7), Fraction(3 * 10**7), 3.0, "usd")
    fails = Odd(day(9), "success rate", "intent", 0.5, 0.95, "share", "fails")
    made = [report.plain(one, "gbp") for one in (dear, rises, fails)]
    assert (made[0]["value"], made[0]["usual"], made[0]["unit"]) == ("0.025", "0.01", "gbp")
    assert (made[1]["first"], made[1]["last"], made[1]["times"], made[1]["unit"]) == (
        "0.01",
        "0.03",
        3.0,
        "gbp",
    )
    assert (made[2]["value"], made[2]["unit"]) == (0.5, "share")


def test_days_like_the_others_are_not_odd() -> None:
    rows = [usual(number, attempts=100 + number % 3, cost=(100 + number % 5) * CENT) for number in range(20)]
    assert found(rows) == set()


def test_a_spike_in_calls_is_named_with_its_type_and_day() -> None:
    rows = [usual(number, attempts=300 if number == 9 else 100) for number in range(12)]
    assert {(day(9), "calls", "intent"), (day(9), "calls a task", "intent")} <= found(rows)
    assert {one[0] for one in found(rows)} == {day(9)}


def test_a_week_must_have_gone_before_a_day_is_odd() -> None:
    assert found([usual(number, attempts=300 if number == 6 else 100) for number in range(7)]) == set()


def test_dearer_tasks_and_a_slump_of_successes_are_named() -> None:
    rows = [
        usual(number, **({"cost": 400 * CENT, "succeeded": 40} if number == 8 else {})) for number in range(9)
    ]
    kinds_found = {kind for _, kind, scope in found(rows) if scope == "intent"}
    assert kinds_found == {"cost of a task", "cost of a success", "success rate"}


def test_a_rule_that_falls_silent_is_named_although_the_tasks_go_on() -> None:
    rows = [usual(number, classified_by="embedding" if number >= 8 else "regex") for number in range(10)]
    silent = {one for one in found(rows) if one[1] == "silent rule"}
    assert silent == {(day(8), "silent rule", "intent"), (day(9), "silent rule", "intent")}


def test_a_new_workflow_that_is_dear_at_once_is_named_and_a_cheap_one_is_not() -> None:
    flows = [
        {"date": day(number), "workflow": "old", "tasks": 100, "cost": 100 * CENT} for number in range(9)
    ]
    dear = {"date": day(8), "workflow": "dear", "tasks": 5, "cost": 30 * CENT}
    cheap = {"date": day(8), "workflow": "cheap", "tasks": 5, "cost": CENT}
    rows = [usual(number) for number in range(9)]
    assert found(rows, [*flows, dear, cheap]) == {(day(8), "new workflow", "dear")}


def free(number: int, since: int, cost: int) -> dict[str, Any]:
    """Nothing is spent before that day, and so much on each from there on."""
    return usual(number, cost=cost if number >= since else 0)


def test_where_nothing_is_usual_a_day_that_spends_is_odd_from_a_cent_on() -> None:
    spends = odd.odd(kinds([free(number, 13, 6_000 * CENT) for number in range(14)]), workflows([]))
    assert {(one.day, one.kind, one.scope) for one in spends} == {
        (day(13), kind, scope)
        for kind in ("cost of a task", "cost of a success")
        for scope in ("all tasks", "intent")
    }
    assert {(one.usual, one.words.split(": ")[1]) for one in spends} == {(0, "usually nothing")}
    assert found([free(number, 13, CENT) for number in range(14)]) != set()
    assert found([free(number, 13, CENT - 1) for number in range(14)]) == set()


def test_what_was_nothing_at_first_has_drifted_once_its_days_spend_a_cent() -> None:
    drifts = trends.drifts(kinds([free(number, 7, 6_000 * CENT) for number in range(14)]))
    assert {(one.figure, one.first, one.times) for one in drifts} == {
        ("cost of a task", 0, None),
        ("cost of a success", 0, None),
    }
    assert report.plain(drifts[0], "usd")["times"] is None
    assert trends.drifts(kinds([free(number, 7, CENT - 1) for number in range(14)])) == ()
    assert trends.drifts(kinds([free(number, 14, 0) for number in range(14)])) == ()


def test_a_usual_amount_beyond_what_a_float_holds_is_exact_to_the_nano_dollar() -> None:
    dear = 2**60 + 1
    rows = [usual(number, tasks=1, succeeded=1, cost=dear if number < 8 else 2 * dear) for number in range(9)]
    costs = [one for one in odd.odd(kinds(rows), workflows([])) if one.unit == "usd"]
    assert {(one.value, one.usual) for one in costs} == {(2 * dear, dear)}


def test_tokens_that_grow_over_the_weeks_are_a_drift() -> None:
    rows = [usual(number, input=40_000 + 4_000 * number) for number in range(20)]
    drifts = [one for one in trends.drifts(kinds(rows)) if one.scope == "intent"]
    assert [(one.figure, one.first, one.last) for one in drifts] == [
        ("input tokens a model call", 520, 1_040)
    ]
    assert drifts[0].times == 2


def test_calls_of_tools_and_people_hide_no_growth_of_the_tokens_of_a_model_call() -> None:
    """Later on each model call reads three times as much, and five calls of a tool stand beside it."""
    later = {"attempts": 600, "input": 120_000}
    rows = kinds([usual(number, **(later if number >= 4 else {})) for number in range(8)])
    told = {one.figure: one.times for one in trends.drifts(rows) if one.scope == "intent"}
    assert told == {"input tokens a model call": 3, "calls a task": 6}
    assert [one.input_tokens_per_call for one in trends.periods(rows)["day"]] == [400] * 4 + [1_200] * 4
    [driver] = trends.drivers(rows)
    assert (driver.calls_per_task, driver.model_calls_per_task) == (3.5, 1)
    assert (driver.input_tokens_per_call, driver.output_tokens_per_call) == (800, 20)


def test_weeks_begin_on_mondays_and_sum_to_their_days() -> None:
    made = trends.periods(kinds([usual(number) for number in range(10)]))
    assert [(one.name, one.days, one.tasks) for one in made["week"]] == [
        ("2026-01-05", 7, 700),
        ("2026-01-12", 3, 300),
    ]
    assert [(one.name, one.calls) for one in made["month"]] == [("2026-01", 1_000)]
    assert sum(one.cost_nano for one in made["day"]) == made["month"][0].cost_nano


def busy(number: int, tasks: int, cost_nano: int) -> Group:
    return Group(
        day(number), tasks, 0, 0, cost_nano, None, None, None, number, None, None, None, None, None, 0, 0, None, None, 0
    )  # fmt: skip


def test_bands_tell_whether_the_unit_cost_holds_on_busy_days() -> None:
    days = [busy(n, 100 * n, 100 * n * CENT * (2 if n > 4 else 1)) for n in range(1, 7)]
    quiet, _, most = trends.bands(days)
    assert (quiet.cost_per_task_nano, most.cost_per_task_nano) == (CENT, 2 * CENT)
    assert most.p95_nano == 6
    assert trends.bands(days[:5]) == ()


@pytest.mark.parametrize(("more", "banded"), [(0, False), (20, False), (30, True)])
def test_days_with_as_much_to_do_are_not_parted_by_their_order(more: int, banded: bool) -> None:
    """A unit cost that grows from day to day says nothing of busy days; the last ones have so many more tasks."""
    days = [busy(n, 100 + (more if n > 6 else 0), n * CENT) for n in range(1, 10)]
    assert (trends.bands(days) != ()) is banded


def tallies(rows: list[dict[str, Any]]) -> Tallies:
    made = kinds(rows)
    return Tallies(made, None, {"task_type": made}, {})


def test_a_change_is_split_into_volume_mix_and_unit_cost_by_hand() -> None:
    """Before 100 cheap and 100 dear tasks (1 and 3 cents); now 300 cheap at 1 cent and 100 dear ones at 4."""
    before = [usual(0), usual(0, task_type="research", cost=300 * CENT)]
    now = [usual(1, tasks=300, cost=300 * CENT), usual(1, task_type="research", cost=400 * CENT)]
    sides = change.side(day(0), day(0), kinds(before)), change.side(day(1), day(1), kinds(now))
    made = change.change(tallies(before), tallies(now), sides, ["type"])
    assert made.volume_nano == 400 * CENT  # 200 more tasks at 2 cents, what one cost before
    assert made.unit_nano == 100 * CENT  # a cent more for each of 100
    assert made.mix_nano == -200 * CENT  # the 200 were of the cheap kind
    assert made.volume_nano + made.mix_nano + made.unit_nano == made.difference_nano == 300 * CENT
    moved = {one.name: (one.volume_nano, one.unit_nano) for one in made.groups["type"]}
    assert moved == {"intent": (200 * CENT, 0), "research": (0, 100 * CENT)}


def test_a_long_table_of_changes_says_what_it_leaves_out_and_adds_up() -> None:
    before = [usual(0, task_type=f"type-{number:02}", cost=number * CENT) for number in range(25)]
    now = [usual(1, task_type=f"type-{number:02}", cost=2 * number * CENT) for number in range(25)]
    sides = change.side(day(0), day(0), kinds(before)), change.side(day(1), day(1), kinds(now))
    made = change.change(tallies(before), tallies(now), sides, ["type"])
    grid = further.moved("type", made.groups["type"], "USD")
    assert len(grid.rows) == 21
    assert grid.rows[-1] == ("5 more", "$0.100", "$0.200", "-", "+$0.100")
    assert list(grid.below) == [("all together", "$3.00", "$6.00", "-", "+$3.00")]


SIDES = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(1, 50), st.integers(0, 10**12)),
    max_size=6,
)  # fmt: skip


@settings(deadline=None)
@given(SIDES, SIDES)
def test_the_parts_of_a_change_always_sum_to_it(before: list[Any], now: list[Any]) -> None:
    rows = [
        [
            usual(0, task_type=name, final_lane=lane, tasks=tasks, cost=cost)
            for name, lane, tasks, cost in side
        ]
        for side in (before, now)
    ]
    sides = change.side(day(0), day(0), kinds(rows[0])), change.side(day(0), day(0), kinds(rows[1]))
    made = change.change(tallies(rows[0]), tallies(rows[1]), sides, ["type"])
    assert made.volume_nano + made.mix_nano + made.unit_nano == made.now.cost_nano - made.before.cost_nano
    for one in made.groups["type"]:
        assert one.volume_nano + one.unit_nano == one.cost_nano - one.before_nano


#: A hundred tasks that cost a cent each and make one call of a hundred tokens in and ten out; and so do others.
A, B = (
    {
        "date": day(0), "workflow": name, "final_lane": "local", "tasks": 100, "cost": 100 * CENT, "attempts": 100,
        "llm_calls": 100, "input": 10_000, "output": 1_000,
    }
    for name in "AB"
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "of_others", "action", "times"),
    [
        ({"human": 80 * CENT}, {}, choices.ASK_PEOPLE_LESS, 1),
        ({}, {}, choices.AS_USUAL, 1),
        ({"cost": 5_000 * CENT, "input": 100_000, "attempts": 1_000}, {}, choices.READ_LESS, 50),
        ({"cost": 5_000 * CENT, "output": 100_000}, {}, choices.WRITE_LESS, 50),
        ({"cost": 500 * CENT, "llm_calls": 500, "input": 50_000, "output": 5_000}, {}, choices.CALL_LESS, 5),
        (
            {
                "cost": 10_000 * CENT, "final_lane": "frontier", "hops": 100, "attempts": 200, "llm_calls": 200,
                "input": 20_000, "output": 2_000,
            },
            {}, choices.CLIMB_LESS, 100,
        ),
        ({"final_lane": "frontier"}, {"cost": 0}, choices.CLIMB_LESS, None),
        ({"cost": 10_000 * CENT}, {}, choices.NOT_KNOWN, 100),
        ({"cost": 10_000 * CENT}, {"tasks": 5, "cost": 5 * CENT}, choices.NOT_KNOWN, 100),
        ({"tasks": 5, "cost": 5 * CENT}, {}, choices.NOT_KNOWN, 1),
        ({}, {"tasks": 0, "cost": 0, "attempts": 0, "llm_calls": 0, "input": 0, "output": 0}, choices.NOT_KNOWN, None),
        ({"input": 100_000}, {"cost": 0, "unpriced_calls": 100}, choices.NOT_KNOWN, None),
        ({"human": 80 * CENT, "unpriced_calls": 1}, {}, choices.NOT_KNOWN, None),
    ],
)  # fmt: skip
def test_what_lowers_the_cost_follows_from_what_makes_it_and_nothing_is_said_of_what_does_not(
    said: dict[str, Any], of_others: dict[str, Any], action: str, times: float | None
) -> None:
    made = {one.workflow: one for one in choices.costly(workflows([{**A, **said}, {**B, **of_others}]))}
    assert (made["A"].action, made["A"].times_usual) == (action, times)


def test_a_workflow_on_several_lanes_is_one_and_the_only_one_is_held_against_no_other() -> None:
    [made] = choices.costly(workflows([A, {**A, "final_lane": "frontier", "cost": 300 * CENT}]))
    assert (made.tasks, made.cost_nano, made.spend_share) == (200, 400 * CENT, 1)
    assert (made.action, made.times_usual) == (choices.NOT_KNOWN, None)
    flows = [{**A, "date": day(number)} for number in range(8)]
    new = [{**B, "date": day(7), "final_lane": lane, "cost": 3 * CENT} for lane in ("local", "frontier")]
    assert found([usual(number) for number in range(8)], [*flows, *new]) == {(day(7), "new workflow", "B")}


def test_a_lane_that_costs_more_and_succeeds_less_is_to_be_compared_with_the_better_one() -> None:
    rows = [
        usual(0),
        usual(0, final_lane="frontier", cost=2_000 * CENT, succeeded=90),
        usual(0, final_lane="mid", judged=9),
    ]
    told = {one.lane: one.dominated_by for one in choices.choices(kinds(rows), {})}
    assert told == {"local": None, "mid": None, "frontier": "local"}


@pytest.mark.parametrize(
    ("said", "first", "nano", "better"),
    [
        ({"cost": 0, "unpriced_calls": 100}, "frontier", None, {}),
        ({"cost": 50 * CENT, "unpriced_calls": 50}, "frontier", CENT // 2, {}),
        ({"cost": 300 * CENT, "unpriced_calls": 50}, "frontier", 3 * CENT, {"local": "frontier"}),
        ({"cost": 0}, "local", 0, {"frontier": "local"}),
    ],
)
def test_a_lane_without_known_prices_beats_no_other_and_one_that_is_free_does(
    said: dict[str, int], first: str, nano: int | None, better: dict[str, str]
) -> None:
    rows = [usual(0, **said, succeeded=100), usual(0, final_lane="frontier", cost=100 * CENT, succeeded=100)]
    made = choices.choices(kinds(rows), {})
    assert made[0].lane == first
    assert {one.lane: one.dominated_by for one in made if one.dominated_by} == better
    [local] = [one for one in made if one.lane == "local"]
    assert (local.cost_per_success_nano, local.unpriced_calls) == (nano, said.get("unpriced_calls", 0))


def test_of_days_without_known_prices_no_unit_cost_is_held_against_others() -> None:
    """From day eight on half of the calls are unpriced; what the others cost is half, and then four times as much."""
    rows = [
        usual(number, **({"cost": 50 * CENT, "unpriced_calls": 50} if number >= 8 else {}))
        for number in range(16)
    ]
    assert trends.drifts(kinds(rows)) == ()
    rows = [
        usual(number, **({"cost": 400 * CENT, "unpriced_calls": 50} if number == 8 else {}))
        for number in range(9)
    ]
    assert found(rows) == set()
    rows = [
        usual(number, **({"cost": 400 * CENT, "unpriced_calls": 5} if number == 8 else {}))
        for number in range(9)
    ]
    assert (day(8), "cost of a task", "intent") in found(rows)
