"""A monthly budget as days, alerts and tasks.

A budget is planned at the 95th percentile and the hard cap of a task, not at its mean: the tail is what empties it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from broker.scopes import LOG_LEVEL, OPERATIONS_LEVEL, USED_UP

#: Per cent of the day's budget, and what is done then.
ALERTS = ((LOG_LEVEL, "log a warning"), (OPERATIONS_LEVEL, "notify operations"), (USED_UP, "kill switch"))


@dataclass(frozen=True, slots=True)
class Line:
    """A level of the daily budget, or how many tasks a day it pays for if each costs ``task_usd``."""

    line: str
    per_day_usd: Fraction
    task_usd: Fraction | None = None
    tasks_per_day: int | None = None


def daily(
    month_usd: Fraction, days: Fraction, *, target_usd: Fraction, p95_usd: Fraction, hard_usd: Fraction
) -> tuple[Line, ...]:
    """The day's budget is the month's over its days; tasks a day are whole ones."""
    if not 0 < target_usd <= p95_usd <= hard_usd:
        raise ValueError("target, 95th percentile and hard cap of a task are above 0 and in that order")
    day = month_usd / days
    levels = [Line(f"{percent}%: {action}", day * percent / 100) for percent, action in ALERTS]
    paid = [("at the target", target_usd), ("at the 95th percentile", p95_usd), ("at the hard cap", hard_usd)]
    return (*levels, *(Line(f"tasks {name}", day, usd, int(day / usd)) for name, usd in paid))
