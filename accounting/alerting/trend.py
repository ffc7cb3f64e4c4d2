"""What goes on for minutes, of each task type: tasks dearer than they should be, successes that grow dearer.

Pure: the ends of the last while and the time of day in, what to tell in a value out. A spike in one minute is no trend,
and neither is a handful of tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from accounting.alerting.alerts import OVERRUN, RISING, Alert

US_PER_MINUTE = 60_000_000
MINUTES = 5
BEFORE_MINUTES = 60
#: So many minutes of the five must have seen an end, so many ends there must be in them, successes in the hour before.
FEWEST_MINUTES, FEWEST_ENDS, FEWEST_SUCCESSES = 3, 5, 20
RISE_PERCENT = 150  # of what a success cost before; above that it has risen


@dataclass(frozen=True, slots=True)
class Ended:
    """One task at its end, with all that it and its parts cost. ``succeeded`` None: no gate judged it."""

    at_us: int
    task_type: str
    cost_nano: int
    succeeded: bool | None


def trends(ended: Iterable[Ended], now_us: int, p95_nano: int | None) -> list[Alert]:
    """``p95_nano`` is what 95 of 100 tasks should stay under, None for no such wish."""
    by_type: dict[str, list[Ended]] = {}
    for one in ended:
        by_type.setdefault(one.task_type, []).append(one)
    found = []
    for task_type, ends in sorted(by_type.items()):
        minutes = _minutes(ends, now_us)
        if minutes is None:
            continue
        overrun = None if p95_nano is None else _overrun(minutes, p95_nano)
        if overrun is not None and p95_nano is not None:
            found.append(Alert(now_us, f"type:{task_type}", OVERRUN, "", 100, overrun, p95_nano))
        risen = _risen(minutes, _before(ends, now_us))
        if risen is not None:
            found.append(Alert(now_us, f"type:{task_type}", RISING, "", 100, *risen))
    return found


def _minutes(ends: Sequence[Ended], now_us: int) -> list[list[Ended]] | None:
    """The last five minutes that saw an end, each with its own; None where they say too little."""
    parts: list[list[Ended]] = [[] for _ in range(MINUTES)]
    for one in ends:
        ago = (now_us - one.at_us) // US_PER_MINUTE
        if 0 <= ago < MINUTES:
            parts[ago].append(one)
    filled = [part for part in parts if part]
    enough = len(filled) >= FEWEST_MINUTES and sum(map(len, filled)) >= FEWEST_ENDS
    return filled if enough else None


def _before(ends: Sequence[Ended], now_us: int) -> list[Ended]:
    return [
        one for one in ends if MINUTES <= (now_us - one.at_us) // US_PER_MINUTE < MINUTES + BEFORE_MINUTES
    ]


def _overrun(minutes: Sequence[Sequence[Ended]], limit_nano: int) -> int | None:
    """The 95th percentile of all, where that of each minute is above the limit."""
    if all(p95(part) > limit_nano for part in minutes):
        return p95([one for part in minutes for one in part])
    return None


def _risen(minutes: Sequence[Sequence[Ended]], before: Sequence[Ended]) -> tuple[int, int] | None:
    """What a success costs now at least, and what it did before, where each minute is well above that.

    A minute that spent and brought no success at all is above everything.
    """
    judged = [
        part for part in ([one for one in part if one.succeeded is not None] for part in minutes) if part
    ]
    was = per_success(before)
    if was is None or sum(one.succeeded is True for one in before) < FEWEST_SUCCESSES:
        return None
    if len(judged) < FEWEST_MINUTES or sum(map(len, judged)) < FEWEST_ENDS:
        return None
    each = [per_success(part) for part in judged]
    if any(cost is not None and 100 * cost <= RISE_PERCENT * was for cost in each):
        return None
    together = [one for part in judged for one in part]
    now = per_success(together)
    return (sum(one.cost_nano for one in together) if now is None else now), was


def p95(ends: Sequence[Ended]) -> int:
    """The cost that 95 of 100 do not pass (nearest rank)."""
    costs = sorted(one.cost_nano for one in ends)
    return costs[-(-95 * len(costs) // 100) - 1]


def per_success(ends: Sequence[Ended]) -> int | None:
    """All that the judged ones cost, failures too, over those that succeeded. None: none did."""
    judged = [one for one in ends if one.succeeded is not None]
    successes = sum(one.succeeded is True for one in judged)
    return sum(one.cost_nano for one in judged) // successes if successes else None
