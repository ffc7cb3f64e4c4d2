"""Anthropic's message batches: all requests in one body, the answers as lines at an address of their own.

platform.claude.com, Message Batches: up to 100,000 requests and 256 MB; each line comes to succeeded, errored, canceled
or expired; only what succeeded is charged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Set
from contextlib import AbstractContextManager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import anthropic

from broker.call import Call, Reply
from broker.errors import EngineError, EngineFault
from workers.engines.batches import ASK_S, Standing, rows_of
from workers.engines.messages import FINISHES, RAISED, normalised, unpack
from workers.engines.messages_errors import translate
from workers.engines.messages_request import FORCED_ANSWER, Cache, request
from workers.engines.refusal import Refusal, engine_error, leaf_of
from workers.engines.streamed import Answer, Calling, ended_early, malformed, reading, text_of

URL = "/v1/messages/batches"
CLOCKS_APART_S = 300.0
NOBODY = Call((), timeout_s=ASK_S)


class MessagesBatches:
    line_limit = 100_000
    bytes_limit = 64_000_000  # a quarter of what it takes: the body is made in memory

    def __init__(
        self, client: anthropic.Anthropic, lane_name: str, model: str, key: str, cache: Cache, shots: int
    ) -> None:
        self._client, self._lane_name, self._model, self._key = client, lane_name, model, key
        self._cache: Cache = cache
        self._shots = shots

    def line(self, line_id: str, call: Call) -> bytes:
        body, _ = request(self._model, call, cache=self._cache, shots=self._shots)
        body.pop("stream", None)
        row = {"custom_id": line_id, "params": body}
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def send(self, name: str, path: Path, lines: int) -> str:
        with path.open("rb") as file:
            rows = [json.loads(line) for line in file]
        with self._asking():
            sent: Any = self._client.post(
                URL, body={"requests": rows}, options={"timeout": ASK_S}, cast_to=object
            )
            return text_of(sent, "id")

    def find(self, name: str, lines: int, since_s: float, known: Set[str]) -> str | None:
        """It takes no name of ours: one of as many lines, made while it was sent, that is none of the others."""
        with self._asking():
            page: Any = self._client.get(f"{URL}?limit=100", cast_to=object)
            return next(
                (text_of(one, "id") for one in page["data"] if self._fits(one, lines, since_s, known)), None
            )

    @staticmethod
    def _fits(batch: Any, lines: int, since_s: float, known: Set[str]) -> bool:
        made_s = datetime.fromisoformat(batch["created_at"]).timestamp()
        counted = sum(batch["request_counts"].values())
        in_time = since_s - CLOCKS_APART_S <= made_s <= since_s + ASK_S + CLOCKS_APART_S
        return in_time and batch["id"] not in known and counted == lines

    def standing(self, provider_id: str) -> Standing:
        batch = self._retrieved(provider_id)
        counts = batch["request_counts"]
        return Standing(batch["processing_status"] == "ended", counts["succeeded"] + counts["errored"])

    def _retrieved(self, provider_id: str) -> Any:
        with self._asking():
            return self._client.get(f"{URL}/{provider_id}", cast_to=object)

    def results(self, provider_id: str, answered: int) -> Iterator[tuple[str, Any]]:
        with self._asking():
            batches = self._client.messages.batches.with_streaming_response
            with batches.results(provider_id, timeout=ASK_S) as response:
                for line_id, row in rows_of(response.iter_bytes()):
                    words = None if _is_untouched(row) else row
                    answered -= words is not None
                    yield line_id, words
        if answered > 0:
            raise ended_early(self._lane_name)

    def read(self, result: Any, call: Call) -> Reply | EngineError:
        answer = Answer(time.perf_counter(), call.max_tokens)
        try:
            result = result["result"]
            if result["type"] == "errored":
                return self._refused(result["error"], call)
            body, read = request(self._model, call, cache=self._cache, shots=self._shots)
            _take_whole(answer, result["message"])
            if body.get("tool_choice") == FORCED_ANSWER:
                unpack(answer)
            return answer.reply(read, self._model)
        except EngineError as error:
            return error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            failed = malformed(self._lane_name, f"a batch's line that cannot be read: {type(error).__name__}")
            failed.usage = answer.known_usage
            return failed

    def _refused(self, body: Any, call: Call) -> EngineError:
        """Lines that came to an error are not charged, whatever the error was."""
        refusal = Refusal("a line of the batch failed", status=400, body=body)
        leaf = leaf_of(refusal, EngineFault, {})
        return engine_error(refusal, leaf, self._lane_name, call.timeout_s, self._key)

    def cancel(self, provider_id: str) -> None:
        with self._asking():
            self._client.post(f"{URL}/{provider_id}/cancel", cast_to=object)

    def forget(self, provider_id: str) -> None:
        with suppress(EngineError), self._asking():
            self._client.delete(f"{URL}/{provider_id}", cast_to=object)

    def _asking(self) -> AbstractContextManager[None]:
        def translated(error: Exception) -> EngineError:
            return translate(error, self._lane_name, ASK_S, self._key)

        return reading(
            self._lane_name, NOBODY, lambda: False, Answer(time.perf_counter()), RAISED, translated
        )


def _is_untouched(row: Any) -> bool:
    match row:
        case {"result": {"type": "canceled" | "expired"}}:
            return True
    return False


def _take_whole(answer: Answer, message: Any) -> None:
    answer.model, answer.usage = text_of(message, "model"), normalised(message["usage"])
    for block in message["content"]:
        if block["type"] == "text":
            answer.take(text_of(block, "text"), answer.parts)
        elif block["type"] == "tool_use":
            calling = answer.call_tool(Calling(text_of(block, "id"), text_of(block, "name")), None)
            answer.take(json.dumps(block["input"]), calling.arguments)
    answer.finish = FINISHES.get(text_of(message, "stop_reason"), "stop")
