"""Our columns in the words of OpenTelemetry's GenAI conventions.

Those names are still in development; this table is the one place that knows them.
"""

from __future__ import annotations

from typing import Final

#: Columns of ``attempts`` to attributes of a GenAI client span.
ATTRIBUTES: Final = {
    "task_id": "gen_ai.conversation.id",
    "attempt_id": "gen_ai.response.id",
    "engine": "gen_ai.provider.name",
    "model": "gen_ai.response.model",
    "input_tokens": "gen_ai.usage.input_tokens",
    "cached_input_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "failure": "error.type",
}

#: Columns in milliseconds to histograms in seconds.
HISTOGRAMS: Final = {
    "latency_ms": "gen_ai.client.operation.duration",
    "time_to_first_token_ms": "gen_ai.client.operation.time_to_first_chunk",
}

#: ``purpose`` to ``gen_ai.operation.name``; a purpose without a row has no name there.
OPERATIONS: Final = {
    "task": "chat",
    "retry": "chat",
    "reprompt": "chat",
    "judge": "chat",
    "eval": "chat",
    "embed": "embeddings",
    "tool": "execute_tool",
}
