"""What providers report, as they document it, comes out in disjoint classes and at the price of their own bill.

``tests/data/usage``: ``usage`` as the provider sends it, ``price`` its list price in dollars per million tokens,
``bill`` the lines of its own bill (what, tokens, price), ``classes`` what we make of it; a class left out is 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from broker.call import Usage
from broker.money import NANO_PER_USD
from broker.prices import cost_nano
from broker.settings.lanes import Lane
from broker.tariff import book_price, price_of
from workers.engines import chat, messages

READERS: dict[str, Callable[[Mapping[str, Any]], Usage]] = {
    "chat": chat.normalised,
    "messages": messages.normalised,
}
GOLDEN = sorted((Path(__file__).parents[1] / "data" / "usage").glob("*.json"))


def total(usage: Mapping[str, Any], protocol: str) -> int:
    """All that the provider counts."""
    if protocol == "chat":
        return int(usage["total_tokens"])
    cached = usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
    return int(usage["input_tokens"] + cached + usage["output_tokens"])


#: The golden bills whose model is in the price book.
KEYS = {
    "openai": "openai/o4-mini",
    "anthropic": "anthropic/claude-sonnet-4-5",
    "deepseek": "deepseek/deepseek-v3",
    "gemini": "google/gemini-2.5-flash",
    "xai": "x-ai/grok-4-0709",
    "together": "together/meta-llama/llama-3.3-70b-instruct-turbo",
}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_providers_usage_is_disjoint_and_costs_what_it_bills(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    usage = READERS[golden["protocol"]](golden["usage"])
    assert usage == Usage(**golden["classes"])
    assert sum(astuple(usage)) == total(golden["usage"], golden["protocol"])
    assert sum(tokens for _, tokens, _ in golden["bill"]) == sum(astuple(usage))

    lane = Lane.model_validate({"engine": "openai", "price": golden["price"]})
    ours = cost_nano(price_of("golden", lane, "2026-11-25"), usage, busy_ms=0)
    assert ours is not None
    billed = sum(tokens * Decimal(price) / 1_000_000 for _, tokens, price in golden["bill"])
    assert abs(Decimal(ours) / NANO_PER_USD - billed) <= billed / 1000


@pytest.mark.parametrize("name", KEYS)
def test_the_price_book_comes_to_the_providers_bill(name: str) -> None:
    golden = json.loads(next(path for path in GOLDEN if path.stem == name).read_text(encoding="utf-8"))
    usage = READERS[golden["protocol"]](golden["usage"])
    price = book_price(KEYS[name], "2026-01-31")
    ours = cost_nano(price, usage, busy_ms=0)
    assert ours is not None
    billed = sum(tokens * Decimal(each) / 1_000_000 for _, tokens, each in golden["bill"])
    assert abs(Decimal(ours) / NANO_PER_USD - billed) <= billed / 1000


def test_every_provider_of_the_dialects_that_reports_in_its_own_way_is_here() -> None:
    assert {"openai", "deepseek", "gemini", "xai", "together", "vllm", "anthropic"} <= {
        path.stem for path in GOLDEN
    }


def test_reasoning_without_a_total_lies_within_the_completion() -> None:
    reported = {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "prompt_tokens_details": None,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert chat.normalised(reported) == Usage(input_tokens=7, output_tokens=2, reasoning_tokens=3)


@pytest.mark.parametrize(
    ("read", "reported"),
    [
        (
            chat.normalised,
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}},
        ),
        (chat.normalised, {"prompt_tokens": -5, "completion_tokens": 1}),
        (messages.normalised, {"input_tokens": 5, "output_tokens": -1}),
        (messages.normalised, {"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": -9}),
        (
            messages.normalised,
            {"input_tokens": 5, "output_tokens": 1, "output_tokens_details": {"thinking_tokens": 7}},
        ),
    ],
)
def test_usage_that_does_not_add_up_is_refused(
    read: Callable[[Mapping[str, Any]], Usage], reported: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="add up"):
        read(reported)


@pytest.mark.parametrize("count", [float("nan"), float("inf"), 2.5, 10**30, 5 * 10**13, True, "9", [1]])
def test_what_is_no_count_of_tokens_is_refused(count: Any) -> None:
    for reported in (
        {"prompt_tokens": 10, "completion_tokens": count},
        {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": count},
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": count}},
    ):
        with pytest.raises(ValueError, match="no count of tokens"):
            chat.normalised(reported)
    for reported in (
        {"input_tokens": 10, "output_tokens": count},
        {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": count},
    ):
        with pytest.raises(ValueError, match="no count of tokens"):
            messages.normalised(reported)
