"""A call in the form of Anthropic's Messages API: a pure function of the call, the model's name and the lane's cache.

What a family of models takes is told by its name, after platform.claude.com's pages on versions, structured outputs,
tool use and prompt caching.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from anthropic import transform_schema

from broker.call import Call
from broker.errors import CallRejected
from workers.engines.constrain import (
    Read,
    Schema,
    as_written,
    choice_read,
    choice_schema,
    closed_object,
    function_of,
)

Cache = Literal["off", "5m", "1h"]
Block = dict[str, Any]

#: No Claude takes a temperature since version 2026-10-21 of the API, which SDK 2 asks for; other servers' models do.
REFUSES_TEMPERATURE = re.compile(r"^claude-")
#: Models with ``output_config.format``.
TAKES_FORMAT = re.compile(
    r"^claude-(?:haiku-4-[5-9]|sonnet-4-[5-9]|opus-4-[15-9]|[a-z]+-(?:[5-9]|\d\d))(?!\d)"
)
#: Models that refuse to be held to a tool.
REFUSES_FORCED_TOOL = re.compile(r"^claude-(?:fable|mythos)")
#: Words of JSON Schema without which a ``format`` would hold something else.
NOT_IN_FORMAT = frozenset({"patternProperties", "definitions", "not", "if", "prefixItems", "propertyNames"})

ANSWER = "answer"
#: The choice of a tool that is no tool, but the form of an answer.
FORCED_ANSWER = {"type": "tool", "name": ANSWER}
DATA_URL = re.compile(r"data:(image/(?:jpeg|png|gif|webp));base64,(.*)", re.DOTALL)


def request(model: str, call: Call, *, cache: Cache = "off", shots: int = 0) -> tuple[dict[str, Any], Read]:
    """The body, and the way back from what the model writes.

    ``shots`` is how many questions with their answers the lane put before the task's own messages. Raises CallRejected
    for messages that are not in OpenAI's form, or hold what Anthropic has no form for.
    """
    try:
        return _request(model, call, cache, shots)
    except (AttributeError, KeyError, TypeError) as error:
        raise CallRejected(f"messages or tools that are not in OpenAI's form: {error}") from error


def _request(model: str, call: Call, cache: Cache, shots: int) -> tuple[dict[str, Any], Read]:
    spoken = [message for message in call.messages if not _is_system(message)]
    stable, own = _messages(spoken[: 2 * shots]), _messages(spoken[2 * shots :])
    system = [block for message in call.messages if _is_system(message) for block in _blocks(message)]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": call.max_tokens,
        "messages": [*stable, *own],
        "stream": True,
        **_tools(model, call),
    }
    if system:
        body["system"] = system
    if call.stop:
        body["stop_sequences"] = list(call.stop)
    if not REFUSES_TEMPERATURE.search(model):
        body["temperature"] = call.temperature
    read = _hold(body, model, call)
    if cache != "off":
        _mark(stable, body, cache)
    return body, read


def _mark(stable: list[Block], body: dict[str, Any], cache: Cache) -> None:
    """One mark at the end of what all calls of the lane and type begin with: the shots, else the system text, else the
    tools. It covers all that comes before it, in the order tools, system, messages.
    """
    ends = (stable[-1]["content"] if stable else [], body.get("system", []), body.get("tools", []))
    for blocks in ends:
        if blocks:
            blocks[-1]["cache_control"] = {"type": "ephemeral", "ttl": cache}
            return


# --- the form of an answer


def _hold(body: dict[str, Any], model: str, call: Call) -> Read:
    """Holds the answer to the call's schema or choices: by ``output_config`` where the model has it, else by a tool
    that it must call. A model that may use other tools is not held in that second way; the gate alone judges it.
    """
    schema, read = _wanted(call)
    if schema is None:
        return as_written
    strict = _format(schema) if TAKES_FORMAT.search(model) else None
    if strict is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": strict}}
        return read
    if call.tools and call.tool_choice != "none":
        return as_written
    tool = {"name": ANSWER, "description": "Gives the answer.", "input_schema": schema}
    body["tools"] = [*body.get("tools", []), tool]
    body["tool_choice"] = FORCED_ANSWER
    return read


def _wanted(call: Call) -> tuple[Schema | None, Read]:
    """The schema of an object, which is all that both ways take on top, and the way back out of it."""
    if call.schema is None:
        return (None, as_written) if call.choices is None else (choice_schema(call.choices), choice_read)
    if call.schema.get("type") == "object":
        return call.schema, as_written
    inner = {word: part for word, part in call.schema.items() if word != "$defs"}
    defs = {"$defs": call.schema["$defs"]} if "$defs" in call.schema else {}
    return {**closed_object({ANSWER: inner}), **defs}, _unwrapped


def _unwrapped(text: str) -> tuple[str, tuple[()]]:
    try:
        return json.dumps(json.loads(text)[ANSWER]), ()
    except (ValueError, KeyError, TypeError):
        return text, ()


def _format(schema: Schema) -> dict[str, Any] | None:
    """The schema as ``output_config`` takes it, None where that would hold the answer to something else."""
    if not _is_closed(schema):
        return None
    try:
        return transform_schema(dict(schema))
    except (AssertionError, AttributeError, TypeError, ValueError):  # it expects a type everywhere
        return None


def _is_closed(schema: object) -> bool:
    """No object in it may have properties that it does not name: ``output_config`` closes every one."""
    if isinstance(schema, list):
        return all(_is_closed(part) for part in schema)
    if not isinstance(schema, Mapping):
        return True
    if NOT_IN_FORMAT & set(schema) or schema.get("additionalProperties") not in (None, False):
        return False
    if schema.get("type") == "object" and "properties" not in schema:
        return False
    return all(_is_closed(part) for part in schema.values())


# --- tools


def _tools(model: str, call: Call) -> dict[str, Any]:
    """Anthropic wants the tools named of which a conversation tells, also where none may be used any more."""
    tools = [_tool(tool) for tool in call.tools]
    if not tools:
        used = {name: None for message in call.messages for name in _used(message)}
        tools = [{"name": name, "input_schema": {"type": "object"}} for name in used]
    if not tools:
        return {}
    if not call.tools or call.tool_choice == "none":
        choice = "none"
    elif call.tool_choice == "required" and not REFUSES_FORCED_TOOL.search(model):
        choice = "any"
    else:
        choice = "auto"
    return {"tools": tools, "tool_choice": {"type": choice}}


def _tool(tool: Mapping[str, Any]) -> Block:
    function = function_of(tool)
    described = {"description": function["description"]} if function.get("description") else {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {"name": function["name"], **described, "input_schema": schema}


def _used(message: Mapping[str, Any]) -> list[str]:
    return [used["function"]["name"] for used in message.get("tool_calls") or ()]


# --- messages


def _is_system(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ("system", "developer")


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Turns of blocks. Results of several tools are one turn of the user; an empty turn is none."""
    turns: list[Block] = []
    for message in messages:
        role, blocks = _turn(message)
        after_result = bool(turns) and turns[-1]["content"][-1]["type"] == "tool_result"
        if after_result and blocks and blocks[0]["type"] == "tool_result":
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _turn(message: Mapping[str, Any]) -> tuple[str, list[Block]]:
    match message.get("role"):
        case "user":
            return "user", _blocks(message)
        case "assistant":
            used = [_tool_use(one) for one in message.get("tool_calls") or ()]
            return "assistant", [*_blocks(message), *used]
        case "tool":
            result = {
                "type": "tool_result",
                "tool_use_id": message.get("tool_call_id"),
                "content": _blocks(message),
            }
            return "user", [result]
        case role:
            raise CallRejected(f"a message of the role {role!r}")


