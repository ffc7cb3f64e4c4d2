"""``python -P …/vllm_inside.py MODULE FLAGS…``: runs a module of vLLM's inside the environment that has vLLM.

That environment need not be ours and need not have anything of ours, so this file is run by its path and imports the
standard library only (``-P``, as a module named ``openai`` lies beside it). A line on standard input is what does not
belong on a command line: further environment, with the key, as JSON. It stays open for as long as the parent lives.
"""

from __future__ import annotations

import hmac
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

KEY = "VLLM_API_KEY"
GRACE_S = 2.0

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class KeyOnEveryPath:
    """ASGI middleware. vLLM by itself asks for its key under ``/v1`` only, and takes prompts under ``/invocations``."""

    expected = b""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            kind = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": kind})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _has_key(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, self.expected)


def end_with_parent() -> None:
    """Wait for the end of standard input, which comes however the parent ends, then end all that was started here.

    Killed alone, a vLLM server leaves the processes behind that hold its model; told to stop while it starts, it may
    start all the same.
    """
    os.read(0, 1)  # the buffered reader would hold a lock over it, and with that the interpreter's own end
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    environment = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_parent, name="laneway-parent", daemon=True).start()
    os.environ.update(environment)
    KeyOnEveryPath.expected = f"Bearer {environment.get(KEY, '')}".encode()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
