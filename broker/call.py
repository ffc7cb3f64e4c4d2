"""What a lane asks of its engine, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint classes: their sum is everything the provider counts.

    ``input_tokens`` excludes cached reads and cache writes; ``output_tokens`` excludes reasoning.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model.

    ``messages`` are in OpenAI's chat form. ``schema`` is a JSON Schema that the answer must satisfy and that an engine
    constrains its decoding to where it can; ``choices`` likewise restricts the answer to one of a few strings (None:
    free text). ``max_tokens`` bounds the answer. ``timeout_s`` bounds the call as a whole, connect to last token.
    ``attempt_id`` is told to the provider where it takes such an id, so that its records can be held against ours.
    """

    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int = 512
    schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float = 60.0
    attempt_id: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a model.

    ``model`` is what the engine says it ran (not what was asked for), ``model_revision`` a quantisation or build where
    known, else "". ``finish_reason`` is ``stop``, ``length``, ``content_filter`` or ``tool_calls``.
    ``time_to_first_token_ms`` is None where the engine does not stream. ``usage_known`` False: the engine reported no
    usage, so ``usage`` is all zeros and stands for nothing; such a call is booked unpriced, never as free.
    """

    text: str
    usage: Usage
    model: str
    latency_ms: float
    model_revision: str = ""
    finish_reason: str = "stop"
    time_to_first_token_ms: float | None = None
    usage_known: bool = True
