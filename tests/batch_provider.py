"""A provider of batches on a real socket, for both protocols: does what it is told to, and keeps what it was asked.

llmock completes OpenAI's batches only, and at once; nobody's fake completes Anthropic's.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 10, "completion_tokens": 100, "total_tokens": 110}


@dataclass
class Held:
    """A batch as the provider has it. ``lines`` are (custom id, request body)."""

    id: str
    lines: list[tuple[str, dict[str, Any]]]
    metadata: dict[str, str]
    made_s: float
    cancelled: bool = False
    worked: list[tuple[str, str]] | None = None


@dataclass
class BatchProvider:
    """``ended``: batches end at once. Lines whose prompt matches ``expire`` are never worked on, those that match
    ``fail`` come to an error, those that match ``twice`` are answered two times; answers for ``strangers`` come
    besides. Those that match ``torn`` are answered with a line that is ``odd``, the others with what it ``says``.
    ``cut``: a download ends in its middle, as if it were whole. ``hidden``: no list shows a batch. What matches
    ``gone``, a method and a path, is not there. ``lose`` names requests whose reply is lost after the work was done, as
    many times as they stand in it.
    """

    url: str = ""
    ended: bool = True
    expire: str = ""
    fail: str = ""
    twice: str = ""
    refuse: str = ""
    strangers: int = 0
    torn: str = ""
    odd: bytes = b""
    says: str = "fine"
    cut: bool = False
    hidden: bool = False
    gone: str = ""
    status: int = 200
    lose: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Held] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)

    def make(self, lines: list[tuple[str, dict[str, Any]]], metadata: dict[str, str]) -> Held:
        held = Held(f"batch_{len(self.batches) + 1}", lines, metadata, time.time())
        self.batches[held.id] = held
        return held

    def worked_on(self, held: Held) -> list[tuple[str, str]]:
        """(custom id, what became of it), in another order than they came; the same for ever once it has ended."""
        if held.worked is None:
            held.worked = self._worked_on(held)
        return held.worked

    def _worked_on(self, held: Held) -> list[tuple[str, str]]:
        rows = []
        for line, body in reversed(held.lines):
            prompt = json.dumps(body["messages"])
            if held.cancelled and not self.ended:
                continue
            if self.expire and re.search(self.expire, prompt):
                continue
            if self.torn and re.search(self.torn, prompt):
                rows.append((line, "torn"))
                continue
            word = "error" if self.fail and re.search(self.fail, prompt) else "ok"
            rows += [(line, word)] * (2 if self.twice and re.search(self.twice, prompt) else 1)
        return rows + [(f"stranger-{n}", "ok") for n in range(self.strangers)]

    def listed(self) -> list[Held]:
        """The newest first."""
        return [] if self.hidden else list(reversed(self.batches.values()))

    def answered(self) -> int:
        """Lines that it charges for."""
        return sum(map(self.charged, self.batches.values()))

    def charged(self, held: Held) -> int:
        if self.refuse or not self.is_ended(held):
            return 0
        charged = {line for line, word in self.worked_on(held) if word in ("ok", "torn")}
        return len(charged & {line for line, _ in held.lines})

    def is_ended(self, held: Held) -> bool:
        return self.ended or held.cancelled


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one packet: in two, each answer waits for a delayed acknowledgement
    told: BatchProvider

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.partition("?")[0]
        self.told.asked.append(f"{method} {path}")
        if self.told.status != 200:
            self._send({"error": {"message": "scripted", "type": "scripted"}}, self.told.status)
            return
        if self.told.gone and re.fullmatch(self.told.gone, f"{method} {path}"):
            self._send({"error": {"message": "no such thing", "type": "scripted"}}, 404)
            return
        if path.endswith("/cancel") and self.told.is_ended(self.told.batches[path.split("/")[-2]]):
            self._send({"error": {"message": "it has ended", "type": "scripted"}}, 409)
            return
        for pattern, name in ROUTES:
            if match := re.fullmatch(pattern, f"{method} {path}"):
                answer = getattr(self, name)(body, *match.groups())
                if name in self.told.lose:
                    self.told.lose.remove(name)
                    self.close_connection = True
                    self.connection.close()
                    return
                self._send(answer)
                return
        self._send({"error": {"message": f"no such route: {method} {path}"}}, 404)

    def _send(self, answer: Any, status: int = 200) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if self.told.cut and isinstance(answer, bytes):
            rows = data.splitlines(keepends=True)
            data = b"".join(rows[: len(rows) // 2])
            self.send_header("connection", "close")  # and no length
        else:
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    # --- OpenAI

    def upload(self, body: bytes) -> Any:
        boundary = self.headers["content-type"].partition("boundary=")[2].encode()
        parts = body.split(b"--" + boundary)
        data = next(part.partition(b"\r\n\r\n")[2] for part in parts if b"filename=" in part)
        file_id = f"file-{len(self.told.files) + 1}"
        self.told.files[file_id] = data.removesuffix(b"\r\n")
        return {"id": file_id, "object": "file", "bytes": len(data), "created_at": 1, "filename": "f",
                "purpose": "batch", "status": "processed"}  # fmt: skip

    def create(self, body: bytes) -> Any:
        said = json.loads(body)
        if "requests" in said:
            lines = [(row["custom_id"], row["params"]) for row in said["requests"]]
            return self._claude(self.told.make(lines, {}))
        rows = [json.loads(line) for line in self.told.files[said["input_file_id"]].splitlines()]
        lines = [(row["custom_id"], row["body"]) for row in rows]
        return self._openai(self.told.make(lines, said.get("metadata") or {}))

    def _openai(self, held: Held) -> Any:
        ended = self.told.is_ended(held)
        status = "in_progress"
        if ended:
            status = "failed" if self.told.refuse else "cancelled" if held.cancelled else "completed"
        row: dict[str, Any] = {
            "id": held.id, "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "file-1",
            "completion_window": "24h", "status": status, "created_at": int(held.made_s),
            "metadata": held.metadata,
            "request_counts": {"total": len(held.lines), "completed": self.told.charged(held), "failed": 0},
        }  # fmt: skip
        if self.told.refuse:
            row["errors"] = {"object": "list", "data": [{"code": self.told.refuse, "message": "refused"}]}
        elif ended:
            row |= {"output_file_id": f"out-{held.id}", "error_file_id": f"err-{held.id}"}
        return row

    def retrieve(self, _: bytes, batch_id: str) -> Any:
        return self._openai(self.told.batches[batch_id])

    def every(self, _: bytes) -> Any:
        rows = [self._openai(held) for held in self.told.listed()]
        return {"object": "list", "data": rows, "has_more": False}

    def cancel(self, _: bytes, batch_id: str) -> Any:
        self.told.batches[batch_id].cancelled = True
        return self._openai(self.told.batches[batch_id])

    def content(self, _: bytes, kind: str, batch_id: str) -> bytes:
        held = self.told.batches[batch_id]
        worked = self.told.worked_on(held)
        if kind == "out":
            rows = [self._answered(line, word) for line, word in worked if word != "error"]
        else:
            touched = {line for line, _ in worked}
            rows = [self._failed(line) for line, word in worked if word == "error"]
            code = "batch_cancelled" if held.cancelled else "batch_expired"
            rows += [
                {"id": "x", "custom_id": line, "response": None, "error": {"code": code, "message": "late"}}
                for line, _ in held.lines
                if line not in touched
            ]
        return lines(rows)

    def _answered(self, line: str, word: str) -> Any:
        if word == "torn":
            return self.told.odd
        said = {"role": "assistant", "content": self.told.says}
        body = {
            "id": "c", "object": "chat.completion", "created": 1, "model": "the-model", "usage": USAGE,
            "choices": [{"index": 0, "finish_reason": "stop", "message": said}],
        }  # fmt: skip
        return {
            "id": "x",
            "custom_id": line,
            "response": {"status_code": 200, "request_id": "r", "body": body},
            "error": None,
        }

    def _failed(self, line: str) -> Any:
        body = {
            "error": {
                "message": "it is too long",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
            }
        }
        return {
            "id": "x",
            "custom_id": line,
            "response": {"status_code": 400, "request_id": "r", "body": body},
            "error": None,
        }

    def drop_file(self, _: bytes, file_id: str) -> Any:
        self.told.forgotten.append(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    # --- Anthropic

    def _claude(self, held: Held) -> Any:
        ended = self.told.is_ended(held)
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if ended:
            worked = dict(self.told.worked_on(held))
            counts["errored"] = sum(word == "error" for word in worked.values())
            counts["succeeded"] = sum(worked.get(line) in ("ok", "torn") for line, _ in held.lines)
            counts["expired"] = len(held.lines) - counts["errored"] - counts["succeeded"]
        else:
            counts["processing"] = len(held.lines)
        return {
            "id": held.id, "type": "message_batch", "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts, "created_at": datetime.fromtimestamp(held.made_s, UTC).isoformat(),
            "results_url": f"{self.told.url}/v1/messages/batches/{held.id}/results" if ended else None,
        }  # fmt: skip

    def claude(self, _: bytes, batch_id: str) -> Any:
        return self._claude(self.told.batches[batch_id])

    def claudes(self, _: bytes) -> Any:
        return {
            "data": [self._claude(held) for held in self.told.listed()],
            "has_more": False,
        }

    def cancel_claude(self, _: bytes, batch_id: str) -> Any:
        self.told.batches[batch_id].cancelled = True
        return self._claude(self.told.batches[batch_id])

    def results(self, _: bytes, batch_id: str) -> bytes:
        held = self.told.batches[batch_id]
        worked = self.told.worked_on(held)
        rows: list[Any] = [
            self.told.odd if word == "torn" else {"custom_id": line, "result": self._result(word)}
            for line, word in worked
        ]
        touched = {line for line, _ in worked}
        rows += [
            {"custom_id": line, "result": {"type": "canceled" if held.cancelled else "expired"}}
            for line, _ in held.lines
            if line not in touched
        ]
        return lines(rows)

    def _result(self, word: str) -> Any:
        if word == "error":
            inner = {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens"}
            return {"type": "errored", "error": {"type": "error", "error": inner}}
        message = {
            "id": "m", "type": "message", "role": "assistant", "model": "the-model", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": self.told.says}], "usage": {"input_tokens": 10, "output_tokens": 100},
        }  # fmt: skip
        return {"type": "succeeded", "message": message}

    def drop_claude(self, _: bytes, batch_id: str) -> Any:
        self.told.forgotten.append(batch_id)
        return {"id": batch_id, "type": "message_batch_deleted"}


def lines(rows: list[Any]) -> bytes:
    """Those that are bytes as they are; half of a surrogate pair as its escape."""
    return b"".join((row if isinstance(row, bytes) else _line(row)) + b"\n" for row in rows)


def _line(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace")


ROUTES = (
    (r"POST /v1/files", "upload"),
    (r"POST /v1(?:/messages)?/batches", "create"),
    (r"GET /v1/batches", "every"),
    (r"GET /v1/batches/(\w+)", "retrieve"),
    (r"POST /v1/batches/(\w+)/cancel", "cancel"),
    (r"GET /v1/files/(out|err)-(\w+)/content", "content"),
    (r"DELETE /v1/files/([\w-]+)", "drop_file"),
    (r"GET /v1/messages/batches", "claudes"),
    (r"GET /v1/messages/batches/(\w+)", "claude"),
    (r"POST /v1/messages/batches/(\w+)/cancel", "cancel_claude"),
    (r"GET /v1/messages/batches/(\w+)/results", "results"),
    (r"DELETE /v1/messages/batches/(\w+)", "drop_claude"),
)


@contextmanager
def batch_provider() -> Iterator[BatchProvider]:
    told = BatchProvider()
    handler = type("Handler", (_Handler,), {"told": told})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        told.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
