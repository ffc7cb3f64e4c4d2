"""Calculators of machines of one's own: self-host, crossover, utilisation."""

from __future__ import annotations

from fractions import Fraction

import click

from accounting.econ import hosting
from accounting.econ.hosting import BreakEven, Crossover, Node, Use
from laneway.cli.econ.answer import calculator
from laneway.cli.econ.fed import FED, asked, feed_crossover, from_ledger, lane_option
from laneway.cli.econ.given import FLAG, Given, Number, count, number, option, share, usd
from laneway.cli.econ.prices import PRICE_WORDS, day_option, each_rates

HOURS_PER_DAY = 24
HOURS_PER_MONTH = HOURS_PER_DAY * 30
WATTS_PER_KW = 1000
VOLUMES = tuple(Fraction(10) ** power for power in range(4))


@calculator("self-host", "tokens a day = dollars a month / (30 * price of a token of this mix)")
@usd("--month-usd", "month_usd", "What the machines cost a month, all of them. [needed, or --hour-usd]")
@usd(
    "--hour-usd",
    "hour_usd",
    "What it costs an hour, of which 30 days make the month; else --month-usd says it.",
)
@count("--machines", "machines", "How many there are at that price an hour.", "1")
@share("--input-share", "input_share", "The part of the tokens that is input.", "80%")
@number("--tokens-per-s", "tokens_per_s", "What they can do of this mix together; else it is not asked.")
@option(
    "--price",
    "price",
    click.STRING,
    f"What it is compared with: {PRICE_WORDS}. Again for more. [needed]",
    multiple=True,
)
@day_option
def self_host(given: Given) -> tuple[BreakEven, ...]:
    """From how many tokens a day on a machine beats an API.

    Whether it can do as many, --tokens-per-s tells: above 100% of what it can do, it never pays.
    """
    hour = given.figure("hour_usd")
    if hour is not None and given.figure("month_usd") is not None:
        raise click.UsageError("give --month-usd or --hour-usd, not both")
    if hour is None and given.sources["machines"] == FLAG:
        raise click.UsageError("--machines goes with --hour-usd; --month-usd is what all of them cost")
    if hour is not None:
        given.feed("30 days of hours", {"month_usd": hour * HOURS_PER_MONTH * given.count("machines")})
    models = {words: each_rates(given, words) for words in given.texts("price")}
    if not models:
        raise click.UsageError(f"--price is needed: {PRICE_WORDS}")
    return hosting.break_even(given["month_usd"], given["input_share"], models, given.figure("tokens_per_s"))


@calculator(
    "crossover",
    "tasks a day = (hardware / (365 * years) + energy a day) / (rented - marginal cost of a task)",
)
@number("--hardware", "hardware_price", "What the machine was bought for. [needed]")
@number("--usd-rate", "usd_rate", "Dollars for one unit of the money that it was paid in.", "1")
@number("--life-years", "life_years", "How many years it lasts.", "3")
@option("--watts", "watts", Number(0), "What it draws whether it works or not.", "0", metavar="N")
@usd("--usd-per-kwh", "kwh_usd", "What its electricity costs.", "0.30")
@usd("--rented-1k", "rented_1k_usd", f"What a thousand tasks cost where they are rented. {FED}")
@usd(
    "--local-1k",
    "local_1k_usd",
    f"What a thousand more cost on the machine, beside its price and watts. {FED}",
)
@number("--task-s", "task_s", "How many seconds a task takes on the machine; else it is not asked.")
@count("--slots", "slots", "How many tasks it does at a time.", "1")
@lane_option("local")
@lane_option("rented")
@from_ledger
def crossover(given: Given) -> Crossover:
    """From how many tasks a day on a bought machine pays.

    How busy it is then, --task-s tells: above 100%, one machine never pays. The ledger's figures are for a success.
    """
    if asked(given):
        feed_crossover(given)
    node = Node(
        price_usd=given["hardware_price"] * given["usd_rate"],
        life_years=given["life_years"],
        energy_day_usd=given["watts"] / WATTS_PER_KW * HOURS_PER_DAY * given["kwh_usd"],
        task_s=given.figure("task_s"),
        slots=given.count("slots"),
    )
    return hosting.crossover(node, given["rented_1k_usd"] / 1000, given["local_1k_usd"] / 1000)


@calculator("utilisation", "a task = dollars an hour * machines / tasks an hour")
@usd("--hour-usd", "hour_usd", "What a machine costs an hour. [needed]")
@option(
    "--tasks-per-hour",
    "tasks_per_hour",
    Number(0, above=True),
    "How many tasks there are; again for more volumes; else 1, 10, 100 and 1000.",
    multiple=True,
    metavar="N",
)
@number("--task-s", "task_s", "How many seconds a task takes; else one machine does them all.")
@count("--slots", "slots", "How many tasks a machine does at a time.", "1")
@usd("--rented-usd", "rented_usd", "What a task costs elsewhere, by use; else it is not compared.")
def utilisation(given: Given) -> tuple[Use, ...]:
    """What a task costs on a machine paid by the hour.

    Utilisation is the price: an idle hour costs what a busy one does.
    """
    return hosting.utilisation(
        given["hour_usd"],
        given.figures("tasks_per_hour") or VOLUMES,
        task_s=given.figure("task_s"),
        slots=given.count("slots"),
        rented_usd=given.figure("rented_usd"),
    )
