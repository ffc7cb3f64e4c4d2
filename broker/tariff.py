"""Which price holds for a lane on a day: its own rows, else the price book's for its model, else none.

The book is asked by who sells the model, which is told from the lane's address. A model's name at an address that is
nobody's in particular (a gateway, a server of one's own) has no price there; ``price = "book:openai/gpt-4o"`` gives it
one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from urllib.parse import urlsplit

from broker.money import nano, round_half_even
from broker.pricebook import Book, book, discounted, line_of, parse
from broker.prices import HardwarePrice, Price, TokenPrice, hardware_price
from broker.settings.lanes import Lane
from broker.settings.prices import Discount, PriceRow

SECONDS_PER_HOUR = 3600

#: Who sells what is called at an address: the end of its host's name → the provider's name in the book.
SELLERS = {
    "openai.com": "openai",
    "anthropic.com": "anthropic",
    "googleapis.com": "google",
    "deepseek.com": "deepseek",
    "x.ai": "x-ai",
    "together.xyz": "together",
    "together.ai": "together",
    "mistral.ai": "mistral",
    "groq.com": "groq",
    "fireworks.ai": "fireworks",
    "openrouter.ai": "openrouter",
    "cerebras.ai": "cerebras",
    "novita.ai": "novita",
    "moonshot.ai": "moonshotai",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
    "minimax.io": "minimax",
    "z.ai": "zai",
    "openai.azure.com": "azure",
}
#: Who else's price list holds where a seller has none of his own for a model.
AS_AT = {"azure": "openai"}
_OWN = {"openai": "openai", "anthropic": "anthropic"}


def price_of(name: str, lane: Lane, day: str) -> Price | None:
    """The lane's price on a UTC day (``YYYY-MM-DD``); None: unknown, its calls are booked as unpriced."""
    if lane.hardware is not None:
        own = lane.hardware
        return hardware_price(
            f"hardware:{name}",
            price_usd=own.price_usd,
            life_years=own.life_years,
            watts=own.watts,
            usd_per_kwh=own.usd_per_kwh,
            slots=lane.threads,
        )
    if lane.price == "free":
        return TokenPrice(f"free:{name}", 0, 0, 0, 0, 0)
    if isinstance(lane.price, tuple):
        return _dated(f"lane:{name}", lane.price, day)
    key = key_of(lane, book())
    return None if key is None else price_at(book(), key, day, lane.discounts)


def key_of(lane: Lane, of: Book) -> str | None:
    """What the lane's model is called in the book; None where it is not in it, or nobody knows who sells it."""
    if isinstance(lane.price, str) and lane.price.startswith("book:"):
        return of.find(lane.price.removeprefix("book:"))
    provider = seller(lane)
    if not provider:
        return None
    return of.find(lane.model, provider) or (
        of.find(lane.model, AS_AT[provider]) if provider in AS_AT else None
    )


def seller(lane: Lane) -> str:
    """Who sells what the lane calls, as the book names them; "" where its address does not tell."""
    if not lane.base_url:
        return _OWN.get(lane.engine, "")
    host = urlsplit(lane.base_url).hostname or ""
    ends = (host[at:] for at in (0, *(one.end() for one in re.finditer(r"\.", host))))
    return next((SELLERS[end] for end in ends if end in SELLERS), "")


def price_at(of: Book, key: str, day: str, discounts: Sequence[Discount] = ()) -> TokenPrice | None:
    """The book's price of a model on a UTC day, less what was agreed on; None where it has none."""
    price = of.price(key, day)
    agreed = [one for one in discounts if _fits(one, key, day, of)]
    return price if price is None or not agreed else discounted(price, agreed[-1].factor)


def holds_for_any(one: Discount, of: Book) -> bool:
    """Whether the book has anything that the discount is on."""
    return any(_on(one, key, of) for key in of.rows)


def _fits(one: Discount, key: str, day: str, of: Book) -> bool:
    return one.from_ <= day and (one.until is None or day < one.until) and _on(one, key, of)


def _on(one: Discount, key: str, of: Book) -> bool:
    if key.partition("/")[0] != one.provider:
        return False
    return not one.model or of.find(one.model.removeprefix(f"{one.provider}/"), one.provider) == key


def book_price(model: str, day: str) -> TokenPrice | None:
    """The price book's price of a model on a UTC day, by its key or its bare name; None where it has none."""
    key = book().find(model)
    return None if key is None else book().price(key, day)


def cpu_price(usd_per_hour: Decimal) -> HardwarePrice:
    """What a second of this fleet's own processors costs: classification and gates are booked at it."""
    pico_per_s = round_half_even(nano(usd_per_hour) * 1000, SECONDS_PER_HOUR)
    return HardwarePrice("fleet:cpu", pico_per_s, 0)


def _dated(ref: str, rows: Iterable[PriceRow], day: str) -> TokenPrice | None:
    row = max((one for one in rows if one.from_ <= day), key=lambda one: one.from_, default=None)
    return None if row is None else parse(f"{ref}@{row.from_}", line_of(row))
