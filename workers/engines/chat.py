"""One call to an OpenAI-compatible endpoint through the ``openai`` SDK, for every engine that speaks it.

Imported by an engine's ``open()``, so that a process without such a lane does not carry the SDK. The SDK is asked for
bare JSON: its models check nothing of what they are made from, and making them is half of what a call costs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from broker.call import Call, Quota, Reply, ToolCall, Usage
from broker.errors import (
    CallCancelled,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    MalformedReply,
)
from workers.engines.chat_errors import LEAVES, translate
from workers.engines.constrain import Constraint, called, with_told
from workers.engines.dialects import COMPATIBLE, DIALECTS, Dialect
from workers.engines.quota import quota
from workers.engines.watch import CURRENT, Watch, watched

for _name in ("openai", "httpx2"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at DEBUG every prompt, at INFO a line for every call

CONNECT_S = 10.0
#: The header in which OpenAI, and others after it, take the caller's own name for a request.
REQUEST_ID = "X-Client-Request-Id"

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

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        constraint = self._dialect.constrain(call)
        watch = Watch(call.timeout_s, cancelled)
        answer = _Answer(time.perf_counter())
        token = CURRENT.set(watch)
        try:
            self._stream(request(self._model, call, self._dialect, constraint), call.attempt_id, answer)
        except tuple(LEAVES) as error:
            raise self._failed(error, watch, answer, call.timeout_s) from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # the SDK checks nothing of it
            raise self._malformed(f"an answer that cannot be read: {type(error).__name__}", answer) from error
        finally:
            CURRENT.reset(token)
        return self._reply(answer, constraint)

    def _stream(self, body: dict[str, Any], attempt_id: str, answer: _Answer) -> None:
        options: Any = {"timeout": CONNECT_S, "headers": {REQUEST_ID: attempt_id} if attempt_id else {}}
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
                answer.take(chunk)

    def _reply(self, answer: _Answer, constraint: Constraint) -> Reply:
        self._check_whole(answer)
        text, told_calls = constraint.read("".join(answer.parts))
        calls = (*answer.tool_calls(), *told_calls)
        finish = FINISHES.get(answer.finish_reason, "stop")
        if finish == "tool_calls" and not calls:
            raise self._malformed("an answer that ends in tool calls and has none", answer)
        if finish == "stop" and calls:  # Gemini and others end so
            finish = "tool_calls"
        return Reply(
            text=text,
            usage=answer.usage or Usage(),
            usage_known=answer.usage is not None,
            model=answer.model or self._model,
            model_revision=self._revision,
            finish_reason=finish,
            latency_ms=(time.perf_counter() - answer.started) * 1000,
            time_to_first_token_ms=answer.first_token_ms,
            tool_calls=calls,
            quota=answer.quota,
        )

    def _failed(self, error: Exception, watch: Watch, answer: _Answer, timeout_s: float) -> EngineError:
        if watch.cancelled:
            return CallCancelled(f"lane {self._lane_name!r}: the call was cancelled", usage=answer.usage)
        failed = translate(error, self._lane_name, timeout_s, self._key, self._dialect.statuses)
        failed.usage = answer.usage or failed.usage
        failed.quota = failed.quota or answer.quota
        return failed

    def _malformed(self, what: str, answer: _Answer) -> MalformedReply:
        mend = f"check that lanes.{self._lane_name}.base_url is an OpenAI-compatible endpoint"
        return MalformedReply(f"lane {self._lane_name!r}: {what}", mend=mend, usage=answer.usage)

    def _check_whole(self, answer: _Answer) -> None:
        broken = BROKEN_ENDS.get(answer.finish_reason)
        if broken is not None:
            why = f"lane {self._lane_name!r}: the answer was broken off: {answer.finish_reason}"
            raise broken(why, usage=answer.usage)
        if answer.finish_reason:
            return
        if not answer.is_stream:
            raise self._malformed("an answer that is no event stream", answer)
        if answer.model and not answer.has_choice:
            raise self._malformed("an answer without any choice", answer)
        raise EngineConnectionLost(
            f"lane {self._lane_name!r}: the stream ended before the answer did", usage=answer.usage
        )


def request(model: str, call: Call, dialect: Dialect, constraint: Constraint) -> dict[str, Any]:
    """The body of a call, in the endpoint's dialect."""
    body: dict[str, Any] = {
        "model": model,
        "messages": with_told(call.messages, constraint.told),
        dialect.max_tokens: call.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
        **constraint.fields,
    }
    if dialect.fixed_sampling is None or not dialect.fixed_sampling.search(model):
        body["temperature"] = call.temperature
    if call.seed is not None and dialect.seed:
        body["seed"] = call.seed
    if call.stop:
        body["stop"] = list(call.stop)
    if call.priority and dialect.priority is not None:
        body |= dialect.priority(call.priority)
    if body.get("tool_choice") == "required":
        body |= dialect.required
    return body


