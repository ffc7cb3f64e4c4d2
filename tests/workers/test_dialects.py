"""What each dialect is asked, and how its answers are read: tools, forms, fields, usage."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args

import pytest

from broker.call import Call, Reply, ToolCall, Usage
from broker.errors import CallRejected, EngineError, EngineFault, EngineOverloaded, MalformedReply
from broker.settings import lanes
from broker.settings.lanes import Lane
from tests.workers.conftest import Provider
from workers.engines.chat import ChatEndpoint, request
from workers.engines.constrain import grammar, json_schema, schema_choices, told_tools, with_told
from workers.engines.dialects import COMPATIBLE, DIALECTS, HOSTS, spoken_at

MESSAGES = ({"role": "user", "content": "Weather in Paris?"},)
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}


def asked(dialect: str, model: str = "m", **fields: Any) -> dict[str, Any]:
    row = DIALECTS[dialect]
    call = Call(**({"messages": MESSAGES} | fields))
    return request(model, call, row, row.constrain(call))


def test_settings_name_every_row_and_no_other() -> None:
    assert set(get_args(lanes.Dialect)) == set(DIALECTS)
    assert set(HOSTS.values()) <= set(DIALECTS)


@pytest.mark.parametrize(
    ("base_url", "dialect"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.x.ai/v1", "xai"),
        ("http://gpu-1:8000/v1", COMPATIBLE),
        ("https://api.openai.com.evil.example/v1", COMPATIBLE),
        ("not a url", COMPATIBLE),
    ],
)
def test_the_host_tells_the_dialect(base_url: str, dialect: str) -> None:
    assert spoken_at(base_url) == dialect


def test_an_unknown_dialect_stops_the_start() -> None:
    with pytest.raises(ValueError, match="dialect"):
        Lane.model_validate({"engine": "openai", "dialect": "klingon"})


# --- fields


def test_the_limit_of_tokens_has_its_name() -> None:
    assert asked("openai", max_tokens=7)["max_completion_tokens"] == 7
    assert "max_tokens" not in asked("openai")
    assert all(asked(name, max_tokens=7)["max_tokens"] == 7 for name in DIALECTS if name != "openai")


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.6", "gpt-6-astra", "o4-mini", "o1", "ft:o4-mini:acme"])
def test_openais_reasoning_models_are_asked_for_no_temperature(model: str) -> None:
    assert "temperature" not in asked("openai", model)


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-4.1", "ft:gpt-4o:acme", "omni-moderation"])
def test_the_others_are(model: str) -> None:
    assert asked("openai", model)["temperature"] == 0.0


def test_a_seed_goes_where_it_is_taken() -> None:
    takes = {name for name in DIALECTS if "seed" in asked(name, seed=7)}
    assert set(DIALECTS) - takes == {"mlx", "deepseek", "gemini"}


def test_no_row_sends_a_priority_which_a_server_may_refuse() -> None:
    assert all("priority" not in asked(name, priority=5) for name in DIALECTS)


# --- forms


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (
            {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False},
            True,
        ),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "array", "items": {"type": "object", "properties": {"a": {}}}}, False),
        ({"type": "string"}, True),
    ],
)
def test_strict_only_where_openai_takes_it(schema: dict[str, Any], strict: bool) -> None:
    assert json_schema(schema).fields["response_format"]["json_schema"]["strict"] is strict


@pytest.mark.parametrize(
    ("text", "answer"),
    [('{"answer": "yes"}', "yes"), ("yes", "yes"), ('{"other": 1}', '{"other": 1}'), ("[1]", "[1]")],
)
def test_a_choice_comes_out_of_its_object(text: str, answer: str) -> None:
    assert schema_choices(("yes", "no")).read(text) == (answer, ())


def test_a_grammar_of_awkward_choices() -> None:
    assert (
        grammar(("a b", 'say "x"', "c\\d", "e\nf")) == 'root ::= "a b" | "say \\"x\\"" | "c\\\\d" | "e\\nf"'
    )


def test_what_a_dialect_cannot_be_asked_for_is_told() -> None:
    for name in ("mlx", "deepseek"):
        body = asked(name, schema=SCHEMA)
        assert json.dumps(SCHEMA) in body["messages"][0]["content"]
        assert body["messages"][1:] == list(MESSAGES)
    assert "response_format" not in asked("mlx", schema=SCHEMA)
    assert asked("deepseek", schema=SCHEMA)["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "text", ['```json\n{"city": "Paris"}\n```', '```\n{"city": "Paris"}```\n', '{"city": "Paris"}']
)
def test_an_answer_that_was_only_told_comes_out_of_its_fence(text: str) -> None:
    call = Call(MESSAGES, schema=SCHEMA)
    assert DIALECTS["mlx"].constrain(call).read(text) == ('{"city": "Paris"}', ())
    assert DIALECTS["openai"].constrain(call).read(text) == (text, ())


def test_choices_in_the_dialects_own_way() -> None:
    assert asked("vllm", choices=("a", "b"))["structured_outputs"] == {"choice": ["a", "b"]}
    assert asked("llamacpp", choices=("a", "b"))["grammar"] == 'root ::= "a" | "b"'
    assert "enum" in json.dumps(asked("openai", choices=("a", "b"))["response_format"])


def test_what_is_told_comes_after_the_lanes_own_system_text() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert with_told([system, *MESSAGES], "JSON only.") == [
        {"role": "system", "content": "Be brief.\n\nJSON only."},
        *MESSAGES,
    ]


# --- tools


def test_tools_are_offered_with_their_choice() -> None:
    for name in set(DIALECTS) - {"llamacpp"}:
        body = asked(name, tools=(TOOL,), tool_choice="required")
        assert (body["tools"], body["tool_choice"]) == ([TOOL], "required")
        assert "tools" not in asked(name, tools=(TOOL,), tool_choice="none")


def test_a_form_beside_tools_only_where_both_are_taken() -> None:
    both = {name for name in DIALECTS if "response_format" in asked(name, tools=(TOOL,), schema=SCHEMA)}
    assert both == {"openai", "xai"}


PAST = (
    *MESSAGES,
    {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "a", "content": "1"},
)


def test_deepseek_does_not_think_beside_tools() -> None:
    for choice in ("auto", "required"):
        assert asked("deepseek", tools=(TOOL,), tool_choice=choice)["thinking"] == {"type": "disabled"}
    assert asked("deepseek", messages=PAST)["thinking"] == {"type": "disabled"}
    assert "thinking" not in asked("deepseek")


@pytest.mark.parametrize("used", [["x"], "x", 7])
def test_past_tool_calls_that_are_none_are_refused_before_the_call_leaves(used: Any) -> None:
    with pytest.raises(CallRejected, match="not in OpenAI's form"):
        asked("gemini", messages=(*MESSAGES, {"role": "assistant", "tool_calls": used}))


def test_gemini_finds_a_signature_at_each_past_call() -> None:
    _, turn, _ = asked("gemini", messages=PAST, tools=(TOOL,))["messages"]
    (used,) = turn["tool_calls"]
    assert used["extra_content"]["google"]["thought_signature"]
    assert used["function"] == {"name": "f", "arguments": "{}"}
    assert asked("openai", messages=PAST)["messages"] == list(PAST)


def test_llamacpp_is_held_to_a_required_tool_by_a_schema() -> None:
    body = asked("llamacpp", tools=(TOOL,), tool_choice="required")
    assert "tools" not in body
    assert "get_weather" in json.dumps(body["response_format"])
    assert "get_weather" in body["messages"][0]["content"]
    assert asked("llamacpp", tools=(TOOL,))["tools"] == [TOOL]


@pytest.mark.parametrize(
    ("text", "answer", "calls"),
    [
        ('{"calls": [{"name": "f", "arguments": {"a": 1}}]}', "", [("f", '{"a": 1}')]),
        ('{"answer": "sunny"}', "sunny", []),
        ('{"answer": {"city": "Paris"}}', '{"city": "Paris"}', []),
        ('{"calls": [{"arguments": {}}]}', '{"calls": [{"arguments": {}}]}', []),
        ('{"calls": [{"na', '{"calls": [{"na', []),
        ("sunny", "sunny", []),
    ],
)
def test_calls_that_were_told_are_read_out_of_the_text(
    text: str, answer: str, calls: list[tuple[str, str]]
) -> None:
    found, read = told_tools(Call(MESSAGES, tools=(TOOL,))).read(text)
    assert found == answer
    assert [(one.name, one.arguments) for one in read] == calls
    assert all(one.id for one in read)


# --- streamed tool calls


@pytest.fixture
def streamed(provider: Provider) -> Iterator[Callable[..., Reply]]:
    """The reply to a stream of these deltas."""
    endpoint = ChatEndpoint("rented", f"{provider.url}/v1", "key", "m")

    def reply(*deltas: object, finish: str = "tool_calls") -> Reply:
        ends = [{"delta": delta, "finish_reason": None} for delta in deltas]
        chunks: list[dict[str, Any]] = [{"model": "m-1", "choices": [end]} for end in ends]
        chunks.append({"model": "m-1", "choices": [{"delta": {}, "finish_reason": finish}]})
        chunks.append({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}})
        provider.body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
        return endpoint.call(Call(MESSAGES, tools=(TOOL,), timeout_s=5), lambda: False)

    yield reply
    endpoint.close()


def piece(index: int | None, arguments: str = "", **named: str) -> dict[str, Any]:
    name = {"name": named.pop("name")} if "name" in named else {}
    at = {} if index is None else {"index": index}
    return {"tool_calls": [{**at, **named, "function": {**name, "arguments": arguments}}]}


def test_tool_calls_come_together_from_their_pieces(streamed: Callable[..., Reply]) -> None:
    reply = streamed(
        {"role": "assistant", "content": None},
        piece(0, id="a", name="f"),
        piece(0, '{"x":'),
        piece(1, id="b", name="g"),
        piece(0, " 1}"),
        piece(1, "{}"),
    )
    assert reply.tool_calls == (ToolCall("a", "f", '{"x": 1}'), ToolCall("b", "g", "{}"))
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    assert reply.time_to_first_token_ms is not None


def test_whole_calls_under_one_index_stay_apart(streamed: Callable[..., Reply]) -> None:
    calls = [piece(0, '{"city": "A"}', id="1", name="f"), piece(0, '{"city": "B"}', id="2", name="f")]
    assert [one.arguments for one in streamed(*calls, finish="stop").tool_calls] == [
        '{"city": "A"}',
        '{"city": "B"}',
    ]


def test_calls_without_index_or_id_get_ids_of_their_own(streamed: Callable[..., Reply]) -> None:
    reply = streamed(piece(None, "{}", name="f"), piece(None, "{}", name="f"))
    assert len({one.id for one in reply.tool_calls}) == 2


def test_an_answer_that_calls_tools_ends_in_tool_calls_whatever_it_says(
    streamed: Callable[..., Reply],
) -> None:
    assert streamed(piece(0, "{}", id="a", name="f"), finish="stop").finish_reason == "tool_calls"
    assert streamed(piece(0, "{", id="a", name="f"), finish="length").finish_reason == "length"


@pytest.mark.parametrize(
    "deltas",
    [
        [],
        [piece(0, "{}")],
        [piece(0, "{}", id="a")],
        [{"tool_calls": "f"}],
        [{"tool_calls": [None]}],
        [{"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": {"x": 1}}}]}],
        [{"tool_calls": [{"index": 0, "id": 7, "function": {"name": "f"}}]}],
        [{"content": ["a part"]}],
    ],
)
def test_broken_deltas_are_no_answer(streamed: Callable[..., Reply], deltas: list[object]) -> None:
    with pytest.raises(MalformedReply):
        streamed(*deltas)


@pytest.mark.parametrize(
    ("finish", "leaf"),
    [("insufficient_system_resource", EngineOverloaded), ("abort", EngineFault), ("error", EngineFault)],
)
def test_an_answer_that_was_broken_off_is_none(
    streamed: Callable[..., Reply], finish: str, leaf: type[EngineError]
) -> None:
    with pytest.raises(EngineError) as failed:
        streamed({"content": "Once upon"}, finish=finish)
    assert type(failed.value) is leaf
    assert failed.value.usage == Usage(input_tokens=9, output_tokens=3)


@pytest.mark.parametrize(
    ("said", "reason"), [("eos", "stop"), ("max_tokens", "length"), ("function_call", "stop")]
)
def test_other_words_for_the_end(streamed: Callable[..., Reply], said: str, reason: str) -> None:
    if said == "function_call":
        with pytest.raises(MalformedReply):
            streamed({"content": "hi"}, finish=said)
    else:
        assert streamed({"content": "hi"}, finish=said).finish_reason == reason


def test_the_request_names_the_attempt_and_nothing_where_there_is_no_name(provider: Provider) -> None:
    endpoint = ChatEndpoint("rented", f"{provider.url}/v1", "key", "m")
    provider.body = b'data: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\n'
    endpoint.call(Call(MESSAGES, attempt_id="ticket-7-3", timeout_s=5), lambda: False)
    endpoint.call(Call(MESSAGES, timeout_s=5), lambda: False)
    assert [headers.get("x-client-request-id") for headers in provider.asked_headers] == ["ticket-7-3", None]
    assert provider.asked_headers[0]["authorization"] == "Bearer key"
    endpoint.close()
