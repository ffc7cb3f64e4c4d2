"""How a model is held to the form of an answer and told of tools: each function is one way to do it, and
``dialects.py`` says which endpoint takes which.

Each function gives a ``Constraint``: what goes into the request, and the way back from what the model wrote to the
answer.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from broker.call import Call, ToolCall
from broker.errors import CallRejected

FENCE = re.compile(r"\s*```(?:json)?\s*(.*?)\s*```\s*", re.DOTALL)

Schema = Mapping[str, Any]
Read = Callable[[str], tuple[str, tuple[ToolCall, ...]]]


def as_written(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    return text, ()


@dataclass(frozen=True, slots=True)
class Constraint:
    """``fields`` come on top of the request, ``told`` is said to the model in the system message ("" for nothing).

    ``read`` gives the bare answer and the tool calls that stand in the model's text. A model that ignored the form
    answers in its own words, which come back as they are: the gate judges them.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""
    read: Read = as_written


# --- a schema


def json_schema(schema: Schema) -> Constraint:
    """OpenAI's ``response_format``, strict where the schema is one that OpenAI takes as strict."""
    named = {"name": "answer", "schema": schema, "strict": _is_strict(schema)}
    return Constraint({"response_format": {"type": "json_schema", "json_schema": named}})


def json_object(schema: Schema) -> Constraint:
    """For a provider that only promises some JSON object: the schema is told."""
    return Constraint({"response_format": {"type": "json_object"}}, _told_schema(schema), unfenced)


def told_schema(schema: Schema) -> Constraint:
    """For a server that takes no form at all, or ignores it without a word."""
    return Constraint(told=_told_schema(schema), read=unfenced)


def unfenced(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    """JSON out of the fence of Markdown into which many a model puts it that was only told."""
    fenced = FENCE.fullmatch(text)
    return (fenced[1] if fenced else text), ()


def _told_schema(schema: Schema) -> str:
    return f"Answer with JSON only, no other words. It must satisfy this JSON Schema: {json.dumps(schema)}"


def _is_strict(schema: object) -> bool:
    """OpenAI refuses a strict schema unless each object in it is closed and requires all of its properties."""
    if isinstance(schema, list):
        return all(_is_strict(part) for part in schema)
    if not isinstance(schema, Mapping):
        return True
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required") or ()) != set(properties):
            return False
    return all(_is_strict(part) for part in schema.values())


# --- choices


def choices_within(way: Callable[[Schema], Constraint]) -> Callable[[tuple[str, ...]], Constraint]:
    """Choices as the one property of an object, held by ``way``: only objects may be on top of OpenAI's schemas."""

    @lru_cache(maxsize=256)  # a type's choices are the same for all of its calls
    def within(choices: tuple[str, ...]) -> Constraint:
        held = way(choice_schema(choices))
        return Constraint(held.fields, held.told, choice_read)

    return within


schema_choices = choices_within(json_schema)
object_choices = choices_within(json_object)
told_choices = choices_within(told_schema)


def choice_grammar(choices: tuple[str, ...]) -> Constraint:
    """llama.cpp: the bare answer, a few tokens instead of an object around it."""
    return Constraint({"grammar": grammar(choices)})


def vllm_choice(choices: tuple[str, ...]) -> Constraint:
    """vLLM's own field since 0.12, which took ``guided_choice`` away (docs.vllm.ai, structured outputs)."""
    return Constraint({"structured_outputs": {"choice": list(choices)}})


def closed_object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def choice_schema(choices: tuple[str, ...]) -> Schema:
    return closed_object({"answer": {"type": "string", "enum": list(choices)}})


def choice_read(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    found = _object(text)
    answer = found.get("answer") if isinstance(found, dict) else None
    return (answer if isinstance(answer, str) else text), ()


def grammar(choices: tuple[str, ...]) -> str:
    """A GBNF grammar of exactly these answers."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    quoted = ("".join(escapes.get(letter, letter) for letter in choice) for choice in choices)
    return "root ::= " + " | ".join(f'"{choice}"' for choice in quoted)


# --- tools

CALLS_LIMIT = 8  # a small model would not stop by itself


def native_tools(call: Call) -> Constraint:
    return Constraint({"tools": list(call.tools), "tool_choice": call.tool_choice})


def schema_where_required(call: Call) -> Constraint:
    """For a server that takes tools and lets the model answer in words although one is required."""
    return told_tools(call) if call.tool_choice == "required" else native_tools(call)


def told_tools(call: Call) -> Constraint:
    """For a model whose chat template knows nothing of tools: they are told, and a schema holds the calls.

    A model that may also answer writes its answer as ``{"answer": …}``, within the call's own schema or choices.
    """
    each = {"anyOf": [_call_schema(tool) for tool in call.tools]}
    calls = {"type": "array", "minItems": 1, "maxItems": CALLS_LIMIT, "items": each}
    offered = json.dumps([function_of(tool) for tool in call.tools])
    told = f'Tools: {offered}\nTo use some, write JSON: {{"calls": [{{"name": …, "arguments": …}}]}}.'
    if call.tool_choice == "required":
        return Constraint(json_schema(closed_object({"calls": calls})).fields, told, _calls)
    either = {"anyOf": [closed_object({"calls": calls}), closed_object({"answer": _answer_schema(call)})]}
    return Constraint(json_schema(either).fields, f'{told}\nTo answer, write {{"answer": …}}.', _calls)


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Raises CallRejected for a tool that is none that a model can be told of."""
    function = tool.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise CallRejected(f"a tool that is no function with a name: {tool.get('type')!r}")
    return function


def _call_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = function_of(tool)
    arguments = function.get("parameters") or {"type": "object"}
    return closed_object({"name": {"const": function["name"]}, "arguments": arguments})


def _answer_schema(call: Call) -> Schema:
    if call.schema is not None:
        return call.schema
    return {"type": "string", "enum": list(call.choices)} if call.choices is not None else {"type": "string"}


def _calls(text: str) -> tuple[str, tuple[ToolCall, ...]]:
    match _object(text):
        case {"answer": str() as answer}:
            return answer, ()
        case {"answer": answer}:
            return json.dumps(answer), ()
        case {"calls": [*calls]} if all(_is_call(call) for call in calls):
            return "", tuple(called(call["name"], json.dumps(call["arguments"])) for call in calls)
    return text, ()


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call


def called(name: str, arguments: str) -> ToolCall:
    """A call whose provider gave it no id."""
    return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)


def _object(text: str) -> object:
    try:
        return json.loads(unfenced(text)[0])
    except ValueError:
        return None


# --- words


def with_told(messages: Sequence[Mapping[str, Any]], told: str) -> list[Mapping[str, Any]]:
    """The messages with ``told`` at the end of the system message, or as one: at the front, where a cached prefix of
    calls of the same form stays the same.
    """
    if not told:
        return list(messages)
    first = messages[0] if messages else {}
    if first.get("role") == "system" and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content']}\n\n{told}"}, *messages[1:]]
    return [{"role": "system", "content": told}, *messages]
