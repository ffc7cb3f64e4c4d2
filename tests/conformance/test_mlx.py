"""The engine mlx beyond what is asked of every engine: its batch, queue, cache, process and model."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker.call import Call, ToolCall
from broker.errors import (
    CallCancelled,
    CallRejected,
    ContextOverflow,
    EngineConnectionLost,
    EngineOverloaded,
    EngineTimeout,
    EngineUnavailable,
)
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.task import Claim, Progress, Task
from dispatcher import turns
from tests.awaited import eventually
from tests.conformance import tiny_llama
from tests.conformance.calls import (
    CHOICES,
    SCHEMA,
    TOOL,
    after_polls,
    asked,
    story,
    wanted,
)
from workers.compose import compose
from workers.engines import launcher, resolve
from workers.engines.launcher import Door, stop_all
from workers.engines.mlx import MlxEngine

pytest.importorskip("mlx_lm")
pytest.importorskip("llguidance")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mlx-node")
    yield folder
    stop_all(folder)


@pytest.fixture
def opened(mlx_lane: Callable[..., Lane], node: Path) -> Iterator[Callable[..., MlxEngine]]:
    engines: list[MlxEngine] = []

    def open_one(folder: Path = node, **fields: Any) -> MlxEngine:
        engine = MlxEngine("local", mlx_lane(**fields), folder)
        engine.open()
        engines.append(engine)
        return engine

    yield open_one
    for engine in engines:
        engine.close()


def door(engine: MlxEngine) -> Door:
    assert engine.hold.door is not None
    return engine.hold.door


def stats(engine: MlxEngine) -> dict[str, Any]:
    status, told = door(engine).http("GET", "/stats")
    assert status == 200
    assert isinstance(told, dict)
    return told


def counts(engine: MlxEngine) -> tuple[int, int]:
    """Calls that run, and that wait."""
    told = stats(engine)
    return told["running"], told["waiting"]


def idle(engine: MlxEngine) -> bool:
    return counts(engine) == (0, 0)


class Crowd:
    """Calls in flight until they are let go."""

    def __init__(self, engine: MlxEngine, count: int, prompt: str = "Tell a story.") -> None:
        self._enough = threading.Event()
        self._threads = ThreadPoolExecutor(count)
        self.calls = [
            self._threads.submit(engine.call, asked(f"{prompt} {n}", max_tokens=900), self._enough.is_set)
            for n in range(count)
        ]

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._threads.shutdown()


def test_calls_of_many_threads_and_lanes_are_in_one_batch_at_once(opened: Callable[..., MlxEngine]) -> None:
    one, other = opened(), opened(system="Answer briefly.")
    assert door(one) == door(other)
    with Crowd(one, 4), Crowd(other, 4):
        eventually(lambda: stats(one)["running"] == 8, 10)
    eventually(lambda: idle(one), 5)


def test_a_seed_holds_within_a_batch_of_others(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()

    def drawn(seed: int) -> str:
        return engine.call(asked("Draw.", temperature=1.0, seed=seed, max_tokens=24), wanted).text

    with Crowd(engine, 3):
        eventually(lambda: stats(engine)["running"] == 3, 10)
        first, again, another = drawn(11), drawn(11), drawn(12)
        assert stats(engine)["running"] == 3
    assert first == again
    assert first != another


def test_a_cancelled_call_frees_its_slot_and_one_that_waits_its_place(
    opened: Callable[..., MlxEngine],
) -> None:
    engine = opened()
    slots = stats(engine)["slots"]
    with Crowd(engine, slots + 3):
        eventually(lambda: counts(engine) == (slots, 3), 10)
    eventually(lambda: idle(engine), 5)


def test_more_calls_than_may_wait_are_turned_away_and_the_others_served(
    opened: Callable[..., MlxEngine],
) -> None:
    engine = opened()
    room = stats(engine)["slots"] * 3
    with Crowd(engine, room):
        eventually(lambda: sum(counts(engine)) == room, 15)
        with pytest.raises(EngineOverloaded) as refused:
            engine.call(asked("One too many."), wanted)
        assert refused.value.retry_after_s
        engine.probe(20)  # no slot is free, and the batch turns
    eventually(lambda: idle(engine), 5)
    assert engine.call(asked("Say hello.", max_tokens=2), wanted).text


def test_a_higher_priority_goes_first(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    slots = stats(engine)["slots"]
    done: list[int] = []

    def call(priority: int) -> None:
        engine.call(asked("Say hello.", max_tokens=30, priority=priority), wanted)
        done.append(priority)

    with ThreadPoolExecutor(3) as threads, Crowd(engine, slots - 1):
        with Crowd(engine, 1):
            eventually(lambda: stats(engine)["running"] == slots, 10)
            for at, priority in enumerate((-1, 0, 5), 1):
                threads.submit(call, priority)
                eventually(lambda at=at: stats(engine)["waiting"] == at, 10)  # type: ignore[misc]
        eventually(lambda: len(done) == 3, 20)
    assert done == [5, 0, -1]


def test_the_beginning_that_prompts_share_is_read_once(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    system = {"role": "system", "content": "You sort letters into baskets. " * 6}

    def used(text: str) -> tuple[int, int]:
        usage = engine.call(Call((system, {"role": "user", "content": text}), max_tokens=2), wanted).usage
        return usage.cached_input_tokens, usage.input_tokens

    first, second = used("An invoice."), used("A complaint.")
    assert second[0] >= len(system["content"])
    assert second[1] < first[1] + first[0] - len(system["content"])


def test_a_known_beginning_changes_no_answer(opened: Callable[..., MlxEngine], tmp_path: Path) -> None:
    fresh = opened(tmp_path).call(asked("Name the seas.", max_tokens=24), wanted)
    known = opened()
    for text in ("Name the seas of old.", "Name"):
        known.call(asked(text, max_tokens=4), wanted)
    again = known.call(asked("Name the seas.", max_tokens=24), wanted)
    assert fresh.usage.cached_input_tokens < again.usage.cached_input_tokens
    assert again.text == fresh.text
    stop_all(tmp_path)


def test_a_prompt_that_does_not_fit_costs_nothing(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    with pytest.raises(ContextOverflow, match="1024"):
        engine.call(asked("word " * 1024), wanted)
    assert engine.call(asked("x" * 980, max_tokens=500), wanted).finish_reason == "length"


def test_a_stop_string_ends_the_answer_before_it(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    whole = engine.call(asked("Say much.", max_tokens=40), wanted).text
    stop = whole[10:13]
    cut = engine.call(asked("Say much.", max_tokens=40, stop=(stop,)), wanted)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    eventually(lambda: idle(engine), 5)


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [f"choice number {n}" for n in range(100_000)]},
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"type": "nonsense"},
    ],
)
def test_a_schema_that_is_none_or_a_bomb_is_refused_and_holds_nobody_up(
    opened: Callable[..., MlxEngine], schema: dict[str, Any]
) -> None:
    engine = opened()
    with pytest.raises(CallRejected):
        engine.call(asked("Choose.", schema=schema, max_tokens=8), wanted)
    assert engine.call(asked("Say hello.", max_tokens=2), wanted).text


def test_a_costly_pattern_is_bounded(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    schema = {"type": "string", "pattern": "^(a|b|ab){1,4000}(c|d|cd){1,4000}$"}
    with Crowd(engine, 1):
        call = asked("Write.", schema=schema, max_tokens=8, timeout_s=20)
        assert engine.call(call, wanted).usage.output_tokens <= 8


def test_tools_are_told_in_the_models_own_way_where_its_template_has_one(
    opened: Callable[..., MlxEngine], tmp_path: Path
) -> None:
    model = tiny_llama.make(tmp_path / "tools", tiny_llama.WITH_TOOLS)
    engine = opened(tmp_path, model_path=model)
    without = engine.call(asked("The weather, please.", max_tokens=2), wanted).usage
    told = engine.call(asked("The weather, please.", tools=(TOOL,), max_tokens=2), wanted).usage
    assert stats(engine)["takes_tools"]
    more = told.input_tokens + told.cached_input_tokens - without.input_tokens - without.cached_input_tokens
    assert more == len("get_weather<tool_call></tool_call>")
    required = asked("The weather, please.", tools=(TOOL,), tool_choice="required", max_tokens=64)
    assert {one.name for one in engine.call(required, wanted).tool_calls} == {"get_weather"}
    stop_all(tmp_path)


def test_its_key_keeps_others_out_and_bad_requests_are_told_so(opened: Callable[..., MlxEngine]) -> None:
    mine = door(opened())
    stranger = Door(mine.pid, mine.port, "another", mine.model)
    assert stranger.http("GET", "/stats")[0] == 401
    assert stranger.http("POST", "/v1/chat/completions", {"messages": []})[0] == 401
    wrong: tuple[dict[str, Any], ...] = (
        {"messages": []},
        {"messages": [1]},
        {"messages": "x"},
        {"messages": [{"role": "user"}], "seed": "x"},
        {"messages": [{"role": "user"}], "response_format": {"type": "poem"}},
    )
    for body in wrong:
        assert mine.http("POST", "/v1/chat/completions", body)[0] == 400, body
    assert mine.http("GET", "/elsewhere")[0] == 404
    assert mine.http("GET", "/health") == (200, {"status": "ok"})


WORKER_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from broker.settings.lanes import Lane
from workers.engines import build
lane = Lane.model_validate({"engine": "mlx", "model_path": sys.argv[2], "threads": 4, "context_tokens": 512})
engine = build("local", lane, Path(sys.argv[1]))
engine.open()
print(engine.hold.door.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_worker_leaves_the_process_and_a_dead_process_comes_back(
    opened: Callable[..., MlxEngine],
    node: Path,
    tiny: Path,
) -> None:
    worker = subprocess.run(
        [sys.executable, "-c", WORKER_THAT_DIES, str(node), str(tiny)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    engine = opened(context_tokens=512)
    pid = door(engine).pid
    assert pid == int(worker.stdout)
    with pytest.raises(EngineConnectionLost):
        engine.call(story(max_tokens=400), after_polls(3, lambda: os.kill(pid, signal.SIGKILL), answer=False))
    assert engine.call(asked("Say hello.", max_tokens=2), wanted).text
    assert door(engine).pid != pid


def test_a_frozen_process_is_replaced(
    opened: Callable[..., MlxEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "ANSWER_S", 2)
    monkeypatch.setattr(launcher, "STOP_S", 0.5)
    engine = opened(tmp_path)
    pid = door(engine).pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineUnavailable, match="makes no token"):
        engine.probe(1)
    with pytest.raises(EngineTimeout):
        engine.call(asked("Are you there?", timeout_s=0.3), wanted)
    assert engine.call(asked("Say hello.", max_tokens=2), wanted).text
    assert door(engine).pid != pid
    stop_all(tmp_path)


def test_a_model_that_is_none_says_so(mlx_lane: Callable[..., Lane], tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"nowhere(.|\n)*mend: .*lanes\.local\.model_path"):
        MlxEngine("local", mlx_lane(model_path=tmp_path / "nowhere"), tmp_path).check()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(EngineUnavailable, match="ended with code 1 at its start"):
        MlxEngine("local", mlx_lane(model_path=broken), tmp_path).open()


def test_auto_is_mlx_on_apple_silicon_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    lane = Lane.model_validate({"engine": "auto"})
    found = []
    for system, machine in (("darwin", "arm64"), ("darwin", "x86_64"), ("linux", "aarch64")):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        found.append(resolve(lane))
    assert found == ["mlx", "llamacpp", "llamacpp"]


def test_a_cancelled_call_is_broken_off_while_its_prompt_is_read(opened: Callable[..., MlxEngine]) -> None:
    engine = opened()
    with pytest.raises(CallCancelled):
        engine.call(asked("x" * 900, max_tokens=900), after_polls(1))
    eventually(lambda: idle(engine), 5)


def test_the_packaged_model_is_converted_once_and_answers(node: Path) -> None:
    lane = Lane.model_validate({"engine": "mlx", "threads": 4, "context_tokens": 1024})
    engine = MlxEngine("real", lane, node)
    engine.open()
    reply = engine.call(asked("What is the capital of France?", max_tokens=10), wanted)
    assert "Paris" in reply.text
    assert reply.model == "SmolLM2-135M-Instruct"
    assert reply.model_revision == "Q4_1 as float32"
    held = engine.call(asked("Which city? I live in Paris.", schema=SCHEMA, max_tokens=24), wanted)
    assert json.loads(held.text) == {"city": "Paris"}
    chosen = engine.call(asked("The mood of: I love this so much.", choices=CHOICES, max_tokens=8), wanted)
    assert chosen.text in CHOICES
    (made,) = [folder for folder in (node / "models").iterdir() if folder.is_dir()]
    before = (made / "model.safetensors").stat().st_mtime_ns
    engine.close()
    stop_all(node)
    engine.open()
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    engine.close()


def test_each_step_of_a_tool_loop_finds_what_the_one_before_left_in_the_cache(
    opened: Callable[..., MlxEngine],
) -> None:
    """What was said before a step is told to the byte as it was."""
    engine = opened()
    task_type = TaskType(chain=("local",), instruction="Use the tools and be brief. " * 8)
    task = Task("t", "w", ({"role": "user", "content": "How many days has January? " * 6},))
    said: tuple[turns.Turn, ...] = ()
    sizes = []
    for step in range(4):
        claim = Claim(task, Progress("general", turns=said), step, "q", 0, 0, 0, 0)
        call = compose(claim, Lane(engine="mlx", max_tokens=4), task_type, (), None, (TOOL,))
        usage = engine.call(replace(call, tool_choice="none"), lambda: False).usage
        sizes.append((usage.cached_input_tokens, usage.cached_input_tokens + usage.input_tokens))
        asks = turns.asked(said, "", [ToolCall("x", "weather", json.dumps({"city": f"Oslo{step}"}))], "local")
        said = (*said, asks, turns.told(turns.pending([asks])[0], f"{31 + step} days"))
    for (_, before), (cached, _) in pairwise(sizes):
        assert cached >= 0.8 * before
