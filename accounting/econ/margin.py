"""What is left of a price: per seat, per use, per outcome, or of what the work is worth in the house.

Failed tasks are paid by those that succeed: an outcome costs cost of a task / success rate. The careful figures take a
dear task (the 95th percentile) for the usual one, as a price should be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from accounting.econ.failing import attempts_per_success


@dataclass(frozen=True, slots=True)
class Offer:
    """``task_usd`` is the mean cost of a task with its retries, ``p95_usd`` that of a dear one. Prices that are None
    are not asked for. ``value_usd`` is what an outcome is worth to whoever pays for it."""

    task_usd: Fraction
    p95_usd: Fraction
    success_share: Fraction
    tasks_per_seat: Fraction
    seat_usd: Fraction | None = None
    use_usd: Fraction | None = None
    outcome_usd: Fraction | None = None
    value_usd: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Margin:
    """``careful_`` is at the dear task. ``breaks_even_usd`` is the highest cost of a task at which nothing is lost."""

    pricing: str
    formula: str
    price_usd: Fraction
    cost_usd: Fraction
    margin_usd: Fraction
    margin_share: Fraction | None
    careful_margin_usd: Fraction
    careful_margin_share: Fraction | None
    breaks_even_usd: Fraction


def margins(offer: Offer) -> tuple[Margin, ...]:
    """One line a price that is asked for."""
    return tuple(_margins(offer))


def _margins(offer: Offer) -> Iterator[Margin]:
    each = attempts_per_success(offer.success_share)
    asked = (
        ("per seat, a month", "price - tasks * cost", offer.seat_usd, offer.tasks_per_seat),
        ("per use", "price - cost", offer.use_usd, Fraction(1)),
        ("per outcome", "price - cost / p", offer.outcome_usd, each),
        ("value of an outcome", "value - cost / p", offer.value_usd, each),
    )
    for pricing, formula, price, tasks in asked:
        if price is not None:
            yield _margin(offer, pricing, formula, price, tasks)


def _margin(offer: Offer, pricing: str, formula: str, price: Fraction, tasks: Fraction) -> Margin:
    if tasks <= 0:
        raise ValueError("a seat does tasks, or it costs nothing")
    # A few giants lift the mean above what 95 in a hundred cost: the careful margin never looks better than the mean.
    dear_usd = max(offer.task_usd, offer.p95_usd)
    left, careful = price - tasks * offer.task_usd, price - tasks * dear_usd
    return Margin(
        pricing,
        formula,
        price,
        price - left,
        left,
        left / price if price else None,
        careful,
        careful / price if price else None,
        price / tasks,
    )
