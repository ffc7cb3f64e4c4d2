"""Figures from the ledger in place of flags: ``--from-ledger``.

Each function feeds one calculator with what was measured, under the names of its options. What has no measure stays
open, and is asked for.
"""

from __future__ import annotations

from datetime import date, timedelta
from fractions import Fraction

import click

from accounting.files import ledger
from accounting.files.ledger import Store
from accounting.reports.flat import holds
from accounting.reports.measured import Measured, Tries, measure, quotient
from accounting.reports.wording import left_out, percent
from broker.errors import LedgerError
from broker.money import NANO_PER_USD
from broker.settings import load
from laneway.cli.econ.given import DEFAULT, FLAG, Given, option, switch
from laneway.cli.options import DAY, Decorator, in_order

DAYS = 30  # that are looked at where none is named
MS_PER_S = 1000
FED = "[needed, or --from-ledger]"

type_option = option(
    "--type", "task_type", click.STRING, "Tasks of this type; else of all types.", metavar="TYPE"
)
changed_option = option(
    "--changed",
    "changed",
    DAY,
    "With --from-ledger: what changed from this UTC day on; else one state is looked at.",
    metavar="DAY",
)


#: Whose tries are taken where an option names no other lane.
LANES = {"lane": "local", "cheap": "local", "dear": "frontier", "local": "local", "rented": "rented"}


def lane_option(name: str) -> Decorator:
    """``--name`` of a lane in the ledger."""
    words = f"With --from-ledger: the lane whose tries are taken; else {LANES[name]}."
    return option(f"--{name}", name, click.STRING, words, metavar="LANE")


#: The days whose figures are taken.
period = in_order(
    option("--since", "since", DAY, f"From this UTC day on; else the last {DAYS} days.", metavar="DAY"),
    option("--until", "until", DAY, "To this UTC day, in it; else the last that was rolled.", metavar="DAY"),
)
#: ``--from-ledger``, and whose figures are taken.
from_ledger = in_order(
    switch("--from-ledger", "from_ledger", "What is not given is what the ledger has measured."),
    period,
    type_option,
)


def asked(given: Given) -> bool:
    """Whether ``--from-ledger`` is given. Raises click.UsageError for what means nothing without it."""
    if given.on("from_ledger"):
        return True
    for name in ("since", "until", "task_type", "changed", *LANES):
        if given.sources.get(name) == FLAG:
            raise click.UsageError(f"{given.flags[name]} goes with --from-ledger")
    return False


def measured(given: Given, *, whole: bool = False) -> Measured:
    """The ledger's figures of the days in question. ``whole`` where tasks with their parts are asked of, and not tries
    of a type. Raises LedgerError where it has none of those days or type."""
    files = ledger.open_store(load())
    days = ledger.days(files, ledger.TASKS)
    until = given.text("until") or (days[-1] if days else "")
    if not until:
        raise LedgerError("the ledger has no nightly files", mend="laneway rollup")
    since = given.text("since") or (date.fromisoformat(until) - timedelta(days=DAYS - 1)).isoformat()
    if until < since:
        raise click.UsageError(f"--until {until} is before --since {since}")
    task_type = given.text("task_type")
    found = _between(files, since, until, task_type, whole=whole)
    tries = found.tries(root_type=task_type) if whole else found.tries(task_type)
    if found.unrolled:
        click.echo(left_out(found.unrolled), err=True)
    if tries.tries > tries.priced:
        unknown = f"{tries.tries - tries.priced} of {tries.tries} tries have no known price"
        click.echo(f"{unknown}; costs are those of the others", err=True)
    if given.values.get("price"):
        _tell_discounts(tries)
    return found


def _tell_discounts(tries: Tries) -> None:
    """Says what a price that is given leaves out of account."""
    shares = (
        ("of the input was read from a cache", quotient(tries.cached_tokens, tries.input_tokens)),
        ("of the tries went in a batch", quotient(tries.batched, tries.tries)),
    )
    if cheaper := " and ".join(f"{percent(float(share))} {what}" for what, share in shares if share):
        whole = "--price asks the whole price for all of them; without it they cost what they did"
        click.echo(f"{cheaper}, and {whole}", err=True)


def _between(files: Store, since: str, until: str, task_type: str | None, *, whole: bool) -> Measured:
    found = measure(files, since, until)
    if found is None:
        raise LedgerError(
            f"the ledger has no tasks from {since} to {until}", mend=f"laneway rollup --since {since}"
        )
    types = found.root_types if whole else found.types
    if task_type is not None and task_type not in types:
        are_parts = ", but parts of tasks, whose types count" if task_type in found.types else ""
        raise LedgerError(
            f"the ledger has no tasks of type {task_type!r} from {found.since} to {found.until}{are_parts}",
            mend=f"name one of {', '.join(types)}",
        )
    return found


def source(found: Measured) -> str:
    return f"ledger, {found.since} to {found.until}"


