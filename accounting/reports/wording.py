"""Figures in words: amounts, shares, counts, and the tables that they stand in.

Amounts in one column share their number of decimals and are rounded so that they sum to the rounded total, as a bank
does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from accounting.reports.currency import USD
from broker.money import dollars, round_half_even, split

NOTHING = "-"
HEAD_WIDTH = 12  # of a heading that is wrapped


@dataclass(frozen=True, slots=True)
class Amounts:
    """How amounts of a currency are written: with $, or with the currency's code."""

    currency: str = USD

    def one(self, nano: int | None, decimals: int | None = None) -> str:
        """An amount for reading: as many decimals as asked for, else enough for three figures that count. What is too
        little for the decimals is not printed as nothing."""
        if nano is None:
            return NOTHING
        places = _decimals(nano) if decimals is None else decimals
        unit = 10 ** (9 - places)
        units = round_half_even(abs(nano), unit)
        if nano and not units:
            return f"<{self.one(unit, places)}"
        sign = "$" if self.currency == USD else f"{self.currency} "
        return f"{'-' if nano < 0 else ''}{sign}{Decimal(units).scaleb(-places):,.{places}f}"

    def least(self, nano: int | None, unpriced: int, decimals: int | None = None) -> str:
        """An amount that so many calls without a known price are missing from."""
        return at_least(self.one(nano, decimals), nano, unpriced)

    def column(self, amounts: Sequence[int], decimals: int) -> list[str]:
        """The amounts of a column that a total stands under, rounded so that what is printed adds up to what is
        printed."""
        if any(amount < 0 for amount in amounts):
            return [self.one(amount, 9) for amount in amounts]
        unit = 10 ** (9 - decimals)
        whole = round_half_even(sum(amounts), unit)
        parts = split(whole, amounts) if amounts else []
        return [
            self.one(part * unit, decimals) if part or not amount else f"<{self.one(unit, decimals)}"
            for part, amount in zip(parts, amounts, strict=True)
        ]


def at_least(said: str, nano: int | None, unpriced: int) -> str:
    """What is said of an amount, where calls without a known price are missing from it: it is that or more. Of one
    that comes to nothing, nothing is known."""
    if not unpriced or nano is None:
        return said
    return f"≥{said}" if nano and not said.startswith("<") else NOTHING


def at_most(said: str, nano: int | None, unpriced: int) -> str:
    """What is said of a margin over such an amount: it is that or less."""
    return said if nano is None or not unpriced else f"≤{said}"


def usd(nano: int | None, decimals: int | None = None) -> str:
    """An amount in US dollars for reading."""
    return Amounts().one(nano, decimals)


def _decimals(nano: int) -> int:
    if nano == 0:
        return 2
    return min(9, max(2, 2 - dollars(abs(nano)).adjusted()))


def precision(total_nano: int) -> int:
    """Decimals for columns under a total: cents for what is paid in dollars, more where all of it is small."""
    if total_nano >= 1_000_000_000_000:
        return 2
    return min(9, _decimals(total_nano) + 2) if total_nano < 10**9 else 4


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.1%}"


def real(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def hundredths(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.2f}"


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def named(name: str) -> str:
    """A name as it is safe on a terminal: what a stranger's endpoint calls its model may hold control characters."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in name) or "(none)"


def left_out(days: Sequence[str]) -> str:
    """What is said of days that have events and no nightly files."""
    what = "1 day has" if len(days) == 1 else f"{len(days):,} days have"
    named_ones = ", ".join(days[:5]) + (", …" if len(days) > 5 else "")
    return f"{what} events and no nightly files, and are in no figure: {named_ones}; laneway rollup --since {days[0]}"


def parted(widths: Sequence[int], gap: int, width: int, keys: int = 1) -> list[list[int]]:
    """The places of columns that stand side by side in so many characters, a table each where they do not all fit. The
    first ``keys`` say whose row it is, and are in each."""
    parts = [list(range(keys))]
    for place in range(keys, len(widths)):
        beside = [*parts[-1], place]
        if len(beside) > keys + 1 and sum(widths[one] + gap for one in beside) - gap > width:
            beside = [*range(keys), place]
            parts.append(beside)
        parts[-1] = beside
    return parts


def head_width(head: str) -> int:
    """How narrow a heading may become before it is hard to read: it is wrapped, as figures are not."""
    return min(HEAD_WIDTH, max(map(len, head.split()), default=0))


@dataclass(frozen=True, slots=True)
class Grid:
    """One table of the report. ``yields`` are the columns that go first on a narrow page, and what is too wide without
    them is drawn as several tables: no figure is ever cut. The first ``keys`` columns say whose row it is. ``words``
    are the places of columns that are wrapped, as those are."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    below: Sequence[Sequence[str]] = ()
    yields: tuple[str, ...] = ()
    words: tuple[int, ...] = ()
    keys: int = 1
