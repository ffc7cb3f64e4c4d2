"""Finding, starting and stopping a node's llama.cpp processes.

One process a model file and parameters, in its own session, so that it survives the worker that started it. In the
node's ``engines`` folder it has four files of one stem: ``.json`` (port and key: how the next worker finds it),
``.alive`` (its pid, locked by it for its life, so that a stale pid is never taken for it), ``.users`` (locked, shared,
by each worker that uses it) and ``.log``. A fifth, ``.start``, is locked while somebody looks or starts.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from broker.errors import EngineUnavailable

SCRIPT = Path(__file__).with_name("llamacpp_process.py")
IDLE_S = 600.0
START_S = 120.0
ANSWER_S = 8.0
STOP_S = 3.0
POLL_S = 0.02
LOG_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a lane wants served. ``slots`` is how many calls run side by side where this lane is the one that starts it;
    the other fields make the process what it is."""

    model_path: str
    model: str
    context_tokens: int
    cpu_threads: int
    slots: int

    def stem(self) -> str:
        """The name of this process's files: the same for every lane that can share it."""
        file = os.stat(self.model_path)
        parts = (self.model_path, file.st_size, file.st_mtime_ns, self.context_tokens, self.cpu_threads)
        digest = hashlib.sha256(repr((*parts, version("xllamacpp"))).encode()).hexdigest()
        return f"llamacpp-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Served:
    """A process that answers. ``users`` is the descriptor of this worker's hold on it; close it to let go."""

    pid: int
    port: int
    key: str
    model: str
    revision: str
    users: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


def attach(wanted: Wanted, folder: Path, *, idle_s: float = IDLE_S) -> Served:
    """The running process that serves this, started or replaced where none answers. Raises EngineUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{wanted.stem()}.json"
    users = os.open(state.with_suffix(".users"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        with _locked(state.with_suffix(".start")):
            told = _told(state)
            if told is None or not _lives(state) or not _answers(told):
                _end(state)
                told = _start(wanted, state, idle_s)
            return Served(told["pid"], told["port"], told["key"], told["model"], _quantisation(told), users)
    except BaseException:
        os.close(users)
        raise


def stop_all(var: Path) -> int:
    """End every engine process of this node and say how many there were."""
    states = sorted((var / "engines").glob("llamacpp-*.alive"))
    return sum(_end(alive.with_suffix(".json")) for alive in states)


def _start(wanted: Wanted, state: Path, idle_s: float) -> dict[str, Any]:
    order = asdict(wanted) | {"state": str(state), "key": secrets.token_urlsafe(24), "idle_s": idle_s}
    with state.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(order).encode())
    # Reaped whenever it ends: a child that nobody waits for stays a zombie for as long as this worker lives.
    threading.Thread(target=process.wait, name="laneway-llamacpp-reaper", daemon=True).start()
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        told = _told(state)
        if told is not None and told["pid"] == process.pid and _chats(told):
            return told
        if process.poll() is not None:
            raise _unavailable(f"llama.cpp ended with code {process.returncode} at its start", state)
        time.sleep(POLL_S)
    _end(state)
    raise _unavailable(f"llama.cpp answered nothing within {START_S:g} s", state)


def _unavailable(what: str, state: Path) -> EngineUnavailable:
    log = state.with_suffix(".log")
    tail = log.read_bytes()[-LOG_TAIL:].decode(errors="replace").strip()
    return EngineUnavailable(
        f"{what}; the end of {log}:\n{tail}", mend="mend what the log names, then start again"
    )


def _end(state: Path) -> bool:
    """End the process of this state file. False where it did not run any more."""
    lived = _lives(state)
    for number in (signal.SIGTERM, signal.SIGKILL) if lived else ():
        with suppress(ProcessLookupError):
            os.kill(int(state.with_suffix(".alive").read_text()), number)
        if _ended(state):
            break
    state.unlink(missing_ok=True)
    return lived


def _ended(state: Path) -> bool:
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        if not _lives(state):
            return True
        time.sleep(POLL_S)
    return False


def _lives(state: Path) -> bool:
    """Whether a process holds the ``alive`` lock of this state file."""
    descriptor = os.open(state.with_suffix(".alive"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _told(state: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return told


def _answers(told: dict[str, Any]) -> bool:
    """Whether a process that runs also works. With a slot free that is a token; with none free, a turning main loop."""
    status, slots = _http(told, "GET", "/slots")
    if status != 200:
        return False
    return all(slot["is_processing"] for slot in slots) or _chats(told)


def _chats(told: dict[str, Any]) -> bool:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    return _http(told, "POST", "/v1/chat/completions", body)[0] == 200


def _quantisation(told: dict[str, Any]) -> str:
    status, models = _http(told, "GET", "/v1/models")
    return str(models["data"][0]["meta"].get("ftype", "")) if status == 200 else ""


def _http(told: dict[str, Any], method: str, path: str, body: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=ANSWER_S)
    headers = {"Authorization": f"Bearer {told['key']}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return 0, None
    finally:
        connection.close()
