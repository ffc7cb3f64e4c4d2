"""Price arithmetic: what a call costs, in integers.

A price is a dated row that is never overwritten. An unknown price is None, which is booked as ``unpriced`` and never
as nothing. Lives on the lowest floor because the dispatcher (estimates), the workers (settlement) and accounting
(repricing) all need the same arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from broker.call import Usage
from broker.money import PICO_PER_NANO, nano, round_half_even, text

SECONDS_PER_YEAR = 365 * 24 * 3600
PPM = 1_000_000
US_PER_MIN = 60_000_000
MIN_PER_DAY = 24 * 60
EPOCH_WEEKDAY = 3  # 1 January 1970 was a Thursday

#: What a lane's calls can write into a provider's cache: nothing, for its usual time, or for an hour too.
Writes = Literal["none", "short", "long"]


@dataclass(frozen=True, slots=True)
class Hours:
    """Minutes of the UTC day, ``first`` in it and ``last`` not; over midnight where ``last`` is not above ``first``.
    ``workdays``: from Monday to Friday alone."""

    first: int
    last: int
    workdays: bool = False

    def hold(self, at_us: int) -> bool:
        day, minute = divmod(at_us // US_PER_MIN, MIN_PER_DAY)
        if self.workdays and (day + EPOCH_WEEKDAY) % 7 > 4:
            return False
        if self.first < self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last


@dataclass(frozen=True, slots=True)
class Band:
    """Calls that another row holds for: those whose whole input is above so many tokens, or that end within hours."""

    price: TokenPrice
    above: int = 0
    hours: Hours | None = None


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Pico-dollars per token of each class. ``ref`` names the row, so that any day can be repriced.

    ``bands`` are the exceptions, the first that fits holds. ``batch`` is what a line of a provider's batch pays; None:
    the same.
    """

    ref: str
    input_pico: int
    cached_input_pico: int
    cache_write_pico: int
    output_pico: int
    cache_write_1h_pico: int
    bands: tuple[Band, ...] = ()
    batch: TokenPrice | None = None


@dataclass(frozen=True, slots=True)
class HardwarePrice:
    """What one second of the lane's own hardware costs, in pico-dollars: amortisation and energy.

    Calls that share the node at the same time each pay their share: ``slots`` calls run side by side.
    """

    ref: str
    amortisation_pico_per_s: int
    energy_pico_per_s: int
    slots: int = 1


Price = TokenPrice | HardwarePrice


def per_mtok(usd: Decimal | str | int) -> int:
    """Pico-dollars per token of a price in dollars per million tokens."""
    return round_half_even(nano(usd) * PICO_PER_NANO, PPM)


def mtok_usd(pico: int) -> str:
    """Dollars per million tokens of a price in pico-dollars per token, exactly, as people read them."""
    return text(pico * PPM // PICO_PER_NANO)


def hardware_price(
    ref: str, *, price_usd: Decimal, life_years: Decimal, watts: Decimal, usd_per_kwh: Decimal, slots: int
) -> HardwarePrice:
    """Straight-line amortisation over the machine's life plus energy at the given draw, per second of use."""
    lifetime_s = Decimal(SECONDS_PER_YEAR) * life_years
    pico = Decimal(10) ** 12
    return HardwarePrice(
        ref=ref,
        amortisation_pico_per_s=int((price_usd / lifetime_s * pico).to_integral_value()),
        energy_pico_per_s=int((watts / 1000 / 3600 * usd_per_kwh * pico).to_integral_value()),
        slots=slots,
    )


def row_of(price: TokenPrice, usage: Usage, *, batch: bool = False, at_us: int | None = None) -> TokenPrice:
    """The row that holds for a call which used so much and ended then, in microseconds since the epoch.

    ``at_us`` None: at no particular hour.
    """
    row = price.batch if batch and price.batch is not None else price
    if row.bands:
        size = (
            usage.input_tokens
            + usage.cached_input_tokens
            + usage.cache_write_tokens
            + usage.cache_write_1h_tokens
        )
        for band in row.bands:
            hours = band.hours
            if size > band.above and (hours is None or (at_us is not None and hours.hold(at_us))):
                return band.price
    return row


def cost_nano(
    price: Price | None,
    usage: Usage | None,
    *,
    busy_ms: float,
    batch: bool = False,
    at_us: int | None = None,
) -> int | None:
    """What one call cost, in nano-dollars; None where no price is known or a token price lacks its usage.

    ``busy_ms`` is how long the call occupied a slot of the lane's hardware. Rounded half-even, once.
    """
    if isinstance(price, TokenPrice):
        if usage is None:
            return None
        row = row_of(price, usage, batch=batch, at_us=at_us) if batch or price.bands else price
        return round_half_even(
            usage.input_tokens * row.input_pico
            + usage.cached_input_tokens * row.cached_input_pico
            + usage.cache_write_tokens * row.cache_write_pico
            + usage.cache_write_1h_tokens * row.cache_write_1h_pico
            + (usage.output_tokens + usage.reasoning_tokens) * row.output_pico,
            PICO_PER_NANO,
        )
    if price is None:
        return None
    return _share(price.amortisation_pico_per_s + price.energy_pico_per_s, price.slots, busy_ms)


def marginal_nano(price: Price | None, cost: int | None, *, busy_ms: float) -> int | None:
    """The part of the cost that would not have been spent without the call: energy on own hardware, all elsewhere."""
    if isinstance(price, HardwarePrice):
        return _share(price.energy_pico_per_s, price.slots, busy_ms)
    return cost


def worst_nano(
    price: Price | None,
    *,
    input_tokens: int,
    max_tokens: int,
    timeout_s: float,
    batch: bool = False,
    writes: Writes = "long",
) -> int | None:
    """The most that one call can cost: every bounded token at its dearest class, or the slot until the time-out.

    Of the classes that the lane can come to, by ``writes``, and of the rows that can hold: a call may turn out smaller
    than its bound, and may end at any hour.
    """
    if not isinstance(price, TokenPrice):
        return cost_nano(price, None, busy_ms=timeout_s * 1000)
    row = price.batch if batch and price.batch is not None else price
    rows = [row, *(band.price for band in row.bands if input_tokens > band.above)]
    pico = max(input_tokens * _dearest(one, writes) + max_tokens * one.output_pico for one in rows)
    return -(-pico // PICO_PER_NANO)


def _dearest(row: TokenPrice, writes: Writes) -> int:
    pico = max(row.input_pico, row.cached_input_pico)
    if writes != "none":
        pico = max(pico, row.cache_write_pico)
    return max(pico, row.cache_write_1h_pico) if writes == "long" else pico


def batch_ppm(price: Price | None) -> int:
    """A batch line's part of the price of a call made singly, in parts per million, with as many tokens out as in."""
    if not isinstance(price, TokenPrice) or price.batch is None:
        return PPM
    single = price.input_pico + price.output_pico
    return (price.batch.input_pico + price.batch.output_pico) * PPM // single if single else PPM


def _share(pico_per_s: int, slots: int, busy_ms: float) -> int:
    busy_us = round(busy_ms * 1000)
    return round_half_even(pico_per_s * busy_us, PPM * PICO_PER_NANO * slots)
