"""What a lane asks of its engine, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint classes: their sum is everything the provider counts.

    ``input_tokens`` excludes cached reads and cache writes; ``output_tokens`` excludes reasoning.
    ``cache_write_tokens`` are kept by the provider for its usual time (Anthropic: five minutes),
    ``cache_write_1h_tokens`` for an hour, at a price of their own.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_1h_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool that the model wants used. ``arguments`` is JSON as the model wrote it, which may be no JSON at all."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a model.

    ``messages`` are in OpenAI's chat form. ``schema`` is a JSON Schema that the answer must satisfy and that an engine
    constrains its decoding to where it can; ``choices`` likewise restricts the answer to one of a few strings (None:
    free text). ``tools`` are function tools in OpenAI's form; ``tool_choice`` is ``auto``, ``required`` (at least one
    of them) or ``none``. ``max_tokens`` bounds the answer. ``timeout_s`` bounds the call as a whole, connect to last
    token. ``priority``: where an engine serves some calls before others, a higher one goes first. ``attempt_id`` is
    told to the provider where it takes such an id, so that its records can be held against ours.
    """

    messages: tuple[Mapping[str, Any], ...]
    max_tokens: int = 512
    schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    timeout_s: float = 60.0
    priority: int = 0
    attempt_id: str = ""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a provider said of its own limits beside an answer. Counts are of a minute's window, times in seconds until
    it is whole again; None: not said.
    """

    requests_limit: int | None = None
    requests_left: int | None = None
    requests_reset_s: float | None = None
    tokens_limit: int | None = None
    tokens_left: int | None = None
    tokens_reset_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a model. ``text`` is "" where it only wants tools used.

    ``model`` is what the engine says it ran (not what was asked for), ``model_revision`` a quantisation or build where
    known, else "". ``finish_reason`` is ``stop``, ``length``, ``content_filter`` or ``tool_calls``.
    ``time_to_first_token_ms`` is None where the engine does not stream. ``usage_known`` False: the engine reported no
    usage, so ``usage`` is all zeros and stands for nothing; such a call is booked unpriced, never as free. ``quota``
    None: the provider said nothing of its limits.
    """

    text: str
    usage: Usage
    model: str
    latency_ms: float
    model_revision: str = ""
    finish_reason: str = "stop"
    time_to_first_token_ms: float | None = None
    usage_known: bool = True
    tool_calls: tuple[ToolCall, ...] = ()
    quota: Quota | None = None
