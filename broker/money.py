"""Money: integer nano-US-dollars inside, decimal strings for people.

One nano-dollar is 10^-9 USD. Prices per token are integer pico-dollars (10^-12 USD), so that a product of tokens
and price is exact and only one rounding happens, half-even, once per attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, Overflow
from typing import Any

NANO_PER_USD = 1_000_000_000
PICO_PER_NANO = 1_000
#: Amounts are below that: no column of the ledger has room for it, and hardly an integer of Redis.
MOST_USD = 10**9


def nano(usd: Decimal | str | int) -> int:
    """Nano-dollars of an amount in dollars, rounded half-even.

    Raises ValueError for a float, NaN, infinity or anything that is not a number: money never passes through floats.
    """
    if isinstance(usd, float):
        raise ValueError(f"{usd!r} is a float; write money as a string or Decimal")
    try:
        amount = Decimal(usd)
    except InvalidOperation as error:
        raise ValueError(f"{usd!r} is not an amount of money") from error
    if not amount.is_finite():
        raise ValueError(f"{usd!r} is not an amount of money")
    try:
        return int((amount * NANO_PER_USD).to_integral_value(rounding=ROUND_HALF_EVEN))
    except Overflow as error:
        raise ValueError(f"{usd!r} is more than any amount of money") from error


def dollars(nano_usd: int) -> Decimal:
    """The exact amount in dollars, with nine decimals."""
    return Decimal(nano_usd).scaleb(-9)


def text(nano_usd: int) -> str:
    """The exact amount in dollars as a plain decimal string, trailing zeros dropped: ``0.00012``."""
    plain = f"{dollars(nano_usd):.9f}".rstrip("0")
    return plain + "0" if plain.endswith(".") else plain


def shown(amount: str) -> str:
    """What ``text`` has written, for a person: in dollars, and to the cent at least."""
    whole, _, cents = amount.removeprefix("-").partition(".")
    return f"{'-' if amount.startswith('-') else ''}${whole}.{cents:0<2}"


def round_half_even(numerator: int, denominator: int) -> int:
    """``numerator / denominator`` as the nearest integer, ties to even. The denominator is positive."""
    # Each priced call is rounded: what does for arrays too takes twice as long.
    quotient, rest = divmod(numerator, denominator)
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient % 2):
        return quotient + 1
    return quotient


def half_even(whole: Any, rest: Any, parts: int) -> Any:
    """As ``round_half_even``, of arrays: ``whole`` and ``rest`` of so many parts."""
    return whole + ((2 * rest > parts) | ((2 * rest == parts) & (whole % 2 == 1)))


def split(total: int, weights: Sequence[int]) -> list[int]:
    """Parts of ``total`` in proportion to ``weights`` that sum to it exactly (largest remainder, first one wins a tie).

    All weights zero puts everything on the first part. Weights are not negative; ``total`` may be.
    """
    if not weights:
        raise ValueError("nothing to split over: no weights")
    if any(weight < 0 for weight in weights):
        raise ValueError(f"negative weight in {list(weights)!r}")
    whole = sum(weights)
    if whole == 0:
        return [total] + [0] * (len(weights) - 1)
    sign = -1 if total < 0 else 1
    shares = [divmod(abs(total) * weight, whole) for weight in weights]
    parts = [quotient for quotient, _ in shares]
    by_remainder = sorted(range(len(weights)), key=lambda index: -shares[index][1])
    for index in by_remainder[: abs(total) - sum(parts)]:
        parts[index] += 1
    return [sign * part for part in parts]
