"""A call in Anthropic's form: messages, tools, the form of an answer, what is to be cached."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from broker.call import Call, Reply, ToolCall
from broker.errors import CallRejected
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.task import Claim, Progress, Task
from tests.workers.conftest import Provider
from workers.compose import compose
from workers.engines.messages import MessagesEndpoint
from workers.engines.messages_request import FORCED_ANSWER, request

NEW, OLD = "claude-sonnet-5", "claude-3-5-haiku-20241022"
MESSAGES = ({"role": "user", "content": "Weather in Paris?"},)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA},
}


def body(model: str = NEW, cache: Any = "off", shots: int = 0, **fields: Any) -> dict[str, Any]:
    return request(model, Call(**({"messages": MESSAGES} | fields)), cache=cache, shots=shots)[0]


# --- messages


def test_system_text_is_no_message() -> None:
    messages = (
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Now."},
        *MESSAGES,
    )
    asked = body(messages=messages)
    assert [block["text"] for block in asked["system"]] == ["Be brief.", "Now."]
    assert asked["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]}]
    assert "system" not in body()


def test_tool_calls_and_their_results_are_blocks_and_the_results_one_turn() -> None:
    used = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
        {"id": "c", "type": "function", "function": {"name": "h", "arguments": ""}},
    ]
    messages = (
        *MESSAGES,
        {"role": "assistant", "content": "Let me see.", "tool_calls": used},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": ""},
        {"role": "user", "content": "And?"},
    )
    asked = body(messages=messages, tools=(TOOL,))
    _, turn, results, last = asked["messages"]
    assert turn["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {"arguments": "{broken"}},
        {"type": "tool_use", "id": "c", "name": "h", "input": {}},
    ]
    assert (results["role"], last["role"]) == ("user", "user")
    assert results["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "1"}]},
        {"type": "tool_result", "tool_use_id": "b", "content": []},
    ]


def test_a_conversation_that_used_tools_names_them_where_none_is_on_offer_any_more() -> None:
    used = [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = (*MESSAGES, {"role": "assistant", "tool_calls": used}, {"role": "tool", "tool_call_id": "a"})
    asked = body(messages=messages)
    assert [tool["name"] for tool in asked["tools"]] == ["f"]
    assert asked["tool_choice"] == {"type": "none"}


def test_images_and_texts_are_parts() -> None:
    parts = [
        {"type": "text", "text": "Look:"},
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0K"}},
    ]
    asked = body(messages=({"role": "user", "content": parts},))
    assert asked["messages"][0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}},
    ]


def test_an_empty_turn_is_none() -> None:
    messages = (*MESSAGES, {"role": "assistant", "content": ""}, {"role": "user", "content": "Well?"})
    assert [turn["role"] for turn in body(messages=messages)["messages"]] == ["user", "user"]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "http://example.org/a.png"}}],
        },
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/bmp;base64,x"}}]},
        {"role": "function", "content": "1"},
        {"role": "user", "content": 7},
        {"role": "user", "content": ["text"]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]},
    ],
)
def test_what_has_no_form_here_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(CallRejected):
        body(messages=(message,))


# --- fields


def test_no_claude_is_asked_for_a_temperature_and_others_are() -> None:
    assert all("temperature" not in body(model, temperature=0.5) for model in (OLD, NEW, "claude-fable-5-1"))
    assert body("MiniMax-M2", temperature=0.5)["temperature"] == 0.5


def test_any_number_of_tokens_may_be_asked_for() -> None:
    """The SDK's own method refuses many without a stream."""
    assert body(max_tokens=64_000)["max_tokens"] == 64_000
    assert body(stop=("END",))["stop_sequences"] == ["END"]


# --- tools


@pytest.mark.parametrize(
    ("model", "choice", "asked"),
    [
        (NEW, "auto", "auto"),
        (NEW, "required", "any"),
        (NEW, "none", "none"),
        ("claude-fable-5-1", "required", "auto"),
    ],
)
def test_tools_and_their_choice(model: str, choice: str, asked: str) -> None:
    sent = body(model, tools=(TOOL,), tool_choice=choice)
    assert sent["tools"] == [{"name": "get_weather", "description": "Weather.", "input_schema": SCHEMA}]
    assert sent["tool_choice"] == {"type": asked}


def test_a_tool_that_is_no_function_is_refused() -> None:
    with pytest.raises(CallRejected, match="web_search"):
        body(tools=({"type": "web_search"},))


# --- the form of an answer


@pytest.mark.parametrize(
    "model", ["claude-haiku-4-5", "claude-sonnet-4-5-20250929", "claude-opus-4-1", NEW, "claude-opus-10"]
)
def test_newer_models_have_a_format(model: str) -> None:
    held = body(model, schema=SCHEMA)["output_config"]["format"]
    assert held["type"] == "json_schema"
    assert held["schema"]["required"] == ["city"]
    assert "minLength" not in held["schema"]["properties"]["city"], "a word that Anthropic refuses"


@pytest.mark.parametrize("model", [OLD, "claude-opus-4-20250514", "claude-sonnet-4-0", "MiniMax-M2"])
def test_others_are_held_by_a_tool(model: str) -> None:
    sent = body(model, schema=SCHEMA)
    assert sent["tool_choice"] == FORCED_ANSWER
    assert sent["tools"] == [{"name": "answer", "description": "Gives the answer.", "input_schema": SCHEMA}]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {
            "type": "object",
            "properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {}, "patternProperties": {"^a": {"type": "string"}}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
    ],
)
def test_a_schema_that_no_format_holds_is_held_by_a_tool(schema: dict[str, Any]) -> None:
    assert body(NEW, schema=schema)["tool_choice"] == FORCED_ANSWER


