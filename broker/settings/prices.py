"""The tables of prices: by the token, by the machine, by the month, by a person's work."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from broker.settings.values import Amount, Count, Day, MtokUsd, Table, Usd, no_float

Part = Annotated[Usd, Field(le=1, decimal_places=6)]


class Figures(Table):
    """Dollars per million tokens, to six decimals: a pico-dollar per token.

    ``cached_input_mtok`` and ``cache_write_mtok`` default to input, ``cache_write_1h_mtok`` to ``cache_write_mtok``.
    """

    input_mtok: MtokUsd
    output_mtok: MtokUsd
    cached_input_mtok: MtokUsd | None = None
    cache_write_mtok: MtokUsd | None = None
    cache_write_1h_mtok: MtokUsd | None = None


class Above(Figures):
    """What calls cost whose whole input, cached or not, is above so many tokens."""

    tokens: Annotated[Count, Field(gt=0)]


class AtHours(Figures):
    """What calls cost that end within these hours of the UTC day, as ``16:30-00:30``. ``workdays``: from Monday to
    Friday alone."""

    utc: Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")]
    workdays: bool = False


class PriceRow(Figures):
    """A price from a UTC day on, and its exceptions.

    ``batch_discount`` is what a line of a provider's batch pays less (0.5: half), ``batch_cached_discount`` what its
    cached input does; None: as much.
    """

    from_: Day = Field("1970-01-01", alias="from")
    batch_discount: Part = Decimal(0)
    batch_cached_discount: Part | None = None
    above: tuple[Above, ...] = ()
    hours: tuple[AtHours, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> PriceRow:
        if self.above and self.hours:
            raise ValueError("has both above and hours; a row knows one kind of exception")
        exceptions = [*(one.tokens for one in self.above), *((one.utc, one.workdays) for one in self.hours)]
        if len(set(exceptions)) != len(exceptions):
            raise ValueError("has two prices for the same exception; take one out")
        return self

    @property
    def figures(self) -> tuple[Figures, ...]:
        return (self, *self.above, *self.hours)


class Span(Table):
    """From a UTC day on, and before ``until`` (None: for ever)."""

    from_: Day = Field("1970-01-01", alias="from")
    until: Day | None = None

    @model_validator(mode="after")
    def _some_day(self) -> Span:
        if self.until is not None and self.until <= self.from_:
            raise ValueError(f"holds on no day: until {self.until} is not after from {self.from_}")
        return self


class Discount(Span):
    """What is paid less than the price book says, by agreement with a provider: its prices times ``factor``.

    ``model`` is a key of the book (``openai/gpt-4o``) or the provider's name for one; "": all of its models.
    Where several fit, the last one holds.
    """

    provider: str
    model: str = ""
    factor: Annotated[Decimal, BeforeValidator(no_float), Field(gt=0, le=10, max_digits=8, decimal_places=6)]


class FlatCost(Span):
    """What is paid by the month whatever is done: a monitoring service, a seat. ``category`` is which of a report's
    four categories has it."""

    name: str = Field(min_length=1)
    usd_per_month: Usd
    category: Literal["inference", "orchestration", "data", "human"] = "orchestration"


class Prices(Table):
    """What lanes do not say themselves: discounts on the price book, and what is paid by the month."""

    discounts: tuple[Discount, ...] = ()
    monthly: tuple[FlatCost, ...] = ()


class Hardware(Table):
    """A machine of our own. ``watts`` is what it draws while it works, ``idle_watts`` while it is on and does not.

    Lanes of one node with the same table are served by the same machine.
    """

    price_usd: Usd
    life_years: Amount
    watts: Annotated[Decimal, Field(ge=0)]
    idle_watts: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    usd_per_kwh: Usd


class Human(Table):
    """What a person's work costs: by the minutes that they say, else by the review. None of both: unpriced."""

    usd_per_review: Usd | None = None
    usd_per_minute: Usd | None = None
