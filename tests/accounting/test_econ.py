"""The calculators' formulas: operators' own figures as cases, and what must hold whatever the figures are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.econ import budgets, caching, context, driving, failing, hosting, margin, monthly, tokens
from accounting.econ.context import Loop, Team
from accounting.econ.driving import Load
from accounting.econ.failing import ChainStep, Lanes, Run
from accounting.econ.hosting import Node
from accounting.econ.margin import Offer
from accounting.econ.monthly import Plan, Saving
from accounting.econ.tokens import Pattern, Rates


def F(written: str) -> Fraction:
    return Fraction(Decimal(written))


GPT_4O = Rates(F("2.50"), F("10.00"))
SONNET_3_5 = Rates(F("3.00"), F("15.00"))
HAIKU_3_5 = Rates(F("0.80"), F("4.00"))
DEEPSEEK_V3 = Rates(F("0.27"), F("1.10"))
GPT_4O_MINI = Rates(F("0.15"), F("0.60"))
CHAT = Pattern(F("4"), F("2000"), F("500"))
PLAN = Plan(
    pattern=CHAT,
    rates=GPT_4O,
    tasks_per_day=F("500"),
    days=F("30"),
    retry_share=F("0.15"),
    orchestration_share=F("0.20"),
    eval_share=F("0"),
    compound=False,
    monitoring_usd=F("200"),
    review_share=F("0"),
    review_usd=F("2.50"),
    savings=(),
    growth=F("1"),
)


def step(plan: Plan, name: str) -> monthly.Step:
    return next(one for one in monthly.steps(plan) if one.step == name)


def strategy(name: str, success: str, *, attempts: int = 3, resume: str = "0.3") -> failing.Strategy:
    run = Run(F("0.01"), F(success), F(resume), attempts)
    return next(one for one in failing.strategies(run) if one.strategy.startswith(name))


def chain(steps: int, policy: str) -> Fraction:
    policies = failing.chain([ChainStep(F("0.9"), F("0.02"))] * steps)
    return next(one.multiple for one in policies if one.policy == policy)


def break_even_mtok(rates: Rates) -> Fraction:
    (found,) = hosting.break_even(F("2200"), F("0.8"), {"": rates})
    assert found.tokens_per_day is not None
    return found.tokens_per_day / 1_000_000


def crossover(rented_1k: str, local_1k: str) -> Fraction:
    """A node of 3,000 pounds at $1.27 over three years."""
    node = Node(F("3000") * F("1.27"), F("3"))
    found = hosting.crossover(node, F(rented_1k) / 1000, F(local_1k) / 1000)
    assert found.tasks_per_day is not None
    return found.tasks_per_day


def most_saved(read: str) -> Fraction:
    prefix = caching.Prefix(GPT_4O, F("2000"), F("500"), F("2000"), F("1"), F(read), 1_000_000)
    found = caching.cached(prefix)
    assert found.saved_share < found.most_saved_share
    return found.most_saved_share


def needed(price_ratio: str) -> Fraction:
    return failing.lane_first(Lanes(F("0.001"), F("0.001") * F(price_ratio), F("0.8"))).needed_share


def level(percent: int) -> Fraction:
    lines = budgets.daily(F("50000"), F("30"), target_usd=F("0.10"), p95_usd=F("0.30"), hard_usd=F("0.50"))
    return next(line.per_day_usd for line in lines if line.line.startswith(f"{percent}%"))


def busy(tasks_per_hour: str) -> Fraction:
    (use,) = hosting.utilisation(F("0.90"), [F(tasks_per_hour)])
    return use.per_task_usd


def looped(**changes: object) -> context.Looped:
    loop = Loop(GPT_4O, F("2000"), F("500"), F("0"), 1, 2, F("-0.3"))
    return context.looped(replace(loop, **changes))  # type: ignore[arg-type]


#: What operators worked out, put right where it was wrong: the case, the formula, the figure as it is written.
WORKED: list[tuple[str, Callable[[], Fraction | None], str]] = [
    ("500 x 4 x (2,000 + 500) on GPT-4o, a day", lambda: step(PLAN, "3 pricing").per_day_usd, "20.00"),
    ("a month of it", lambda: step(PLAN, "3 pricing").per_month_usd, "600.00"),
    ("retries, orchestration, monitoring", lambda: step(PLAN, "4 multipliers").per_month_usd, "1010.00"),
    (
        "the same, compounded",
        lambda: step(replace(PLAN, compound=True), "4 multipliers").per_month_usd,
        "1028.00",
    ),
    ("prompt caching at a discount of 50%, at most", lambda: most_saved("0.5"), "0.25"),
    ("15% fail, retried", lambda: strategy("restart", "0.85").multiple, "1.176"),
    ("10% malformed, retried until valid", lambda: strategy("restart", "0.9").multiple, "1.111"),
    ("10% fail, resumed for 30%", lambda: strategy("resume", "0.9").multiple, "1.033"),
    ("three steps, full restart", lambda: chain(3, "full restart"), "1.372"),
    ("three steps, fail-fast", lambda: chain(3, "fail-fast"), "1.239"),
    ("three steps, checkpoints", lambda: chain(3, "checkpoint"), "1.111"),
    ("ten steps, full restart", lambda: chain(10, "full restart"), "2.87"),
    ("ten steps, fail-fast", lambda: chain(10, "fail-fast"), "1.87"),
    ("ten steps, checkpoints", lambda: chain(10, "checkpoint"), "1.11"),
    ("80% success", lambda: failing.attempts_per_success(F("0.8")), "1.25"),
    ("$2,200 a month against GPT-4o, in M tokens a day", lambda: break_even_mtok(GPT_4O), "18"),
    ("against Sonnet 3.5", lambda: break_even_mtok(SONNET_3_5), "14"),
    ("against Haiku 3.5", lambda: break_even_mtok(HAIKU_3_5), "51"),
    ("against DeepSeek V3", lambda: break_even_mtok(DEEPSEEK_V3), "168"),
    ("against GPT-4o-mini", lambda: break_even_mtok(GPT_4O_MINI), "306"),
    ("crossover of intents, tasks a day", lambda: crossover("0.40", "0.05"), "9941"),
    ("of JSON extraction", lambda: crossover("0.80", "0.15"), "5353"),
    ("of e-mail", lambda: crossover("1.40", "0.30"), "3163"),
    ("of summaries", lambda: crossover("3.20", "0.90"), "1513"),
    ("of research", lambda: crossover("9.50", "2.40"), "490"),
    ("five-minute cache, two uses", lambda: caching.prefix_multiple(F("1.25"), F("0.1"), 2), "0.675"),
    ("one-hour cache, three uses", lambda: caching.prefix_multiple(F("2"), F("0.1"), 3), "0.733"),
    ("five-minute cache pays from use", lambda: Fraction(caching.pays_from(F("1.25"), F("0.1")) or 0), "2"),
    ("one-hour cache pays from use", lambda: Fraction(caching.pays_from(F("2"), F("0.1")) or 0), "3"),
    ("cheap lane first at a 20th of the price", lambda: needed("20"), "0.05"),
    ("at a 170th", lambda: needed("170"), "0.006"),
    ("$50,000 a month, a day", lambda: level(100), "1666.67"),
    ("alert at 50%", lambda: level(50), "833"),
    ("at 80%", lambda: level(80), "1333"),
    ("at 100%", lambda: level(100), "1667"),
    ("a server of $0.90 an hour, one task in it", lambda: busy("1"), "0.90"),
    ("a thousand in it", lambda: busy("1000"), "0.0009"),
    ("30% off a call, twice the loops", lambda: looped().multiple, "1.4"),
]


@pytest.mark.parametrize(
    ("figure", "written"), [case[1:] for case in WORKED], ids=[case[0] for case in WORKED]
)
def test_a_worked_figure_comes_out(figure: Callable[[], Fraction | None], written: str) -> None:
    exact = figure()
    assert exact is not None
    places = Decimal(written)
    rounded = (Decimal(exact.numerator) / Decimal(exact.denominator)).quantize(places, ROUND_HALF_EVEN)
    assert rounded == places


@pytest.mark.parametrize("cap", [1, 2, 5, 100])
def test_a_cap_on_retries_does_not_change_what_a_success_costs(cap: int) -> None:
    capped = strategy("restart, ", "0.85", attempts=cap)
    assert capped.multiple == 1 / F("0.85")
    assert capped.done_share == 1 - F("0.15") ** cap


def test_a_month_s_lines_add_up_to_its_total() -> None:
    plan = replace(PLAN, review_share=F("0.1"), compound=True)
    parts = ("3 pricing", "4 retries", "4 orchestration", "4 monitoring", "4 people")
    paid = [step(plan, name).per_month_usd or 0 for name in parts]
    assert sum(paid) == step(plan, "4 multipliers").per_month_usd


def test_optimisations_work_alone_and_compound_with_each_other() -> None:
    caches, routes = Saving("caching", F("0.4")), Saving("routing", F("0.3"), F("0.8"))
    plan = replace(PLAN, monitoring_usd=F("0"), savings=(caches, routes))
    whole = step(plan, "4 multipliers").per_month_usd
    assert whole == 810
    assert step(plan, "5 caching alone").per_month_usd == whole * F("0.6")
    assert step(plan, "5 routing alone").per_month_usd == whole * F("0.76")
    assert step(plan, "5 optimisations").per_month_usd == whole * F("0.6") * F("0.76")


def test_growth_multiplies_all_but_monitoring() -> None:
    grown = step(replace(PLAN, growth=F("3")), "6 growth")
    assert grown.per_month_usd == 3 * 810 + 200
    assert grown.per_task_usd == F("2630") / (3 * 15_000)


def test_three_agents_at_a_thousand_tasks_a_day_cost_what_operators_saw() -> None:
    pattern = Pattern(F("3"), F("8000"), F("500"))
    mixes = {
        "4o": [GPT_4O],
        "mixed": [GPT_4O, GPT_4O_MINI, GPT_4O_MINI],
        "v3": [DEEPSEEK_V3],
    }
    rows = {mix.models: mix for mix in tokens.spread(pattern, F("1000"), mixes)}
    assert list(rows) == ["v3", "mixed", "4o"]
    assert [rows[name].per_day_usd for name in ("4o", "mixed", "v3")] == [75, 28, F("8.13")]
    assert rows["v3"].multiple == 1


def test_tools_take_three_to_five_times_the_tokens_and_a_second_agent_three_times_the_cost() -> None:
    team = Team(GPT_4O, 2, 3, F("2000"), F("500"), F("100"), F("500"), F("300"))
    _, tools, both = context.coordination(team)
    assert 3 <= tools.tokens_multiple <= 5
    assert F("2.5") <= both.cost_multiple <= F("3.5")


def test_a_machine_that_cannot_do_its_break_even_never_pays() -> None:
    rows = hosting.break_even(F("2200"), F("0.8"), {"4o": GPT_4O, "mini": GPT_4O_MINI}, F("1500"))
    assert [row.can_pay for row in rows] == [True, False]
    node = Node(F("3810"), F("3"), task_s=F("100"))
    assert hosting.crossover(node, F("0.0004"), F("0.00005")).can_pay is False
    assert hosting.crossover(replace(node, slots=100), F("0.0004"), F("0.00005")).can_pay is True


def test_what_costs_more_at_home_than_rented_has_no_crossover() -> None:
    found = hosting.crossover(Node(F("3000"), F("3")), F("0.001"), F("0.001"))
    assert (found.tasks_per_day, found.can_pay) == (None, False)


def test_more_work_than_a_machine_can_do_takes_another_machine() -> None:
    rows = hosting.utilisation(F("0.90"), [F("1800"), F("1801")], task_s=F("2"), rented_usd=F("0.0006"))
    assert [row.machines for row in rows] == [1, 2]
    assert [row.beats_rented for row in rows] == [True, False]
    assert rows[0].busy_share == 1
    assert rows[1].per_task_usd == F("1.80") / 1801


def test_margins_by_hand() -> None:
    offer = Offer(F("0.04"), F("0.20"), F("0.8"), F("100"), F("20"), F("0.10"), F("0.50"), F("2"))
    seat, use, outcome, value = margin.margins(offer)
    assert (seat.margin_usd, seat.careful_margin_usd, seat.breaks_even_usd) == (F("16"), F("0"), F("0.20"))
    assert (use.margin_share, use.careful_margin_share) == (F("0.6"), F("-1"))
    assert (outcome.cost_usd, outcome.margin_usd, outcome.breaks_even_usd) == (F("0.05"), F("0.45"), F("0.4"))
    assert value.margin_usd == F("1.95")
    [giants] = margin.margins(Offer(F("0.04"), F("0.01"), F("1"), F("1"), use_usd=F("0.10")))
    assert giants.careful_margin_share == giants.margin_share == F("0.6"), (
        "a few giants lift the mean above the p95"
    )


def test_a_budget_pays_for_fewer_tasks_the_dearer_they_are() -> None:
    lines = budgets.daily(F("50000"), F("30"), target_usd=F("0.10"), p95_usd=F("0.30"), hard_usd=F("0.50"))
    assert [line.tasks_per_day for line in lines[3:]] == [16_666, 5_555, 3_333]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: failing.attempts_per_success(F("0")),
        lambda: failing.attempts_per_success(F("1.1")),
        lambda: failing.chain([]),
        lambda: failing.chain([ChainStep(F("0.9"), F("0"))]),
        lambda: failing.strategies(Run(F("0"), F("0.9"), F("0.3"), 1)),
        lambda: failing.lane_first(Lanes(F("0"), F("0"), F("0.5"))),
        lambda: caching.prefix_multiple(F("1.25"), F("0.1"), 0),
        lambda: caching.cached(caching.Prefix(GPT_4O, F("1"), F("1"), F("2"), F("1"), F("1"), 1)),
        lambda: caching.cached(caching.Prefix(Rates(F("0"), F("0")), F("1"), F("1"), F("1"), F("1"), F("1"), 1)),
        lambda: looped(rates=Rates(F("0"), F("0"))),
        lambda: context.coordination(Team(GPT_4O, 0, 3, F("1"), F("1"), F("1"), F("1"), F("1"))),
        lambda: context.coordination(Team(GPT_4O, 1, 3, F("0"), F("0"), F("1"), F("1"), F("1"))),
        lambda: hosting.utilisation(F("1"), [F("0")]),
        lambda: margin.margins(Offer(F("1"), F("1"), F("1"), F("0"), seat_usd=F("1"))),
        lambda: budgets.daily(F("1"), F("30"), target_usd=F("1"), p95_usd=F("0.5"), hard_usd=F("2")),
        lambda: driving.levers(Load(F("0"), F("1"), F("1"), F("1"), F("1"), F("1"))),
    ],
)  # fmt: skip
def test_what_is_outside_a_formula_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        wrong()


rate = st.fractions(F("0.05"), 1, max_denominator=200)
dollars = st.fractions(F("0.001"), 100, max_denominator=1000)
amount = st.fractions(0, 10_000, max_denominator=10)
some = st.fractions(1, 10_000, max_denominator=10)
chains = st.lists(st.builds(ChainStep, rate, dollars), min_size=1, max_size=6)


@given(chains)
def test_what_is_kept_never_costs_more_than_what_is_thrown_away(steps: list[ChainStep]) -> None:
    restart, fast, checkpoint = (policy.per_success_usd for policy in failing.chain(steps))
    assert sum(one.step_usd for one in steps) <= checkpoint <= fast <= restart


@given(rate, st.integers(1, 9), dollars)
def test_equal_steps_follow_the_closed_forms(p: Fraction, n: int, usd: Fraction) -> None:
    restart, fast, checkpoint = (one.multiple for one in failing.chain([ChainStep(p, usd)] * n))
    assert restart == (1 / p) ** n
    assert checkpoint == 1 / p
    assert fast == (1 if p == 1 else (1 - p**n) / (n * (1 - p) * p**n))


@given(dollars, rate, rate, st.fractions(0, 1), dollars)
def test_better_runs_and_cheaper_resumes_never_cost_more(
    usd: Fraction, p: Fraction, q: Fraction, resume: Fraction, handover: Fraction
) -> None:
    worse, better = sorted((p, q))
    costs = [
        {one.strategy: one.per_success_usd for one in failing.strategies(Run(usd, success, resume, 2))}
        for success in (worse, better)
    ]
    assert all(costs[1][name] <= costs[0][name] for name in costs[0])
    assert costs[0]["resume"] <= costs[0]["restart"]
    ranked = failing.strategies(Run(usd, p, resume, 2, handover))
    assert ranked[0].per_success_usd == min(one.per_success_usd for one in ranked)


@given(dollars, dollars, rate, rate)
def test_a_cheap_lane_pays_exactly_above_its_threshold(
    cheap: Fraction, dear: Fraction, p: Fraction, after: Fraction
) -> None:
    found = failing.lane_first(Lanes(cheap, dear, p, after))
    assert found.pays == (found.cheap_first_usd < found.dear_only_usd) == (p > after * cheap / dear)
    assert (found.saved_share > 0) == found.pays


@given(st.fractions(F("0.5"), 3), st.fractions(0, F("0.99")), st.integers(1, 50))
def test_a_cache_pays_from_its_first_paying_use_on_and_more_with_each(
    write: Fraction, read: Fraction, uses: int
) -> None:
    first = caching.pays_from(write, read)
    assert first is not None
    assert (caching.prefix_multiple(write, read, uses) < 1) == (uses >= first)
    if write >= read:
        assert caching.prefix_multiple(write, read, uses + 1) <= caching.prefix_multiple(write, read, uses)


@given(some, some, st.integers(1, 20), some)
def test_no_grown_context_is_cheaper_than_a_fresh_one(
    read: Fraction, written: Fraction, loops: int, grows: Fraction
) -> None:
    fresh = looped(input_tokens=read, output_tokens=written, loops=loops)
    grown = looped(input_tokens=read, output_tokens=written, loops=loops, grows_tokens=grows)
    assert fresh.multiple == F("0.7") * loops
    assert grown.after_usd >= fresh.after_usd


@given(dollars, st.fractions(F("0.1"), 10), dollars, dollars)
def test_at_the_crossover_both_ways_cost_the_same(
    price: Fraction, years: Fraction, rented: Fraction, marginal: Fraction
) -> None:
    found = hosting.crossover(Node(price, years), rented, marginal)
    assert (found.tasks_per_day is None) == (rented <= marginal)
    if found.tasks_per_day is not None:
        tasks = found.tasks_per_day
        assert found.fixed_per_day_usd + tasks * marginal == tasks * rented


loads = st.builds(Load, some, some, some, some, dollars, dollars)


@settings(max_examples=30)
@given(loads, loads)
def test_the_drivers_effects_are_the_whole_change_and_nothing_else(before: Load, after: Load) -> None:
    *effects, together = driving.effects(before, after)
    assert together.effect_usd == after.day_usd - before.day_usd
    assert sum(effect.effect_usd for effect in effects) == together.effect_usd
    *still, _ = driving.effects(before, replace(before, calls=after.calls))
    assert {one.driver for one in still if one.effect_usd} <= {"calls a task"}


@given(loads)
def test_half_the_calls_are_half_the_cost_and_half_the_tokens_together_too(load: Load) -> None:
    halves = {lever.driver: lever.half_saves_share for lever in driving.levers(load)}
    assert halves["tasks a day"] == halves["calls a task"] == halves["price"] == F("0.5")
    assert halves["input tokens a call"] + halves["output tokens a call"] == F("0.5")


@given(st.lists(st.tuples(dollars, dollars), min_size=1, max_size=5), some)
def test_no_choice_of_models_is_cheaper_than_the_first_that_is_told(
    prices: list[tuple[Fraction, Fraction]], tasks: Fraction
) -> None:
    mixes = {str(number): [Rates(*price)] for number, price in enumerate(prices)}
    first, *others = tokens.spread(CHAT, tasks, mixes)
    assert first.multiple == 1
    assert all(one.multiple is not None and one.multiple >= 1 for one in others)
