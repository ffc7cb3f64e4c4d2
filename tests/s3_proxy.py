"""An HTTP proxy before an S3 server that fails as networks and busy stores do, by a script."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

When = Literal["before", "after"]
Kind = Literal[
    "refused",
    "half sent",
    "reply lost",
    "reply cut",
    "silent",
    "busy",
    "broken",
    "conflict",
    "moved",
    "no store",
    "lie",
    "before",
    "after",
]
RESET = struct.pack("ii", 1, 0)  # linger on, for no time: closing sends a reset
LIE = b'<CompleteMultipartUploadResult><ETag>"a-lie"</ETag></CompleteMultipartUploadResult>'
_ANSWERS = {
    "busy": (503, "SlowDown"),
    "broken": (500, "InternalError"),
    "conflict": (409, "ConditionalRequestConflict"),
    "moved": (302, "Found"),
    "no store": (200, ""),
}


@dataclass(slots=True)
class Fault:
    """What happens to requests of this method ("" for any) whose path holds the text: to ``times`` after ``skip``.

    refused: the connection is reset at once; half sent: in the middle of the body; reply lost: after the server has
    done it; reply cut: in the middle of what it sends; silent: nothing comes back until the proxy ends; busy, broken,
    conflict, moved, no store: 503, 500, 409, 302, 200 and nothing else; lie: a refused condition is answered as if it
    held; before, after: ``deed`` is done, then the request is carried out, or the other way round.
    """

    kind: Kind
    method: str
    path: str
    times: int = 1
    skip: int = 0
    deed: Callable[[], object] = lambda: None


@dataclass(slots=True)
class Proxy:
    port: int
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str, str]] = field(
        default_factory=list
    )  # method, path, and the fault or the status
    turn: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def fail(self, kind: Kind, method: str, path: str, times: int = 1, skip: int = 0) -> None:
        self.faults.append(Fault(kind, method, path, times, skip))

    def have(
        self, deed: Callable[[], object], when: When, method: str = "", path: str = "", skip: int = 0
    ) -> None:
        self.faults.append(Fault(when, method, path, 1, skip, deed))

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for one in self.seen if one[0] == method and path in one[1])

    def take(self, method: str, path: str) -> Fault | None:
        with self.turn:
            for fault in self.faults:
                if not fault.times or fault.method not in ("", method) or fault.path not in path:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                return fault
        return None


@contextmanager
def before(target: int) -> Iterator[Proxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    proxy = Proxy(server.server_address[1])
    server.RequestHandlerClass = _handler(proxy, target)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(proxy: Proxy, target: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            fault = proxy.take(self.command, self.path)
            kind = fault.kind if fault is not None else ""
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length // 2 if kind == "half sent" else length if kind != "refused" else 0)
            if kind in ("refused", "half sent"):
                self._reset(kind)
            elif kind == "silent":
                self._note(kind)
                proxy.ended.wait()
                self.close_connection = True
            elif kind in _ANSWERS:
                self._answer(kind)
            else:
                self._pass_on(body, fault)

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

        def _pass_on(self, body: bytes, fault: Fault | None) -> None:
            kind = fault.kind if fault is not None else ""
            if fault is not None and kind == "before":
                fault.deed()
            connection = HTTPConnection("127.0.0.1", target)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            data = reply.read()
            connection.close()
            if fault is not None and kind == "after":
                fault.deed()
            if kind == "reply lost":
                self._reset(kind)
            elif kind == "lie" and reply.status == 412:
                self._note(kind)
                self.send_response(200)
                self.send_header("ETag", '"a-lie"')
                self.send_header("Content-Length", str(len(LIE)))
                self.end_headers()
                self.wfile.write(LIE)
            else:
                self._reply(reply, data, cut=kind == "reply cut")

        def _reply(self, reply: HTTPResponse, data: bytes, *, cut: bool) -> None:
            self._note("reply cut" if cut else str(reply.status))
            self.send_response_only(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = reply.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            if cut:
                self._hang_up()

        def _answer(self, kind: str) -> None:
            self._note(kind)
            status, code = _ANSWERS[kind]
            error = f"<Error><Code>{code}</Code><Message>not now</Message></Error>"
            data = error.encode() if code else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else data)

        def _reset(self, kind: str) -> None:
            self._note(kind)
            self._hang_up()

        def _hang_up(self) -> None:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True
            self.connection.close()

        def _note(self, what: str) -> None:
            proxy.seen.append((self.command, self.path, what))

        def log_message(self, format: str, *args: object) -> None:
            """Said in ``proxy.seen``."""

    return Handler
