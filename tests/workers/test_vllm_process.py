"""A vLLM server's life and an offline batch's, with a small program in vLLM's place: no vLLM is needed for either."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.call import Call
from broker.errors import CallCancelled, EngineConnectionLost, EngineTimeout, EngineUnavailable
from broker.settings.lanes import Lane
from tests.awaited import eventually
from workers.engines import launcher
from workers.engines.launcher import stop_all
from workers.engines.vllm import VllmEngine
from workers.engines.vllm_batch import run_batch

#: As vLLM's: a server whose model lives in a process of its own, which would outlive it.
SERVER = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

told = Path(os.environ["STAND_IN"])
core = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, lambda *_: (core.wait(), os._exit(0)))
(told / "pids").write_text(f"{os.getpid()} {core.pid}")
(told / "argv").write_text(" ".join(sys.argv))
if (told / "refuse").exists():
    sys.exit(3)
while (told / "wait").exists():
    time.sleep(0.02)
CHUNKS = (
    {"model": "m", "choices": [{"delta": {"content": "Hello."}, "finish_reason": "stop"}]},
    {"model": "m", "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
)

class Door(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = self.headers["authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        body = "".join(f"data: {json.dumps(chunk)}\\n\\n" for chunk in CHUNKS) + "data: [DONE]\\n\\n"
        self.send_response(200 if known else 401)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write((body if asked.get("stream") else "{}").encode())

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Door).serve_forever()
"""

BATCH = """
import json, os, sys, time
from pathlib import Path

told = Path(os.environ["STAND_IN"])
source, target = (Path(sys.argv[sys.argv.index(flag) + 1]) for flag in ("-i", "-o"))
lines = [json.loads(line) for line in source.read_text().splitlines()]
with (told / "runs").open("a") as runs:
    runs.write(f"{len(lines)}\\n")
if any(line["custom_id"] == "slow" for line in lines):
    (told / "slow").touch()
    time.sleep(600)
with target.open("w") as out:
    for line in lines:
        body = {"choices": [{"message": {"content": line["body"]["messages"][0]["content"].upper()}}]}
        answer = {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}
        match line["custom_id"]:
            case "die":
                out.write(json.dumps(answer)[:40])
                out.flush()
                print("(EngineCore pid=7) RuntimeError: about the prompt " + str(line["body"]), flush=True)
                os._exit(9)
            case "odd":
                answer["response"] = None
            case "garbage":
                out.write("no JSON at all\\n")
                continue
            case "long":
                error = {"error": {"message": "maximum context length", "code": 400}}
                answer |= {"response": {"status_code": 400, "body": None}, "error": error}
        out.write(json.dumps(answer) + "\\n")
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the program in vLLM's place is told through, and tells through. It is on its way to be imported."""
    package = tmp_path / "stand-in" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(SERVER)
    (package / "run_batch.py").write_text(BATCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return tmp_path


@pytest.fixture
def var(told: Path) -> Iterator[Path]:
    yield told / "node"
    stop_all(told / "node")


def lane() -> Lane:
    return Lane.model_validate({"engine": "vllm", "model": "m", "vllm": {"python": sys.executable}})


@pytest.fixture
def engine(told: Path, var: Path) -> Iterator[VllmEngine]:
    made = VllmEngine("gpu", lane(), var)
    yield made
    made.close()


def say(engine: VllmEngine, cancelled: Callable[[], bool] = lambda: False, **fields: Any) -> str:
    return engine.call(Call(({"role": "user", "content": "Hi"},), **fields), cancelled).text


def pids(told: Path) -> list[int]:
    return [int(pid) for pid in (told / "pids").read_text().split()]


def gone(pid: int) -> bool:
    """Ended, whether or not somebody has waited for it."""
    status = Path(f"/proc/{pid}/stat")
    try:
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    return False


def test_it_is_started_called_and_stopped_with_all_that_it_started(
    engine: VllmEngine, told: Path, var: Path
) -> None:
    engine.open()
    assert say(engine) == "Hello."
    engine.probe(5)
    server, core = pids(told)
    assert stop_all(var) == 1
    assert gone(server)
    assert gone(core)


def test_its_key_is_on_no_command_line(engine: VllmEngine, told: Path) -> None:
    engine.open()
    assert engine.hold.door is not None
    key = engine.hold.door.key.encode()
    assert key.decode() not in (told / "argv").read_text()
    running = Path("/proc")
    if running.exists():
        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (engine.hold.door.pid, *pids(told))]
        assert all(key not in line for line in lines)


def test_killed_it_takes_its_server_along(engine: VllmEngine, told: Path) -> None:
    engine.open()
    assert engine.hold.door is not None
    os.kill(engine.hold.door.pid, signal.SIGKILL)
    for pid in pids(told):
        eventually(lambda pid=pid: gone(pid))  # type: ignore[misc]


