"""One call to Anthropic's Messages API through the ``anthropic`` SDK.

Imported by an engine's ``open()``, so that a process without such a lane does not carry the SDK. The SDK opens the
stream; its events are read here one by one, because the SDK passes over those that it cannot read without a word.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import anthropic

from broker.call import Call, Reply, Usage
from broker.errors import EngineError
from workers.engines.messages_errors import LEAVES, in_stream, translate
from workers.engines.messages_request import FORCED_ANSWER, Cache, request
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
    from workers.engines.messages_batches import MessagesBatches

for _name in ("anthropic", "httpx2"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at DEBUG every prompt, at INFO a line for every call

RAISED = tuple(LEAVES)

#: Anthropic's stop reasons in our words; one that is not here ends an answer as ``stop``.
FINISHES = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class MessagesEndpoint:
    """Connections to one endpoint, shared by threads. ``cache`` and ``shots`` (how many examples the lane puts before
    each task's own messages) say what of a request is to be cached.
    """

    def __init__(
        self, lane_name: str, base_url: str, key: str, model: str, *, cache: Cache = "off", shots: int = 0
    ) -> None:
        self._lane_name = lane_name
        self._key = key
        self._model = model
        self._cache: Cache = cache
        self._shots = shots
        self.beats = 0  # pieces of answers that came; threads may lose one now and then, which is no matter
        self._client = anthropic.Anthropic(
            base_url=base_url,
            api_key=key,
            max_retries=0,
            http_client=watched(anthropic.DefaultHttpxClient()),
            open_telemetry=False,
        )

    def close(self) -> None:
        self._client.close()

    def batches(self) -> MessagesBatches:
        batches = import_module("workers.engines.messages_batches")
        door: MessagesBatches = batches.MessagesBatches(
            self._client, self._lane_name, self._model, self._key, self._cache, self._shots
        )
        return door

    def call(self, call: Call, cancelled: Callable[[], bool]) -> Reply:
        body, read = request(self._model, call, cache=self._cache, shots=self._shots)
        answer = Answer(time.perf_counter(), call.max_tokens)

        def translated(error: Exception) -> EngineError:
            return translate(error, self._lane_name, call.timeout_s, self._key)

        with reading(self._lane_name, call, cancelled, answer, RAISED, translated):
            self._stream(body, call.timeout_s, answer)
            if body.get("tool_choice") == FORCED_ANSWER:
                unpack(answer)
            return answer.reply(read, self._model)

    def _stream(self, body: dict[str, Any], timeout_s: float, answer: Answer) -> None:
        events = _Events(answer)
        with self._client.post(
            "/v1/messages",
            body=body,
            options={"timeout": CONNECT_S},
            cast_to=object,
            stream=True,
            stream_cls=anthropic.Stream[Any],
        ) as stream:
            headers = stream.response.headers
            answer.is_stream = "event-stream" in headers.get("content-type", "")
            answer.quota = quota(headers)
            for sent in stream.raw_events(stream.response):
                self.beats += 1
                if sent.event == "error":
                    raise in_stream(sent.data, self._lane_name, timeout_s, self._key)
                if sent.data:
                    events.take(json.loads(sent.data))
        if not answer.is_stream:
            raise malformed(self._lane_name, "an answer that is no event stream")
        if not events.stopped:
            raise ended_early(self._lane_name)
        if not answer.finish or answer.usage is None or events.open:
            raise malformed(
                self._lane_name, "an answer without its reason to stop, its usage or the end of a part"
            )


def unpack(answer: Answer) -> None:
    """The answer that the model gave as the arguments of a tool."""
    answer.parts = [text for calling in answer.calling for text in calling.arguments]
    answer.calling.clear()
    if answer.finish == "tool_calls":
        answer.finish = "stop"


class _Events:
    """The reader of a stream's events. One that is none raises AttributeError, KeyError, TypeError or ValueError; kinds
    that are not known are passed over, as Anthropic asks of its clients.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._usage: dict[str, Any] = {}
        self.open: set[int] = set()
        self.stopped = False

    def take(self, event: Any) -> None:
        match event["type"]:
            case "message_start":
                self._answer.model = text_of(event["message"], "model")
                self._usage.update(event["message"]["usage"])
            case "content_block_start":
                self._start(event["index"], event["content_block"])
            case "content_block_delta":
                self._delta(event["index"], event["delta"])
            case "content_block_stop":
                self.open.remove(event["index"])
            case "message_delta":
                self._end(event["delta"], event["usage"])
            case "message_stop":
                self.stopped = True

    def _start(self, index: int, block: Any) -> None:
        self.open.add(index)
        if block["type"] == "tool_use":
            name, identity = text_of(block, "name"), text_of(block, "id")
            if not name:
                raise ValueError("a tool call without a name")
            self._answer.began()
            calling = self._answer.call_tool(Calling(identity, name), index)
            self._answer.take(json.dumps(block["input"]) if block.get("input") else "", calling.arguments)
        elif block["type"] == "text":
            self._answer.take(text_of(block, "text"), self._answer.parts)

    def _delta(self, index: int, delta: Any) -> None:
        if index not in self.open:
            raise ValueError("a piece of a part that did not start")
        match delta["type"]:
            case "text_delta":
                self._answer.began()
                self._answer.take(text_of(delta, "text"), self._answer.parts)
            case "input_json_delta":
                calling = self._answer.at_index[index]
                self._answer.take(text_of(delta, "partial_json"), calling.arguments)
            case "thinking_delta":
                self._answer.began()

    def _end(self, delta: Any, usage: Mapping[str, Any]) -> None:
        """Counts at the end are of the whole answer; what they leave out stays as it was at the start."""
        self._usage.update({name: count for name, count in usage.items() if count is not None})
        self._answer.usage = normalised(self._usage)
        reason = text_of(delta, "stop_reason")
        if reason:
            self._answer.finish = FINISHES.get(reason, "stop")
        for calling in self._answer.calling:
            if not any(calling.arguments):
                calling.arguments.append("{}")  # a tool without parameters


def normalised(reported: Mapping[str, Any]) -> Usage:
    """Anthropic's usage in disjoint classes. Its input tokens leave cached ones out; writes are told by how long they
    are kept, and as a sum, which servers that keep only for five minutes may tell alone.

    Raises AttributeError, KeyError, TypeError or ValueError for counts that are none.
    """
    written = counted(reported.get("cache_creation_input_tokens") or 0)
    by_time = reported.get("cache_creation") or {}
    for_an_hour = counted(by_time.get("ephemeral_1h_input_tokens") or 0)
    for_minutes = counted(by_time.get("ephemeral_5m_input_tokens") or 0)
    thinking = counted((reported.get("output_tokens_details") or {}).get("thinking_tokens") or 0)
    usage = Usage(
        input_tokens=counted(reported["input_tokens"]),
        cached_input_tokens=counted(reported.get("cache_read_input_tokens") or 0),
        cache_write_tokens=max(written - for_an_hour, for_minutes),
        cache_write_1h_tokens=for_an_hour,
        output_tokens=counted(reported["output_tokens"]) - thinking,
        reasoning_tokens=thinking,
    )
    counts = (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.output_tokens,
        thinking,
        for_an_hour,
        written,
    )
    if min(counts) < 0:
        raise ValueError("usage that does not add up")
    return usage
