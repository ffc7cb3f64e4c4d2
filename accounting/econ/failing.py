"""What failure costs: tries until one succeeds, ways on after a failed run, chains of steps.

A try succeeds with probability p, fails with q = 1 - p, whatever the tries before it did. Sources: the mean of the
geometric distribution (1/p tries for a success); linearity of expectation for the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod


def attempts_per_success(success: Fraction) -> Fraction:
    """1/p. Holds for any cap on retries too: a cap leaves tasks undone as often as it saves tries."""
    if not 0 < success <= 1:
        raise ValueError(f"a success rate of {float(success):g} is not above 0 and at most 1")
    return 1 / success


@dataclass(frozen=True, slots=True)
class Run:
    """``resume_share`` is what a run costs from its last checkpoint on, as a part of a whole run. ``attempts`` is how
    many tries are made where there is a cap. ``handover_usd``: what whoever takes over costs (a person, the next lane),
    and always ends it well; None: nobody does."""

    run_usd: Fraction
    success_share: Fraction
    resume_share: Fraction
    attempts: int
    handover_usd: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Strategy:
    """``per_task_usd`` is what a task costs, done or not; ``per_success_usd`` that over those that get done, and
    ``multiple`` the latter over the cost of a run."""

    strategy: str
    formula: str
    done_share: Fraction
    per_task_usd: Fraction
    per_success_usd: Fraction
    multiple: Fraction


def strategies(run: Run) -> tuple[Strategy, ...]:
    """The ways on after a failure, the cheapest for a success first; a tie keeps the order below."""
    c, p, k = run.run_usd, run.success_share, run.attempts
    tries = attempts_per_success(p)
    left = (1 - p) ** k
    if c <= 0 or k < 1:
        raise ValueError("a run costs something, and is tried at least once")
    found = [
        _strategy(run, "restart", "c / p", Fraction(1), c * tries),
        _strategy(run, f"restart, {k} tries at most", "c (1 - q^k) / p", 1 - left, c * (1 - left) * tries),
        _strategy(
            run, "resume", "c (1 + r q / p)", Fraction(1), c * (1 + run.resume_share * (1 - p) * tries)
        ),
    ]
    if run.handover_usd is not None:
        told = f"hand over after {k}"
        handed = c * (1 - left) * tries + left * run.handover_usd
        found.append(_strategy(run, told, "c (1 - q^k) / p + q^k H", Fraction(1), handed))
    return tuple(sorted(found, key=lambda one: one.per_success_usd))


def _strategy(run: Run, name: str, formula: str, done: Fraction, usd: Fraction) -> Strategy:
    return Strategy(name, formula, done, usd, usd / done, usd / done / run.run_usd)


@dataclass(frozen=True, slots=True)
class ChainStep:
    success_share: Fraction
    step_usd: Fraction


@dataclass(frozen=True, slots=True)
class Policy:
    """``multiple`` is the cost of a success over what the steps cost when nothing fails."""

    policy: str
    formula: str
    multiple: Fraction
    per_success_usd: Fraction


def chain(steps: Sequence[ChainStep]) -> tuple[Policy, ...]:
    """A chain that is done when each of its steps is, under three policies.

    Full restart pays for all steps, then looks, and begins anew; fail-fast begins anew at the step that failed; with
    checkpoints a failed step alone is done again. For n equal steps the multiples are (1/p)^n,
    (1 - p^n) / (n (1 - p) p^n) and 1/p.
    """
    once = sum((step.step_usd for step in steps), Fraction(0))
    if once <= 0:
        raise ValueError("a chain has steps that cost something")
    apart = sum((step.step_usd * attempts_per_success(step.success_share) for step in steps), Fraction(0))
    through = prod((step.success_share for step in steps), start=Fraction(1))
    reached, until = Fraction(1), Fraction(0)
    for step in steps:
        until += step.step_usd * reached
        reached *= step.success_share
    costs = [
        ("full restart", "sum of c / product of p", once / through),
        ("fail-fast", "sum of c * p(steps before) / product of p", until / through),
        ("checkpoint", "sum of c / p", apart),
    ]
    return tuple(Policy(name, formula, usd / once, usd) for name, formula, usd in costs)


@dataclass(frozen=True, slots=True)
class Lanes:
    """A cheap lane before a dear one. ``check_usd`` is the gate's price for looking at the cheap answer."""

    cheap_usd: Fraction
    dear_usd: Fraction
    success_share: Fraction
    dear_success_share: Fraction = Fraction(1)
    check_usd: Fraction = Fraction(0)


@dataclass(frozen=True, slots=True)
class LaneFirst:
    """Costs are for a success. ``saved_share`` is below zero where the cheap lane does not pay. ``price_multiple`` is
    what a dear try costs over a cheap one, None where the cheap one is free."""

    price_multiple: Fraction | None
    needed_share: Fraction
    cheap_first_usd: Fraction
    dear_only_usd: Fraction
    saved_share: Fraction
    pays: bool


def lane_first(lanes: Lanes) -> LaneFirst:
    """Cheap first costs c + (1 - p) C for p + (1 - p) P successes, dear only C for P of them; the first is less when
    p > P c / C, which is p > c / C where the dear lane never fails."""
    cheap, dear = lanes.cheap_usd + lanes.check_usd, lanes.dear_usd
    if dear <= 0:
        raise ValueError("the dear lane costs something")
    p, after = lanes.success_share, lanes.dear_success_share
    dear_only = dear * attempts_per_success(after)
    first = (cheap + (1 - p) * dear) / (p + (1 - p) * after)
    needed = after * cheap / dear
    times = dear / cheap if cheap else None
    return LaneFirst(times, needed, first, dear_only, 1 - first / dear_only, p > needed)
