"""When a machine of one's own pays: against tokens of an API, against a rented lane, and by how busy it is.

A machine costs the same whether it works or not; what it is compared with costs by use. So it pays from a volume on, if
it can do that volume at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from accounting.econ.tokens import DAYS_PER_MONTH, MTOK, Rates

DAYS_PER_YEAR = 365
SECONDS_PER_DAY = 86_400
SECONDS_PER_HOUR = 3_600


@dataclass(frozen=True, slots=True)
class BreakEven:
    """``busy_share`` is how much of what the machine can do the break-even takes; None: nobody said what it can do."""

    model: str
    blended_mtok_usd: Fraction
    tokens_per_day: Fraction | None
    busy_share: Fraction | None
    can_pay: bool | None


def break_even(
    month_usd: Fraction,
    input_share: Fraction,
    models: Mapping[str, Rates],
    tokens_per_s: Fraction | None = None,
) -> tuple[BreakEven, ...]:
    """Tokens a day at which the API costs what the machine does: monthly cost / (30 * price of a token of that mix).

    ``tokens_per_s`` is what the machine can do of that mix, day and night.
    """
    rows = []
    for name, rates in models.items():
        blended = rates.blended_mtok_usd(input_share)
        tokens = month_usd / DAYS_PER_MONTH / blended * MTOK if blended else None
        busy = tokens / (tokens_per_s * SECONDS_PER_DAY) if tokens is not None and tokens_per_s else None
        rows.append(BreakEven(name, blended, tokens, busy, None if busy is None else busy <= 1))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that was bought, written off in equal parts over its life. ``energy_day_usd`` is what it draws whether
    it works or not. ``task_s`` is how long a task keeps it busy, of ``slots`` at a time; None: not known."""

    price_usd: Fraction
    life_years: Fraction
    energy_day_usd: Fraction = Fraction(0)
    task_s: Fraction | None = None
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Crossover:
    """``tasks_per_day`` None: each task costs more at home than rented, so it never pays."""

    fixed_per_day_usd: Fraction
    saved_per_task_usd: Fraction
    tasks_per_day: Fraction | None
    busy_share: Fraction | None
    can_pay: bool | None


def crossover(node: Node, rented_usd: Fraction, marginal_usd: Fraction) -> Crossover:
    """N* = (H / (365 * L) + E_day) / (r - m): what a day of the machine costs, over what a task saves on it.

    ``marginal_usd`` is what one more task costs on the machine: nothing of its price, and no energy that
    ``energy_day_usd`` has already.
    """
    fixed = node.price_usd / (DAYS_PER_YEAR * node.life_years) + node.energy_day_usd
    saved = rented_usd - marginal_usd
    if saved <= 0:
        return Crossover(fixed, saved, None, None, False)
    tasks = fixed / saved
    busy = None if node.task_s is None else tasks * node.task_s / (SECONDS_PER_DAY * node.slots)
    return Crossover(fixed, saved, tasks, busy, None if busy is None else busy <= 1)


@dataclass(frozen=True, slots=True)
class Use:
    """Machines by the hour at a volume; ``busy_share`` and ``machines`` follow from how long a task takes."""

    tasks_per_hour: Fraction
    machines: int
    busy_share: Fraction | None
    per_task_usd: Fraction
    per_1k_usd: Fraction
    beats_rented: bool | None


def utilisation(
    hour_usd: Fraction,
    volumes: Sequence[Fraction],
    *,
    task_s: Fraction | None = None,
    slots: int = 1,
    rented_usd: Fraction | None = None,
) -> tuple[Use, ...]:
    """What a task costs at each volume: hourly price * machines / tasks. As many machines as the work needs.

    ``rented_usd`` is what the same task costs elsewhere, by use.
    """
    rows = []
    for tasks in volumes:
        if tasks <= 0:
            raise ValueError("a machine without tasks has no price a task")
        needed = None if task_s is None else tasks * task_s / (SECONDS_PER_HOUR * slots)
        machines = 1 if needed is None else max(1, ceil(needed))
        usd = hour_usd * machines / tasks
        busy = None if needed is None else needed / machines
        rows.append(
            Use(tasks, machines, busy, usd, usd * 1000, None if rented_usd is None else usd < rented_usd)
        )
    return tuple(rows)
