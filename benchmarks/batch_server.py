"""A provider of OpenAI's batches that answers at once, in a process of its own: what it does costs us nothing.

Run with a port; keeps uploads in memory, and makes the file of answers while it is read.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FILES: dict[str, bytes] = {}
BODY = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "refund"}}
        ],
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
    }
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/files":
            FILES["in"] = body.partition(b"\r\n\r\n{")[2].rpartition(b"\n\r\n--")[0]
            self._send(
                b'{"id":"in","object":"file","bytes":1,"created_at":1,"filename":"f","purpose":"batch"}'
            )
        else:
            self._send(self._batch())

    def do_GET(self) -> None:
        self._send(self._answers() if self.path.endswith("/content") else self._batch())

    def do_DELETE(self) -> None:
        self._send(b'{"id":"in","object":"file","deleted":true}')

    @staticmethod
    def _batch() -> bytes:
        row: dict[str, Any] = {
            "id": "batch_1", "object": "batch", "endpoint": "/v1/chat/completions", "input_file_id": "in",
            "completion_window": "24h", "status": "completed", "created_at": 1, "output_file_id": "out",
        }  # fmt: skip
        return json.dumps(row).encode()

    @staticmethod
    def _answers() -> bytes:
        rows = []
        for line in FILES["in"].split(b"\n"):
            custom_id = line.partition(b'"custom_id":"')[2].partition(b'"')[0].decode()
            rows.append(
                f'{{"custom_id":"{custom_id}","response":{{"status_code":200,"body":{BODY}}},"error":null}}\n'
            )
        return "".join(rows).encode()

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
