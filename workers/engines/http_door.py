"""A small HTTP door on loopback for an engine process: JSON in, JSON or server-sent events out, a key on every path.

A client that goes away is noticed at once: what was being done for it is cancelled.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

log = logging.getLogger(__name__)
HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 8 * 1024 * 1024
#: Connections that may arrive in one burst.
BACKLOG = 1024
END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Raises Refused."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, "invalid_json", f"a body that is no JSON: {error}") from error


class Refused(Exception):
    """An answer in OpenAI's form of an error. ``headers`` go along."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"error": {"message": message, "type": HTTPStatus(status).phrase, "code": code}}


class Reply:
    """One answer on its way out."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.begun = False

    def json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self._head(
            status, {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        )
        self._transport.write(data)

    def events(self) -> None:
        self._head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})

    def event(self, *bodies: Any) -> None:
        data = b"".join(b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies)
        self._chunk(data)

    def last_event(self) -> None:
        self._chunk(b"data: [DONE]\n\n")
        self._transport.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun = True
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        self._transport.write("\r\n".join(lines).encode() + END)


Answer = Callable[[Request, Reply], Awaitable[None]]


class _Connection(asyncio.Protocol):
    """Requests one after the other, each answered by a task that ends with the connection."""

    def __init__(self, answer: Answer, key: str) -> None:
        self._answer, self._key = answer, key
        self._data = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._next()

    def _next(self) -> None:
        if self._task is not None or self._transport is None:
            return
        try:
            request, self._data = _request(self._data)
        except Refused as refused:
            Reply(self._transport).json(refused.status, refused.body, {"Connection": "close"})
            self._transport.close()
            return
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._serve(request, Reply(self._transport)))
            self._task.add_done_callback(self._served)

    async def _serve(self, request: Request, reply: Reply) -> None:
        try:
            said = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(said.encode(), self._key.encode()):
                raise Refused(401, "invalid_api_key", "a wrong key, or none")
            await self._answer(request, reply)
        except Refused as refused:
            reply.json(refused.status, refused.body, refused.headers)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled() or self._transport is None:
            return
        if (error := task.exception()) is not None:
            log.error("a request failed", exc_info=error)
            self._transport.abort()
            return
        self._next()


def _request(data: bytes) -> tuple[Request | None, bytes]:
    """The first whole request, None where it is not whole yet, and the bytes behind it. Raises Refused."""
    head, found, rest = data.partition(END)
    if not found:
        if len(data) > HEAD_LIMIT:
            raise Refused(431, "headers_too_large", f"headers of more than {HEAD_LIMIT} bytes")
        return None, data
    try:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
    except ValueError as error:
        raise Refused(400, "bad_request", "a request that is no HTTP") from error
    if length < 0 or "transfer-encoding" in headers:
        raise Refused(411, "length_required", "a body needs its length")
    if length > BODY_LIMIT:
        raise Refused(413, "context_length_exceeded", f"a body of more than {BODY_LIMIT} bytes")
    if len(rest) < length:
        return None, data
    return Request(method, target.partition("?")[0], headers, rest[:length]), rest[length:]


class HttpDoor:
    """A door that is open from ``open()`` on, on an event loop and a thread of its own."""

    def __init__(self, answer: Answer, key: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._answer, self._key = answer, key
        self._thread = threading.Thread(target=self.loop.run_forever, name="door", daemon=True)
        self._server: asyncio.Server

    def open(self) -> int:
        """The port."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result()

    def close(self) -> None:
        """End it, and what is being done for whoever is in it."""
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _listen(self) -> int:
        self._server = await self.loop.create_server(
            lambda: _Connection(self._answer, self._key), "127.0.0.1", 0, backlog=BACKLOG
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
