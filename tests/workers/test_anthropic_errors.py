"""The Anthropic SDK's exceptions, and streams that are no answer, all come out as leaves of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
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
    EngineTimeout,
    MalformedReply,
    OutOfCredit,
    RateLimited,
)
from tests.workers.conftest import Provider
from workers.engines.messages import MessagesEndpoint
from workers.engines.messages_errors import LEAVES, translate

CALL = Call(({"role": "user", "content": "Hi"},), timeout_s=5)
MODEL = "claude-sonnet-4-5"


def test_every_exception_that_the_sdk_exports_has_its_row() -> None:
    exported = [getattr(anthropic, name) for name in anthropic.__all__]
    exceptions = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Exception)}
    assert anthropic.OverloadedError in exceptions
    assert exceptions - set(LEAVES) == set()


def test_every_other_exception_of_the_sdk_falls_under_a_row() -> None:
    def below(kind: type[Exception]) -> Iterator[type[Exception]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    known = [*below(anthropic.AnthropicError), *below(httpx2.RequestError)]
    assert len(known) > 40
    assert [kind for kind in known if not set(kind.__mro__) & set(LEAVES)] == []


def test_rows_are_leaves() -> None:
    assert [leaf for leaf in LEAVES.values() if leaf.__subclasses__()] == []


def test_what_the_sdk_lets_through_raw_has_its_leaf() -> None:
    request = httpx2.Request("POST", "http://provider.invalid/v1/messages")
    assert type(translate(httpx2.ReadTimeout("stalled", request=request), "f", 5, "k")) is EngineTimeout
    lost = translate(httpx2.ConnectError("refused", request=request), "f", 5, "k")
    assert type(lost) is EngineConnectionLost
    assert lost.usage == Usage()


def said(kind: str, message: str = "no", **details: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, "details": details}}


@pytest.fixture
def endpoint(provider: Provider) -> Iterator[MessagesEndpoint]:
    endpoint = MessagesEndpoint("frontier", provider.url, "sk-planted", MODEL)
    yield endpoint
    endpoint.close()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, said("invalid_request_error"), CallRejected),
        (
            400,
            said("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            ContextOverflow,
        ),
        (400, said("invalid_request_error", "Your credit balance is too low to access it"), OutOfCredit),
        (
            400,
            said("invalid_request_error", "You have reached your specified API usage limits."),
            OutOfCredit,
        ),
        (400, said("invalid_request_error", error_code="organization_on_hold"), AuthenticationFailed),
        (401, said("authentication_error"), AuthenticationFailed),
        (402, said("billing_error"), OutOfCredit),
        (413, said("request_too_large"), ContextOverflow),
        (429, said("rate_limit_error"), RateLimited),
        (429, said("rate_limit_error", error_code="enforced_spend_limit_reached"), OutOfCredit),
        (499, {}, EngineConnectionLost),
        (500, said("api_error"), EngineFault),
        (504, said("timeout_error"), EngineTimeout),
        (529, said("overloaded_error"), EngineOverloaded),
    ],
)
def test_a_refusal_has_its_leaf(
    provider: Provider, endpoint: MessagesEndpoint, status: int, body: object, expected: type[EngineError]
) -> None:
    provider.status, provider.body = status, json.dumps(body).encode()
    provider.content_type = "application/json"
    provider.headers = {"retry-after": "3600"}
    with pytest.raises(EngineError) as failed:
        endpoint.call(CALL, lambda: False)
    assert type(failed.value) is expected
    assert len(provider.asked) == 1, "the SDK neither tries again nor sleeps"
    if expected is RateLimited:
        assert getattr(failed.value, "retry_after_s", None) == 3600


def test_a_key_that_the_provider_repeats_stays_out_of_the_message(
    provider: Provider, endpoint: MessagesEndpoint
) -> None:
    provider.status, provider.content_type = 401, "application/json"
    provider.body = json.dumps(said("authentication_error", "wrong key sk-planted")).encode()
    with pytest.raises(AuthenticationFailed) as failed:
        endpoint.call(CALL, lambda: False)
    assert "sk-planted" not in str(failed.value)
    assert "wrong key" in str(failed.value)


# --- streams

START: dict[str, Any] = {
    "type": "message_start",
    "message": {"model": "claude-x", "usage": {"input_tokens": 9, "output_tokens": 1}},
}
BLOCK: dict[str, Any] = {
    "type": "content_block_start",
    "index": 0,
    "content_block": {"type": "text", "text": ""},
}
HELLO: dict[str, Any] = {
    "type": "content_block_delta",
    "index": 0,
    "delta": {"type": "text_delta", "text": "hello"},
}
BLOCK_END: dict[str, Any] = {"type": "content_block_stop", "index": 0}
END: dict[str, Any] = {
    "type": "message_delta",
    "delta": {"stop_reason": "end_turn"},
    "usage": {"output_tokens": 3},
}
STOP: dict[str, Any] = {"type": "message_stop"}
WHOLE = [START, BLOCK, HELLO, BLOCK_END, END, STOP]


def events(*sent: dict[str, Any]) -> bytes:
    return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in sent)


@pytest.fixture
def answered(provider: Provider, endpoint: MessagesEndpoint) -> Callable[..., Reply]:
    def answer(body: bytes, content_type: str = "text/event-stream") -> Reply:
        provider.body, provider.content_type = body, content_type
        return endpoint.call(CALL, lambda: False)

    return answer


def test_a_whole_answer(answered: Callable[..., Reply]) -> None:
    reply = answered(events(*WHOLE))
    assert (reply.text, reply.finish_reason, reply.model) == ("hello", "stop", "claude-x")
    assert reply.usage == Usage(input_tokens=9, output_tokens=3)
    assert reply.time_to_first_token_ms is not None


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("stop_sequence", "stop"),
        ("refusal", "content_filter"),
        ("a_new_one", "stop"),
    ],
)
def test_reasons_to_stop(answered: Callable[..., Reply], reason: str, finish: str) -> None:
    end = {**END, "delta": {"stop_reason": reason}}
    assert answered(events(START, BLOCK, HELLO, BLOCK_END, end, STOP)).finish_reason == finish


def test_kinds_of_events_that_are_not_known_are_passed_over(answered: Callable[..., Reply]) -> None:
    new = {"type": "a_new_kind", "index": 0}
    thinks = {"type": "content_block_start", "index": 1, "content_block": {"type": "thinking"}}
    thought = {
        "type": "content_block_delta",
        "index": 1,
        "delta": {"type": "thinking_delta", "thinking": "…"},
    }
    ends = {"type": "content_block_stop", "index": 1}
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    body = events(START, new) + ping + events(thinks, thought, ends, BLOCK, HELLO, BLOCK_END, END, STOP)
    assert answered(body).text == "hello"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", EngineConnectionLost),
        (events(*WHOLE[:-1]), EngineConnectionLost),
        (events(START, BLOCK, HELLO), EngineConnectionLost),
        (events(STOP), MalformedReply),
        (events(START, BLOCK, HELLO, BLOCK_END, STOP), MalformedReply),
        (events(START, BLOCK, HELLO, END, STOP), MalformedReply),
        (events(START, HELLO, END, STOP), MalformedReply),
        (events(BLOCK, HELLO, BLOCK_END, END, STOP), MalformedReply),
        (events({"type": "message_start"}), MalformedReply),
        (events({**START, "message": {"model": 7, "usage": {}}}), MalformedReply),
        (events(START, {**BLOCK, "content_block": {"type": "tool_use", "id": "a"}}), MalformedReply),
        (events(START, BLOCK, {**HELLO, "delta": {"type": "text_delta", "text": ["a"]}}), MalformedReply),
        (events(START, {**END, "usage": {"output_tokens": "many"}}), MalformedReply),
        # The SDK's own stream passes over these three without a word.
        (events(*WHOLE[:2]) + b"data: {broken\n\n" + events(*WHOLE[2:]), MalformedReply),
        (events(*WHOLE[:2]) + b"data: []\n\n" + events(*WHOLE[2:]), MalformedReply),
        (
            events(*WHOLE[:2]) + b"event: content_block_delta\ndata: {\n\n" + events(*WHOLE[2:]),
            MalformedReply,
        ),
        (b"data: \xff\xfe\n\n", MalformedReply),
    ],
)
def test_a_stream_that_is_no_answer(
    answered: Callable[..., Reply], body: bytes, expected: type[EngineError]
) -> None:
    with pytest.raises(EngineError) as failed:
        answered(body)
    assert type(failed.value) is expected
    assert "lane 'frontier'" in failed.value.message


def test_a_body_that_is_no_stream(answered: Callable[..., Reply]) -> None:
    for content_type in ("text/html", "application/json"):
        with pytest.raises(MalformedReply, match="no event stream"):
            answered(b"<html>Welcome to the hotel's network</html>", content_type)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (said("overloaded_error"), EngineOverloaded),
        (said("rate_limit_error"), RateLimited),
        (said("api_error"), EngineFault),
        (said("invalid_request_error"), EngineFault),
        (said("timeout_error"), EngineTimeout),
    ],
)
def test_an_error_in_the_middle_of_an_answer(
    answered: Callable[..., Reply], sent: dict[str, Any], expected: type[EngineError]
) -> None:
    with pytest.raises(EngineError) as failed:
        answered(events(START, BLOCK, HELLO, sent))
    assert type(failed.value) is expected
    assert failed.value.usage is None, "what it had written until then is billed and not told"


def test_an_error_in_the_stream_that_is_no_json(answered: Callable[..., Reply]) -> None:
    with pytest.raises(EngineFault):
        answered(events(START) + b"event: error\ndata: overload\n\n")


def test_what_was_used_before_a_failure_is_known(answered: Callable[..., Reply]) -> None:
    with pytest.raises(EngineConnectionLost) as failed:
        answered(events(*WHOLE[:-1]))
    assert failed.value.usage == Usage(input_tokens=9, output_tokens=3)