@pytest.mark.parametrize("model", [NEW, OLD])
def test_what_is_no_object_is_put_into_one_and_taken_out_again(model: str) -> None:
    call = Call(MESSAGES, schema={"type": "array", "items": {"type": "integer"}})
    sent, read = request(model, call)
    schema = sent["output_config"]["format"]["schema"] if model == NEW else sent["tools"][0]["input_schema"]
    assert schema["properties"]["answer"]["type"] == "array"
    assert read('{"answer": [1, 2]}') == ("[1, 2]", ())
    assert read("so sorry") == ("so sorry", ())


def test_choices_are_held_likewise() -> None:
    sent, read = request(NEW, Call(MESSAGES, choices=("a", "b")))
    assert "enum" in json.dumps(sent["output_config"])
    assert read('{"answer": "b"}') == ("b", ())


def test_a_form_beside_tools_only_where_the_model_has_a_format() -> None:
    assert "output_config" in body(NEW, tools=(TOOL,), schema=SCHEMA)
    sent = body(OLD, tools=(TOOL,), schema=SCHEMA)
    assert (sent["tool_choice"], len(sent["tools"])) == ({"type": "auto"}, 1)


# --- answers


def streamed(*blocks: tuple[dict[str, Any], list[dict[str, Any]]], reason: str) -> bytes:
    sent: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 1, "output_tokens": 1}}}
    ]
    for index, (block, deltas) in enumerate(blocks):
        sent.append({"type": "content_block_start", "index": index, "content_block": block})
        sent += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        sent.append({"type": "content_block_stop", "index": index})
    sent.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 9}})
    sent.append({"type": "message_stop"})
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in sent)


def tool(name: str, *pieces: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    block = {"type": "tool_use", "id": f"toolu_{name}", "name": name, "input": {}}
    return block, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]


@pytest.fixture
def answered(provider: Provider) -> Iterator[Callable[..., Reply]]:
    endpoint = MessagesEndpoint("frontier", provider.url, "key", OLD)

    def answer(data: bytes, **fields: Any) -> Reply:
        provider.body = data
        return endpoint.call(Call(MESSAGES, timeout_s=5, **fields), lambda: False)

    yield answer
    endpoint.close()


def test_tool_calls_come_together_from_their_pieces(answered: Callable[..., Reply]) -> None:
    words = ({"type": "text", "text": ""}, [{"type": "text_delta", "text": "Let me see."}])
    data = streamed(words, tool("f", '{"x":', " 1}"), tool("g"), reason="tool_use")
    reply = answered(data, tools=(TOOL,))
    assert reply.tool_calls == (ToolCall("toolu_f", "f", '{"x": 1}'), ToolCall("toolu_g", "g", "{}"))
    assert (reply.text, reply.finish_reason) == ("Let me see.", "tool_calls")


def test_an_answer_given_as_a_tool_is_an_answer(answered: Callable[..., Reply]) -> None:
    data = streamed(tool("answer", '{"city": ', '"Paris"}'), reason="tool_use")
    reply = answered(data, schema=SCHEMA)
    assert (reply.text, reply.finish_reason, reply.tool_calls) == ('{"city": "Paris"}', "stop", ())


def test_the_key_and_the_protocols_version_go_along(
    provider: Provider, answered: Callable[..., Reply]
) -> None:
    answered(streamed(({"type": "text", "text": "hi"}, []), reason="end_turn"))
    assert provider.asked_headers[0]["authorization"] == "Bearer key"
    assert provider.asked_headers[0]["anthropic-version"] == "2026-10-21"


# --- the cache


def marks(sent: dict[str, Any]) -> list[str]:
    """Where the marks are, in the order in which Anthropic reads the request."""
    blocks = [("tools", tool) for tool in sent.get("tools", [])]
    blocks += [("system", block) for block in sent.get("system", [])]
    for n, turn in enumerate(sent["messages"]):
        blocks += [(f"message {n}", block) for block in turn["content"]]
    return [where for where, block in blocks if "cache_control" in block]


def test_the_end_of_the_stable_prefix_is_marked() -> None:
    system = {"role": "system", "content": "Be brief."}
    shot = ({"role": "user", "content": "2+2"}, {"role": "assistant", "content": "4"})
    with_shots = (system, *shot, *MESSAGES)
    assert marks(body(messages=with_shots, cache="5m", shots=1, tools=(TOOL,))) == ["message 1"]
    assert marks(body(messages=(system, *MESSAGES), cache="5m", tools=(TOOL,))) == ["system"]
    assert marks(body(cache="1h", tools=(TOOL,))) == ["tools"]
    assert marks(body(cache="5m")) == [], "a task's own words are not to be read again"
    assert marks(body(messages=with_shots, shots=1, tools=(TOOL,))) == []


def test_a_mark_says_how_long() -> None:
    assert body(cache="1h", tools=(TOOL,))["tools"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert "cache_control" not in TOOL["function"]  # what the producer gave stays as it is


def test_calls_of_one_lane_and_type_are_the_same_up_to_the_mark() -> None:
    lane = Lane.model_validate(
        {"engine": "anthropic", "system": "Be brief.", "shots": [["2+2", "4"], ["3+3", "6"]], "cache": "5m"}
    )
    row = TaskType(chain=("frontier",), instruction="Add.")

    def prefix(prompt: str) -> str:
        task = Task("a", "w", ({"role": "user", "content": prompt},))
        call = compose(Claim(task, Progress("t"), 1, "q", 0, 0, 0, 0), lane, row, (), None)
        sent, _ = request(NEW, replace(call, attempt_id=""), cache=lane.cache, shots=len(lane.shots))
        assert marks(sent) == ["message 3"]
        assert sent["messages"].pop()["content"][0]["text"] == prompt
        return json.dumps(sent)

    assert prefix("4+4") == prefix("something else")
