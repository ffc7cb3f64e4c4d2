"""What engines are asked for in the tests of all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from broker.call import Call

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
CHOICES = ("positive", "negative")
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "The weather in a city.", "parameters": SCHEMA},
}


def asked(prompt: str, **fields: Any) -> Call:
    return Call(({"role": "user", "content": prompt},), **({"max_tokens": 16} | fields))


def story(**fields: Any) -> Call:
    """A call that goes on for several seconds."""
    return asked("Tell a very long story about the sea.", **({"max_tokens": 600} | fields))


def wanted() -> bool:
    return False


def after_polls(
    count: int, act: Callable[[], object] = lambda: None, answer: bool = True
) -> Callable[[], bool]:
    """A ``cancelled`` that acts at its ``count``-th question and from then on gives ``answer``."""
    polls = itertools.count(1)

    def cancelled() -> bool:
        poll = next(polls)
        if poll == count:
            act()
        return poll >= count and answer

    return cancelled
