"""A provider that we did not write: llmock as a process on a free port, and the door by which a test scripts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.awaited import eventually

SERVE = ("-c", "from llmock.cli import app; app()", "serve", "--log-level", "warning", "--port")


@contextmanager
def mock_provider(environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, *SERVE, str(port)]
    env = os.environ | dict(environment or {})
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=env) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: "pending" in control(url, "GET", "scenario"), 30)
            yield url
        finally:
            process.terminate()


def control(url: str, method: str, what: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/_llmock/{what}", data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.URLError:
        return {}


def script(url: str, *behaviors: Mapping[str, Any]) -> None:
    """What the next requests come to."""
    assert control(url, "POST", "scenario", {"behaviors": list(behaviors)})
