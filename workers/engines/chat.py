"""One call to an OpenAI-compatible endpoint through the ``openai`` SDK, for every engine that speaks it.

Imported by an engine's ``open()``, so that a process without such a lane does not carry the SDK.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from broker.call import Call, Reply, Usage
from broker.errors import CallCancelled, EngineConnectionLost, EngineError, MalformedReply
from workers.engines.chat_errors import LEAVES, translate
from workers.engines.constrain import Constraint, openai_dialect
from workers.engines.watch import CURRENT, Watch, watched

for _name in ("openai", "httpx2"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at DEBUG every prompt, at INFO a line for every call

CONNECT_S = 10.0
#: The header in which OpenAI, and others after it, take the caller's own name for a request.
REQUEST_ID = "X-Client-Request-Id"


class ChatEndpoint:
    """Connections to one endpoint, shared by threads. ``revision`` goes into each reply, ``dialect`` says how the
    server is told the form of an answer.
    ``through_proxy`` False ignores proxies that the environment names, for servers on this machine.
    """

    def __init__(
        self,
        lane_name: str,
        base_url: str,
        key: str,
        model: str,
        *,
        revision: str = "",
        dialect: Callable[[Call], Constraint] = openai_dialect,
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
        constraint = self._dialect(call)
        watch = Watch(call.timeout_s, cancelled)
        answer = _Answer(time.perf_counter())
        token = CURRENT.set(watch)
        try:
            self._stream(_request(self._model, call, constraint), answer)
        except tuple(LEAVES) as error:
            raise self._failed(error, watch, answer, call.timeout_s) from error
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ) as error:  # the SDK checks nothing of what it parses
            raise self._malformed(f"an answer that cannot be read: {type(error).__name__}", answer) from error
        finally:
            CURRENT.reset(token)
        self._check_whole(answer)
        return Reply(
            text=constraint.unwrap("".join(answer.parts)),
            usage=answer.usage or Usage(),
            usage_known=answer.usage is not None,
            model=answer.model or self._model,
            model_revision=self._revision,
            finish_reason=answer.finish_reason,
            latency_ms=(time.perf_counter() - answer.started) * 1000,
            time_to_first_token_ms=answer.first_token_ms,
        )

    def _stream(self, request: dict[str, Any], answer: _Answer) -> None:
        with self._client.chat.completions.create(**request, timeout=CONNECT_S) as stream:
            answer.is_stream = "event-stream" in stream.response.headers.get("content-type", "")
            for chunk in stream:
                self.beats += 1
                answer.take(chunk)

    def _failed(self, error: Exception, watch: Watch, answer: _Answer, timeout_s: float) -> EngineError:
        if watch.cancelled:
            return CallCancelled(f"lane {self._lane_name!r}: the call was cancelled", usage=answer.usage)
        failed = translate(error, self._lane_name, timeout_s, self._key)
        failed.usage = answer.usage or failed.usage
        return failed

    def _malformed(self, what: str, answer: _Answer) -> MalformedReply:
        mend = f"check that lanes.{self._lane_name}.base_url is an OpenAI-compatible endpoint"
        return MalformedReply(f"lane {self._lane_name!r}: {what}", mend=mend, usage=answer.usage)

    def _check_whole(self, answer: _Answer) -> None:
        if answer.finish_reason:
            return
        if not answer.is_stream:
            raise self._malformed("an answer that is no event stream", answer)
        if answer.model and not answer.has_choice:
            raise self._malformed("an answer without any choice", answer)
        raise EngineConnectionLost(
            f"lane {self._lane_name!r}: the stream ended before the answer did", usage=answer.usage
        )


def _request(model: str, call: Call, constraint: Constraint) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": model,
        "messages": list(call.messages),
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        **constraint.fields,
    }
    if call.attempt_id:
        request["extra_headers"] = {REQUEST_ID: call.attempt_id}
    if call.seed is not None:
        request["seed"] = call.seed
    if call.stop:
        request["stop"] = list(call.stop)
    return request


@dataclass(slots=True)
class _Answer:
    """What has come of one streamed answer so far. ``started`` is on ``time.perf_counter``."""

    started: float
    parts: list[str] = field(default_factory=list)
    usage: Usage | None = None
    model: str = ""
    finish_reason: str = ""
    first_token_ms: float | None = None
    is_stream: bool = False
    has_choice: bool = False

    def take(self, chunk: Any) -> None:
        self.model = chunk.model or self.model
        if getattr(chunk, "usage", None) is not None:
            self.usage = normalised(chunk.usage.model_dump())
        for choice in chunk.choices:
            self.has_choice = True
            delta = choice.delta
            text = delta.content or delta.refusal or ""
            if self.first_token_ms is None and (text or getattr(delta, "reasoning_content", None)):
                self.first_token_ms = (time.perf_counter() - self.started) * 1000
            self.parts.append(text)
            self.finish_reason = choice.finish_reason or self.finish_reason


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
