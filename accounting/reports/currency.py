"""Other currencies, as a reader's view: the ledger is in US dollars, and each day has its own rate.

    [rates.GBP]                     # what a dollar is worth in pounds, from that UTC day on
    2026-01-01 = "0.7432"
    2026-02-01 = "0.7301"

A rate holds until the next one of its currency. Before the first one there is none: nothing is converted at a rate that
was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from broker.errors import ConfigError
from broker.money import round_half_even

USD = "USD"
MICRO = 1_000_000

#: Currency → the UTC days on which a rate began → what a dollar is worth in it: ``Settings.rates``.
Table = Mapping[str, Mapping[str, Decimal]]


@dataclass(frozen=True, slots=True)
class Rates:
    """Dated rates of one currency, to be made with ``rates_of``. ``days`` are sorted, each with millionths of the
    currency's unit that a US dollar is worth."""

    currency: str
    days: tuple[tuple[str, int], ...]

    def micros(self, day: str) -> int:
        """Millionths of the currency's unit that a US dollar is worth on a UTC day. Raises ConfigError before the
        first rate."""
        for start, micros in reversed(self.days):
            if start <= day:
                return micros
        raise ConfigError(
            f"rates.{self.currency}: no rate holds on {day}, the first one is from {self.days[0][0]}",
            mend=f'add one to the configuration: [rates.{self.currency}] {day} = "…"',
        )

    def convert(self, nano_usd: int, day: str) -> int:
        """Billionths of the currency's unit that so many nano-dollars are worth on a UTC day, rounded half-even."""
        return round_half_even(nano_usd * self.micros(day), MICRO)


def rates_of(currency: str, table: Table) -> Rates:
    """The rates of a currency, dollars among them. Raises ConfigError for one without any."""
    code = currency.upper()
    if code == USD:
        return Rates(USD, (("0001-01-01", MICRO),))
    if not (days := table.get(code)):
        known = ", ".join([USD, *sorted(name for name in table if table[name])])
        raise ConfigError(
            f"no rates for {currency!r}; there are {known}",
            mend=f'add to the configuration what a dollar is worth: [rates.{code}] 2026-01-01 = "…"',
        )
    return Rates(code, tuple(sorted((day, int(rate * MICRO)) for day, rate in days.items())))
