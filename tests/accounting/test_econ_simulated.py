"""Each formula against a simulation of what it describes: what is drawn happens call by call, and what it cost is added
up. Both agree within 1%; the draws are seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from accounting.econ import budgets, caching, context, driving, failing, hosting, margin, monthly, tokens
from accounting.econ.context import Loop, Team
from accounting.econ.driving import DRIVERS, Load
from accounting.econ.failing import ChainStep, Lanes, Run
from accounting.econ.hosting import Node
from accounting.econ.margin import Offer
from accounting.econ.monthly import Plan, Saving
from accounting.econ.tokens import Pattern, Rates

Draws = Any  # numpy's generator
TASKS = 200_000
WITHIN = 0.01
RATES = Rates(Fraction("2.5"), Fraction(10))


@pytest.fixture
def draws() -> Draws:
    return np.random.default_rng(20260301)


def agrees(formula: Fraction | int | None, simulated: Any) -> None:
    assert formula is not None
    assert float(formula) == pytest.approx(simulated, rel=WITHIN)


def usd(read: Any, written: Any) -> Any:
    """What calls cost at RATES."""
    return read * 2.5e-6 + written * 10e-6


def around(draws: Draws, mean: float, size: Any) -> Any:
    """Token counts, skewed as those of real calls are."""
    return draws.gamma(2.0, mean / 2.0, size)


# What fails


def played(draws: Draws, tasks: int, attempt: Callable[[Any], tuple[Any, Any]]) -> float:
    """Tasks that are tried until they are done; ``attempt`` gives cost and success of those still open.

    The mean cost of a task."""
    paid, open_ = np.zeros(tasks), np.arange(tasks)
    while len(open_):
        cost, done = attempt(len(open_))
        paid[open_] += cost
        open_ = open_[~done]
    return float(paid.mean())


STEPS = [ChainStep(Fraction("0.9"), Fraction("0.01")), ChainStep(Fraction("0.7"), Fraction("0.05")),
         ChainStep(Fraction("0.95"), Fraction("0.02"))]  # fmt: skip
SUCCESS = np.array([float(one.success_share) for one in STEPS])
COST = np.array([float(one.step_usd) for one in STEPS])


def test_a_chain_that_restarts_as_a_whole(draws: Draws) -> None:
    def attempt(count: int) -> tuple[Any, Any]:
        return COST.sum(), (draws.random((count, len(STEPS))) < SUCCESS).all(axis=1)

    agrees(failing.chain(STEPS)[0].per_success_usd, played(draws, TASKS, attempt))


def test_a_chain_that_stops_at_the_step_that_failed(draws: Draws) -> None:
    def attempt(count: int) -> tuple[Any, Any]:
        well = draws.random((count, len(STEPS))) < SUCCESS
        reached = np.hstack([np.ones((count, 1), bool), np.cumprod(well[:, :-1], axis=1).astype(bool)])
        return reached @ COST, well.all(axis=1)

    agrees(failing.chain(STEPS)[1].per_success_usd, played(draws, TASKS, attempt))


def test_a_chain_with_checkpoints(draws: Draws) -> None:
    each = [
        played(draws, TASKS, lambda count, n=n: (COST[n], draws.random(count) < SUCCESS[n]))  # type: ignore[misc]
        for n in range(len(STEPS))
    ]
    agrees(failing.chain(STEPS)[2].per_success_usd, sum(each))


RUN = Run(Fraction("0.02"), Fraction("0.6"), Fraction("0.3"), 3, Fraction("0.5"))


def strategy(name: str) -> failing.Strategy:
    return next(one for one in failing.strategies(RUN) if one.strategy.startswith(name))


def test_a_run_that_restarts_until_it_is_done(draws: Draws) -> None:
    agrees(
        strategy("restart").per_success_usd,
        played(draws, TASKS, lambda count: (0.02, draws.random(count) < 0.6)),
    )


def test_a_run_that_resumes_where_it_stopped(draws: Draws) -> None:
    first = draws.random(TASKS) < 0.6
    again = played(draws, int((~first).sum()), lambda count: (0.02 * 0.3, draws.random(count) < 0.6))
    agrees(strategy("resume").per_success_usd, 0.02 + again * float((~first).mean()))


def test_a_run_with_a_cap_and_one_that_is_handed_over_then(draws: Draws) -> None:
    tries = draws.geometric(0.6, TASKS)
    paid, done = np.minimum(tries, 3) * 0.02, tries <= 3
    capped = strategy("restart, 3")
    agrees(capped.per_task_usd, paid.mean())
    agrees(capped.done_share, done.mean())
    agrees(capped.per_success_usd, paid.sum() / done.sum())
    agrees(strategy("hand over after 3").per_success_usd, (paid + ~done * 0.5).mean())


def test_a_cheap_lane_before_a_dear_one(draws: Draws) -> None:
    well, then = draws.random(TASKS) < 0.7, draws.random(TASKS) < 0.9
    found = failing.lane_first(Lanes(*map(Fraction, ("0.001", "0.02", "0.7", "0.9", "0.0005"))))
    agrees(found.cheap_first_usd, (0.0015 + ~well * 0.02).sum() / (well | then).sum())
    agrees(found.dear_only_usd, 0.02 * TASKS / then.sum())


def test_a_cheap_lane_at_its_threshold_neither_saves_nor_costs(draws: Draws) -> None:
    needed = failing.lane_first(Lanes(Fraction("0.01"), Fraction("0.1"), Fraction(1))).needed_share
    well = draws.random(TASKS) < float(needed)
    assert (0.01 + ~well * 0.1).mean() == pytest.approx(0.1, rel=WITHIN)


# What context costs


def test_a_loop_whose_context_grows(draws: Draws) -> None:
    def cost(calls: int, tasks: int = 20_000) -> float:
        read, written = around(draws, 2000, tasks), around(draws, 500, (tasks, calls))
        left = around(draws, 700, (tasks, calls))
        paid = np.zeros(tasks)
        for call in range(calls):
            paid += usd(read, written[:, call])
            read = read + left[:, call]
        return float(paid.mean())

    loop = Loop(RATES, Fraction(2000), Fraction(500), Fraction(700), 4, 9, Fraction("-0.3"))
    found = context.looped(loop)
    agrees(found.before_usd, cost(4))
    agrees(found.after_usd, 0.7 * cost(9))
    agrees(found.multiple, 0.7 * cost(9) / cost(4))


TEAM = Team(RATES, 3, 4, *map(Fraction, (2000, 500, 100, 600, 300)))


def agent(draws: Draws, tasks: int, brief: Any) -> tuple[Any, Any]:
    """The cost of an agent's conversation, message by message, and the length of its answer."""
    seen = around(draws, 2000, tasks) + brief
    paid = np.zeros(tasks)
    for _ in range(4):
        asked = around(draws, 100, tasks)
        paid += usd(seen, asked)
        seen = seen + asked + around(draws, 600, tasks)
    answer = around(draws, 500, tasks)
    return paid + usd(seen, answer), answer


