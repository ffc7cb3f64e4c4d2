"""What to do about it: lanes against each other, and the few workflows that much of the spend goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from accounting.reports.figures import Cell, Choice, Costly, share, unit_cost
from accounting.reports.sums import by, picked, totals
from accounting.reports.tasks import WORKFLOW
from broker.money import round_half_even

Sums = Mapping[str, int]
MOST_COSTLY = 5
FEWEST_JUDGED = 30  # for one lane to be called better than another
PEOPLE, DEAR, LONG, MANY = 0.5, 1.1, 1.5, 1.5

ASK_PEOPLE_LESS = (
    "people cost most of it: loosen or teach the gate with what they answered (laneway review export)"
)
READ_LESS = "its calls read far more than others do: cut retrieval and history down to what is used"
CALL_LESS = "a task makes far more calls than others do: split it into a chain of cheaper steps"
CLIMB_LESS = (
    "it ends on dear lanes: route more of it to a cheaper one (laneway econ rates tells what passes there)"
)
AS_USUAL = "its tasks cost no more than others do: it is the volume"


def cells(kinds: Any) -> tuple[Cell, ...]:
    """What a thousand tasks of each type cost on the lane that ended them."""
    return tuple(
        Cell(
            task_type,
            lane,
            sums["tasks"],
            unit_cost(sums["cost"] * 1000, sums["tasks"], sums["unpriced_calls"]),
        )
        for task_type, _ in by(kinds, "task_type")
        for lane, sums in by(picked(kinds, task_type=task_type), "final_lane")
        if sums["tasks"]
    )


def visits(daily: Any) -> tuple[Cell, ...]:
    """What a thousand tasks of each type cost on each lane that they were on, whatever they cost elsewhere."""
    return tuple(
        Cell(task_type, lane, sums["visits"], round_half_even(sums["visits_cost"] * 1000, sums["visits"]))
        for task_type, _ in by(daily, "task_type")
        for lane, sums in by(picked(daily, task_type=task_type), "lane")
        if sums["visits"]
    )


def choices(kinds: Any) -> tuple[Choice, ...]:
    """Of each type the lanes with a verdict, the cheapest success first."""
    return tuple(one for task_type, _ in by(kinds, "task_type") for one in _of_type(kinds, task_type))


def _of_type(kinds: Any, task_type: str) -> list[Choice]:
    found = [
        Choice(
            task_type,
            lane,
            sums["tasks"],
            sums["judged"],
            share(sums["succeeded"], sums["judged"]),
            unit_cost(sums["cost"], sums["succeeded"], sums["unpriced_calls"]),
            sums["unpriced_calls"],
        )
        for lane, sums in by(picked(kinds, task_type=task_type), "final_lane")
        if sums["judged"]
    ]
    found.sort(key=_dearness)
    return [replace(one, dominated_by=_better(one, found)) for one in found]


def _dearness(one: Choice) -> tuple[bool, bool, int, str]:
    """Of what has calls of unknown price nobody knows whether it is cheap."""
    nano = one.cost_per_success_nano
    return nano is None, one.unpriced_calls > 0, nano or 0, one.lane


def _better(one: Choice, others: Sequence[Choice]) -> str | None:
    return next((other.lane for other in others if _beats(other, one)), None)


def _beats(other: Choice, one: Choice) -> bool:
    if min(other.judged, one.judged) < FEWEST_JUDGED:
        return False
    if other.cost_per_success_nano is None or other.unpriced_calls:
        return False
    mine = (-(one.success_rate or 0.0), one.cost_per_success_nano)
    its = (-(other.success_rate or 0.0), other.cost_per_success_nano)
    if mine[1] is None:
        return its[0] <= mine[0] and not one.unpriced_calls
    return its[0] <= mine[0] and its[1] <= mine[1] and its != mine


def costly(workflows: Any) -> tuple[Costly, ...]:
    """The workflows with the largest spend, and what would lower it."""
    every = totals(workflows)
    found = sorted(by(workflows, WORKFLOW), key=lambda one: (-one[1]["cost"], one[0]))
    return tuple(
        Costly(
            workflow=name,
            tasks=sums["tasks"],
            cost_nano=sums["cost"],
            spend_share=share(sums["cost"], every["cost"]),
            cost_per_success_nano=unit_cost(sums["cost"], sums["succeeded"], sums["unpriced_calls"]),
            times_usual=_times(sums, every, "cost", "tasks"),
            action=action(sums, every),
            unpriced_calls=sums["unpriced_calls"],
        )
        for name, sums in found[:MOST_COSTLY]
        if sums["cost"]
    )


def action(sums: Sums, every: Sums) -> str:
    """What makes the tasks dear, where they are dearer than tasks are on the whole, and what to do about it."""
    if (share(sums["human"], sums["cost"]) or 0.0) >= PEOPLE:
        return ASK_PEOPLE_LESS
    if (_times(sums, every, "cost", "tasks") or 0.0) < DEAR:
        return AS_USUAL
    if (_times(sums, every, "input", "attempts") or 0.0) >= LONG:
        return READ_LESS
    return CALL_LESS if (_times(sums, every, "attempts", "tasks") or 0.0) >= MANY else CLIMB_LESS


def _times(sums: Sums, every: Sums, part: str, of: str) -> float | None:
    """A ratio of the sums over the same ratio of all."""
    whole = sums[of] * every[part]
    return sums[part] * every[of] / whole if whole else None
