"""What a calculator is given: each figure with where it came from, so that a reader can follow the answer.

An option keeps its value here under a name that ends in its unit (see ``accounting.econ``). A figure that was not given
may be fed from elsewhere, from the price book or the ledger; what was given is never overruled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

import click
from click.core import ParameterSource

from broker.money import NANO_PER_USD, round_half_even
from laneway.cli.options import Decorator

Value = Fraction | int | str | bool | tuple[Any, ...] | None

FLAG, DEFAULT = "given", "default"
MOST = 10**15  # the largest figure that is taken or told
SMALLEST_EXPONENT = -12
MOST_COUNT = 1_000_000


@dataclass(slots=True)
class Given:
    """``values`` by name, ``sources`` where each came from, ``flags`` how each is given."""

    values: dict[str, Value] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Fraction:
        """A figure that is needed. Raises click.UsageError where nobody gave it."""
        value = self.values.get(name)
        if value is None:
            flag = self.flags.get(name, "--price" if name.endswith("_mtok_usd") else name)
            if self.values.get("from_ledger"):
                raise click.UsageError(f"the ledger does not say {flag} for these tasks; give it")
            raise click.UsageError(f"{flag} is needed")
        if not isinstance(value, Fraction):
            raise TypeError(f"{name} is no figure: {value!r}")
        return value

    def figure(self, name: str) -> Fraction | None:
        """A figure that may be missing."""
        return None if self.values.get(name) is None else self[name]

    def count(self, name: str) -> int:
        return int(self[name])

    def text(self, name: str) -> str | None:
        value = self.values[name]
        return None if value is None else str(value)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.values[name]
        return value if isinstance(value, tuple) else ()

    def figures(self, name: str) -> tuple[Fraction, ...]:
        """Of an option that may be given again and again."""
        value = self.values[name]
        return value if isinstance(value, tuple) else ()

    def on(self, name: str) -> bool:
        return bool(self.values[name])

    def arrange(self, names: Sequence[str]) -> None:
        """Puts the values into this order."""
        self.values = {name: self.values[name] for name in names if name in self.values}

    def told(self) -> dict[str, Value]:
        """What there is to tell a reader: not what was left open or off."""
        return {
            name: value
            for name, value in self.values.items()
            if not (value is None or value is False or value == ())
        }

    def feed(self, source: str, found: Mapping[str, Fraction | str | None]) -> None:
        """Takes what is known and was not given."""
        for name, value in found.items():
            if value is not None and self.sources.get(name) != FLAG:
                self.values[name], self.sources[name] = value, source


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    given = context.ensure_object(Given)
    name = option.name or ""
    told = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    given.values[name], given.sources[name] = value, FLAG if told else DEFAULT
    given.flags[name] = option.opts[0]


def exact(words: str) -> Fraction:
    """The number that a person wrote. Raises ValueError for what is none, or is beyond any use."""
    try:
        number = Decimal(words)
    except InvalidOperation:
        raise ValueError(f"{words!r} is not a number") from None
    if not number.is_finite():
        raise ValueError(f"{words!r} is not a number")
    exponent = number.as_tuple().exponent
    if not number:
        return Fraction(0)
    if number.adjusted() >= len(str(MOST)) or not isinstance(exponent, int) or exponent < SMALLEST_EXPONENT:
        raise ValueError(f"{words[:40]!r} has too many digits")
    return Fraction(number)


def nano(usd: Fraction) -> int:
    """Nano-dollars of an exact amount in dollars, rounded half-even."""
    return round_half_even(usd.numerator * NANO_PER_USD, usd.denominator)


class Number(click.ParamType[Fraction]):
    """A number between ``least`` and ``most``; ``above`` leaves ``least`` itself out, ``whole`` all but integers."""

    name = "number"

    def __init__(self, least: int, most: int = MOST, *, above: bool = False, whole: bool = False) -> None:
        self.least, self.most, self.above, self.whole = least, most, above, whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        if isinstance(value, Fraction):
            return value
        try:
            number = self.read(str(value).strip())
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if number < self.least or number > self.most or (self.above and number == self.least):
            self.fail(f"{value} is not {self.range()}", param, ctx)
        if self.whole and number.denominator != 1:
            self.fail(f"{value} is not a whole number", param, ctx)
        return number

    def read(self, words: str) -> Fraction:
        return exact(words)

    def range(self) -> str:
        low = f"above {self.least}" if self.above else f"{self.least} or more"
        return low if self.most == MOST else f"{low} and at most {self.most}"


class Share(Number):
    """A part of 1, as 0.15 or 15%."""

    name = "share"

    def read(self, words: str) -> Fraction:
        return exact(words[:-1]) / 100 if words.endswith("%") else exact(words)

    def range(self) -> str:
        low = f"above {self.least:.0%}" if self.above else f"{self.least:.0%} or more"
        return f"{low} and at most {self.most:.0%}"


SHARE = Share(0, 1)
MULTIPLE = Share(
    0, 100
)  # what comes on top may be more than what is there: retries are, by three to ten times
CERTAIN = Share(0, 1, above=True)  # a success rate: at 0 nothing would ever be done


def read(kind: Number, words: str, flag: str) -> Fraction:
    """A figure that stands inside an option's value. Raises click.BadParameter that names the option."""
    try:
        return kind.convert(words, None, None)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint=flag) from None


def option(
    flag: str,
    name: str,
    kind: click.ParamType[Any],
    words: str,
    default: str | None = None,
    *,
    metavar: str | None = None,
    multiple: bool = False,
) -> Decorator:
    """An option whose value is kept under ``name``. Without a default the words say what holds in its place."""
    return click.option(
        flag, name, type=kind, default=default, show_default=default is not None, help=words, metavar=metavar,
        multiple=multiple, expose_value=False, callback=_keep,
    )  # fmt: skip


def switch(flag: str, name: str, words: str) -> Decorator:
    return click.option(flag, name, is_flag=True, help=words, expose_value=False, callback=_keep)


def usd(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    return option(flag, name, Number(0), words, default, metavar="USD")


def share(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    return option(flag, name, SHARE, words, default, metavar="SHARE")


def multiple(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    """A share that may be above 100%."""
    return option(flag, name, MULTIPLE, words, default, metavar="SHARE")


def certain(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    return option(flag, name, CERTAIN, words, default, metavar="SHARE")


def number(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    """Above 0."""
    return option(flag, name, Number(0, above=True), words, default, metavar="N")


def count(
    flag: str, name: str, words: str, default: str | None = None, *, least: int = 1, most: int = MOST_COUNT
) -> Decorator:
    return option(flag, name, Number(least, most, whole=True), words, default, metavar="N")


def tokens(flag: str, name: str, words: str, default: str | None = None) -> Decorator:
    return option(flag, name, Number(0), words, default, metavar="N")
