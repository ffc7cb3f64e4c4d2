"""Keeps a set of processes running: starts them, passes their output on, starts again what dies, and drains them.

One thread does all of it. Each process leads a process group of its own, so that Ctrl-C in the terminal reaches the
supervisor alone, and so that whatever a dead process leaves behind can be ended too.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from broker.errors import LanewayError
from laneway import guard
from laneway.guard import signal_group

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_S = 20.0
#: Ends in a row, each soon after a start, before we speak of a fault that a restart does not mend.
HOPELESS = 4
ORPHANS_S = 5.0
POLL_S = 0.1
TAIL_LINES = 8
LONGEST_LINE = 64 * 1024
OURS = "laneway"

#: Called with a process's name, or ``laneway`` for the supervisor's own words, and one line.
Say = Callable[[str, str], None]


def pause_s(quick_ends: int) -> float:
    """How long to wait before the next start, after that many ends in a row that each came soon after a start."""
    return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(quick_ends - 1, 16)))


class Claim:
    """The right to run a fleet in a folder, for one process at a time.

    ``crashed``: the fleet before this one did not end in good order. ``leftovers`` are processes of it that were still
    running and were ended now.
    """

    def __init__(self, folder: Path, *, drain_s: float = 10.0) -> None:
        """Raises LanewayError where a fleet runs in this folder."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._file = (folder / "lock").open("a+b")
        try:
            self._take(time.monotonic() + drain_s + guard.KILLED_S)
        except BaseException:
            self._file.close()
            raise
        self.crashed = bool(self._read())
        self.leftovers = guard.end_all(folder, drain_s)
        self._write(str(os.getpid()))

    def release(self) -> None:
        """In good order: nothing of the fleet runs any more."""
        if not self._file.closed:
            self._write("")
            self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def _take(self, deadline: float) -> None:
        while True:
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = self._read()
                if pid and (_runs(int(pid)) or time.monotonic() > deadline):
                    raise LanewayError(
                        f"a fleet runs in {self.folder.parent} already (process {pid})",
                        mend=f"end it with Ctrl-C or `kill {pid}`, or give this one a folder of its own in"
                        " LANEWAY_FLEET__VAR",
                    ) from None
                time.sleep(POLL_S)  # its supervisor was killed, and its guard is cleaning up

    def _read(self) -> str:
        self._file.seek(0)
        return self._file.read().decode()

    def _write(self, text: str) -> None:
        self._file.truncate(0)
        self._file.write(text.encode())
        self._file.flush()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(slots=True)
