"""Calculators of outcomes: what they bring (margin), and what the ledger measured of them (rates)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import click

from accounting.econ import margin as selling
from accounting.econ.margin import Margin, Offer
from accounting.reports.measured import Measured, quotient
from broker.errors import LedgerError
from laneway.cli.econ.answer import calculator
from laneway.cli.econ.fed import (
    FED,
    asked,
    feed_offer,
    from_ledger,
    measured,
    period,
    source,
    type_option,
)
from laneway.cli.econ.given import Given, certain, number, usd

DEAR = 5  # a 95th percentile usually is 3 to 8 means
PRICES = ("--seat-usd", "--use-usd", "--outcome-usd", "--value-usd")


@calculator("margin")
@usd("--task-usd", "task_usd", f"What a task costs on average, retries and failures in it. {FED}")
@usd(
    "--p95-usd", "p95_usd", f"What a dear task costs; else {DEAR} times the average (usual are 3 to 8 times)."
)
@certain("--success", "success_share", f"p: how many tasks succeed. {FED}")
@usd("--seat-usd", "seat_usd", "What is asked for a seat a month; else it is not asked.")
@number("--tasks-per-seat", "tasks_per_seat", "Tasks that a seat has done a month.", "100")
@usd("--use-usd", "use_usd", "What is asked for a task, whatever becomes of it; else it is not asked.")
@usd("--outcome-usd", "outcome_usd", "What is asked for a task that succeeds; else it is not asked.")
@usd(
    "--value-usd",
    "value_usd",
    "What a success is worth, as the manual work that it replaces; else it is not asked.",
)
@from_ledger
def margin(given: Given) -> tuple[Margin, ...]:
    """What is left of a price per seat, per use, per outcome.

    The careful margin takes a dear task for the usual one: set prices by it. Break-even is the cost of a task at which
    nothing is left.
    """
    if all(given.figure(flag[2:].replace("-", "_")) is None for flag in PRICES):
        raise click.UsageError(f"a price is needed: one of {', '.join(PRICES)}")
    if asked(given):
        feed_offer(given)
    if given.figure("p95_usd") is None:
        given.feed(f"{DEAR} x the average", {"p95_usd": given["task_usd"] * DEAR})
    return selling.margins(
        Offer(
            given["task_usd"],
            given["p95_usd"],
            given["success_share"],
            given["tasks_per_seat"],
            seat_usd=given.figure("seat_usd"),
            use_usd=given.figure("use_usd"),
            outcome_usd=given.figure("outcome_usd"),
            value_usd=given.figure("value_usd"),
        )
    )


@dataclass(frozen=True, slots=True)
class Rate:
    """Figures of a type on a lane; tokens and seconds are means of a try."""

    task_type: str
    lane: str
    tries: int
    success_share: Fraction | None
    attempts_per_success: Fraction | None
    per_try_usd: Fraction | None
    per_success_usd: Fraction | None
    input_tokens: Fraction | None
    output_tokens: Fraction | None
    seconds: Fraction | None


@calculator("rates", "a success costs all that judged tries cost / those that passed")
@type_option
@period
def rates(given: Given) -> tuple[Rate, ...]:
    """What the ledger measured of each type on each lane.

    The other calculators take their figures from here.
    """
    found = measured(given)
    given.feed(source(found), {"since": found.since, "until": found.until})
    wanted = given.text("task_type")
    rows = tuple(_rate(found, one, lane) for one, lane in found.lanes if wanted in (None, one))
    if not rows:
        raise LedgerError(
            f"no model was called for these tasks from {found.since} to {found.until}",
            mend="name other days with --since and --until",
        )
    return rows


def _rate(found: Measured, task_type: str, lane: str) -> Rate:
    tries = found.tries(task_type, lane)
    return Rate(
        task_type,
        lane,
        tries.tries,
        tries.success_share,
        tries.attempts_per_success,
        tries.try_usd,
        tries.success_usd,
        quotient(tries.input_tokens, tries.tries),
        quotient(tries.output_tokens, tries.tries),
        quotient(tries.busy_ms, tries.tries * 1000),
    )