def _blocks(message: Mapping[str, Any]) -> list[Block]:
    """Anthropic refuses a text that is empty."""
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [block for part in parts if (block := _block(part)) is not None]


def _block(part: Mapping[str, Any]) -> Block | None:
    match part:
        case {"type": "text", "text": str() as text}:
            return {"type": "text", "text": text} if text else None
        case {"type": "image_url", "image_url": {"url": str() as url}}:
            return {"type": "image", "source": _source(url)}
    raise CallRejected(f"a part of a message that is neither text nor image: {part.get('type')!r}")


def _source(url: str) -> Block:
    inline = DATA_URL.fullmatch(url)
    if inline:
        return {"type": "base64", "media_type": inline[1], "data": inline[2]}
    if url.startswith("https://"):
        return {"type": "url", "url": url}
    raise CallRejected("an image that is neither at an https address nor inline as JPEG, PNG, GIF or WebP")


def _tool_use(used: Mapping[str, Any]) -> Block:
    function = used["function"]
    return {
        "type": "tool_use",
        "id": used["id"],
        "name": function["name"],
        "input": _input(function.get("arguments") or "{}"),
    }


def _input(arguments: str) -> dict[str, Any]:
    """An object, which Anthropic insists on; what the model wrote instead is shown to it as it was."""
    try:
        found = json.loads(arguments)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}