class _Child:
    """One line of the Procfile over all its lives."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0
    due: float = 0.0
    quick_ends: int = 0
    orphans: int = 0
    orphans_until: float = 0.0
    ready: bool = False
    last_words: str = ""
    unread: bytes = b""
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))


class Supervisor:
    """``start``, then ``stop`` or ``kill``; ``ready`` and ``failing`` tell how it goes. Thread-safe."""

    def __init__(
        self,
        processes: Mapping[str, Sequence[str]],
        *,
        claim: Claim,
        env: Mapping[str, str],
        say: Say,
        drain_s: float = 30.0,
        ready_line: str = "",
    ) -> None:
        """``ready_line`` is a piece of the line by which a process says that it works now."""
        self.drain_s = drain_s
        self._children = {name: _Child(name, command) for name, command in processes.items()}
        self._claim = claim
        self._env = dict(env)
        self._say = say
        self._ready_line = ready_line
        self._selector = selectors.DefaultSelector()
        self._stop_asked = threading.Event()
        self._kill_asked = threading.Event()
        self._kill_at: float | None = None
        self._killed = False
        self._guard: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-P", guard.__file__, str(self._claim.folder), str(self.drain_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[self._claim.fileno()],
            start_new_session=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Ask all of them to end, and wait until they have; what takes longer than ``drain_s`` seconds is killed."""
        self._stop_asked.set()
        while self._thread.is_alive():  # in steps, so that a signal's handler gets its turn
            self._thread.join(POLL_S)
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()

    def kill(self) -> None:
        """End all of them at once. Returns before they have; ``stop`` waits."""
        self._kill_asked.set()
        self._stop_asked.set()

    def ready(self) -> frozenset[str]:
        return frozenset(child.name for child in self._children.values() if child.ready)

    def failing(self) -> dict[str, str]:
        """Those that ended soon after their last start and do not work now, with the last thing that each said."""
        return {
            child.name: child.last_words
            for child in self._children.values()
            if child.quick_ends and not child.ready
        }

    def running(self) -> bool:
        """False once all have ended, and where the supervisor itself failed."""
        return self._thread.is_alive()

    def pids(self) -> dict[str, int]:
        return {
            child.name: child.process.pid for child in self._children.values() if child.process is not None
        }

    # What follows runs on the supervisor's thread alone.

    def _run(self) -> None:
        try:
            while self._living() or not self._stop_asked.is_set():
                self._round(time.monotonic())
        finally:
            # Some live only where a round failed: better no fleet than one that nobody tends.
            for child in self._living():
                signal_group(child.process.pid if child.process else child.orphans, signal.SIGKILL)
            self._selector.close()

    def _round(self, now: float) -> None:
        if self._stop_asked.is_set():
            self._end_all(now)
        for child in self._children.values():
            self._tend(child, now)
        for key, _ in self._selector.select(POLL_S):
            self._read(key.data)
        if not self._selector.get_map():  # with nothing to watch, a selector may not wait
            time.sleep(POLL_S)

    def _tend(self, child: _Child, now: float) -> None:
        if child.process is not None:
            if child.process.poll() is not None:
                self._ended(child, child.process, now)
        elif child.orphans:
            self._end_orphans(child, now)
        elif now >= child.due and not self._stop_asked.is_set():
            self._begin(child, now)

    def _begin(self, child: _Child, now: float) -> None:
        child.born, child.ready, child.unread = now, False, b""
        child.tail.clear()
        try:
            child.process = self._spawn(child)
        except OSError as error:
            child.tail.append(str(error))
            self._again(child, f"cannot be started: {error}", now)
            return
        assert child.process.stdout is not None
        os.set_blocking(child.process.stdout.fileno(), False)
        self._selector.register(child.process.stdout, selectors.EVENT_READ, child)

    def _spawn(self, child: _Child) -> subprocess.Popen[bytes]:
        with (self._claim.folder / f"{child.name}.alive").open("ab") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alive.truncate(0)
            process = subprocess.Popen(
                child.command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=[alive.fileno()],
            )
            alive.write(str(process.pid).encode())
        return process

    def _read(self, child: _Child) -> None:
        process = child.process
        assert process is not None
        assert process.stdout is not None
        chunk = os.read(process.stdout.fileno(), LONGEST_LINE)
        if not chunk:
            self._selector.unregister(process.stdout)
        *lines, child.unread = (child.unread + chunk).split(b"\n")
        if child.unread and (not chunk or len(child.unread) > LONGEST_LINE):
            lines.append(child.unread)
            child.unread = b""
        for line in lines:
            self._heard(child, line.decode(errors="replace").rstrip())

    def _heard(self, child: _Child, line: str) -> None:
        if line:
            child.tail.append(line)
        if self._ready_line and self._ready_line in line:
            child.ready = True
        self._say(child.name, line)

    def _ended(self, child: _Child, process: subprocess.Popen[bytes], now: float) -> None:
        """Its leader is reaped; whoever it left behind in its group goes next."""
        assert process.stdout is not None
        self._read_rest(child, process.stdout)
        process.stdout.close()
        child.process, child.ready = None, False
        if signal_group(process.pid, signal.SIGTERM):
            child.orphans, child.orphans_until = process.pid, now + ORPHANS_S
        if not self._stop_asked.is_set():
            self._again(child, f"ended ({_how(process.returncode)})", now)

    def _read_rest(self, child: _Child, output: IO[bytes]) -> None:
        try:
            while output in self._selector.get_map():
                self._read(child)
        except BlockingIOError:  # what it left behind still holds the other end
            self._selector.unregister(output)
        if child.unread:
            self._heard(child, child.unread.decode(errors="replace"))

    def _again(self, child: _Child, what: str, now: float) -> None:
        lived_s = now - child.born
        child.quick_ends = 1 if lived_s >= HEALTHY_S else child.quick_ends + 1
        child.last_words = child.tail[-1] if child.tail else what
        wait_s = pause_s(child.quick_ends)
        child.due = now + wait_s
        self._say(OURS, f"{child.name} {what} after {lived_s:.1f} s; starting it again in {wait_s:g} s")
        if child.quick_ends == HOPELESS:
            self._say(OURS, f"{child.name} does not stay up: {HOPELESS} ends in a row. Its last words:")
            for line in child.tail:
                self._say(OURS, f"    {line}")
            self._say(OURS, f"{child.name} is tried again every {LONGEST_PAUSE_S:g} s until that is mended")

    def _end_orphans(self, child: _Child, now: float) -> None:
        """They were asked; whoever is still there when their time is over is killed. No new start before."""
        if now < child.orphans_until and signal_group(child.orphans, 0):
            return
        signal_group(child.orphans, signal.SIGKILL)
        if child.name not in guard.alive(self._claim.folder):
            child.orphans = 0

    def _end_all(self, now: float) -> None:
        """Ask once; kill once when the time is over or somebody wants it now."""
        if self._kill_at is None:
            self._kill_at = now + self.drain_s
            for child in self._living():
                if child.process is not None:
                    child.process.terminate()
        late = now >= self._kill_at
        if self._killed or not (late or self._kill_asked.is_set()):
            return
        self._killed = True
        for child in self._living():
            if late:
                self._say(OURS, f"{child.name} has not ended within {self.drain_s:g} s and is killed")
            signal_group(child.process.pid if child.process else child.orphans, signal.SIGKILL)

    def _living(self) -> list[_Child]:
        return [child for child in self._children.values() if child.process is not None or child.orphans]


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"


@contextmanager
def on_signals(first: Callable[[], None], again: Callable[[], None]) -> Iterator[None]:
    """The first SIGINT, SIGTERM or SIGHUP calls ``first``, each later one ``again``. Main thread only."""
    calls = iter((first,))

    def handle(number: int, frame: object) -> None:
        next(calls, again)()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def log_files(folder: Path) -> Say:
    """Says into ``folder/<name>.log``, one file a process, appended to."""

    def say(name: str, line: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{name}.log").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    return say
