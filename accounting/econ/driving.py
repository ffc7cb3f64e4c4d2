"""What drives a cost, and what drove a change of it: tasks * calls * (input + output tokens), at a price.

The effect of one driver depends on which of the others changed before it. Each gets the mean of its effects over all
orders (Shapley, 1953): the one division under which the effects sum to the whole change, and equals are treated alike.
Volume and unit cost stay apart, so that a fall of one does not hide a rise of the other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import permutations

from accounting.econ.tokens import Pattern, Rates


@dataclass(frozen=True, slots=True)
class Load:
    """A day's work, and its price."""

    tasks_per_day: Fraction
    calls: Fraction
    input_tokens: Fraction
    output_tokens: Fraction
    input_mtok_usd: Fraction
    output_mtok_usd: Fraction

    @property
    def day_usd(self) -> Fraction:
        pattern = Pattern(self.calls, self.input_tokens, self.output_tokens)
        return self.tasks_per_day * pattern.usd(Rates(self.input_mtok_usd, self.output_mtok_usd))


#: What changes by itself, and the fields that it is; both prices are one driver.
DRIVERS = {
    "tasks a day": ("tasks_per_day",),
    "calls a task": ("calls",),
    "input tokens a call": ("input_tokens",),
    "output tokens a call": ("output_tokens",),
    "price": ("input_mtok_usd", "output_mtok_usd"),
}
TOGETHER = "all together"


@dataclass(frozen=True, slots=True)
class Lever:
    """What a day costs less where the driver is half of ``now`` (None for the price, which is two figures)."""

    driver: str
    now: Fraction | None
    half_saves_usd: Fraction
    half_saves_share: Fraction


@dataclass(frozen=True, slots=True)
class Effect:
    """What a driver's change did to the cost of a day; ``effect_share`` is of the cost before. The last of several is
    the whole change."""

    driver: str
    before: Fraction | None
    after: Fraction | None
    effect_usd: Fraction
    effect_share: Fraction


def levers(load: Load) -> tuple[Lever, ...]:
    """How far each driver reaches: calls take the whole with them, tokens their part of it."""
    whole = _spent(load)
    rows = []
    for driver, names in DRIVERS.items():
        half = replace(load, **{name: getattr(load, name) / 2 for name in names})
        saves = whole - half.day_usd
        rows.append(Lever(driver, _figure(load, driver), saves, saves / whole))
    return tuple(rows)


def effects(before: Load, after: Load) -> tuple[Effect, ...]:
    """One a driver, which sum to the change of ``day_usd`` exactly, and that change."""
    spent = _spent(before)
    sums = dict.fromkeys(DRIVERS, Fraction(0))
    orders = list(permutations(DRIVERS))
    for order in orders:
        costs = [_changed(before, after, order[:count]).day_usd for count in range(len(order) + 1)]
        for driver, less, more in zip(order, costs, costs[1:], strict=False):
            sums[driver] += more - less
    rows = []
    for driver, total in sums.items():
        usd = total / len(orders)
        rows.append(Effect(driver, _figure(before, driver), _figure(after, driver), usd, usd / spent))
    change = after.day_usd - spent
    return (*rows, Effect(TOGETHER, None, None, change, change / spent))


def _changed(before: Load, after: Load, drivers: Iterable[str]) -> Load:
    """The load with these drivers as they are after."""
    return replace(before, **{name: getattr(after, name) for driver in drivers for name in DRIVERS[driver]})


def _spent(load: Load) -> Fraction:
    if load.day_usd <= 0:
        raise ValueError("a day without cost has no drivers")
    return load.day_usd


def _figure(load: Load, driver: str) -> Fraction | None:
    names = DRIVERS[driver]
    figure: Fraction = getattr(load, names[0])
    return figure if len(names) == 1 else None
