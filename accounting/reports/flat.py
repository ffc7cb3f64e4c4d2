"""What is paid by the month whatever is done (a monitoring service, a seat), as a cost of each day."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterable, Iterator
from datetime import date

from broker.money import nano, split
from broker.settings.prices import FlatCost


def flat_nano(rows: Iterable[FlatCost], day: str) -> Iterator[tuple[FlatCost, int]]:
    """What holds on a UTC day, each with its part of the month in nano-dollars: the days sum to it exactly."""
    for row in rows:
        if holds(row, day):
            yield row, _part(nano(row.usd_per_month), date.fromisoformat(day))


def holds(row: FlatCost, day: str) -> bool:
    return row.from_ <= day and (row.until is None or day < row.until)


def _part(month_nano: int, day: date) -> int:
    _, days = monthrange(day.year, day.month)
    return split(month_nano, [1] * days)[day.day - 1]
