"""Real processes under the supervisor: killed, drained, deaf to their signal, and left behind by a dead supervisor."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from broker.errors import LanewayError
from laneway import guard
from laneway.supervisor import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    Claim,
    Supervisor,
    log_files,
    on_signals,
    pause_s,
)
from tests.awaited import eventually

ROOT = Path(__file__).parents[2]
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("draining", flush=True), time.sleep(0.3), sys.exit(0)))
print("ready for action", flush=True)
while True: time.sleep(0.05)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready for action", flush=True)
while True: time.sleep(0.05)
"""
PARENT = f"""
import subprocess, sys, time
print("child", subprocess.Popen([sys.executable, "-c", {DEAF!r}]).pid, flush=True)
time.sleep(60)
"""
SUPERVISE = """
import json, os, sys, time
from pathlib import Path
from laneway.supervisor import Claim, Supervisor
claim = Claim(Path(sys.argv[1]))
order = json.loads(sys.argv[2])
said = lambda name, line: print(name, line, flush=True)
supervisor = Supervisor(order, claim=claim, env=os.environ, say=said, ready_line="ready for action", drain_s=1)
supervisor.start()
while supervisor.ready() != set(order): time.sleep(0.02)
print("pids", json.dumps(supervisor.pids()), flush=True)
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def lives(pid: int) -> bool:
    """Zombies that nobody waits for do not count."""
    state = subprocess.run(
        ["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


class Run:
    """A supervisor with everything that it said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[tuple[str, str]] = []
        self.supervisors: list[Supervisor] = []
        self.claim = Claim(folder)

    def start(self, processes: Mapping[str, Sequence[str]], drain_s: float = 10.0) -> Supervisor:
        supervisor = Supervisor(
            processes,
            claim=self.claim,
            env=os.environ,
            say=lambda name, line: self.lines.append((name, line)),
            drain_s=drain_s,
            ready_line="ready for action",
        )
        self.supervisors.append(supervisor)
        supervisor.start()
        return supervisor

    def said(self, text: str) -> bool:
        return any(text in line for _, line in self.lines)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run(tmp_path / "fleet")
    yield run
    for supervisor in run.supervisors:
        supervisor.kill()
        supervisor.stop()
    run.claim.release()
    assert guard.alive(run.folder) == {}


def test_the_pause_doubles_up_to_a_limit() -> None:
    pauses = [pause_s(ends) for ends in range(1, 40)]

    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_output_is_passed_on_line_by_line_with_its_process_name(run: Run) -> None:
    run.start({"a": python("print('one\\ntwo', end='')"), "b": python(POLITE)})

    eventually(lambda: ("a", "two") in run.lines and ("b", "ready for action") in run.lines)
    assert ("a", "one") in run.lines


def test_a_process_killed_by_force_is_started_again(run: Run) -> None:
    supervisor = run.start({"a": python(POLITE), "b": python(POLITE)})
    eventually(lambda: supervisor.ready() == {"a", "b"})
    first = supervisor.pids()

    os.kill(first["a"], signal.SIGKILL)

    eventually(lambda: supervisor.pids().get("a") not in (None, first["a"]))
    eventually(lambda: supervisor.ready() == {"a", "b"})
    assert supervisor.pids()["b"] == first["b"]
    assert run.said("a ended (SIGKILL)")


def test_what_a_dead_process_left_behind_is_ended_before_its_next_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laneway.supervisor.ORPHANS_S", 0.3)
    supervisor = run.start({"a": python(PARENT)})
    eventually(lambda: run.said("child ") and run.said("ready for action"))
    orphan = int(next(line for _, line in run.lines if line.startswith("child ")).split()[1])

    os.kill(supervisor.pids()["a"], signal.SIGKILL)

    eventually(lambda: sum(line.startswith("child ") for _, line in run.lines) == 2)
    assert not lives(orphan)


def test_stopping_drains(run: Run) -> None:
    supervisor = run.start({"a": python(POLITE), "b": python(POLITE)})
    eventually(lambda: supervisor.ready() == {"a", "b"})
    pids = supervisor.pids().values()

    supervisor.stop()

    assert [line for _, line in run.lines].count("draining") == 2
    assert not any(lives(pid) for pid in pids)
    assert not supervisor.running()


