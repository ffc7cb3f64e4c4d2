"""How an endpoint is told the form of an answer, a dialect a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.call import Call


@dataclass(frozen=True, slots=True)
class Constraint:
    """How a dialect holds an answer to a form: the request's further fields, and the way back to the bare answer."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    unwrap: Callable[[str], str] = str


def openai_dialect(call: Call) -> Constraint:
    """OpenAI's own dialect: a JSON Schema, and choices as one in an object, since only objects may be on top."""
    if call.schema is not None:
        return Constraint({"response_format": _response_format(call.schema)})
    if call.choices is not None:
        return Constraint({"response_format": _response_format(_answer_schema(call.choices))}, _answer)
    return Constraint()


def llamacpp_dialect(call: Call) -> Constraint:
    """As OpenAI's, with choices as a grammar: the bare answer, a few tokens instead of an object around it."""
    if call.schema is None and call.choices is not None:
        return Constraint({"extra_body": {"grammar": grammar(call.choices)}})
    return openai_dialect(call)


def _response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": "answer", "schema": schema, "strict": _is_strict(schema)}
    return {"type": "json_schema", "json_schema": named}


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


def _answer_schema(choices: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(choices)}},
        "required": ["answer"],
        "additionalProperties": False,
    }


def _answer(text: str) -> str:
    """The choice out of its object. A server that ignored the schema answers in its own words: the gate judges them."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found["answer"] if isinstance(found, dict) and isinstance(found.get("answer"), str) else text


def grammar(choices: tuple[str, ...]) -> str:
    """A GBNF grammar of exactly these answers."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    quoted = ("".join(escapes.get(letter, letter) for letter in choice) for choice in choices)
    return "root ::= " + " | ".join(f'"{choice}"' for choice in quoted)
