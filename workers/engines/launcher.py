"""Finding, starting and stopping a node's engine processes, whichever engine it is.

One process a model and parameters, in its own session, so that it survives the worker that started it. It serves an
OpenAI-compatible door on loopback behind a key of its own. In the node's ``engines`` folder it has four files of one
stem: ``.json`` (port and key: how the next worker finds it), ``.alive`` (its pid, locked by it for its life, so that a
stale pid is never taken for it), ``.users`` (locked, shared, by each worker that uses it) and ``.log``. A fifth,
``.start``, is locked while somebody looks or starts. The process's own side of this is in ``resident.py``.
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.errors import EngineUnavailable

IDLE_S = 600.0
ANSWER_S = 8.0
STOP_S = 3.0
POLL_S = 0.02
LOG_TAIL = 2000

#: Whether a door answers within some seconds.
Answers = Callable[["Door", float], bool]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a lane wants served: ``module`` is run as the process and reads ``order`` (plain JSON) on standard input.

    ``identity`` is what makes the process what it is: lanes of one engine and identity share one process, whoever
    starts it. ``environment`` is what it finds there beside the worker's own. ``start_s`` bounds its start. ``answers``
    says whether one that runs also works; by itself that is a token.
    """

    engine: str
    module: str
    model: str
    identity: tuple[object, ...]
    order: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 120.0
    answers: Answers = field(default=lambda door, within_s: door.chats(within_s))

    def command(self) -> list[str]:
        added = [f"{name}={value}" for name, value in self.environment.items()]
        return [*(["env", *added] if added else []), sys.executable, "-m", self.module]

    def stem(self) -> str:
        digest = hashlib.sha256(repr(self.identity).encode()).hexdigest()
        return f"{self.engine}-{digest[:12]}"


@dataclass(frozen=True, slots=True)
class Door:
    """Where a process of this node serves, as its state file says."""

    pid: int
    port: int
    key: str
    model: str
    revision: str = ""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def chats(self, timeout_s: float = ANSWER_S) -> bool:
        """Whether it makes a token."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
        }
        return self.http("POST", "/v1/chat/completions", body, timeout_s)[0] == 200

    def http(
        self, method: str, path: str, body: object = None, timeout_s: float = ANSWER_S
    ) -> tuple[int, Any]:
        """Status and JSON of the answer; 0 and None where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, None
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Served:
    """A process that answers. ``users`` is the descriptor of this worker's hold on it; close it to let go."""

    door: Door
    users: int


def attach(wanted: Wanted, folder: Path, *, idle_s: float = IDLE_S) -> Served:
    """The running process that serves this, started or replaced where none answers. Raises EngineUnavailable."""
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / f"{wanted.stem()}.json"
    users = os.open(state.with_suffix(".users"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(users, fcntl.LOCK_SH)
        with _locked(state.with_suffix(".start")):
            door = _told(state)
            if door is None or not _lives(state) or not wanted.answers(door, ANSWER_S):
                _end(state)
                door = _start(wanted, state, idle_s)
            return Served(door, users)
    except BaseException:
        os.close(users)
        raise


def stop_all(var: Path) -> int:
    """End every engine process of this node and say how many there were."""
    states = sorted((var / "engines").glob("*.alive"))
    return sum(_end(alive.with_suffix(".json")) for alive in states)


def _start(wanted: Wanted, state: Path, idle_s: float) -> Door:
    order = {
        **wanted.order,
        "model": wanted.model,
        "state": str(state),
        "key": secrets.token_urlsafe(24),
        "idle_s": idle_s,
    }
    with state.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            wanted.command(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(order).encode())
    # Reaped whenever it ends: a child that nobody waits for stays a zombie for as long as this worker lives.
    threading.Thread(target=process.wait, name="laneway-engine-reaper", daemon=True).start()
    until = time.monotonic() + wanted.start_s
    while time.monotonic() < until:
        door = _told(state)
        if door is not None and door.pid == process.pid and door.chats():
            return door
        if process.poll() is not None:
            raise _unavailable(f"{wanted.engine} ended with code {process.returncode} at its start", state)
        time.sleep(POLL_S)
    _end(state)
    raise _unavailable(f"{wanted.engine} answered nothing within {wanted.start_s:g} s", state)


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


def _told(state: Path) -> Door | None:
    """What the process says of itself; None where it says nothing, or nothing that this version can read."""
    try:
        told = json.loads(state.read_text(encoding="utf-8"))
        return Door(told["pid"], told["port"], told["key"], told["model"], told.get("revision", ""))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
