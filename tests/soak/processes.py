"""The processes of a run: a Redis that may be killed, the provider, and a fleet whose dead are started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.embedded import find_server

ROOT = Path(__file__).resolve().parents[2]
READY_S = 30.0
RESTART_S = 0.3


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def quick_client(port: int) -> redis.Redis:
    """Straight to the server, past the proxy; it fails at once."""
    return redis.Redis(port=port, socket_timeout=5.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0))


class Process:
    """A command in a process group of its own, its words in a file."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self.name, self.command, self.env = name, command, env
        self.log = folder / f"{name}.log"
        self.running: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self.stopped = False
        self.due = 0.0

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                self.command, env=self.env, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def signal(self, number: int) -> None:
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.running.pid, number)

    def end(self, timeout_s: float = 20.0) -> None:
        """Asked to drain, then killed."""
        if self.running is None or self.running.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.running.wait(timeout_s)
        self.signal(signal.SIGKILL)
        self.running.wait()


class RedisServer:
    """``appendfsync always``: what Redis has acknowledged is on disk, so that killing it loses nothing.

    With ``everysec`` a kill may lose what is not yet written while an fsync is under way, which the product's promises
    allow and this check does not.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            "loglevel": "warning",
        }
        command = [
            str(find_server()),
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]
        self.process = Process("redis", command, folder, {"LC_ALL": "C"})
        self.client = quick_client(self.port)

    def start(self) -> None:
        self.process.start()
        until = time.monotonic() + READY_S
        while True:
            try:
                self.client.ping()
                return
            except redis.RedisError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def end(self) -> None:
        self.client.close()
        self.process.end(5)

    def sleep(self, seconds: float) -> None:
        """Its one thread sleeps, and answers nobody."""
        ask: Any = self.client.execute_command
        ask("DEBUG", "SLEEP", f"{seconds:.2f}")

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)
        assert self.process.running is not None
        self.process.running.wait()


class Fleet:
    """Starts what has died, a little later, as an operator's supervisor would."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)

    def add(self, process: Process) -> None:
        self.processes[process.name] = process

    def start(self) -> None:
        for process in self.processes.values():
            process.start()
        self._thread.start()

    def _watch(self) -> None:
        while not self._closing.wait(0.1):
            for process in self.processes.values():
                if process.running is None or process.running.poll() is None:
                    continue
                process.signal(signal.SIGKILL)  # what a dead leader left behind
                if not process.due:
                    process.due = time.monotonic() + RESTART_S
                elif time.monotonic() >= process.due:
                    process.due = 0.0
                    process.start()

    def end(self) -> None:
        self._closing.set()
        self._thread.join(5)
        for process in self.processes.values():
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        for process in self.processes.values():
            process.end()


def fleet_process(name: str, module: str, folder: Path, redis_url: str, *, threads: int) -> Process:
    command = [sys.executable, "-m", "dramatiq", module, "--processes", "1", "--threads", str(threads)]
    own = {key: value for key, value in os.environ.items() if not key.startswith("LANEWAY_")}
    env = own | {
        "LANEWAY_REDIS_URL": redis_url,
        "LANEWAY_CONFIG": str(folder / "laneway.toml"),
        "PYTHONPATH": str(ROOT),
    }
    return Process(name, command, folder / "logs", env)


def provider_process(folder: Path, port: int, seed: int) -> Process:
    command = [
        sys.executable, "-m", "tests.soak.provider",
        "--port", str(port), "--folder", str(folder), "--seed", str(seed),
    ]  # fmt: skip
    return Process("provider", command, folder / "logs", os.environ | {"PYTHONPATH": str(ROOT)})


def wait_for_port(port: int) -> None:
    until = time.monotonic() + READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
