"""An answer for a person: the idea, the formula, what was given and from where, and the figures with their units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from typing import Any

from accounting.reports.wording import NOTHING
from accounting.reports.wording import usd as money
from broker.money import round_half_even
from laneway.cli.econ.answer import Answer
from laneway.cli.econ.given import nano
from laneway.cli.output import say, table

MOST_DECIMALS = 9
FIGURES = 3  # of a small number that count
MANY = 10_000  # from here on nobody reads decimals


def show(answer: Answer) -> None:
    say(answer.idea)
    if answer.formula:
        say(f"Formula: {answer.formula}")
    given = answer.given
    table(
        ("given", "is", "from"),
        [
            (given.flags.get(name, label(name)), cell(name, value), given.sources[name])
            for name, value in given.told().items()
        ],
        right=("is",),
    )
    rows: Sequence[Any] = answer.rows
    if rows:
        names = [field.name for field in fields(rows[0])]
        heads = [label(name) for name in names]
        right = [label(name) for name in names if not isinstance(getattr(rows[0], name), str)]
        table(heads, ([cell(name, getattr(row, name)) for name in names] for row in rows), right=right)
    else:
        names = [field.name for field in fields(answer.result)]
        lines = [(label(name), cell(name, getattr(answer.result, name))) for name in names]
        table(("result", "is"), lines, right=("is",))


def label(name: str) -> str:
    """The words of a field's name; that a figure is money, its sign says."""
    return name.removesuffix("_usd").replace("_", " ").replace("mtok", "per million tokens")


def cell(name: str, value: Any) -> str:
    """A value with the unit that its field's name ends in."""
    if value is None:
        return NOTHING
    if isinstance(value, tuple):
        return ", ".join(cell(name, one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    figure = Fraction(value)
    if name.endswith("_usd"):
        return f"-{money(-nano(figure))}" if figure < 0 else money(nano(figure))
    if name.endswith("_share"):
        return f"{digits(figure * 100, 1)}%"
    if name.endswith("multiple"):
        return f"{digits(figure, 3)}x"
    return digits(figure, 2 if abs(figure) < MANY else 0)


def digits(value: Fraction, decimals: int) -> str:
    """The number with so many decimals, more where it is small, and without zeros at its end."""
    if not value:
        return "0"
    size = (Decimal(abs(value.numerator)) / Decimal(value.denominator)).adjusted()
    places = min(MOST_DECIMALS, max(decimals, FIGURES - 1 - size if size < 0 else 0))
    units = round_half_even(value.numerator * 10**places, value.denominator)
    written = f"{Decimal(units).scaleb(-places):,.{places}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written
