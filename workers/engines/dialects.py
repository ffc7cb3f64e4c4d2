"""The dialects of OpenAI's chat protocol, a row each: what an endpoint takes, and how it is asked.

A new provider is a row here and its name in ``broker.settings.lanes.Dialect``. What holds for all of them (the classes
of usage, codes in error bodies, rate-limit headers) is read by one function that knows every form; a row says where the
same thing means something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from broker.call import Call
from broker.errors import ContextOverflow, EngineError, EngineFault
from workers.engines.constrain import (
    Constraint,
    Schema,
    choice_grammar,
    json_object,
    json_schema,
    native_tools,
    object_choices,
    schema_choices,
    schema_where_required,
    told_choices,
    told_schema,
    vllm_choice,
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One row.

    ``schema``, ``choices`` and ``tools`` are ways of ``constrain.py``. ``form_beside_tools``: a form of the answer may
    be asked for while tools are on offer; elsewhere it would forbid their use or be refused, and the gate alone judges.
    ``max_tokens`` is the name of that field, ``seed`` whether there is one. ``fixed_sampling`` finds the models that
    refuse a temperature. ``priority`` gives the request's fields for a ``Call.priority``, None where there is no such
    thing. ``always`` are fields of every request, ``with_tools`` are fields that go along where tools are on offer or
    were used, ``past_call`` what an earlier tool call carries besides. ``statuses`` are HTTP statuses that mean
    something else here than elsewhere. ``batches``: it takes files of calls as OpenAI does.
    """

    schema: Callable[[Schema], Constraint] = json_schema
    choices: Callable[[tuple[str, ...]], Constraint] = schema_choices
    tools: Callable[[Call], Constraint] = native_tools
    form_beside_tools: bool = False
    max_tokens: str = "max_tokens"
    seed: bool = True
    fixed_sampling: re.Pattern[str] | None = None
    priority: Callable[[int], Mapping[str, Any]] | None = None
    always: Mapping[str, Any] = field(default_factory=dict)
    with_tools: Mapping[str, Any] = field(default_factory=dict)
    past_call: Mapping[str, Any] = field(default_factory=dict)
    statuses: Mapping[int, type[EngineError]] = field(default_factory=dict)
    batches: bool = False

    def constrain(self, call: Call) -> Constraint:
        """How this endpoint is told of the call's tools, or of the form of its answer, or of both."""
        if not call.tools or call.tool_choice == "none":
            return self._form(call)
        tools = self.tools(call)
        if not self.form_beside_tools:
            return tools
        form = self._form(call)
        return Constraint({**form.fields, **tools.fields}, form.told, form.read)

    def _form(self, call: Call) -> Constraint:
        if call.schema is not None:
            return self.schema(call.schema)
        return Constraint() if call.choices is None else self.choices(call.choices)


#: Servers whose kind nobody named: what all of them take.
COMPATIBLE = "compatible"

DIALECTS: dict[str, Dialect] = {
    COMPATIBLE: Dialect(),
    # API reference: max_tokens is deprecated and refused by reasoning models, which also refuse a temperature unless
    # reasoning is off; left out, it is 1 for all of them.
    "openai": Dialect(
        form_beside_tools=True,
        max_tokens="max_completion_tokens",
        fixed_sampling=re.compile(r"^(ft:)?(o\d|gpt-([5-9]|\d\d))"),
        batches=True,
    ),
    # docs.vllm.ai, OpenAI-compatible server. A priority is a 400 unless it runs with --scheduling-policy priority,
    # of which the engine vllm knows and this table cannot.
    "vllm": Dialect(choices=vllm_choice),
    # Measured on llama.cpp of October 2026: a required tool is not enforced; grammars beside tools are a 400.
    # It tells of each piece of a prompt that it has read, so that a long one is not taken for an engine at a stand.
    "llamacpp": Dialect(
        choices=choice_grammar, tools=schema_where_required, always={"return_progress": True}
    ),
    # mlx_lm.server: response_format is ignored, a seed switches its batching off, a failed generation is a 404.
    "mlx": Dialect(schema=told_schema, choices=told_choices, seed=False, statuses={404: EngineFault}),
    # api-docs.deepseek.com: response_format is text or json_object, and JSON must be asked for in words too. Its models
    # think unless told not to; then they refuse a required tool, and want their thoughts back beside each past call.
    "deepseek": Dialect(
        schema=json_object,
        choices=object_choices,
        seed=False,
        with_tools={"thinking": {"type": "disabled"}},
    ),
    # ai.google.dev, OpenAI compatibility: unknown fields are a 400, and seed is one. Thought signatures: a past call
    # without its signature is a 400, and this is the one for calls whose signature is not there any more.
    "gemini": Dialect(
        seed=False,
        past_call={"extra_content": {"google": {"thought_signature": "skip_thought_signature_validator"}}},
    ),
    # docs.together.ai, error codes: 403 is a prompt that does not fit; 401 is a wrong key.
    "together": Dialect(statuses={403: ContextOverflow}),
    # docs.x.ai: as OpenAI's; its models are reasoning ones that take a temperature.
    "xai": Dialect(form_beside_tools=True),
}

HOSTS: dict[str, str] = {
    "api.openai.com": "openai",
    "api.deepseek.com": "deepseek",
    "generativelanguage.googleapis.com": "gemini",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "api.x.ai": "xai",
}


def spoken_at(base_url: str) -> str:
    """The dialect of an endpoint for which no setting names one."""
    return HOSTS.get(urlsplit(base_url).hostname or "", COMPATIBLE)
