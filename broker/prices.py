"""Price arithmetic: what a call costs, in integers.

A price is a dated row that is never overwritten. An unknown price is None, which is booked as ``unpriced`` and never
as nothing. Lives on the lowest floor because the dispatcher (estimates), the workers (settlement) and accounting
(repricing) all need the same arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from broker.call import Usage
from broker.money import PICO_PER_NANO, nano, round_half_even

SECONDS_PER_YEAR = 365 * 24 * 3600
PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """Pico-dollars per token of each class. ``batch_ppm`` is the part of the price that a batch line pays, in parts
    per million (500,000 = half price). ``ref`` names the row, so that any day can be repriced."""

    ref: str
    input_pico: int
    cached_input_pico: int
    cache_write_pico: int
    output_pico: int
    cache_write_1h_pico: int
    batch_ppm: int = PPM


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


def cost_nano(price: Price | None, usage: Usage | None, *, busy_ms: float, batch: bool = False) -> int | None:
    """What one call cost, in nano-dollars; None where no price is known or a token price lacks its usage.

    ``busy_ms`` is how long the call occupied a slot of the lane's hardware. Rounded half-even, once.
    """
    match price:
        case TokenPrice():
            if usage is None:
                return None
            pico = (
                usage.input_tokens * price.input_pico
                + usage.cached_input_tokens * price.cached_input_pico
                + usage.cache_write_tokens * price.cache_write_pico
                + usage.cache_write_1h_tokens * price.cache_write_1h_pico
                + (usage.output_tokens + usage.reasoning_tokens) * price.output_pico
            )
            if batch:
                return round_half_even(pico * price.batch_ppm, PPM * PICO_PER_NANO)
            return round_half_even(pico, PICO_PER_NANO)
        case HardwarePrice():
            return _share(price.amortisation_pico_per_s + price.energy_pico_per_s, price.slots, busy_ms)
        case None:
            return None


def marginal_nano(price: Price | None, cost: int | None, *, busy_ms: float) -> int | None:
    """The part of the cost that would not have been spent without the call: energy on own hardware, all elsewhere."""
    if isinstance(price, HardwarePrice):
        return _share(price.energy_pico_per_s, price.slots, busy_ms)
    return cost


def worst_nano(
    price: Price | None, *, input_tokens: int, max_tokens: int, timeout_s: float, batch: bool = False
) -> int | None:
    """The most that one call can cost: every bounded token at its dearest class, or the slot until the time-out."""
    if isinstance(price, TokenPrice):
        dearest = max(
            price.input_pico, price.cached_input_pico, price.cache_write_pico, price.cache_write_1h_pico
        )
        pico = input_tokens * dearest + max_tokens * price.output_pico
        return -(-pico * (price.batch_ppm if batch else PPM) // (PICO_PER_NANO * PPM))
    return cost_nano(price, None, busy_ms=timeout_s * 1000)


def _share(pico_per_s: int, slots: int, busy_ms: float) -> int:
    busy_us = round(busy_ms * 1000)
    return round_half_even(pico_per_s * busy_us, PPM * PICO_PER_NANO * slots)
