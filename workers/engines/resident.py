"""What every engine process does beside its model: hold its lock, say where it serves, and end when nobody uses it.

The worker's side of this is in ``launcher.py``. Standard library only: an engine's process carries nothing of ours that
it does not need.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECK_S = 0.5


def live(
    serve: Callable[[dict[str, Any]], tuple[int, str]], stopped: Callable[[], None] = lambda: None
) -> None:
    """The life of an engine process. Reads its order as JSON on standard input; ``serve`` starts the model behind an
    OpenAI-compatible door on loopback and gives its port and the model's revision ("" where it is not known). Ends by
    SIGTERM, or when no worker has held the ``users`` lock for the order's ``idle_s`` seconds; then calls ``stopped``.
    """
    order = json.load(sys.stdin)
    state = Path(order["state"])
    _hold(state.with_suffix(".alive"))
    users = os.open(state.with_suffix(".users"), os.O_CREAT | os.O_RDWR, 0o600)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    port, revision = serve(order)
    _announce(state, order, port, revision)
    _wait_until_unused(users, order["idle_s"], stop)
    with contextlib.suppress(FileNotFoundError):
        state.unlink()
    stopped()


def _announce(state: Path, order: dict[str, Any], port: int, revision: str) -> None:
    told = {
        "pid": os.getpid(),
        "port": port,
        "key": order["key"],
        "model": order["model"],
        "revision": revision,
    }
    draft = state.with_suffix(f".{os.getpid()}.tmp")
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(told), encoding="utf-8")
    draft.rename(state)


def _hold(alive: Path) -> None:
    """Lock ``alive`` for the life of this process, with our pid in it."""
    descriptor = os.open(alive, os.O_CREAT | os.O_RDWR, 0o600)
    for _ in range(100):  # somebody may just be asking whether it is locked
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return
        time.sleep(0.02)
    sys.exit(f"{alive} is locked by process {alive.read_text() or 'unknown'}")


def _wait_until_unused(users: int, idle_s: float, stop: threading.Event) -> None:
    """Each worker holds ``users`` shared, and the kernel lets go of it for a worker that died."""
    unused_s = 0.0
    while not stop.wait(CHECK_S):
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            unused_s = 0.0
            continue
        unused_s += CHECK_S
        if unused_s >= idle_s:
            return  # still locked: whoever comes now waits until we are gone
        fcntl.flock(users, fcntl.LOCK_UN)
