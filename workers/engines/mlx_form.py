"""Answers held to a form while they are generated: which tokens may come next, by llguidance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

#: No room for blanks between the parts of JSON: a small model would fill it for ever. What is not known to llguidance
#: does not constrain: the gate judges the whole schema afterwards.
JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
#: llguidance's own, with a tenth of its states and symbols: a form that needs more is refused, and an answer is cut off
#: at a token for which the work grows larger, some 20 ms.
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=50_000,
    verbose_errors=False,
)


class FormRefused(ValueError):
    """The form is none, or would take too much work."""


class Form:
    """One answer on its way through a grammar: a logits processor of mlx-lm's generator.

    ``broken``: the answer cannot be held to it any further, as the work for one token grew too large.
    """

    def __init__(self, tokenizer: LLTokenizer, grammar: str) -> None:
        """Raises FormRefused."""
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
        if self._matcher.is_error():
            raise FormRefused(self._matcher.get_error().splitlines()[0])
        self._begun = False
        self.broken = False

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The logits with every token ruled out that may not come after ``tokens``, the prompt among them."""
        if self._begun and not self._matcher.is_stopped():
            self._matcher.consume_token(int(tokens[-1]))
        self._begun = True
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)  # at its end: the end alone
        if self._matcher.is_error():
            self.broken = True
            return logits
        allowed = np.zeros(logits.shape[-1], dtype=np.bool_)
        known = np.unpackbits(bits, bitorder="little")[: len(allowed)]
        allowed[: len(known)] = known
        return mx.where(mx.array(allowed), logits, -mx.inf)


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """Raises FormRefused."""
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=JSON))
    except (ValueError, RecursionError) as error:
        raise FormRefused(f"a schema that cannot be read: {error}") from error


def choice_grammar(choices: Sequence[str]) -> str:
    """Exactly one of these answers."""
    quoted = (json.dumps(choice, ensure_ascii=False) for choice in choices)
    return str(LLMatcher.grammar_from_lark("start: " + " | ".join(quoted)))