def test_agents_who_talk_to_each_other(draws: Draws) -> None:
    tasks = 20_000
    once, tools, team = context.coordination(TEAM)
    agrees(once.per_task_usd, usd(around(draws, 2000, TASKS), around(draws, 500, TASKS)).mean())
    agrees(tools.per_task_usd, agent(draws, tasks, 0)[0].mean())
    seen, paid = around(draws, 2000, tasks), np.zeros(tasks)
    for _ in range(3):
        brief = around(draws, 300, tasks)
        work, answer = agent(draws, tasks, brief)
        paid += usd(seen, brief) + work
        seen = seen + answer
    agrees(team.per_task_usd, (paid + usd(seen, around(draws, 500, tasks))).mean())


def test_a_prompt_cache_that_forgets(draws: Draws) -> None:
    prefixes, uses = 50_000, 6
    first = np.zeros((prefixes, uses), bool)
    first[:, 0] = True
    rest, written = around(draws, 800, (prefixes, uses)), around(draws, 500, (prefixes, uses))
    price = np.where(first, 1.25, 0.1)
    read, said, common = Fraction(2800), Fraction(500), Fraction(2000)
    prefix = caching.Prefix(RATES, read, said, common, Fraction("1.25"), Fraction("0.1"), uses)
    found = caching.cached(prefix)
    agrees(found.prefix_multiple, price.mean())
    agrees(found.cached_call_usd, usd(2000 * price + rest, written).mean())
    agrees(found.plain_call_usd, usd(2000 + rest, written).mean())


