"""What to do about it: lanes against each other, and the few workflows that much of the spend goes into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from math import inf, isfinite
from typing import Any

from accounting.reports.figures import Cell, Choice, Costly, share, unit_cost
from accounting.reports.sums import Totals, by, picked, totals
from accounting.reports.tasks import LANE, WORKFLOW

MOST_COSTLY = 5
FEWEST_JUDGED = 30  # for a lane to be called worse than another, or than what is asked of it
PEOPLE, DEAR, FAR = 0.5, 1.1, 1.5
WRITTEN = 4  # tokens read that cost about as much as one written

ASK_PEOPLE_LESS = (
    "people cost most of it: loosen or teach the gate with what they answered (laneway review export)"
)
READ_LESS = "its calls read far more than others do: cut retrieval and history down to what is used"
WRITE_LESS = "its calls write far more than others do: ask for shorter answers"
CALL_LESS = "a task makes far more calls of models than others do: split it into a chain of cheaper steps"
CLIMB_LESS = (
    "it ends on dearer lanes than others do: route more of it to a cheaper one (laneway econ rates tells what passes "
    "there)"
)
AS_USUAL = "its tasks cost no more than others do: it is the volume"
NOT_KNOWN = ""


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


def visits(daily: Any, unpriced: int) -> tuple[Cell, ...]:
    """What a thousand tasks of each type cost on each lane that they were on, whatever they cost elsewhere. The
    ``unpriced`` calls may be of any lane: of one that comes to nothing beside them nobody knows whether it is free."""
    return tuple(
        Cell(task_type, lane, sums["visits"], unit_cost(sums["visits_cost"] * 1000, sums["visits"], unpriced))
        for task_type, _ in by(daily, "task_type")
        for lane, sums in by(picked(daily, task_type=task_type), "lane")
        if sums["visits"]
    )


def choices(kinds: Any, floors: Mapping[str, Decimal]) -> tuple[Choice, ...]:
    """Of each type the lanes with a verdict, the cheapest success first. ``floors`` are the parts of their tasks that
    types are to succeed in."""
    return tuple(
        one
        for task_type, _ in by(kinds, "task_type")
        for one in _of_type(kinds, task_type, floors.get(task_type))
    )


def _of_type(kinds: Any, task_type: str, floor: Decimal | None) -> list[Choice]:
    found = [
        Choice(
            task_type,
            lane,
            sums["tasks"],
            sums["judged"],
            share(sums["succeeded"], sums["judged"]),
            unit_cost(sums["cost"], sums["succeeded"], sums["unpriced_calls"]),
            sums["unpriced_calls"],
            below_floor=_is_below(sums, floor),
        )
        for lane, sums in by(picked(kinds, task_type=task_type), "final_lane")
        if sums["judged"]
    ]
    found.sort(key=_cheapest_first)
    return [replace(one, dominated_by=_better(one, found)) for one in found]


def _is_below(sums: Totals, floor: Decimal | None) -> bool | None:
    if floor is None or sums["judged"] < FEWEST_JUDGED:
        return None
    return sums["succeeded"] < floor * sums["judged"]


def _cheapest_first(one: Choice) -> tuple[bool, bool, int, str]:
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
    every, lanes = _driven(totals(workflows)), _by_lane(workflows)
    found = sorted(by(workflows, WORKFLOW), key=lambda one: (-one[1]["cost"], one[0]))
    made = []
    for name, sums in ((name, _driven(sums)) for name, sums in found[:MOST_COSTLY] if sums["cost"]):
        others = _less(every, sums)
        times = _dearness(sums, others)
        dearer_lanes = _dearer_lanes(_by_lane(picked(workflows, workflow=name)), lanes)
        made.append(
            Costly(
                workflow=name,
                tasks=sums["tasks"],
                cost_nano=sums["cost"],
                spend_share=share(sums["cost"], every["cost"]),
                cost_per_success_nano=unit_cost(sums["cost"], sums["succeeded"], sums["unpriced_calls"]),
                times_usual=times if times is not None and isfinite(times) else None,
                action=action(sums, others, dearer_lanes, len(found)),
                unpriced_calls=sums["unpriced_calls"],
            )
        )
    return tuple(made)


def action(sums: Totals, others: Totals, lanes: float | None, workflows: int) -> str:
    """What makes the tasks of one of so many workflows dearer than those of all others, and what to do about it.

    What a task costs is its calls * the tokens of a call * what a token costs, which its lane decides: what is furthest
    from the others is named. ``lanes`` says how many times as much a token costs on the lanes that its tasks ended on.
    """
    if not sums["unpriced_calls"] and (share(sums["human"], sums["cost"]) or 0.0) >= PEOPLE:
        return ASK_PEOPLE_LESS
    dearer = _dearness(sums, others)
    if dearer is None:
        return NOT_KNOWN
    if dearer < DEAR:
        return AS_USUAL if sums["tasks"] * (workflows - 1) >= others["tasks"] else NOT_KNOWN
    reasons = (
        (lanes, CLIMB_LESS),
        (_times(sums, others, "tokens", "llm_calls"), _longer(sums, others)),
        (_times(sums, others, "calls", "tasks"), CALL_LESS),
    )
    times, what = max(((times or 0.0, what) for times, what in reasons), key=lambda one: one[0])
    return what if times >= FAR else NOT_KNOWN


def _longer(sums: Totals, others: Totals) -> str:
    """Whether it is rather what a call reads or what it writes that makes its tokens more than those of others."""
    read, written = (
        (share(sums[name], sums["llm_calls"]) or 0.0) - (share(others[name], others["llm_calls"]) or 0.0)
        for name in ("input", "output")
    )
    return READ_LESS if read >= written * WRITTEN else WRITE_LESS


def _dearness(sums: Totals, others: Totals) -> float | None:
    """None where there are no others, or nobody knows what all of them cost."""
    if sums["unpriced_calls"] or others["unpriced_calls"]:
        return None
    return _times(sums, others, "cost", "tasks")


def _dearer_lanes(lanes: Mapping[str, Totals], every: Mapping[str, Totals]) -> float | None:
    """What a token costs on the lanes that some tasks ended on, over what it does on those of all others. On each lane
    it costs what it does over all tasks: how the tasks themselves are is no matter of the lane."""
    prices = {
        lane: (sums["cost"] - sums["human"]) / sums["tokens"]
        for lane, sums in every.items()
        if sums["tokens"]
    }
    others = {lane: _less(sums, lanes[lane]) if lane in lanes else sums for lane, sums in every.items()}
    its, theirs = (
        (
            sum(prices[lane] * sums["tokens"] for lane, sums in some.items() if lane in prices),
            sum(sums["tokens"] for sums in some.values()),
        )
        for some in (lanes, others)
    )
    return _over(its, theirs)


def _times(sums: Totals, others: Totals, part: str, of: str) -> float | None:
    """A ratio of the sums over the same ratio of the others."""
    return _over((sums[part], sums[of]), (others[part], others[of]))


def _over(its: tuple[float, int], theirs: tuple[float, int]) -> float | None:
    """One ratio over another; infinite over nothing, None where one of both is none."""
    if not its[1] or not theirs[1]:
        return None
    if not theirs[0]:
        return inf if its[0] else None
    return (its[0] * theirs[1]) / (its[1] * theirs[0])


def _by_lane(workflows: Any) -> dict[str, Totals]:
    return {lane: _driven(sums) for lane, sums in by(workflows, LANE)}


def _driven(sums: Totals) -> Totals:
    """With what drives the cost: ``calls`` of models beyond those that climbing brings about, and ``tokens``, what is
    written weighed by its price."""
    calls = max(0, sums["llm_calls"] - sums["hops"])
    return {**sums, "calls": calls, "tokens": sums["input"] + WRITTEN * sums["output"]}


def _less(every: Totals, sums: Totals) -> Totals:
    return {name: every[name] - sums[name] for name in every}
