"""Our price book held against somebody else's: every figure in which they differ.

The best books disagree on a few per cent of the models, so a price that matters is looked up where they do. Two forms
are read: a snapshot of model-prices (MIT), and LiteLLM's ``model_prices_and_context_window.json``. Compared is what a
call made singly pays without tiers and hours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from broker.pricebook import Book
from broker.prices import PPM, TokenPrice, mtok_usd, per_mtok

#: Their names of providers → ours.
PROVIDERS = {"xai": "x-ai", "gemini": "google", "together_ai": "together", "fireworks_ai": "fireworks"}
CLASSES = ("input", "cached input", "cache write", "output")
_RATES = ("input", "cache_read", "cache_write", "output")
_COSTS = (
    "input_cost_per_token", "cache_read_input_token_cost", "cache_creation_input_token_cost", "output_cost_per_token",
)  # fmt: skip

#: Model → pico-dollars per token of each class; None: not said.
Other = Mapping[tuple[str, str], tuple[int | None, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Dollars per million tokens, as text."""

    model: str
    of: str
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Held:
    """``both`` counts the models of both books, ``agree`` those without a difference, ``ours`` and ``theirs`` those
    that only one has."""

    both: int
    agree: int
    ours: int
    theirs: int
    differences: tuple[Difference, ...]


def read(said: str, day: str) -> Other:
    """The other book as it is on a UTC day. Raises ValueError for what is none of the known forms."""
    try:
        document = json.loads(said, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError("is no price book: it is not an object of models")
    try:
        found = dict(_snapshot(document["prices"], day) if "prices" in document else _costs(document))
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"is no price book of a known form: {error!r}") from error
    if not found:
        raise ValueError("is no price book: no model in it has a price of tokens")
    return found


def _snapshot(prices: Any, day: str) -> Iterator[tuple[tuple[str, str], tuple[int | None, ...]]]:
    for provider, models in prices.items():
        for model, modes in models.items():
            begun = [one for one in modes.get("standard", ()) if (one["start"] or "")[:10] <= day]
            if begun and "input" in (rates := begun[-1]["rates"]):
                yield _key(provider, model), tuple(_of_mtok(rates.get(name)) for name in _RATES)


def _of_mtok(usd: Any) -> int | None:
    return None if usd is None else per_mtok(Decimal(usd))


def _costs(models: Any) -> Iterator[tuple[tuple[str, str], tuple[int | None, ...]]]:
    for name, row in models.items():
        if (
            isinstance(row, dict)
            and row.get("input_cost_per_token") is not None
            and row.get("litellm_provider")
        ):
            provider = row["litellm_provider"]
            costs = tuple(
                None if row.get(one) is None else per_mtok(Decimal(row[one]) * PPM) for one in _COSTS
            )
            yield _key(provider, name.removeprefix(f"{provider}/")), costs


def _key(provider: str, model: str) -> tuple[str, str]:
    return PROVIDERS.get(provider, provider), model.lower()


def compare(ours: Book, theirs: Other, day: str) -> Held:
    differences: list[Difference] = []
    seen: set[str] = set()
    agree = both = 0
    for (provider, model), figures in sorted(theirs.items()):
        key = ours.find(model, provider)
        price = None if key is None else ours.price(key, day)
        if key is None or price is None or key in seen:
            continue
        seen.add(key)
        found = list(_differences(key, price, figures))
        both, agree = both + 1, agree + (not found)
        differences += found
    return Held(both, agree, len(ours.rows) - both, len(theirs) - both, tuple(differences))


def _differences(key: str, price: TokenPrice, figures: tuple[int | None, ...]) -> Iterator[Difference]:
    mine = (price.input_pico, price.cached_input_pico, price.cache_write_pico, price.output_pico)
    for name, our, their in zip(CLASSES, mine, figures, strict=True):
        if their is not None and our != their:
            yield Difference(key, name, mtok_usd(our), mtok_usd(their))