# Machines


def test_at_the_break_even_the_api_s_bill_is_the_machine_s(draws: Draws) -> None:
    (found,) = hosting.break_even(Fraction(2200), Fraction("0.8"), {"": RATES})
    assert found.tokens_per_day is not None
    calls_per_day = float(found.tokens_per_day) / 2500
    calls = draws.poisson(calls_per_day, 30)
    bill = sum(usd(around(draws, 2000, day), around(draws, 500, day)).sum() for day in calls)
    assert bill == pytest.approx(2200, rel=WITHIN)


def test_at_the_crossover_a_bought_machine_costs_what_renting_does(draws: Draws) -> None:
    node = Node(Fraction(3810), Fraction(3), Fraction("0.8"), Fraction(2), 4)
    found = hosting.crossover(node, Fraction("0.004"), Fraction("0.0004"))
    assert found.tasks_per_day is not None
    tasks = draws.poisson(float(found.tasks_per_day), 3 * 365)
    own = 3810 + 3 * 365 * 0.8 + 0.0004 * tasks.sum()
    assert own == pytest.approx(0.004 * tasks.sum(), rel=WITHIN)
    busy_s = sum(draws.exponential(2.0, day).sum() for day in tasks)
    agrees(found.busy_share, busy_s / (3 * 365 * 86_400 * 4))


def test_a_task_on_a_machine_by_the_hour(draws: Draws) -> None:
    hours = draws.poisson(2500, 2000)
    (found,) = hosting.utilisation(Fraction("0.9"), [Fraction(2500)], task_s=Fraction(2))
    busy_h = sum(draws.exponential(2.0, hour).sum() for hour in hours[:400]) / 3600
    assert found.machines == 2
    agrees(found.busy_share, busy_h / (400 * found.machines))
    agrees(found.per_task_usd, 0.9 * 2 * len(hours) / hours.sum())


# Months, prices, budgets


PLAN = Plan(
    Pattern(*map(Fraction, (4, 2000, 500))), RATES, Fraction(500), Fraction(30), Fraction("0.15"), Fraction("0.20"),
    Fraction("0.10"), False, Fraction(200), Fraction("0.05"), Fraction("2.50"),
    (Saving("caching", Fraction("0.4")), Saving("routing", Fraction("0.3"), Fraction("0.8"))), Fraction(2),
)  # fmt: skip


def month(draws: Draws, *, tasks: int, compound: bool = False, saves: bool = False) -> float:
    """A month, call by call: each is paid for, repeated or not, orchestrated; some are routed to a cheaper model."""
    calls = draws.poisson(4, tasks).sum()
    paid = usd(around(draws, 2000, calls), around(draws, 500, calls))
    if saves:
        paid = paid * np.where(draws.random(calls) < 0.8, 0.7, 1.0) * 0.6
    repeated = paid * draws.poisson(0.15, calls)
    base = paid + repeated if compound else paid
    evaluated = paid * (draws.random(calls) < 0.1)
    reviews = (draws.random(tasks) < 0.05).sum() * 2.5
    return float((paid + repeated + 0.2 * base + evaluated).sum() + reviews + 200)


@pytest.mark.parametrize("compound", [False, True])
def test_a_month_with_its_multipliers(draws: Draws, compound: bool) -> None:
    rows = {one.step: one for one in monthly.steps(replace(PLAN, compound=compound))}
    months = [month(draws, tasks=15_000, compound=compound) for _ in range(100)]
    agrees(rows["4 multipliers"].per_month_usd, float(np.mean(months)))


