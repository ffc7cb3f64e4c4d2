"""Prices of tokens, by a model's name in the price book or as two figures."""

from __future__ import annotations

import difflib
import re
from fractions import Fraction

import click

from accounting.econ.tokens import Rates
from broker.clock import today
from broker.money import text
from broker.pricebook import book
from broker.prices import PPM, TokenPrice
from broker.tariff import book_price
from laneway.cli.econ.given import FLAG, Given, exact, nano, option
from laneway.cli.options import DAY, Decorator, in_order

FIGURES = re.compile(r"([0-9.]+)/([0-9.]+)")
PRICE_WORDS = "a model of the price book, or dollars per million tokens, input/output, as 2.50/10.00"

day_option = option(
    "--day", "day", DAY, "The price book's prices of this UTC day; else today's.", metavar="DAY"
)


def price_option(flag: str, name: str, words: str) -> Decorator:
    """An option that is a price."""
    return option(flag, name, click.STRING, f"{PRICE_WORDS.capitalize()}. {words}", metavar="PRICE")


#: For a calculator with one price.
priced = in_order(price_option("--price", "price", "[needed]"), day_option)


def in_book(given: Given, model: str) -> TokenPrice:
    """The price book's price of the model. Raises click.BadParameter where it has none."""
    day = given.text("day") or today()
    price = book_price(model, day)
    if price is None:
        known = sorted({key.partition("/")[2] for key in book().rows})
        near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
        like = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise click.BadParameter(f"the price book has no {model!r} on {day}{like}; write {PRICE_WORDS}")
    return price


def rates_of(given: Given, words: str) -> tuple[Rates, str]:
    """The rates that the words mean, and where they come from."""
    if figures := FIGURES.fullmatch(words):
        try:
            return Rates(exact(figures[1]), exact(figures[2])), FLAG
        except ValueError as error:
            raise click.BadParameter(f"{error}; write {PRICE_WORDS}") from None
    price = in_book(given, words)
    return Rates(Fraction(price.input_pico, PPM), Fraction(price.output_pico, PPM)), price.ref


def each_rates(given: Given, words: str) -> Rates:
    """The rates of one of several prices; what the book says of it is told beside what was given."""
    found, source = rates_of(given, words)
    if source != FLAG:
        figures = (text(nano(one)) for one in (found.input_mtok_usd, found.output_mtok_usd))
        given.feed(source, {f"price_of_{words}": "/".join(figures)})
    return found


def rates(given: Given, name: str = "price", prefix: str = "") -> Rates:
    """The rates of ``--price``, which are told beside what was given. Raises click.UsageError without one."""
    words = given.text(name)
    if words is None:
        raise click.UsageError(f"{given.flags[name]} is needed: {PRICE_WORDS}")
    found, source = rates_of(given, words)
    figures = {"input_mtok_usd": found.input_mtok_usd, "output_mtok_usd": found.output_mtok_usd}
    given.feed(source, {prefix + key: value for key, value in figures.items()})
    return found
