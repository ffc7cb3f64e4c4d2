"""Amounts of dollars as a person gives them to a command."""

from __future__ import annotations

import click

from broker.money import MOST_USD, NANO_PER_USD, dollars, nano

MOST_NANO = MOST_USD * NANO_PER_USD


def amount(words: str, below_nano: int = MOST_NANO) -> int:
    """Nano-dollars. Raises click.BadParameter for what is no amount, is below nothing, or is not below that."""
    try:
        found = nano(words)
    except ValueError as error:
        raise click.BadParameter(f"{error}; write dollars, as 12.50") from None
    if found < 0:
        raise click.BadParameter(f"{words} is below nothing")
    if found >= below_nano:
        raise click.BadParameter(f"{words} is not below {dollars(below_nano):,.0f} dollars")
    return found