def test_a_month_with_its_optimisations_and_twice_the_tasks(draws: Draws) -> None:
    rows = {one.step: one for one in monthly.steps(PLAN)}
    agrees(
        rows["5 optimisations"].per_month_usd,
        float(np.mean([month(draws, tasks=15_000, saves=True) for _ in range(100)])),
    )
    agrees(
        rows["6 growth"].per_month_usd, np.mean([month(draws, tasks=30_000, saves=True) for _ in range(50)])
    )


def test_a_choice_of_models_that_share_the_calls(draws: Draws) -> None:
    mini = Rates(Fraction("0.15"), Fraction("0.60"))
    (mixed,) = tokens.spread(
        Pattern(*map(Fraction, (3, 8000, 500))), Fraction(1000), {"mixed": [RATES, mini, mini]}
    )
    calls = 3 * 50_000
    read, written = around(draws, 8000, calls), around(draws, 500, calls)
    strong = draws.random(calls) < 1 / 3
    paid = np.where(strong, usd(read, written), read * 0.15e-6 + written * 0.6e-6)
    agrees(mixed.per_task_usd, paid.sum() / 50_000)
    agrees(mixed.per_day_usd, paid.sum() / 50)


def test_margins_over_tasks_that_fail(draws: Draws) -> None:
    cost, well = draws.gamma(0.5, 0.08, TASKS), draws.random(TASKS) < 0.8
    offer = Offer(*map(Fraction, ("0.04", "0.15", "0.8", "100", "20", "0.10", "0.50", "2")))
    seat, use, outcome, value = margin.margins(offer)
    agrees(seat.margin_usd, 20 - cost.sum() / (TASKS / 100))
    agrees(use.margin_usd, (0.10 - cost).mean())
    agrees(outcome.margin_usd, (0.50 * well - cost).sum() / well.sum())
    agrees(value.margin_share, (2 * well - cost).sum() / (2 * well).sum())


def test_a_budget_that_tasks_use_up(draws: Draws) -> None:
    target, p95, hard = map(Fraction, ("0.1", "0.3", "0.5"))
    lines = budgets.daily(Fraction(50_000), Fraction(30), target_usd=target, p95_usd=p95, hard_usd=hard)
    spent = np.cumsum(draws.gamma(0.5, 0.2, (30, 40_000)), axis=1)
    reached = (spent < 50_000 / 30).sum(axis=1)
    agrees(lines[3].tasks_per_day, reached.mean())


BEFORE = {"tasks_per_day": 500.0, "calls": 4.0, "input_tokens": 2000.0, "output_tokens": 500.0,
          "input_mtok_usd": 2.5, "output_mtok_usd": 10.0}  # fmt: skip
AFTER = {"tasks_per_day": 900.0, "calls": 3.0, "input_tokens": 5000.0, "output_tokens": 400.0,
         "input_mtok_usd": 1.25, "output_mtok_usd": 8.0}  # fmt: skip


def test_what_drove_a_change_in_a_random_order_of_its_causes(draws: Draws) -> None:
    def day(load: dict[str, Any]) -> Any:
        read, written = (load[f"{way}_tokens"] * load[f"{way}_mtok_usd"] for way in ("input", "output"))
        return load["tasks_per_day"] * load["calls"] * (read + written) / 1e6

    load = {name: np.full(TASKS, value) for name, value in BEFORE.items()}
    orders = draws.permuted(np.tile(np.arange(len(DRIVERS)), (TASKS, 1)), axis=1)
    sums = np.zeros(len(DRIVERS))
    for turn in orders.T:
        old = day(load)
        for number, names in enumerate(DRIVERS.values()):
            for name in names:
                load[name] = np.where(turn == number, AFTER[name], load[name])
        sums += np.bincount(turn, day(load) - old, len(DRIVERS))
    before, after = (
        Load(**{name: Fraction(value) for name, value in one.items()}) for one in (BEFORE, AFTER)
    )
    *effects, _ = driving.effects(before, after)
    for effect, simulated in zip(effects, sums / TASKS, strict=True):
        agrees(effect.effect_usd, simulated)
