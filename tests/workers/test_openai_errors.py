"""The SDK's exceptions and a provider's odd bodies all come out as leaves of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from broker.call import Call, Reply, Usage
from broker.errors import (
    AuthenticationFailed,
    CallRejected,
    ContextOverflow,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    MalformedReply,
    OutOfCredit,
    RateLimited,
)
from tests.workers.conftest import Provider
from workers.engines.chat import ChatEndpoint
from workers.engines.chat_errors import LEAVES, translate
from workers.engines.dialects import DIALECTS
from workers.engines.refusal import CODES, SENTENCES, STATUSES

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


@pytest.mark.parametrize("table", [LEAVES, STATUSES, CODES, SENTENCES])
def test_rows_are_leaves(table: dict[object, type[EngineError]]) -> None:
    assert [leaf for leaf in table.values() if leaf.__subclasses__()] == []


def status_error(
    status: int, headers: dict[str, str] | None = None, body: object = None
) -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://provider.invalid/v1/chat/completions")
    response = httpx2.Response(status, headers=headers, request=request)
    kind = openai.RateLimitError if status == 429 else openai.APIStatusError
    return kind("no", response=response, body=body)


#: Error bodies as the providers send them, and what they mean.
TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5013 tokens."
REFUSALS: list[tuple[str, int, object, type[EngineError]]] = [
    ("openai", 429, {"error": {"type": "requests", "code": "rate_limit_exceeded"}}, RateLimited),
    ("openai", 429, {"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}, OutOfCredit),
    ("openai", 401, {"error": {"type": "api_error", "code": "invalid_api_key"}}, AuthenticationFailed),
    ("openai", 400, {"error": {"message": "Unsupported value", "code": "unsupported_value"}}, CallRejected),
    ("vllm", 400, {"error": {"message": TOO_LONG, "type": "BadRequestError", "code": 400}}, ContextOverflow),
    ("vllm", 503, {"error": {"message": "The queue is full", "code": 503}}, EngineOverloaded),
    ("llamacpp", 400, {"error": {"code": 400, "type": "exceed_context_size_error"}}, ContextOverflow),
    ("mlx", 404, {"error": "generation failed"}, EngineFault),
    ("deepseek", 402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, OutOfCredit),
    ("deepseek", 422, {"error": {"message": "Invalid parameters"}}, CallRejected),
    (
        "gemini",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "status": "INVALID_ARGUMENT",
                    "details": [{"reason": "API_KEY_INVALID", "domain": "googleapis.com"}],
                }
            }
        ],
        AuthenticationFailed,
    ),
    (
        "gemini",
        400,
        [{"error": {"message": "The input token count (1200000) exceeds the maximum number of tokens"}}],
        ContextOverflow,
    ),
    ("openai", 500, {"error": {"message": "busy", "code": "rate_limit_exceeded"}}, RateLimited),
    ("gemini", 429, [{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}], RateLimited),
    (
        "together",
        403,
        {"error": {"message": "Bad Request", "type": "invalid_request_error"}},
        ContextOverflow,
    ),
    ("openai", 403, {"error": {"message": "Country not supported"}}, AuthenticationFailed),
    ("xai", 400, {"code": "Client specified an invalid argument", "error": "Bad tools"}, CallRejected),
    ("xai", 400, {"code": "…", "error": "This model's maximum prompt length is 131072"}, ContextOverflow),
]


@pytest.mark.parametrize(("dialect", "status", "body", "expected"), REFUSALS)
def test_a_providers_refusal_has_its_leaf(
    provider: Provider, dialect: str, status: int, body: object, expected: type[EngineError]
) -> None:
    endpoint = ChatEndpoint("rented", f"{provider.url}/v1", "key", "m", dialect=DIALECTS[dialect])
    provider.status, provider.body = status, json.dumps(body).encode()
    provider.content_type = "application/json"
    with pytest.raises(EngineError) as failed:
        endpoint.call(CALL, lambda: False)
    assert type(failed.value) is expected
    assert f"HTTP {status}" in failed.value.message
    assert failed.value.usage == Usage(), "no token was made"
    assert len(provider.asked) == 1
    endpoint.close()


def test_google_says_in_the_body_how_long_to_wait() -> None:
    body = [{"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "34.07s"}]}}]
    failed = translate(status_error(429, body=body), "rented", 5, "key")
    assert isinstance(failed, RateLimited)
    assert failed.retry_after_s == pytest.approx(34.07)


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
def answered(provider: Provider) -> Iterator[Callable[[bytes, str], Reply]]:
    """Calls a real socket that answers 200 with the given body and content type."""
    endpoint = ChatEndpoint("rented", f"{provider.url}/v1", "key", "asked-for")

    def answer(data: bytes, content_type: str = "text/event-stream") -> Reply:
        provider.body, provider.content_type = data, content_type
        return endpoint.call(CALL, lambda: False)

    yield answer
    endpoint.close()


def test_a_whole_answer(answered: Callable[..., Reply]) -> None:
    reply = answered(events(HELLO, STOP, USAGE))
    assert (reply.text, reply.finish_reason, reply.model) == ("hello", "stop", "m-1")
    assert reply.usage == Usage(input_tokens=9, output_tokens=3)


def said(text: str) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}


def test_a_letter_that_came_in_two_halves_is_one_and_half_a_letter_is_replaced(
    answered: Callable[..., Reply],
) -> None:
    assert answered(events(said("a \ud83d"), said("\ude00"), STOP, USAGE)).text == "a 😀"
    assert answered(events(said("a \ud83d"), said(" b"), STOP, USAGE)).text == "a \ufffd b"
    tool = {"index": 0, "id": "\ud83d", "function": {"name": "f", "arguments": '{"a": "\ud83d'}}
    rest = {"index": 0, "function": {"arguments": '\ude00"}'}}
    asks = [{**CHUNK, "choices": [{"index": 0, "delta": {"tool_calls": [one]}}]} for one in (tool, rest)]
    (called,) = answered(events(*asks, STOP, USAGE)).tool_calls
    assert (called.id, called.arguments) == ("\ufffd", '{"a": "😀"}')


def test_an_answer_far_longer_than_was_asked_for_is_malformed_and_its_usage_known(
    answered: Callable[..., Reply],
) -> None:
    long = said("x" * 100_000)
    assert len(answered(events(long, STOP, USAGE)).text) == 100_000
    tool = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "x" * 200_000}}
    asks = {**CHUNK, "choices": [{"index": 0, "delta": {"tool_calls": [tool]}}]}
    for sent in ((long, long), (asks,)):
        with pytest.raises(MalformedReply, match="characters for 512 tokens") as failed:
            answered(events(*sent, STOP, USAGE))
        assert failed.value.usage == Usage(input_tokens=9, output_tokens=3)


def test_an_answer_without_usage_says_so(answered: Callable[..., Reply]) -> None:
    reply = answered(events(HELLO, STOP))
    assert (reply.text, reply.usage, reply.usage_known) == ("hello", Usage(), False)


def test_no_tokens_at_all_are_no_usage_of_an_answer(answered: Callable[..., Reply]) -> None:
    nothing = {**USAGE, "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
    assert not answered(events(HELLO, STOP, nothing)).usage_known
    assert answered(events(STOP, nothing)).usage_known, "nothing was said"
    with pytest.raises(EngineConnectionLost) as failed:
        answered(events(HELLO, nothing))
    assert failed.value.usage is None


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