@dataclass(slots=True)
class _Calling:
    """A tool call whose arguments are still coming."""

    id: str
    name: str
    arguments: list[str]


@dataclass(slots=True)
class _Answer:
    """What has come of one streamed answer so far. ``started`` is on ``time.perf_counter``.

    A chunk that is none raises AttributeError, KeyError, TypeError or ValueError.
    """

    started: float
    parts: list[str] = field(default_factory=list)
    usage: Usage | None = None
    model: str = ""
    finish_reason: str = ""
    first_token_ms: float | None = None
    is_stream: bool = False
    has_choice: bool = False
    quota: Quota | None = None
    calling: list[_Calling] = field(default_factory=list)
    at_index: dict[int, _Calling] = field(default_factory=dict)

    def take(self, chunk: Any) -> None:
        self.model = _text(chunk, "model") or self.model
        usage = chunk.get("usage")
        if usage is not None:
            self.usage = normalised(usage)
        for choice in chunk["choices"]:
            self.has_choice = True
            delta = choice.get("delta") or {}
            text = _text(delta, "content") or _text(delta, "refusal")
            tools = delta.get("tool_calls") or ()
            if self.first_token_ms is None and (text or tools or _thinks(delta)):
                self.first_token_ms = (time.perf_counter() - self.started) * 1000
            self.parts.append(text)
            for tool in tools:
                self._take_tool(tool)
            self.finish_reason = _text(choice, "finish_reason") or self.finish_reason

    def _take_tool(self, delta: Any) -> None:
        """A piece of a tool call: the first one names it, the others go on with its arguments.

        By OpenAI's protocol ``index`` says which call it belongs to. Others give several calls the same index with ids
        of their own, or none, and then send each call whole.
        """
        index, identity = delta.get("index"), _text(delta, "id")
        function = delta.get("function") or {}
        calling = None if index is None else self.at_index.get(index)
        if calling is None or (identity and identity != calling.id):
            name = _text(function, "name")
            if not name:
                raise ValueError("a tool call without a name")
            calling = _Calling(identity, name, [])
            self.calling.append(calling)
            if index is not None:
                self.at_index[index] = calling
        calling.arguments.append(_text(function, "arguments"))

    def tool_calls(self) -> tuple[ToolCall, ...]:
        joined = ((one.id, one.name, "".join(one.arguments)) for one in self.calling)
        return tuple(ToolCall(*one) if one[0] else called(*one[1:]) for one in joined)


def _text(part: Any, name: str) -> str:
    value = part.get(name)
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value or ""


def _thinks(delta: Mapping[str, Any]) -> bool:
    return bool(delta.get("reasoning_content") or delta.get("reasoning"))


def normalised(reported: Mapping[str, Any]) -> Usage:
    """A provider's usage in disjoint classes, whose sum is what it counts in all.

    OpenAI's prompt tokens contain the cached reads and writes, its completion tokens the reasoning. DeepSeek says
    cached reads at the top level. Where the total is more than prompt and completion (Gemini, xAI), the rest is
    reasoning. Raises KeyError, TypeError or ValueError for counts that are none.
    """
    prompt_tokens, completion_tokens = int(reported["prompt_tokens"]), int(reported["completion_tokens"])
    prompt = reported.get("prompt_tokens_details") or {}
    completion = reported.get("completion_tokens_details") or {}
    cached = prompt.get("cached_tokens") or reported.get("prompt_cache_hit_tokens") or 0
    written = prompt.get("cache_write_tokens") or 0
    beside = (reported.get("total_tokens") or 0) - prompt_tokens - completion_tokens
    within = 0 if beside > 0 else completion.get("reasoning_tokens") or 0
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