def feed_plan(given: Given) -> None:
    """Call pattern, volume and price, and what came on top of inference; monitoring as the settings have it."""
    found = measured(given, whole=True)
    task_type = given.text("task_type")
    work, calls = found.work(task_type), found.tries(root_type=task_type, first=True)
    _feed_price(given, found, calls)
    given.feed(
        source(found),
        {
            "tasks_per_day": Fraction(work.tasks, found.days),
            "calls": quotient(calls.tries, work.tasks) or None,
            "input_tokens": quotient(calls.input_tokens, calls.tries),
            "output_tokens": quotient(calls.output_tokens, calls.tries),
            "retry_share": quotient(work.redone_nano, work.inference_nano),
            "orchestration_share": quotient(work.around_nano, work.inference_nano),
            "eval_share": quotient(work.eval_nano, work.inference_nano),
            "review_share": quotient(work.reviewed, work.tasks),
            "review_usd": quotient(work.human_nano, work.reviewed * NANO_PER_USD),
        },
    )
    monthly = [one for one in load().prices.monthly if holds(one, found.until)]
    if monthly:
        paid = sum((Fraction(one.usd_per_month) for one in monthly), Fraction(0))
        given.feed("prices.monthly", {"monitoring_usd": paid})


def feed_drivers(given: Given) -> None:
    """The days in question, or those before ``--changed`` and those from it on."""
    found = measured(given, whole=True)
    changed = given.text("changed")
    if changed is None:
        _feed_load(given, found)
        return
    if not found.since < changed <= found.until:
        raise click.BadParameter(
            f"{changed} does not part the days from {found.since} to {found.until}", param_hint="--changed"
        )
    files, task_type = ledger.open_store(load()), given.text("task_type")
    day_before = (date.fromisoformat(changed) - timedelta(days=1)).isoformat()
    _feed_load(given, _between(files, found.since, day_before, task_type, whole=True))
    _feed_load(given, _between(files, changed, found.until, task_type, whole=True), "then_")


def _feed_load(given: Given, found: Measured, prefix: str = "") -> None:
    """A day's work, all its tries and those of parts, at what a token of theirs came to on average."""
    task_type = given.text("task_type")
    work, tries = found.work(task_type), found.tries(root_type=task_type)
    _feed_price(given, found, tries, prefix)
    load_ = {
        "tasks_per_day": Fraction(work.tasks, found.days),
        "calls": quotient(tries.tries, work.tasks) or None,
        "input_tokens": quotient(tries.input_tokens, tries.tries),
        "output_tokens": quotient(tries.output_tokens, tries.tries),
    }
    given.feed(source(found), {prefix + name: value for name, value in load_.items()})


def _feed_price(given: Given, found: Measured, tries: Tries, prefix: str = "") -> None:
    """A token of any kind at what one of theirs came to on average."""
    names = ("input_mtok_usd", "output_mtok_usd")
    given.feed(source(found), {prefix + name: tries.mtok_usd for name in names})


def feed_run(given: Given) -> None:
    """A run is a try on the lane."""
    found = measured(given)
    tries = tries_on(found, given, "lane")
    given.feed(source(found), {"run_usd": tries.try_usd, "success_share": tries.success_share})


def feed_lanes(given: Given) -> None:
    """The cheap lane before the dear one, by their tries."""
    found = measured(given)
    cheap, dear = tries_on(found, given, "cheap"), tries_on(found, given, "dear")
    given.feed(
        source(found),
        {
            "cheap_usd": cheap.try_usd,
            "success_share": cheap.success_share,
            "dear_usd": dear.try_usd,
            "dear_success_share": dear.success_share,
        },
    )


def feed_crossover(given: Given) -> None:
    """What a success takes on the rented lane, and what one more takes on the machine."""
    found = measured(given)
    own, rented = tries_on(found, given, "local"), tries_on(found, given, "rented")
    given.feed(
        source(found),
        {
            "rented_1k_usd": thousand(rented.success_usd),
            "local_1k_usd": thousand(own.marginal_success_usd),
            "task_s": quotient(own.busy_ms, own.passed * MS_PER_S),
        },
    )


def thousand(usd: Fraction | None) -> Fraction | None:
    return None if usd is None else usd * 1000


def feed_offer(given: Given) -> None:
    """What a task costs, and a dear one, and how many succeed."""
    found = measured(given, whole=True)
    work = found.work(given.text("task_type"))
    if given.sources.get("success_share") != FLAG and 0 < work.judged < work.tasks:
        unjudged = f"{work.tasks - work.judged:,} of {work.tasks:,} tasks have no verdict"
        click.echo(f"{unjudged} and count as no success, as in what a report's successes cost", err=True)
    given.feed(
        source(found),
        {
            "task_usd": quotient(work.cost_nano, work.tasks * NANO_PER_USD),
            "p95_usd": Fraction(work.p95_nano, NANO_PER_USD),
            "success_share": work.success_share,
        },
    )


def tries_on(found: Measured, given: Given, name: str) -> Tries:
    """The type's tries on the lane that the option names. Raises LedgerError where there were none."""
    given.feed(DEFAULT, {name: LANES[name]})
    lane, task_type = given.text(name), given.text("task_type")
    tries = found.tries(task_type, lane)
    if not tries.tries:
        lanes = sorted({lane for one, lane in found.lanes if task_type in (None, one)})
        raise LedgerError(
            f"the ledger has no tries on lane {lane!r} from {found.since} to {found.until}",
            mend=f"{given.flags[name]} is one of {', '.join(lanes)}",
        )
    return tries
