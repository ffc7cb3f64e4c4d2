"""What calls cost by their tokens, and what the choice of a model makes of it.

cost of a task = calls * (input tokens * input price + output tokens * output price), prices per million tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

MTOK = 1_000_000
DAYS_PER_MONTH = 30


@dataclass(frozen=True, slots=True)
class Rates:
    """A model's price in dollars per million tokens."""

    input_mtok_usd: Fraction
    output_mtok_usd: Fraction

    def usd(self, input_tokens: Fraction, output_tokens: Fraction) -> Fraction:
        return (input_tokens * self.input_mtok_usd + output_tokens * self.output_mtok_usd) / MTOK

    def blended_mtok_usd(self, input_share: Fraction) -> Fraction:
        """A million tokens of which ``input_share`` are input."""
        return input_share * self.input_mtok_usd + (1 - input_share) * self.output_mtok_usd


@dataclass(frozen=True, slots=True)
class Pattern:
    """The calls that a task makes, and the mean tokens of one of them."""

    calls: Fraction
    input_tokens: Fraction
    output_tokens: Fraction

    @property
    def tokens(self) -> Fraction:
        """Of a task, both kinds."""
        return self.calls * (self.input_tokens + self.output_tokens)

    def usd(self, rates: Rates) -> Fraction:
        """A task, all its calls made once."""
        return self.calls * rates.usd(self.input_tokens, self.output_tokens)


@dataclass(frozen=True, slots=True)
class Mix:
    """One choice of models; ``multiple`` is how many times the cheapest choice it costs."""

    models: str
    per_task_usd: Fraction
    per_day_usd: Fraction
    per_month_usd: Fraction
    multiple: Fraction | None


def spread(
    pattern: Pattern, tasks_per_day: Fraction, mixes: Mapping[str, Sequence[Rates]]
) -> tuple[Mix, ...]:
    """What the same work costs under each choice of models, cheapest first.

    The calls of a task are shared out evenly among the models of a choice. Choices of the same price keep their order.
    """
    each = {
        name: sum((pattern.usd(rates) for rates in models), Fraction(0)) / len(models)
        for name, models in mixes.items()
    }
    least = min(each.values())
    rows = (
        Mix(
            name,
            usd,
            usd * tasks_per_day,
            usd * tasks_per_day * DAYS_PER_MONTH,
            usd / least if least else None,
        )
        for name, usd in each.items()
    )
    return tuple(sorted(rows, key=lambda mix: mix.per_task_usd))
