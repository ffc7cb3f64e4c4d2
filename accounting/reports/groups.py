"""From sums to groups of tasks, and to what stands beside them on the first page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from accounting.reports.currency import Rates
from accounting.reports.figures import Dearest, Goal, Group, Open, Part, Window, Work, share, unit_cost
from accounting.reports.ranks import Answers
from accounting.reports.sums import PARTS, RATINGS, Totals, by, picked, total, totals
from accounting.reports.tasks import DATE, PERCENTS, TOTAL

DEAREST = (0.01, 0.1)
UNFINISHED = ("queued", "running")
#: The four categories of what a task costs → the parts in them. What is called once more is work of the orchestration.
CATEGORIES = {
    "inference": ("inference", "validation", "eval"),
    "orchestration": ("retry", "reprompt", "routing", "orchestration"),
    "data": ("tool", "data"),
    "human": ("human",),
}
NOBODY: Totals = dict.fromkeys(RATINGS, 0)


@dataclass(frozen=True, slots=True)
class Basis:
    """What groups are held against. ``whole_nano`` is all spend, ``price_nano`` what a success is sold for; None takes
    what people said it was worth. ``ratings`` is a table of what they said; None: not known."""

    whole_nano: int
    price_nano: int | None
    ratings: Any


def group(name: str, sums: Totals, ranks: Answers, basis: Basis, said: Totals | None) -> Group:
    """``said`` are its ratings; None: not known."""
    rated, satisfied = (None if said is None else said[one] for one in RATINGS)
    cost, succeeded, unpriced = sums["cost"], sums["succeeded"], sums["unpriced_calls"]
    if basis.price_nano is None:
        valued, valued_cost = sums["valued"], sums["valued_cost"]
        worth = sums["value"] if valued or valued_cost else None  # a day may have parts alone of valued tasks
    else:
        valued, valued_cost, worth = sums["tasks"], cost, basis.price_nano * succeeded
    known = cost or not unpriced
    p50, p95, p99, top = (ranks.percent(name, percent) if known else None for percent in PERCENTS)
    return Group(
        name=name,
        tasks=sums["tasks"],
        judged=sums["judged"],
        succeeded=succeeded,
        cost_nano=cost,
        cost_per_task_nano=unit_cost(cost, sums["tasks"], unpriced),
        cost_per_success_nano=unit_cost(cost, succeeded, unpriced),
        p50_nano=p50,
        p95_nano=p95,
        p99_nano=p99,
        max_nano=top,
        overhead_share=share(cost - sums["inference"], cost),
        spend_share=share(cost, basis.whole_nano),
        value_nano=worth,
        valued=valued,
        valued_cost_nano=valued_cost,
        rated=rated,
        satisfied=satisfied,
        unpriced_calls=unpriced,
    )


def all_tasks(kinds: Any, ranks: Answers, basis: Basis) -> Group:
    said = None if basis.ratings is None else totals(basis.ratings)
    return group(TOTAL, totals(kinds), ranks, basis, said)


def groups(table: Any, key: str, ranks: Answers, basis: Basis) -> tuple[Group, ...]:
    """One group a value, the dearest first."""
    return tuple(sorted(_each(table, key, ranks, basis), key=lambda one: (-one.cost_nano, one.name)))


def days(kinds: Any, ranks: Answers, basis: Basis) -> tuple[Group, ...]:
    return tuple(_each(kinds, DATE, ranks, basis))


def _each(table: Any, key: str, ranks: Answers, basis: Basis) -> Iterator[Group]:
    known = basis.ratings is not None and key in basis.ratings.column_names
    said = dict(by(basis.ratings, key)) if known else {}
    for name, sums in by(table, key):
        yield group(name, sums, ranks, basis, said.get(name, NOBODY) if known else None)


def counts(tasks: int) -> tuple[int, ...]:
    """How many tasks the dearest 1% and 10% are."""
    return tuple(ceil(tasks * part) for part in DEAREST)


def dearest(tasks: int, ranks: Answers, whole_nano: int) -> tuple[Dearest, ...]:
    found = []
    for part, count in zip(DEAREST, counts(tasks), strict=True):
        least, cost = ranks.greatest.get(TOTAL, {}).get(count, (None, 0))
        found.append(Dearest(part, count, least, cost, share(cost, whole_nano)))
    return tuple(found)


def parts(sums: Any) -> tuple[Part, ...]:
    """``sums`` come from ``daily`` or from ``tasks``."""
    whole = total(sums, "cost")
    return tuple(Part(name, nano, share(nano, whole)) for name in PARTS for nano in (total(sums, name),))


def categories(found: Sequence[Part]) -> tuple[Part, ...]:
    whole = sum(part.nano for part in found)
    nanos = {part.name: part.nano for part in found}
    sums = {name: sum(nanos[one] for one in those) for name, those in CATEGORIES.items()}
    return tuple(Part(name, nano, share(nano, whole)) for name, nano in sums.items())


def work(sums: Any) -> tuple[Work, ...]:
    """By lane and model of the calls, the dearest first."""
    whole = total(sums, "cost")
    found = []
    for lane, _ in by(sums, "lane"):
        for model, one in by(picked(sums, lane=lane), "model"):
            read = one["input_tokens"] + one["cached_input_tokens"] + one["cache_write_tokens"]
            written = one["output_tokens"] + one["reasoning_tokens"]
            cost = one["cost"]
            found.append(Work(lane, model, one["attempts"], read, written, cost, share(cost, whole)))
    return tuple(sorted(found, key=lambda one: (-one.cost_nano, one.lane, one.model)))


def window(since: str, until: str, days: int, unrolled: tuple[str, ...], sums: Any, unpriced: int) -> Window:
    cost, succeeded = total(sums, "cost"), total(sums, "succeeded")
    each = unit_cost(cost, succeeded, unpriced)
    return Window(since, until, days, unrolled, total(sums, "tasks"), succeeded, cost, each, unpriced)


def goal(
    limit_nano: int | None, rates: Rates | None, until: str, all_days: Group, each: Sequence[Group]
) -> Goal | None:
    """``limit_nano`` is in US dollars; each day is held against what that is at its own rate."""
    if limit_nano is None:
        return None

    def limit(day: str) -> int:
        return limit_nano if rates is None else rates.convert(limit_nano, day)

    broken = [day.name for day in each if day.p95_nano is not None and day.p95_nano > limit(day.name)]
    return Goal(limit(until), all_days.p95_nano, len(each), tuple(broken))


def statuses(kinds: Any) -> dict[str, int]:
    return {status: sums["tasks"] for status, sums in by(kinds, "status") if sums["tasks"]}


def open_(kinds: Any) -> Open:
    every = totals(kinds)
    parked = totals(picked(kinds, status="parked"))
    return Open(
        unjudged_tasks=every["tasks"] - every["judged"],
        unjudged_nano=every["cost"] - every["judged_cost"],
        failed_nano=every["failed_cost"],
        cost_per_judged_success_nano=unit_cost(
            every["judged_cost"], every["succeeded"], every["unpriced_calls"]
        ),
        unpriced_calls=every["unpriced_calls"],
        unsettled_calls=every["unsettled_calls"],
        parked_tasks=parked["tasks"],
        parked_nano=parked["cost"],
        unfinished_tasks=sum(total(picked(kinds, status=one), "tasks") for one in UNFINISHED),
    )
