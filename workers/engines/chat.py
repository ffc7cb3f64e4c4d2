"""One call to an OpenAI-compatible endpoint through the ``openai`` SDK, for every engine that speaks it.

Imported by an engine's ``open()``, so that a process without such a lane does not carry the SDK. The SDK is asked for
bare JSON: its models check nothing of what they are made from, and making them is half of what a call costs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import openai

from broker.call import Call, Reply, Usage
from broker.errors import CallRejected, EngineError, EngineFault, EngineOverloaded
from workers.engines.chat_errors import LEAVES, translate
from workers.engines.constrain import Constraint, with_told
from workers.engines.dialects import COMPATIBLE, DIALECTS, Dialect
from workers.engines.quota import quota
from workers.engines.streamed import (
    CONNECT_S,
    Answer,
    Calling,
    counted,
    ended_early,
    malformed,
    reading,
    text_of,
)
from workers.engines.watch import watched

if TYPE_CHECKING:
    from workers.engines.chat_batches import ChatBatches

for _name in ("openai", "httpx2"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at DEBUG every prompt, at INFO a line for every call

#: The header in which OpenAI, and others after it, take the caller's own name for a request.
REQUEST_ID = "X-Client-Request-Id"
RAISED = tuple(LEAVES)

#: How an answer ended, in our words. A word that is not here ends it as ``stop``.
FINISHES = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
#: Ends that are no answer: DeepSeek ran out of machines, vLLM or another server broke the generation off.
BROKEN_ENDS: dict[str, type[EngineError]] = {
    "insufficient_system_resource": EngineOverloaded,
    "abort": EngineFault,
    "error": EngineFault,
}


class ChatEndpoint:
    """Connections to one endpoint, shared by threads. ``revision`` goes into each reply, ``dialect`` says how the
    server is asked. ``through_proxy`` False ignores proxies that the environment names, for servers on this machine.
    """

    def __init__(
        self,
        lane_name: str,
        base_url: str,
        key: str,
        model: str,
        *,
        revision: str = "",
        dialect: Dialect = DIALECTS[COMPATIBLE],
        through_proxy: bool = True,
    ) -> None:
        self._lane_name = lane_name
        self._model = model
        self._key = key
        self._revision = revision
        self._dialect = dialect
        self.beats = 0  # pieces of answers that came; threads may lose one now and then, which is no matter
        http = openai.DefaultHttpxClient(trust_env=through_proxy)
        self._client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=watched(http))

    def close(self) -> None:
        self._client.close()

    def batches(self) -> ChatBatches:
        batches = import_module("workers.engines.chat_batches")
        door: ChatBatches = batches.ChatBatches(
            self._client, self._lane_name, self._model, self._key, self._dialect
        )
        return door

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        constraint = self._dialect.constrain(call)
        answer = Answer(time.perf_counter(), call.max_tokens)

        def translated(error: Exception) -> EngineError:
            return translate(error, self._lane_name, call.timeout_s, self._key, self._dialect.statuses)

        with reading(self._lane_name, call, cancelled, answer, RAISED, translated):
            self._stream(request(self._model, call, self._dialect, constraint), call.attempt_id, answer)
            return answer.reply(constraint.read, self._model, self._revision)

    def _stream(self, body: dict[str, Any], attempt_id: str, answer: Answer) -> None:
        options: Any = {"timeout": CONNECT_S, "headers": {REQUEST_ID: attempt_id} if attempt_id else {}}
        has_choice = False
        with self._client.post(
            "/chat/completions",
            body=body,
            options=options,
            cast_to=object,
            stream=True,
            stream_cls=openai.Stream[Any],
        ) as stream:
            headers = stream.response.headers
            answer.is_stream = "event-stream" in headers.get("content-type", "")
            answer.quota = quota(headers)
            for chunk in stream:
                self.beats += 1
                has_choice |= take(answer, chunk)
        self._end(answer, has_choice)

    def _end(self, answer: Answer, has_choice: bool) -> None:
        """The provider's word for its end in ours. Raises where there is none, or one that is no answer's."""
        word = answer.finish
        if word in BROKEN_ENDS:
            raise BROKEN_ENDS[word](f"lane {self._lane_name!r}: the answer was broken off: {word}")
        if word:
            answer.finish = FINISHES.get(word, "stop")
            return
        if not answer.is_stream:
            raise malformed(self._lane_name, "an answer that is no event stream")
        if answer.model and not has_choice:
            raise malformed(self._lane_name, "an answer without any choice")
        raise ended_early(self._lane_name)


def request(model: str, call: Call, dialect: Dialect, constraint: Constraint) -> dict[str, Any]:
    """The body of a call, in the endpoint's dialect. Raises CallRejected for tool calls that are not in its form."""
    body: dict[str, Any] = {
        "model": model,
        "messages": with_told(_carried(call.messages, dialect), constraint.told),
        dialect.max_tokens: call.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **constraint.fields,
        **dialect.always,
    }
    if dialect.fixed_sampling is None or not dialect.fixed_sampling.search(model):
        body["temperature"] = call.temperature
    if call.seed is not None and dialect.seed:
        body["seed"] = call.seed
    if call.stop:
        body["stop"] = list(call.stop)
    if call.priority and dialect.priority is not None:
        body |= dialect.priority(call.priority)
    if "tools" in body or any(message.get("tool_calls") for message in call.messages):
        body |= dialect.with_tools
    return body


