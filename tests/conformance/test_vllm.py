"""The real vLLM, beside what the suite over all engines asks of it: `make test-vllm`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.call import Call, Reply, Usage
from broker.errors import (
    AuthenticationFailed,
    CallCancelled,
    ContextOverflow,
    EngineConnectionLost,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from broker.settings.lanes import Lane
from tests.awaited import eventually
from workers.engines import Engine, build, launcher
from workers.engines.launcher import Door, stop_all
from workers.engines.vllm import VllmEngine
from workers.engines.vllm_batch import run_batch

pytestmark = pytest.mark.vllm
ROOT = Path(__file__).parents[2]
SECRET = "the password of the blue door is marmalade"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
Lanes = Callable[..., Lane]


def asked(prompt: str, **fields: Any) -> Call:
    return Call(({"role": "user", "content": prompt},), **({"max_tokens": 16} | fields))


def long(n: int, **fields: Any) -> Call:
    """A call whose answer cannot be short."""
    numbers = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    return asked(f"Count from {n}.", **({"schema": numbers, "max_tokens": 900} | fields))


def wanted() -> bool:
    return False


def opened(name: str, lane: Lane, var: Path) -> VllmEngine:
    engine = build(name, lane, var)
    assert isinstance(engine, VllmEngine)
    engine.open()
    return engine


@pytest.fixture
def engine(vllm_door: Door, vllm_lane: Lanes, var: Path) -> Iterator[VllmEngine]:
    made = opened("vllm", vllm_lane(), var)
    assert made.hold.door == vllm_door
    yield made
    made.close()


def metric(door: Door, name: str) -> float:
    request = urllib.request.Request(f"http://127.0.0.1:{door.port}/metrics")
    request.add_header("Authorization", f"Bearer {door.key}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"vllm:{name}{{"))


# --- answers


def test_a_prompt_seen_before_comes_from_the_cache_and_is_counted_apart(engine: VllmEngine) -> None:
    call = asked("Count these: " + " ".join(f"item{n}" for n in range(100)))
    first, second = engine.call(call, wanted).usage, engine.call(call, wanted).usage
    assert first.cached_input_tokens < second.cached_input_tokens
    assert second.cached_input_tokens % 16 == 0, "whole blocks"
    assert second.input_tokens > 0
    assert (
        first.input_tokens + first.cached_input_tokens == second.input_tokens + second.cached_input_tokens
    ), "the classes are disjoint"


def test_a_seed_decides_between_answers(engine: VllmEngine) -> None:
    def tale(seed: int) -> str:
        return engine.call(asked("Tell me a tale.", temperature=1.2, seed=seed, max_tokens=24), wanted).text

    assert tale(1) == tale(1)
    assert len({tale(seed) for seed in range(4)}) > 1


def test_choices_come_bare(engine: VllmEngine) -> None:
    reply = engine.call(asked("Yes or no?", choices=('yes, with "quotes"', "no\\way")), wanted)
    assert reply.text in ('yes, with "quotes"', "no\\way")


def test_tools_are_told_in_words_to_a_model_whose_template_knows_none(
    vllm_door: Door, vllm_lane: Lanes, var: Path
) -> None:
    plain = VllmEngine("vllm", vllm_lane(tool_parser=""), var)
    body = plain.dialect.constrain(asked("Weather?", tools=(TOOL,), tool_choice="required"))
    assert "get_weather" in body.told
    status, answer = vllm_door.http(
        "POST",
        "/v1/chat/completions",
        {
            "model": vllm_door.model,
            "messages": [
                {"role": "system", "content": body.told},
                {"role": "user", "content": "Weather in Paris?"},
            ],
            "max_tokens": 64,
            "temperature": 0,
            **body.fields,
        },
        60,
    )
    assert status == 200
    text, calls = body.read(answer["choices"][0]["message"]["content"])
    assert text == ""
    assert all(set(json.loads(one.arguments)) == {"city"} for one in calls)


# --- limits


@pytest.mark.parametrize(("words", "max_tokens"), [(2000, 16), (10, 2000)])
def test_a_prompt_that_does_not_fit_with_its_answer(engine: VllmEngine, words: int, max_tokens: int) -> None:
    with pytest.raises(ContextOverflow) as failed:
        engine.call(asked("word " * words, max_tokens=max_tokens), wanted)
    assert failed.value.usage == Usage()


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/chat/completions", "/invocations", "/metrics", "/health"]
)
def test_its_key_keeps_other_users_of_the_machine_out(vllm_door: Door, path: str) -> None:
    body = json.dumps({"model": vllm_door.model, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    data = body if path.endswith(("completions", "invocations")) else None
    request = urllib.request.Request(f"http://127.0.0.1:{vllm_door.port}{path}", data)
    request.add_header("Content-Type", "application/json")
    with pytest.raises(urllib.error.HTTPError) as failed:
        urllib.request.urlopen(request, timeout=10)
    assert failed.value.code == 401
    failed.value.close()


def test_a_strangers_call_is_refused(vllm_door: Door, var: Path) -> None:
    stranger = build("x", Lane(engine="vllm", model="any", base_url=vllm_door.base_url), var)
    stranger.open()
    with pytest.raises(AuthenticationFailed):
        stranger.call(asked("Hi"), wanted)
    stranger.close()


def test_a_cancelled_call_is_ended_in_the_engine_too(engine: VllmEngine, vllm_door: Door) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(engine.call, long(n), stop.is_set) for n in range(4)]
        eventually(lambda: metric(vllm_door, "num_requests_running") == 4)
        stop.set()
        for call in calls:
            with pytest.raises(CallCancelled):
                call.result(5)
    eventually(lambda: metric(vllm_door, "num_requests_running") == 0)


def test_its_log_holds_no_prompt(engine: VllmEngine, vllm_lane: Lanes, var: Path) -> None:
    nothing = {"type": "object", "properties": {SECRET: {"type": "nothing"}}}
    calls = [
        asked(SECRET),
        asked(SECRET * 500),
        asked(SECRET, schema=nothing),
        asked(SECRET, choices=(SECRET,)),
        Call(({"role": SECRET, "content": {"text": SECRET}},)),
    ]
    for call in calls:
        with contextlib.suppress(EngineError):
            engine.call(call, wanted)
    with pytest.raises(CallCancelled):
        engine.call(asked(SECRET, max_tokens=900), lambda: True)
    logs = [path.read_text(errors="replace") for path in (var / "engines").glob("vllm-*.log")]
    assert logs
    assert not any("marmalade" in log for log in logs)


@pytest.fixture(scope="module")
def narrow(vllm_lane: Lanes, var: Path) -> Iterator[VllmEngine]:
    """One that works on one call at a time and takes four."""
    engine = opened("narrow", vllm_lane("--max-num-seqs", "1", "--max-num-queued-reqs", "4"), var)
    yield engine
    engine.close()


def submit(
    threads: ThreadPoolExecutor, engine: Engine, call: Call, cancelled: Callable[[], bool]
) -> Future[Reply]:
    return threads.submit(engine.call, call, cancelled)


def test_beyond_what_it_takes_a_call_is_refused_before_any_work(narrow: VllmEngine) -> None:
    stop, door = threading.Event(), narrow.hold.door
    assert door is not None
    with ThreadPoolExecutor(4) as threads:
        calls = [submit(threads, narrow, long(n), stop.is_set) for n in range(4)]
        eventually(lambda: metric(door, "num_requests_running") + metric(door, "num_requests_waiting") == 4)
        with pytest.raises(EngineOverloaded) as failed:
            narrow.call(asked("One more."), wanted)
        narrow.probe(5)  # it has too much to do, and is not ill
        stop.set()
        for call in calls:
            with pytest.raises(CallCancelled):
                call.result(5)
    assert failed.value.usage == Usage()


def test_a_higher_priority_is_served_first(narrow: VllmEngine) -> None:
    stop, door, ended = threading.Event(), narrow.hold.door, []
    assert door is not None
    with ThreadPoolExecutor(3) as threads:
        first = submit(threads, narrow, long(1, max_tokens=300, priority=9), stop.is_set)
        eventually(lambda: metric(door, "num_requests_running") == 1)
        for waiting, priority in enumerate((0, 5), start=1):
            call = submit(
                threads, narrow, asked(f"Count from {priority}.", max_tokens=2, priority=priority), wanted
            )
            call.add_done_callback(lambda _, priority=priority: ended.append(priority))  # type: ignore[misc]
            eventually(lambda waiting=waiting: metric(door, "num_requests_waiting") == waiting)  # type: ignore[misc]
        first.result(60)
    assert ended == [5, 0]


# --- its life


WORKER_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from broker.settings.lanes import Lane
from workers.engines import build
engine = build("local", Lane.model_validate_json(sys.stdin.read()), Path(sys.argv[1]))
engine.open()
print(engine.hold.door.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    direct = [int(one) for one in found.stdout.split()]
    return direct + [one for child in direct for one in children(child)]


def test_a_dead_worker_leaves_it_and_a_dead_core_is_replaced(vllm_lane: Lanes, tmp_path: Path) -> None:
    lane = vllm_lane(context_tokens=512)
    worker = subprocess.run(
        [sys.executable, "-c", WORKER_THAT_DIES, str(tmp_path)],
        cwd=ROOT,
        input=lane.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    engine = opened("local", lane, tmp_path)
    assert engine.hold.door is not None
    pid = engine.hold.door.pid
    assert pid == int(worker.stdout)

    os.kill(children(pid)[-1], signal.SIGKILL)  # the process that holds the model
    with pytest.raises((EngineConnectionLost, EngineFault, EngineTimeout)):
        engine.call(long(1, max_tokens=400, timeout_s=30), wanted)
    eventually(lambda: not children(pid), 30)
    with pytest.raises(EngineUnavailable):
        engine.probe(2)
    engine.open()
    assert engine.call(asked("Say hello."), wanted).text
    assert engine.hold.door.pid != pid
    engine.close()
    stop_all(tmp_path)


@pytest.mark.parametrize("frozen", ["server", "core"])
def test_a_frozen_one_is_replaced(
    frozen: str, vllm_lane: Lanes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ANSWER_S", 2)
    engine = opened("local", vllm_lane(context_tokens=256), tmp_path)
    assert engine.hold.door is not None
    pid = engine.hold.door.pid
    server, *inner = every = children(pid)
    os.kill(server if frozen == "server" else inner[-1], signal.SIGSTOP)
    with pytest.raises(EngineUnavailable, match="makes no token"):
        engine.probe(2)
    with pytest.raises(EngineTimeout):
        engine.call(asked("Are you there?", timeout_s=1), wanted)
    assert engine.call(asked("Say hello.", timeout_s=120), wanted).text
    assert engine.hold.door.pid != pid
    assert not any(Path(f"/proc/{one}/exe").exists() for one in every)
    engine.close()
    stop_all(tmp_path)


def test_stopped_while_it_starts_it_leaves_nothing_behind(vllm_lane: Lanes, tmp_path: Path) -> None:
    def start() -> None:
        with pytest.raises(EngineUnavailable):
            opened("x", vllm_lane(), tmp_path)

    starting = threading.Thread(target=start)
    starting.start()
    alive = tmp_path / "engines"
    eventually(lambda: any(path.read_text() for path in alive.glob("*.alive")), 30)
    pid = int(next(alive.glob("*.alive")).read_text())
    eventually(lambda: len(children(pid)) >= 2, 60)
    every = children(pid)
    os.kill(pid, signal.SIGKILL)
    starting.join(30)
    eventually(lambda: not any(Path(f"/proc/{one}/exe").exists() for one in every), 10)


def test_the_offline_batch(vllm_lane: Lanes, tmp_path: Path) -> None:
    def line(custom_id: str, prompt: str, **fields: Any) -> dict[str, Any]:
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 8,
            **fields,
        }
        return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}

    lines = [
        *(line(f"plain-{n}", f"Count from {n}.") for n in range(20)),
        line("long", "word " * 2000),
        line("choice", "Yes or no?", structured_outputs={"choice": ["yes", "no"]}),
        {"custom_id": "none"},
    ]
    found = {one["custom_id"]: one for one in run_batch("bulk", vllm_lane(), lines, tmp_path)}
    assert set(found) == {one["custom_id"] for one in lines}
    assert found["none"]["error"]["code"] == "invalid_request"
    assert found["long"]["response"]["status_code"] == 400
    assert "maximum context length" in found["long"]["response"]["body"]["error"]["message"]
    plain = [found[f"plain-{n}"]["response"]["body"] for n in range(20)]
    assert all(one["choices"][0]["message"]["content"] and one["usage"]["completion_tokens"] for one in plain)
    assert found["choice"]["response"]["body"]["choices"][0]["message"]["content"] in ("yes", "no")
