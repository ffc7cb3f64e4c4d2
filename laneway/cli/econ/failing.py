"""Calculators of what failure costs: chain, retry, lane-first."""

from __future__ import annotations

import click

from accounting.econ import failing
from accounting.econ.failing import ChainStep, LaneFirst, Lanes, Policy, Run, Strategy
from laneway.cli.econ.answer import calculator
from laneway.cli.econ.fed import FED, asked, feed_lanes, feed_run, from_ledger, lane_option
from laneway.cli.econ.given import CERTAIN, Given, Number, certain, count, option, read, share, usd

MOST_STEPS = 1000
STEP_USD = "0.01"


@calculator("chain")
@option(
    "--step",
    "step",
    click.STRING,
    f"How often a step ends well, and what it costs (else {STEP_USD}); again for each step in turn. [needed]",
    metavar="SHARE[:USD]",
    multiple=True,
)
@count("--times", "times", "The steps that are given follow one another so many times.", "1", most=MOST_STEPS)
def chain(given: Given) -> tuple[Policy, ...]:
    """What a chain of steps costs when steps may fail.

    Full restart runs all steps, looks at the end and begins anew; fail-fast begins anew at the step that failed; with
    checkpoints the failed step alone is done again.
    """
    told = given.texts("step")
    if not told:
        raise click.UsageError("--step is needed, as --step 90% or --step 90%:0.02")
    steps = [_step(words) for words in told] * given.count("times")
    if len(steps) > MOST_STEPS:
        raise click.UsageError(f"{len(steps)} steps are more than {MOST_STEPS}")
    return failing.chain(steps)


def _step(words: str) -> ChainStep:
    success, _, cost = words.partition(":")
    return ChainStep(read(CERTAIN, success, "--step"), read(Number(0), cost or STEP_USD, "--step"))


@calculator("retry")
@usd("--run-usd", "run_usd", f"c: what a run costs. {FED}")
@certain("--success", "success_share", f"p = 1 - q: how often a run ends well. {FED}")
@share("--resume", "resume_share", "r: what is to do again from the last checkpoint, of a run.", "30%")
@count("--attempts", "attempts", "k: how many runs are made where there is a cap.", "3", most=MOST_STEPS)
@usd(
    "--handover-usd",
    "handover_usd",
    "H: what whoever takes over costs, a person or the next lane; else nobody.",
)
@lane_option("lane")
@from_ledger
def retry(given: Given) -> tuple[Strategy, ...]:
    """Restart, resume or hand over: what failed runs cost.

    The cheapest for a success stands first. Whoever takes over always ends it well.
    """
    if asked(given):
        feed_run(given)
    return failing.strategies(
        Run(
            given["run_usd"],
            given["success_share"],
            given["resume_share"],
            given.count("attempts"),
            given.figure("handover_usd"),
        )
    )


@calculator(
    "lane-first", "cheap first: (c + (1 - p) C) / (p + (1 - p) P); dear only: C / P; pays when p > P c / C"
)
@usd("--cheap-usd", "cheap_usd", f"What a try on the cheap lane costs. {FED}")
@usd("--dear-usd", "dear_usd", f"C: what a try on the dear lane costs. {FED}")
@share("--success", "success_share", f"p: how often the cheap lane does it. {FED}")
@certain("--dear-success", "dear_success_share", "P: how often the dear lane does it.", "100%")
@usd(
    "--check-usd",
    "check_usd",
    "What the gate costs that looks at the cheap answer; with the try it is c.",
    "0",
)
@lane_option("cheap")
@lane_option("dear")
@from_ledger
def lane_first(given: Given) -> LaneFirst:
    """Whether a cheap lane pays that is tried before a dear one.

    It pays when it succeeds more often than the ratio of the prices says: at a twentieth of the price, 5% are enough.
    """
    if asked(given):
        feed_lanes(given)
    return failing.lane_first(
        Lanes(
            given["cheap_usd"],
            given["dear_usd"],
            given["success_share"],
            given["dear_success_share"],
            given["check_usd"],
        )
    )
