"""How tasks changed over the days: volume and unit cost apart, what drives them, and what has drifted.

Everything here is made from the sums by day and kind of tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from fractions import Fraction
from statistics import median
from typing import Any, TypeVar

import pyarrow as pa

from accounting.files import schema
from accounting.reports.figures import Band, Drift, Driver, Group, Period, ratio, share, unit_cost
from accounting.reports.sums import Totals, by, names_in, picked
from accounting.reports.tasks import DATE

Real = TypeVar("Real", float, Fraction)
DRIFT_DAYS, FEWEST_DAYS = 7, 4
DRIFTED = 1.2  # times as much, or as little, as at first
FEWEST_TASKS = 20  # a day, for a type to be looked at
#: Where the usual is nothing, a day must have spent so much that something is odd or has drifted: a cent.
LEAST_SPENT_NANO = 10_000_000
MOST_UNPRICED = 0.05  # of the calls of a day, for its unit costs to be held against those of others
BUSIER = 1.2  # times as much to do on the busy days as on the quiet ones, for them to be two kinds of days
BANDS = ("quiet days", "usual days", "busy days")
FEWEST_BANDED = 6


def week_of(day: str) -> str:
    """The Monday of the day's week."""
    at = date.fromisoformat(day)
    return (at - timedelta(days=at.weekday())).isoformat()


PERIODS: Mapping[str, Callable[[str], str]] = {
    "day": lambda day: day,
    "week": week_of,
    "month": lambda day: day[:7],
}


def periods(kinds: Any) -> dict[str, tuple[Period, ...]]:
    return {name: tuple(_periods(kinds, of)) for name, of in PERIODS.items()}


def _periods(kinds: Any, of: Callable[[str], str]) -> Iterator[Period]:
    days = kinds[DATE].to_pylist()
    named = kinds.append_column("period", pa.array([of(day) for day in days], schema.TEXT))
    length: dict[str, set[str]] = {}
    for day in set(days):
        length.setdefault(of(day), set()).add(day)
    for name, sums in by(named, "period"):
        yield Period(
            name=name,
            days=len(length[name]),
            tasks=sums["tasks"],
            calls=sums["attempts"],
            cost_nano=sums["cost"],
            cost_per_task_nano=_unit_cost(sums, "tasks"),
            cost_per_success_nano=_unit_cost(sums, "succeeded"),
            success_rate=share(sums["succeeded"], sums["judged"]),
            calls_per_task=share(sums["attempts"], sums["tasks"]),
            model_calls_per_task=share(sums["llm_calls"], sums["tasks"]),
            input_tokens_per_call=share(sums["input"], sums["llm_calls"]),
            output_tokens_per_call=share(sums["output"], sums["llm_calls"]),
            cached_share=share(sums["cached_input_tokens"], sums["input"]),
            overhead_share=share(sums["cost"] - sums["inference"], sums["cost"]),
            unpriced_calls=sums["unpriced_calls"],
        )


def drivers(kinds: Any) -> tuple[Driver, ...]:
    """By type, the dearest first."""
    found = sorted(by(kinds, "task_type"), key=lambda one: (-one[1]["cost"], one[0]))
    return tuple(
        Driver(
            task_type=task_type,
            tasks=sums["tasks"],
            calls_per_task=share(sums["attempts"], sums["tasks"]),
            model_calls_per_task=share(sums["llm_calls"], sums["tasks"]),
            input_tokens_per_call=share(sums["input"], sums["llm_calls"]),
            output_tokens_per_call=share(sums["output"], sums["llm_calls"]),
            cached_share=share(sums["cached_input_tokens"], sums["input"]),
            cost_per_call_nano=_unit_cost(sums, "attempts"),
            cost_per_task_nano=_unit_cost(sums, "tasks"),
            unpriced_calls=sums["unpriced_calls"],
        )
        for task_type, sums in found
    )


