"""Calculators of what is spent: pattern, spread, drivers, budget."""

from __future__ import annotations

from dataclasses import fields, replace

import click

from accounting.econ import budgets, driving, monthly, tokens
from accounting.econ.budgets import Line
from accounting.econ.driving import Effect, Lever, Load
from accounting.econ.monthly import Plan, Saving, Step
from accounting.econ.tokens import Mix, Pattern, Rates
from laneway.cli.econ.answer import calculator
from laneway.cli.econ.fed import FED, asked, changed_option, feed_drivers, feed_plan, from_ledger
from laneway.cli.econ.given import SHARE, Given, multiple, number, option, read, share, switch, usd
from laneway.cli.econ.given import tokens as tokens_option
from laneway.cli.econ.prices import PRICE_WORDS, day_option, each_rates, price_option, rates
from laneway.cli.options import Decorator, in_order


def worked(needed: str) -> Decorator:
    """What tasks do: how many a day, their calls, the tokens of a call."""

    return in_order(
        number("--tasks", "tasks_per_day", f"Tasks a day. {needed}"),
        number("--calls", "calls", f"Calls of a model that a task makes. {needed}"),
        tokens_option("--input-tokens", "input_tokens", f"Tokens that a call reads. {needed}"),
        tokens_option("--output-tokens", "output_tokens", f"Tokens that a call writes. {needed}"),
    )


def told_pattern(given: Given) -> Pattern:
    return Pattern(given["calls"], given["input_tokens"], given["output_tokens"])


@calculator("pattern")
@worked(FED)
@number("--days", "days", "Days of a month.", "30")
@multiple("--retries", "retry_share", "What retries and checks add to inference.", "15%")
@multiple("--orchestration", "orchestration_share", "What queues, tools and state add to inference.", "20%")
@multiple("--evals", "eval_share", "What evaluation runs (suites, A/B, regression) add to inference.", "0%")
@switch("--compound", "compound", "Orchestration comes on top of retries too, and not of inference alone.")
@usd("--monitoring-usd", "monitoring_usd", "What watching it costs a month.", "200")
@share("--reviewed", "review_share", "The part of the tasks that a person looks at.", "0%")
@usd("--review-usd", "review_usd", "What a look costs.", "2.50")
@option(
    "--saving",
    "saving",
    click.STRING,
    "What an optimisation takes off inference, or off a PART of it: caching=40%, routing=30%@80%; again for more, else"
    " none.",
    metavar="NAME=SHARE[@PART]",
    multiple=True,
)
@number("--growth", "growth", "How many times as many tasks there will be.", "2")
@from_ledger
@price_option("--price", "price", FED)
@day_option
def pattern(given: Given) -> tuple[Step, ...]:
    """What a call pattern costs a month, in six steps.

    Call pattern, volume, pricing, multipliers, optimisations (each alone, then all of them), growth.
    """
    fed = asked(given)
    if fed:
        feed_plan(given)
    if given.text("price") or not fed:
        rates(given)
    return monthly.steps(
        Plan(
            pattern=told_pattern(given),
            rates=Rates(given["input_mtok_usd"], given["output_mtok_usd"]),
            tasks_per_day=given["tasks_per_day"],
            days=given["days"],
            retry_share=given["retry_share"],
            orchestration_share=given["orchestration_share"],
            eval_share=given["eval_share"],
            compound=given.on("compound"),
            monitoring_usd=given["monitoring_usd"],
            review_share=given["review_share"],
            review_usd=given["review_usd"],
            savings=tuple(_saving(words) for words in given.texts("saving")),
            growth=given["growth"],
        )
    )


def _saving(words: str) -> Saving:
    name, equals, shares = words.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"{words!r} is not NAME=SHARE, as caching=40%", param_hint="--saving")
    saving, _, reached = shares.partition("@")
    return Saving(name, read(SHARE, saving, "--saving"), read(SHARE, reached or "100%", "--saving"))


@calculator(
    "spread", "a task = calls * (input * price + output * price); the calls are shared out among the models"
)
@worked("[needed]")
@option(
    "--mix",
    "mix",
    click.STRING,
    f"A choice of models, separated by commas, each {PRICE_WORDS}. Again for each choice. [needed]",
    metavar="PRICE[,PRICE]",
    multiple=True,
)
@day_option
def spread(given: Given) -> tuple[Mix, ...]:
    """What the same work costs with different models.

    The cheapest stands first, and how many times as much the others cost beside them.
    """
    told = given.texts("mix")
    if not told:
        raise click.UsageError("--mix is needed, as --mix gpt-4o --mix gpt-4o,gpt-4o-mini")
    mixes = {words: [each_rates(given, one.strip()) for one in words.split(",")] for words in told}
    return tokens.spread(told_pattern(given), given["tasks_per_day"], mixes)


THEN = "afterwards; else as before."


@calculator("drivers", "a day = tasks * calls * (input * price + output * price)")
@worked(FED)
@number("--then-tasks", "then_tasks_per_day", f"Tasks a day {THEN}")
@number("--then-calls", "then_calls", f"Calls of a task {THEN}")
@tokens_option("--then-input-tokens", "then_input_tokens", f"Tokens that a call reads {THEN}")
@tokens_option("--then-output-tokens", "then_output_tokens", f"Tokens that a call writes {THEN}")
@price_option("--then-price", "then_price", f"The price {THEN}")
@from_ledger
@changed_option
@price_option("--price", "price", FED)
@day_option
def drivers(given: Given) -> tuple[Lever, ...] | tuple[Effect, ...]:
    """What drives the cost of a day, or drove its change.

    Of one state it says what half of each driver would save. Of two (--then-calls and the like, or --changed) what each
    change did: the mean of its effect over all orders, so that the effects add up to the whole.
    """
    fed = asked(given)
    if fed:
        feed_drivers(given)
    if given.text("price") or not fed:
        rates(given)
        if given.text("changed"):
            rates(given, "price", "then_")
    if given.text("then_price"):
        rates(given, "then_price", "then_")
    before = Load(**{field.name: given[field.name] for field in fields(Load)})
    then = {field.name: given.figure(f"then_{field.name}") for field in fields(Load)}
    changes = {name: value for name, value in then.items() if value is not None}
    return driving.effects(before, replace(before, **changes)) if changes else driving.levers(before)


@calculator("budget", "a day = dollars a month / days; tasks a day = a day / cost of a task")
@usd("--month-usd", "month_usd", "What may be spent a month. [needed]")
@number("--days", "days", "Days of a month.", "30")
@usd("--target", "target_usd", "What a task is meant to cost.", "0.10")
@usd("--p95", "p95_usd", "What 95 of 100 tasks do not cost more than.", "0.30")
@usd("--hard", "hard_usd", "What no task may cost more than.", "0.50")
def budget(given: Given) -> tuple[Line, ...]:
    """What a month's budget is a day: alerts and tasks.

    Plan by the 95th percentile and the hard cap: a day of dear tasks is what uses it up.
    """
    return budgets.daily(
        given["month_usd"],
        given["days"],
        target_usd=given["target_usd"],
        p95_usd=given["p95_usd"],
        hard_usd=given["hard_usd"],
    )
