"""OpenAI's batches: a file of requests is uploaded, a file of answers comes back, and one of errors.

platform.openai.com, Batch API: up to 50,000 lines and 200 MB; the order is not kept; a batch that expires or is
cancelled keeps, and charges, what was answered; lines that failed are not charged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal

import openai

from broker.call import Call, Reply
from broker.errors import CallRejected, EngineError
from workers.engines.batches import ASK_S, Standing, rows_of
from workers.engines.chat import FINISHES, RAISED, request, take_whole
from workers.engines.chat_errors import translate
from workers.engines.dialects import Dialect
from workers.engines.refusal import NOTHING_USED, Refusal, engine_error, leaf_of
from workers.engines.streamed import Answer, ended_early, malformed, reading, text_of

URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
NAME = "laneway_batch"
ENDED = ("completed", "expired", "cancelled", "failed")
#: Codes of lines that were never worked on.
UNTOUCHED = ("batch_expired", "batch_cancelled")
NOBODY = Call((), timeout_s=ASK_S)


class ChatBatches:
    line_limit = 50_000
    bytes_limit = 60_000_000  # of 200 MB that it takes: a handful more may follow, which is 128 MB at most

    def __init__(self, client: openai.OpenAI, lane_name: str, model: str, key: str, dialect: Dialect) -> None:
        self._client, self._lane_name, self._model, self._key = client, lane_name, model, key
        self._dialect = dialect

    def line(self, line_id: str, call: Call) -> bytes:
        body = request(self._model, call, self._dialect, self._dialect.constrain(call))
        del body["stream"], body["stream_options"]
        row = {"custom_id": line_id, "method": "POST", "url": URL, "body": body}
        return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def send(self, name: str, path: Path, lines: int) -> str:
        with self._asking(), path.open("rb") as file:
            uploaded = self._client.files.create(file=file, purpose="batch", timeout=ASK_S)
            sent = self._client.batches.create(
                input_file_id=uploaded.id,
                endpoint=URL,
                completion_window="24h",
                metadata={NAME: name},
            )
            return sent.id

    def find(self, name: str, lines: int, since_s: float, known: Set[str]) -> str | None:
        with self._asking():
            for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(NAME) == name and batch.id not in known:
                    return batch.id
                if batch.created_at < since_s - 3600:
                    return None
        return None

    def standing(self, provider_id: str) -> Standing:
        with self._asking():
            batch = self._client.batches.retrieve(provider_id)
        counts = batch.request_counts
        said = batch.errors.data if batch.errors and batch.errors.data else []
        refused = "; ".join(f"{one.code}: {one.message}" for one in said[:3]) or "no reason given"
        return Standing(
            batch.status in ENDED,
            counts.completed if counts else 0,
            refused if batch.status == "failed" else "",
        )

    def results(self, provider_id: str, answered: int) -> Iterator[tuple[str, Any]]:
        with self._asking():
            batch = self._client.batches.retrieve(provider_id)
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line_id, row in self._rows(file_id):
                answered -= file_id == batch.output_file_id
                yield line_id, None if _is_untouched(row) else row
        if answered > 0:
            raise ended_early(self._lane_name)

    def _rows(self, file_id: str) -> Iterator[tuple[str, Any]]:
        with (
            self._asking(),
            self._client.files.with_streaming_response.content(file_id, timeout=ASK_S) as file,
        ):
            yield from rows_of(file.iter_bytes())

    def read(self, result: Any, call: Call) -> Reply | EngineError:
        constraint = self._dialect.constrain(call)
        answer = Answer(time.perf_counter(), call.max_tokens)
        try:
            response = result.get("response") or {}
            if response.get("status_code") != 200:
                return self._refused(result, response, call)
            take_whole(answer, response["body"])
            answer.finish = FINISHES.get(answer.finish, "stop")
            return answer.reply(constraint.read, self._model)
        except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
            failed = malformed(self._lane_name, f"a batch's line that cannot be read: {type(error).__name__}")
            failed.usage = answer.known_usage
            return failed

    def _refused(self, result: Mapping[str, Any], response: Mapping[str, Any], call: Call) -> EngineError:
        body = response.get("body") or {"error": result.get("error")}
        refusal = Refusal(
            text_of(result.get("error") or {}, "message") or "a line of the batch failed",
            response.get("status_code") or 400,
            body,
        )
        leaf = leaf_of(refusal, CallRejected, self._dialect.statuses)
        error = engine_error(refusal, leaf, self._lane_name, call.timeout_s, self._key)
        error.usage = NOTHING_USED
        return error

    def cancel(self, provider_id: str) -> None:
        with self._asking():
            self._client.batches.cancel(provider_id)

    def forget(self, provider_id: str) -> None:
        with suppress(EngineError), self._asking():
            batch = self._client.batches.retrieve(provider_id)
            for file_id in filter(None, (batch.input_file_id, batch.output_file_id, batch.error_file_id)):
                self._client.files.delete(file_id)

    def _asking(self) -> AbstractContextManager[None]:
        def translated(error: Exception) -> EngineError:
            return translate(error, self._lane_name, ASK_S, self._key, self._dialect.statuses)

        return reading(
            self._lane_name, NOBODY, lambda: False, Answer(time.perf_counter()), RAISED, translated
        )


def _is_untouched(row: Any) -> bool:
    match row:
        case {"error": {"code": str(code)}}:
            return code in UNTOUCHED
    return False
