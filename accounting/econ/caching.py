"""What a provider's prompt cache saves on a prefix that calls have in common.

Writing costs w times plain input, reading r times; n uses are one write and n - 1 reads, so a use costs
(w + r (n - 1)) / n of plain input.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import floor

from accounting.econ.tokens import Rates


@dataclass(frozen=True, slots=True)
class Prefix:
    """``prefix_tokens`` of the ``input_tokens`` of each call are the same; the cache forgets them after ``uses``."""

    rates: Rates
    input_tokens: Fraction
    output_tokens: Fraction
    prefix_tokens: Fraction
    write_multiple: Fraction
    read_multiple: Fraction
    uses: int


@dataclass(frozen=True, slots=True)
class Cached:
    """``most_saved_share`` is what remains the limit however often the prefix is used; shares are of a call's whole
    cost. ``pays_from_uses``: the first number of uses that is cheaper than no cache; None: never."""

    prefix_multiple: Fraction
    pays_from_uses: int | None
    plain_call_usd: Fraction
    cached_call_usd: Fraction
    saved_share: Fraction
    most_saved_share: Fraction


def prefix_multiple(write: Fraction, read: Fraction, uses: int) -> Fraction:
    """What a use of the prefix costs on average, over plain input."""
    if uses < 1:
        raise ValueError("a prefix is used at least once")
    return (write + read * (uses - 1)) / uses


def pays_from(write: Fraction, read: Fraction) -> int | None:
    """The least n with w + r (n - 1) < n, which is n > (w - r) / (1 - r)."""
    if write < 1:
        return 1
    return None if read >= 1 else floor((write - read) / (1 - read)) + 1


def cached(prefix: Prefix) -> Cached:
    if prefix.prefix_tokens > prefix.input_tokens:
        raise ValueError("the prefix has more tokens than the input that it is a part of")
    plain = prefix.rates.usd(prefix.input_tokens, prefix.output_tokens)
    if plain <= 0:
        raise ValueError("a call costs something, or there is nothing to save")
    multiple = prefix_multiple(prefix.write_multiple, prefix.read_multiple, prefix.uses)
    part = prefix.rates.usd(prefix.prefix_tokens, Fraction(0)) / plain
    saved = part * (1 - multiple)
    return Cached(
        multiple,
        pays_from(prefix.write_multiple, prefix.read_multiple),
        plain,
        plain * (1 - saved),
        saved,
        part * (1 - prefix.read_multiple),
    )