def _carried(messages: Sequence[Mapping[str, Any]], dialect: Dialect) -> Sequence[Mapping[str, Any]]:
    """The messages with what the endpoint wants beside the tool calls that lie in the past."""
    if not dialect.past_call:
        return messages
    try:
        return [
            {**message, "tool_calls": [{**dialect.past_call, **used} for used in message["tool_calls"]]}
            if message.get("tool_calls")
            else message
            for message in messages
        ]
    except TypeError as error:
        raise CallRejected(f"tool calls that are not in OpenAI's form: {error}") from error


def take(answer: Answer, chunk: Any) -> bool:
    """Whether there was a choice in the chunk."""
    answer.model = text_of(chunk, "model") or answer.model
    usage = chunk.get("usage")
    if usage is not None:
        answer.usage = normalised(usage)
    choices = chunk["choices"]
    for choice in choices:
        _take_delta(answer, choice.get("delta") or {})
        answer.finish = text_of(choice, "finish_reason") or answer.finish
    return bool(choices)


def take_whole(answer: Answer, body: Any) -> None:
    """An answer that came in one piece. Raises as ``take`` does, and IndexError where it has no choice."""
    answer.model, answer.usage = text_of(body, "model"), normalised(body["usage"])
    choice = body["choices"][0]
    _take_delta(answer, choice["message"])
    answer.finish = text_of(choice, "finish_reason")


def _take_delta(answer: Answer, delta: Any) -> None:
    text = text_of(delta, "content") or text_of(delta, "refusal")
    tools = delta.get("tool_calls") or ()
    if text or tools or delta.get("reasoning_content") or delta.get("reasoning"):
        answer.began()
    answer.take(text, answer.parts)
    for tool in tools:
        _take_tool(answer, tool)


def _take_tool(answer: Answer, delta: Any) -> None:
    """A piece of a tool call: the first one names it, the others go on with its arguments.

    By OpenAI's protocol ``index`` says which call it belongs to. Others give several calls the same index with ids of
    their own, or none, and then send each call whole.
    """
    index, identity = delta.get("index"), text_of(delta, "id")
    function = delta.get("function") or {}
    calling = None if index is None else answer.at_index.get(index)
    if calling is None or (identity and identity != calling.id):
        name = text_of(function, "name")
        if not name:
            raise ValueError("a tool call without a name")
        calling = answer.call_tool(Calling(identity, name), index)
    answer.take(text_of(function, "arguments"), calling.arguments)


def normalised(reported: Mapping[str, Any]) -> Usage:
    """A provider's usage in disjoint classes, whose sum is what it counts in all.

    OpenAI's prompt tokens contain the cached reads and writes, its completion tokens the reasoning. DeepSeek says
    cached reads at the top level. Where the total is more than prompt and completion (Gemini, xAI), the rest is
    reasoning. Raises AttributeError, KeyError, TypeError or ValueError for counts that are none.
    """
    prompt_tokens, completion_tokens = (
        counted(reported["prompt_tokens"]),
        counted(reported["completion_tokens"]),
    )
    prompt = reported.get("prompt_tokens_details") or {}
    completion = reported.get("completion_tokens_details") or {}
    cached = counted(prompt.get("cached_tokens") or reported.get("prompt_cache_hit_tokens") or 0)
    written = counted(prompt.get("cache_write_tokens") or 0)
    beside = counted(reported.get("total_tokens") or 0) - prompt_tokens - completion_tokens
    within = 0 if beside > 0 else counted(completion.get("reasoning_tokens") or 0)
    usage = Usage(
        input_tokens=prompt_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=completion_tokens - within,
        reasoning_tokens=max(beside, within),
    )
    if min(usage.input_tokens, cached, written, usage.output_tokens, within) < 0:
        raise ValueError("usage that does not add up")
    return usage
