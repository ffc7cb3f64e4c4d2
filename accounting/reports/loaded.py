"""The spend with what is paid by the month in it: a seat, a rented machine, a monitoring service.

Such a price is paid whatever is done, so it falls on every UTC day of the range from the ledger's first one on, with
tasks or without. No task caused it: it stands beside what tasks cost, and in no share, breakdown or percentile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from accounting.reports.currency import Rates
from accounting.reports.figures import Flat, Group, Loaded, Part, Window, ratio, share
from accounting.reports.flat import flat_nano
from broker.settings.prices import FlatCost


def flat(prices: Sequence[FlatCost], days: Iterable[str], rates: Rates | None = None) -> tuple[Flat, ...]:
    """By month, then name. Raises ConfigError for a day without a rate."""
    held: dict[tuple[str, str, str], dict[str, int]] = {}
    for day in days:
        for row, nano in flat_nano(prices, day):
            found = held.setdefault((day[:7], row.name, row.category), {})
            found[day] = found.get(day, 0) + (nano if rates is None else rates.convert(nano, day))
    return tuple(Flat(*key, len(found), sum(found.values())) for key, found in sorted(held.items()))


def loaded(totals: Group, window: Window, paid: Sequence[Flat], paid_in_window: Sequence[Flat]) -> Loaded:
    """``paid`` falls on the days of ``totals``, ``paid_in_window`` on those of ``window``."""
    more, more_in_window = (sum(one.nano for one in some) for some in (paid, paid_in_window))
    whole = totals.cost_nano + more
    known = totals.value_nano is not None and totals.valued == totals.tasks
    return Loaded(
        flat_nano=more,
        cost_nano=whole,
        cost_per_success_nano=ratio(whole, totals.succeeded),
        window_cost_per_success_nano=ratio(window.cost_nano + more_in_window, window.succeeded),
        margin_nano=(totals.value_nano or 0) - whole if known else None,
    )


def categories(found: Sequence[Part], paid: Sequence[Flat]) -> tuple[Part, ...]:
    """The four categories with what is paid by the month in them."""
    sums = {one.name: one.nano for one in found}
    for flat in paid:
        sums[flat.category] += flat.nano
    whole = sum(sums.values())
    return tuple(Part(name, nano, share(nano, whole)) for name, nano in sums.items())
