"""A month of tasks in six steps: call pattern, volume, pricing, multipliers, optimisations, growth.

Each step stands on the one before. Multipliers and optimisations work on inference: what is not sent is neither retried
nor orchestrated. Monitoring is paid by the month, people by the task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from accounting.econ.tokens import Pattern, Rates


@dataclass(frozen=True, slots=True)
class Saving:
    """An optimisation that takes ``saving_share`` off that part of inference which it reaches (``of_share``)."""

    name: str
    saving_share: Fraction
    of_share: Fraction = Fraction(1)

    @property
    def left(self) -> Fraction:
        return 1 - self.saving_share * self.of_share


@dataclass(frozen=True, slots=True)
class Plan:
    """``retry_share``, ``orchestration_share`` and ``eval_share`` are parts of inference; ``compound`` lets the second
    work on the first. ``review_share`` of the tasks are looked at by a person for ``review_usd`` each. ``growth``
    multiplies the number of tasks."""

    pattern: Pattern
    rates: Rates
    tasks_per_day: Fraction
    days: Fraction
    retry_share: Fraction
    orchestration_share: Fraction
    eval_share: Fraction
    compound: bool
    monitoring_usd: Fraction
    review_share: Fraction
    review_usd: Fraction
    savings: tuple[Saving, ...]
    growth: Fraction

    @property
    def tasks(self) -> Fraction:
        """A month."""
        return self.tasks_per_day * self.days

    @property
    def inference_usd(self) -> Fraction:
        """A month, nothing retried and nothing saved."""
        return self.tasks * self.pattern.usd(self.rates)

    @property
    def orchestration(self) -> Fraction:
        """A part of inference."""
        return self.orchestration_share * (1 + self.retry_share if self.compound else 1)

    @property
    def reviews_usd(self) -> Fraction:
        """A month."""
        return self.tasks * self.review_share * self.review_usd

    def month_usd(self, savings: Sequence[Saving] = (), growth: Fraction = Fraction(1)) -> Fraction:
        """All in all, with these optimisations and this many times the tasks."""
        inference = self.inference_usd * (1 + self.retry_share + self.orchestration + self.eval_share)
        for saving in savings:
            inference *= saving.left
        return growth * (inference + self.reviews_usd) + self.monitoring_usd


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the calculation; each line but those that say "alone" or "+" is the whole up to there."""

    step: str
    formula: str
    tokens: Fraction | None = None
    per_task_usd: Fraction | None = None
    per_day_usd: Fraction | None = None
    per_month_usd: Fraction | None = None


def steps(plan: Plan) -> tuple[Step, ...]:
    return tuple(_steps(plan))


def _steps(plan: Plan) -> Iterator[Step]:
    pattern, inference = plan.pattern, plan.inference_usd
    yield Step("1 call pattern", "a task: calls * (input + output)", tokens=pattern.tokens)
    yield Step("2 volume", "a month: * tasks a day * days", tokens=pattern.tokens * plan.tasks)
    yield _whole(plan, "3 pricing", "tokens * price", inference)
    retries = "+ inference * (1 + retries) *" if plan.compound else "+ inference *"
    yield Step("4 retries", "+ inference * retries", per_month_usd=inference * plan.retry_share)
    yield Step("4 orchestration", f"{retries} orchestration", per_month_usd=inference * plan.orchestration)
    yield Step("4 evaluation", "+ inference * evals", per_month_usd=inference * plan.eval_share)
    yield Step("4 monitoring", "+ a month", per_month_usd=plan.monitoring_usd)
    yield Step("4 people", "+ tasks * reviewed * price of a review", per_month_usd=plan.reviews_usd)
    yield _whole(plan, "4 multipliers", "the sum of all this", plan.month_usd())
    for one in plan.savings:
        name, formula = f"5 {one.name} alone", "inference * (1 - saving * part)"
        yield Step(name, formula, per_month_usd=plan.month_usd([one]))
    saved = plan.month_usd(plan.savings)
    yield _whole(plan, "5 optimisations", "inference * each (1 - saving * part)", saved)
    grown = plan.month_usd(plan.savings, plan.growth)
    yield _whole(plan, "6 growth", "* growth, but monitoring", grown, plan.growth)


def _whole(plan: Plan, step: str, formula: str, month_usd: Fraction, growth: Fraction = Fraction(1)) -> Step:
    return Step(
        step,
        formula,
        per_task_usd=month_usd / (plan.tasks * growth),
        per_day_usd=month_usd / plan.days,
        per_month_usd=month_usd,
    )