def known_unit_cost(sums: Totals, of: str) -> Fraction | None:
    """None where too many calls have no known price to say so."""
    if sums["unpriced_calls"] > MOST_UNPRICED * sums["attempts"]:
        return None
    cost = ratio(sums["cost"], sums[of])
    return None if cost is None else Fraction(cost)


def _unit_cost(sums: Totals, of: str) -> int | None:
    return unit_cost(sums["cost"], sums[of], sums["unpriced_calls"])


#: What may drift, of a day's sums.
_DRIFTING: Mapping[str, Callable[[Totals], float | None]] = {
    "input tokens a model call": lambda sums: share(sums["input"], sums["llm_calls"]),
    "output tokens a model call": lambda sums: share(sums["output"], sums["llm_calls"]),
    "calls a task": lambda sums: share(sums["attempts"], sums["tasks"]),
}
#: What of it is money. Medians of fractions are exact.
UNIT_COSTS: Mapping[str, Callable[[Totals], Fraction | None]] = {
    "cost of a task": lambda sums: known_unit_cost(sums, "tasks"),
    "cost of a success": lambda sums: known_unit_cost(sums, "succeeded"),
}


def scopes(kinds: Any) -> Iterator[tuple[str, list[tuple[str, dict[str, int]]]]]:
    """All tasks, then each type of which there are enough: its days in order, each with its sums."""
    yield "all tasks", list(by(kinds, DATE))
    for task_type in names_in(kinds, "task_type"):
        days = list(by(picked(kinds, task_type=task_type), DATE))
        if median(sums["tasks"] for _, sums in days) >= FEWEST_TASKS:
            yield task_type, days


def drifts(kinds: Any) -> tuple[Drift, ...]:
    """What is a fifth more or less than at first; medians, so that one odd day is no drift."""
    found: list[Drift | None] = []
    for scope, days in scopes(kinds) if kinds.num_rows else ():
        sums = [of_day for _, of_day in days]
        found += [_drift(figure, scope, sums, of, "count") for figure, of in _DRIFTING.items()]
        found += [_drift(figure, scope, sums, of, "usd") for figure, of in UNIT_COSTS.items()]
    return tuple(one for one in found if one is not None)


def _drift(
    figure: str, scope: str, days: Sequence[Totals], of: Callable[[Totals], Real | None], unit: str
) -> Drift | None:
    known = [(value, sums["cost"]) for sums in days if (value := of(sums)) is not None]
    if len(known) < FEWEST_DAYS:
        return None
    values = [value for value, _ in known]
    span = min(DRIFT_DAYS, len(values) // 2)
    first, last = median(values[:span]), median(values[-span:])
    times = float(last / first) if first else None
    if times is None:
        drifted = last > 0 and median(cost for _, cost in known[-span:]) >= LEAST_SPENT_NANO
    else:
        drifted = not 1 / DRIFTED < times < DRIFTED
    return Drift(figure, scope, first, last, times, unit) if drifted else None


def bands(days: Sequence[Group]) -> tuple[Band, ...]:
    """Thirds of the days by how much there was to do; none where days are few or alike: what parts those is their order
    in time."""
    if len(days) < FEWEST_BANDED:
        return ()
    ordered = sorted(days, key=lambda day: (day.tasks, day.name))
    third = len(ordered) / len(BANDS)
    found = tuple(
        _band(name, ordered[round(place * third) : round((place + 1) * third)])
        for place, name in enumerate(BANDS)
    )
    return found if found[-1].tasks_per_day > BUSIER * found[0].tasks_per_day else ()


def _band(name: str, days: Sequence[Group]) -> Band:
    tasks, cost = sum(day.tasks for day in days), sum(day.cost_nano for day in days)
    unpriced = sum(day.unpriced_calls for day in days)
    return Band(
        name=name,
        days=len(days),
        tasks_per_day=tasks // len(days),
        cost_per_task_nano=unit_cost(cost, tasks, unpriced),
        cost_per_success_nano=unit_cost(cost, sum(day.succeeded for day in days), unpriced),
        p95_nano=max((day.p95_nano for day in days if day.p95_nano is not None), default=None),
        unpriced_calls=unpriced,
    )
