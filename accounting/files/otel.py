"""Our columns in the words of OpenTelemetry's GenAI conventions, as their first release (v0.1.0) has them.

Those names are still in development; this module is the one place that knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from broker.purpose import EMBED, MODEL_CALLS, TOOL

#: Attributes of a GenAI client span → the columns of ``attempts`` that say them. Of several it is the sum: all that was
#: read is input there, and all that was written is output. The id of an attempt has no name there, for what the
#: conventions call a response's id is the provider's.
ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "gen_ai.conversation.id": ("task_id",),
        "gen_ai.operation.name": ("purpose",),
        "gen_ai.provider.name": ("engine",),
        "gen_ai.response.model": ("model",),
        "gen_ai.usage.input_tokens": ("input_tokens", "cached_input_tokens", "cache_write_tokens"),
        "gen_ai.usage.cache_read.input_tokens": ("cached_input_tokens",),
        "gen_ai.usage.cache_write.input_tokens": ("cache_write_tokens",),
        "gen_ai.usage.output_tokens": ("output_tokens", "reasoning_tokens"),
        "gen_ai.usage.reasoning.output_tokens": ("reasoning_tokens",),
        "error.type": ("failure",),
    }
)

#: Histograms in seconds, of calls of models → columns in milliseconds.
HISTOGRAMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "gen_ai.client.inference.duration": "latency_ms",
        "gen_ai.client.inference.time_to_first_chunk": "time_to_first_token_ms",
    }
)

#: ``purpose`` → the value of ``gen_ai.operation.name``; what people do has none.
OPERATIONS: Final[Mapping[str, str]] = MappingProxyType(
    {**dict.fromkeys(sorted(MODEL_CALLS), "chat"), EMBED: "embeddings", TOOL: "execute_tool"}
)
