"""Days on which something is far from what it usually is, each named for what it is.

The usual is the median of the four weeks before a day, and how far days are from it the median of their distances, so
that one earlier spike changes neither. Where the usual is nothing, a day is odd that spends a cent or more
(``LEAST_SPENT_NANO``). A day with fewer than ``FEWEST_BEFORE`` days before it is never odd; for a range of a week or
less, the four weeks before it are read too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from accounting.reports.figures import Odd, share
from accounting.reports.sums import Totals, by, names_in, picked, total
from accounting.reports.tasks import DATE, WORKFLOW
from accounting.reports.trends import LEAST_SPENT_NANO, UNIT_COSTS, Real, scopes

Day = tuple[str, Totals]
BEFORE_DAYS, FEWEST_BEFORE = 28, 7
#: A median distance of normally distributed days times this is their standard deviation; so many of these are far.
DEVIATION, FAR = 1.4826, 5
RISEN = 1.5  # times the usual, at least
FALLEN = 0.1  # of a share, at least
NEW_SHARE = 0.05  # of a day's spend, for a workflow that nobody saw before
RULE, RULE_TASKS, RULE_SILENT = "regex", 20, 0.1
DECLARED = "declared"  # by its producer

_RISING: Mapping[str, Callable[[Totals], float | None]] = {
    "calls": lambda sums: sums["attempts"],
    "calls a task": lambda sums: share(sums["attempts"], sums["tasks"]),
}


def odd(kinds: Any, workflows: Any) -> tuple[Odd, ...]:
    """In the order of days."""
    if not kinds.num_rows:
        return ()
    found = [*_figures(kinds), *_new_workflows(workflows), *_silent_rules(kinds)]
    return tuple(sorted(found, key=lambda one: (one.day, one.kind, one.scope)))


def _figures(kinds: Any) -> Iterator[Odd]:
    for scope, days in scopes(kinds):
        for kind, of in _RISING.items():
            yield from _spikes(kind, scope, days, of, "count")
        for kind, cost_of in UNIT_COSTS.items():
            yield from _spikes(kind, scope, days, cost_of, "usd")
        rates = [(day, share(sums["succeeded"], sums["judged"])) for day, sums in days]
        for day, value, usual in _with_usual(rates, _is_slump):
            words = f"success rate of {scope}: {value:.1%}, usually {usual:.1%}"
            yield Odd(day, "success rate", scope, value, usual, "share", words)


def _spikes(
    kind: str, scope: str, days: Sequence[Day], of: Callable[[Totals], Real | None], unit: str
) -> Iterator[Odd]:
    cost = {day: sums["cost"] for day, sums in days}
    for day, value, usual in _with_usual([(day, of(sums)) for day, sums in days], _is_spike):
        if usual or cost[day] >= LEAST_SPENT_NANO:
            times = f"{float(value / usual):.1f} times the usual" if usual else "usually nothing"
            yield Odd(day, kind, scope, value, usual, unit, f"{kind} of {scope}: {times}")


def _with_usual(
    days: Sequence[tuple[str, Real | None]], far: Callable[[Real, Real, float], bool]
) -> Iterator[tuple[str, Real, Real]]:
    """The days whose value is far from the usual, with both."""
    known = [(day, value) for day, value in days if value is not None]
    for place, (day, value) in enumerate(known):
        before = [one for _, one in known[max(0, place - BEFORE_DAYS) : place]]
        if len(before) >= FEWEST_BEFORE:
            usual = median(before)
            spread = median(abs(one - usual) for one in before) * DEVIATION
            if far(value, usual, spread):
                yield day, value, usual


def _is_spike(value: Real, usual: Real, spread: float) -> bool:
    return value > usual * RISEN and value > usual + FAR * spread


def _is_slump(value: float, usual: float, spread: float) -> bool:
    return value < usual - FALLEN and value < usual - FAR * spread


def _new_workflows(workflows: Any) -> Iterator[Odd]:
    """A workflow on the first day that it was seen, where it is dear at once."""
    spent: dict[str, dict[str, int]] = {}
    columns = (workflows[name].to_pylist() for name in (DATE, WORKFLOW, "cost"))
    for day, name, cost in zip(*columns, strict=True):
        of_day = spent.setdefault(day, {})
        of_day[name] = of_day.get(name, 0) + cost
    seen: set[str] = set()
    for place, day in enumerate(sorted(spent)):
        whole = sum(spent[day].values())
        for name in spent[day].keys() - seen:
            part = share(spent[day][name], whole)
            if place >= FEWEST_BEFORE and part is not None and part >= NEW_SHARE:
                words = f"workflow {name or '(none)'} is new and takes {part:.0%} of the day's spend"
                yield Odd(day, "new workflow", name, part, 0.0, "share", words)
        seen |= spent[day].keys()


def unfired(kinds: Any, ruled: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """How many tasks came without a type, and the types of which no pattern found any of them.

    Told from ``RULE_TASKS`` on: of a few, a pattern may well find none. Nothing is told where a pattern found parts of
    tasks: these stand under the type of their root, and not under the one that was found.
    """
    found = {name: sums["tasks"] for name, sums in by(kinds, "classified_by")}
    classified = sum(tasks for name, tasks in found.items() if name not in ("", DECLARED))
    if classified < RULE_TASKS or total(picked(kinds, classified_by=RULE), "parts"):
        return classified, ()
    fired = {task_type for task_type, _ in by(picked(kinds, classified_by=RULE), "task_type")}
    return classified, tuple(name for name in ruled if name not in fired)


def _silent_rules(kinds: Any) -> Iterator[Odd]:
    """A type that its rule recognised every day, and now hardly any more, although there is as much to do as ever."""
    everything = {day: sums["tasks"] for day, sums in by(kinds, DATE)}
    firing = picked(kinds, classified_by=RULE)
    for task_type in names_in(firing, "task_type"):
        fired = {day: sums["tasks"] for day, sums in by(picked(firing, task_type=task_type), DATE)}
        parts = [(day, share(fired.get(day, 0), tasks)) for day, tasks in everything.items()]

        def silent(value: float, usual: float, _: float) -> bool:
            return value < usual * RULE_SILENT

        if median(fired.values()) < RULE_TASKS:
            continue
        for day, value, usual in _with_usual(parts, silent):
            words = f"the rule of {task_type} hardly fires: {value:.1%} of tasks, usually {usual:.1%}"
            yield Odd(day, "silent rule", task_type, value, usual, "share", words)