def test_a_dead_server_takes_it_along_and_the_next_call_gets_another(engine: VllmEngine, told: Path) -> None:
    engine.open()
    assert engine.hold.door is not None
    holder, (server, core) = engine.hold.door.pid, pids(told)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: gone(holder))
    eventually(lambda: gone(core))
    with pytest.raises(EngineConnectionLost):
        say(engine)
    assert say(engine) == "Hello."
    assert pids(told) != [server, core]


def test_a_frozen_server_is_replaced(engine: VllmEngine, told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "ANSWER_S", 0.5)
    engine.open()
    server, core = pids(told)
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(EngineUnavailable, match="vllm makes no token"):
        engine.probe(0.3)
    with pytest.raises(EngineTimeout):
        say(engine, timeout_s=0.3)
    assert say(engine) == "Hello."
    eventually(lambda: gone(server))
    eventually(lambda: gone(core))


def test_a_call_that_waits_for_a_new_server_can_be_broken_off(engine: VllmEngine, told: Path) -> None:
    engine.open()
    (told / "wait").touch()
    os.kill(pids(told)[0], signal.SIGKILL)
    with pytest.raises(EngineConnectionLost):
        say(engine)
    with pytest.raises(CallCancelled):
        say(engine, lambda: True)
    with pytest.raises(EngineTimeout, match=r"no engine within 0\.3 s"):
        say(engine, timeout_s=0.3)
    (told / "wait").unlink()
    assert say(engine) == "Hello."


def test_a_server_that_does_not_start_says_so_with_the_end_of_its_log(engine: VllmEngine, told: Path) -> None:
    (told / "refuse").touch()
    with pytest.raises(EngineUnavailable, match=r"vLLM ended with code 3 at its start(.|\n)*mend: "):
        engine.open()
    assert all(map(gone, pids(told)))


def test_a_python_without_vllm(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    engine = VllmEngine("gpu", lane(), var)
    with pytest.raises(EngineUnavailable, match="vllm"):
        engine.open()


# --- the offline batch


def line(custom_id: str, prompt: str = "hello", **body: Any) -> dict[str, Any]:
    messages = {"model": "m", "messages": [{"role": "user", "content": prompt}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": messages}


def answers(told: Path, lines: list[dict[str, Any]], **fields: Any) -> dict[Any, dict[str, Any]]:
    found = list(run_batch("bulk", lane(), lines, told / "bulk", **fields))
    assert len(found) == len(lines), "one line out for each line in"
    assert list((told / "bulk").iterdir()) == [], "no prompt is left lying about"
    return {one["custom_id"]: one for one in found}


def test_a_batch_answers_each_line(told: Path) -> None:
    found = answers(told, [line("a", "one"), line("b", "two")])
    assert found["a"]["response"]["body"]["choices"][0]["message"]["content"] == "ONE"
    assert found["b"]["response"]["body"]["choices"][0]["message"]["content"] == "TWO"
    assert (told / "runs").read_text() == "2\n"


def test_lines_that_are_none_are_not_sent(told: Path) -> None:
    bad = [
        line("a"),
        line(""),
        line("stream", stream=True),
        {"custom_id": "other", "method": "POST", "url": "/v1/embeddings", "body": {}},
        {"custom_id": "bare", "method": "POST", "url": "/v1/chat/completions"},
    ]
    found = answers(told, [line("a"), *bad])
    codes = [one["error"]["code"] for one in found.values() if one["error"]]
    assert len(codes) >= 4
    assert set(codes) == {"invalid_request"}
    assert (told / "runs").read_text() == "1\n"


def test_a_run_that_died_keeps_what_was_written_and_repeats_no_prompt(told: Path) -> None:
    found = answers(told, [line("a"), line("die", "secret"), line("c")])
    assert found["a"]["error"] is None
    for lost in ("die", "c"):
        assert found[lost]["error"]["code"] == "engine_lost"
        assert found[lost]["error"]["message"] == "vLLM ended with code 9 by RuntimeError"
    assert "secret" not in json.dumps(found)


def test_one_lost_run_costs_no_other(told: Path) -> None:
    found = answers(told, [line("a"), line("b"), line("die"), line("c"), line("e"), line("f")], lines_a_run=2)
    assert {name for name, one in found.items() if one["error"] is None} == {"a", "b", "e", "f"}
    assert (told / "runs").read_text() == "2\n2\n2\n"


def test_odd_lines_are_no_answers_and_refusals_have_their_status(told: Path) -> None:
    found = answers(told, [line("odd"), line("garbage"), line("long")])
    assert found["odd"]["error"]["code"] == "malformed_reply"
    assert found["garbage"]["error"]["code"] == "engine_lost"
    assert found["long"]["error"] is None
    assert found["long"]["response"]["status_code"] == 400
    assert found["long"]["response"]["body"]["error"]["message"] == "maximum context length"


def test_a_batch_that_nobody_wants_any_more_ends(told: Path) -> None:
    slow = told / "slow"
    found = answers(told, [line("slow"), line("b")], cancelled=slow.exists, lines_a_run=1)
    assert [one["error"]["code"] for one in found.values()] == ["cancelled", "cancelled"]
    assert (told / "runs").read_text() == "1\n"
