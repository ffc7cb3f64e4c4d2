"""The SDK's exceptions and a provider's odd bodies all come out as leaves of ours."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import openai
import pytest

from broker.call import Call, Reply, Usage
from broker.errors import EngineConnectionLost, EngineError, EngineFault, MalformedReply, RateLimited
from workers.engines.chat import ChatEndpoint, normalised
from workers.engines.chat_errors import CODES, LEAVES, STATUSES, translate
from workers.engines.constrain import grammar, openai_dialect

CALL = Call(({"role": "user", "content": "Hi"},), timeout_s=5)


def test_every_exception_that_the_sdk_exports_has_its_row() -> None:
    exported = [getattr(openai, name) for name in openai.__all__]
    exceptions = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Exception)}
    assert openai.RateLimitError in exceptions
    assert exceptions - set(LEAVES) == set()


def test_every_other_exception_of_the_sdk_falls_under_a_row() -> None:
    def below(kind: type[Exception]) -> Iterator[type[Exception]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    known = [*below(openai.OpenAIError), *below(httpx2.RequestError)]
    assert len(known) > 20
    assert [kind for kind in known if not set(kind.__mro__) & set(LEAVES)] == []


@pytest.mark.parametrize("table", [LEAVES, STATUSES, CODES])
def test_rows_are_leaves(table: dict[object, type[EngineError]]) -> None:
    assert [leaf for leaf in table.values() if leaf.__subclasses__()] == []


def status_error(
    status: int, headers: dict[str, str] | None = None, body: object = None
) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://provider.invalid/v1/chat/completions")
    response = httpx2.Response(status, headers=headers, request=request)
    kind = openai.RateLimitError if status == 429 else openai.APIStatusError
    return kind("no", response=response, body=body)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-4"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
    ],
)
def test_the_providers_wish_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    failed = translate(status_error(429, headers), "rented", 5, "key")
    assert isinstance(failed, RateLimited)
    assert failed.retry_after_s == seconds


def test_a_key_that_the_provider_repeats_stays_out_of_the_message() -> None:
    failed = translate(status_error(401, body={"message": "wrong key sk-planted"}), "rented", 5, "sk-planted")
    assert "sk-planted" not in str(failed)
    assert "wrong key" in str(failed)


# --- bodies

CHUNK: dict[str, Any] = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m-1"}
HELLO = {**CHUNK, "choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": None}]}
STOP = {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {**CHUNK, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}


def events(*chunks: object) -> bytes:
    return (
        b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    )


@pytest.fixture
def answered() -> Iterator[Callable[[bytes, str], Reply]]:
    """Calls a real socket that answers 200 with the given body and content type."""
    body: list[tuple[bytes, str]] = []

    class Provider(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            data, content_type = body[-1]
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        endpoint = ChatEndpoint(
            "rented", f"http://127.0.0.1:{server.server_address[1]}/v1", "key", "asked-for"
        )

        def answer(data: bytes, content_type: str = "text/event-stream") -> Reply:
            body.append((data, content_type))
            return endpoint.call(CALL, lambda: False)

        yield answer
        endpoint.close()
        server.shutdown()
        thread.join()


def test_a_whole_answer(answered: Callable[..., Reply]) -> None:
    reply = answered(events(HELLO, STOP, USAGE))
    assert (reply.text, reply.finish_reason, reply.model) == ("hello", "stop", "m-1")
    assert reply.usage == Usage(input_tokens=9, output_tokens=3)


def test_an_answer_without_usage_says_so(answered: Callable[..., Reply]) -> None:
    reply = answered(events(HELLO, STOP))
    assert (reply.text, reply.usage, reply.usage_known) == ("hello", Usage(), False)


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b"", "text/event-stream", EngineConnectionLost),
        (events(), "text/event-stream", EngineConnectionLost),
        (events(HELLO), "text/event-stream", EngineConnectionLost),
        (events(HELLO, USAGE), "text/event-stream", EngineConnectionLost),
        (events(USAGE), "text/event-stream", MalformedReply),
        (events({**CHUNK, "choices": None}), "text/event-stream", MalformedReply),
        (events({**CHUNK, "choices": [None]}), "text/event-stream", MalformedReply),
        (events({**CHUNK, "choices": "hello"}), "text/event-stream", MalformedReply),
        (events(None), "text/event-stream", MalformedReply),
        (events(42), "text/event-stream", MalformedReply),
        (events([]), "text/event-stream", MalformedReply),
        (events({}), "text/event-stream", MalformedReply),
        (events(STOP, {**USAGE, "usage": {"prompt_tokens": None}}), "text/event-stream", MalformedReply),
        (events(STOP, {**USAGE, "usage": "much"}), "text/event-stream", MalformedReply),
        (b"data: {not json\n\n", "text/event-stream", MalformedReply),
        (b"data: \xff\xfe\n\n", "text/event-stream", MalformedReply),
        (events({"error": {"message": "boom", "code": 500}}), "text/event-stream", EngineFault),
        (events(HELLO, {"error": "boom"}), "text/event-stream", EngineFault),
        (b"<html>Welcome to the hotel's network</html>", "text/html", MalformedReply),
        (json.dumps({"choices": []}).encode(), "application/json", MalformedReply),
    ],
)
def test_a_body_that_is_no_answer(
    answered: Callable[..., Reply], body: bytes, content_type: str, expected: type[EngineError]
) -> None:
    with pytest.raises(EngineError) as failed:
        answered(body, content_type)
    assert type(failed.value) is expected
    assert "lane 'rented'" in failed.value.message


def test_what_was_used_before_a_failure_is_known(answered: Callable[..., Reply]) -> None:
    with pytest.raises(EngineConnectionLost) as failed:
        answered(events(HELLO, USAGE))
    assert failed.value.usage == Usage(input_tokens=9, output_tokens=3)


# --- usage


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (
            {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            Usage(input_tokens=100, output_tokens=20),
        ),
        (  # OpenAI: cached, written and reasoning tokens lie within
            {
                "prompt_tokens": 2006,
                "completion_tokens": 300,
                "total_tokens": 2306,
                "prompt_tokens_details": {"cached_tokens": 1920, "cache_write_tokens": 6, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 256},
            },
            Usage(80, 1920, 6, 44, 256),
        ),
        (  # DeepSeek
            {
                "prompt_tokens": 90,
                "completion_tokens": 5,
                "total_tokens": 95,
                "prompt_cache_hit_tokens": 64,
                "prompt_cache_miss_tokens": 26,
            },
            Usage(input_tokens=26, cached_input_tokens=64, output_tokens=5),
        ),
        (  # reasoning beside the completion tokens, told (xAI) or only in the total (Gemini)
            {
                "prompt_tokens": 10,
                "completion_tokens": 4,
                "total_tokens": 44,
                "completion_tokens_details": {"reasoning_tokens": 30},
            },
            Usage(input_tokens=10, output_tokens=4, reasoning_tokens=30),
        ),
        (
            {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 44},
            Usage(input_tokens=10, output_tokens=4, reasoning_tokens=30),
        ),
        (
            {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None},
            Usage(input_tokens=7, output_tokens=2),
        ),
    ],
)
def test_usage_is_disjoint_and_sums_to_the_providers_total(reported: dict[str, Any], expected: Usage) -> None:
    usage = normalised(reported)
    assert usage == expected
    total = reported.get("total_tokens", reported["prompt_tokens"] + reported["completion_tokens"])
    parts = (usage.input_tokens, usage.cached_input_tokens, usage.cache_write_tokens)
    assert sum(parts) + usage.output_tokens + usage.reasoning_tokens == total


def test_usage_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(ValueError, match="add up"):
        normalised(
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
        )


# --- the form of an answer


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
    constraint = openai_dialect(Call(CALL.messages, schema=schema))
    assert constraint.fields["response_format"]["json_schema"]["strict"] is strict


@pytest.mark.parametrize(
    ("text", "answer"),
    [('{"answer": "yes"}', "yes"), ("yes", "yes"), ('{"other": 1}', '{"other": 1}'), ("[1]", "[1]")],
)
def test_a_choice_comes_out_of_its_object(text: str, answer: str) -> None:
    assert openai_dialect(Call(CALL.messages, choices=("yes", "no"))).unwrap(text) == answer


def test_a_grammar_of_awkward_choices() -> None:
    assert (
        grammar(("a b", 'say "x"', "c\\d", "e\nf")) == 'root ::= "a b" | "say \\"x\\"" | "c\\\\d" | "e\\nf"'
    )