def test_what_does_not_end_in_time_is_killed_and_named(run: Run) -> None:
    supervisor = run.start({"a": python(DEAF), "b": python(POLITE)}, drain_s=0.7)
    eventually(lambda: supervisor.ready() == {"a", "b"})
    pid = supervisor.pids()["a"]

    supervisor.stop()

    assert run.said("a has not ended within 0.7 s and is killed")
    assert not run.said("b has not ended")
    assert not lives(pid)


def test_the_first_signal_asks_and_the_second_kills_at_once(run: Run) -> None:
    supervisor = run.start({"a": python(DEAF)}, drain_s=60)
    eventually(lambda: supervisor.ready() == {"a"})
    asked = threading.Event()
    started = time.monotonic()

    with on_signals(asked.set, supervisor.kill):
        os.kill(os.getpid(), signal.SIGINT)
        eventually(asked.is_set)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        supervisor.stop()

    assert 0.3 <= time.monotonic() - started < 10
    assert not run.said("has not ended within")


def test_one_that_never_stays_up_is_reported_with_its_last_words_and_tried_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laneway.supervisor.FIRST_PAUSE_S", 0.01)
    supervisor = run.start({"a": python("import sys; sys.exit('lane a has no key')")})

    eventually(lambda: run.said("a does not stay up: 4 ends in a row"))
    eventually(lambda: sum(line == "lane a has no key" for _, line in run.lines) >= 6)

    assert supervisor.failing() == {"a": "lane a has no key"}
    assert ("laneway", "    lane a has no key") in run.lines


def test_a_command_that_is_not_there_is_said(run: Run) -> None:
    run.start({"a": ["no-such-program-here"]})

    eventually(lambda: run.said("a cannot be started: "))


def test_log_files_hold_the_lines_of_each_process(tmp_path: Path) -> None:
    say = log_files(tmp_path / "log")

    say("a", "one")
    say("a", "two")
    say("b", "three")

    assert (tmp_path / "log" / "a.log").read_text() == "one\ntwo\n"
    assert (tmp_path / "log" / "b.log").read_text() == "three\n"


def supervise(
    folder: Path, processes: Mapping[str, Sequence[str]]
) -> tuple[subprocess.Popen[str], dict[str, int]]:
    """A supervisor in a process of its own, once all of its processes are ready, and their pids."""
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(folder), json.dumps(processes)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        if line.startswith("pids "):
            return process, json.loads(line.removeprefix("pids "))
        told.append(line)
    raise AssertionError(f"the supervisor ended with {process.wait()} after {told}")


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_supervisor_killed_by_force_leaves_nobody_behind(tmp_path: Path) -> None:
    process, pids = supervise(tmp_path, {"a": python(POLITE), "b": python(DEAF)})

    killed(process)

    eventually(lambda: not any(lives(pid) for pid in pids.values()))


def test_a_folder_is_for_one_fleet_and_free_again_after_a_crash(tmp_path: Path) -> None:
    process, pids = supervise(tmp_path, {"a": python(POLITE)})
    with pytest.raises(LanewayError, match=f"already \\(process {process.pid}\\)"):
        Claim(tmp_path)

    killed(process)

    claim = Claim(tmp_path)  # waits for the guard
    assert claim.crashed
    assert not lives(pids["a"])
    claim.release()
    after = Claim(tmp_path)
    assert not after.crashed
    after.release()


def test_leftovers_are_ended_at_the_next_start_even_when_the_guard_died_too(tmp_path: Path) -> None:
    process, pids = supervise(tmp_path, {"a": python(POLITE), "b": python(DEAF)})
    guards = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "guard"], capture_output=True, text=True)
    os.kill(int(guards.stdout), signal.SIGKILL)
    killed(process)
    assert all(lives(pid) for pid in pids.values())

    claim = Claim(tmp_path, drain_s=1)

    assert claim.leftovers == ["a", "b"]
    assert not any(lives(pid) for pid in pids.values())
    claim.release()
