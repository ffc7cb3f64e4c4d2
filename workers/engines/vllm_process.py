"""``python -m workers.engines.vllm_process``: the process that answers for a vLLM server.

Started by ``launcher.py``. The server itself is a child in a process group of its own, run by whichever interpreter has
vLLM. Both end together: a server that died takes this process along, so that the next worker starts another.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, Any

from workers.engines.launcher import Door
from workers.engines.resident import live
from workers.engines.vllm_command import environment, serving

POLL_S = 0.1
TOKEN_S = 30.0
STOP_S = 2.0  # less than the launcher waits before it kills this process

_children: list[subprocess.Popen[bytes]] = []


def serve(order: dict[str, Any]) -> tuple[int, str]:
    port = _free_port()
    child = start(serving(order, port), environment(order))
    _children.append(child)
    door = Door(os.getpid(), port, order["key"], order["model"])
    while not door.chats(TOKEN_S):
        if child.poll() is not None:
            end(child)
            sys.exit(f"vLLM ended with code {child.returncode} at its start")
        time.sleep(POLL_S)
    threading.Thread(target=_end_after, args=(child,), name="laneway-vllm-end", daemon=True).start()
    return port, order["revision"]


def start(
    command: list[str], environment: dict[str, str], log: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """A command of ``vllm_command``, which ends when this process does. ``log`` None: our own output."""
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=None if log is None else subprocess.STDOUT,
        start_new_session=True,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(json.dumps(environment).encode() + b"\n")
        child.stdin.flush()
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    """End the child with all that it started, within twice ``STOP_S`` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        if _ended(child):
            break
    child.wait()
    assert child.stdin is not None
    child.stdin.close()


def _ended(child: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        try:
            child.poll()
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(POLL_S)
    return False


def _stopped() -> None:
    for child in _children:
        end(child)


def _end_after(child: subprocess.Popen[bytes]) -> None:
    child.wait()
    os.kill(os.getpid(), signal.SIGTERM)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


if __name__ == "__main__":
    live(serve, _stopped)
