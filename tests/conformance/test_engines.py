"""One suite over every engine: real sockets, real processes, the small model that the product ships with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from broker.call import Call, Usage
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
    MalformedReply,
    ModelNotFound,
    OutOfCredit,
    RateLimited,
)
from broker.settings.lanes import Lane
from tests.awaited import eventually
from tests.conformance.calls import CHOICES, SCHEMA, TOOL, after_polls, asked, story, wanted
from tests.mock_provider import control, mock_provider, script
from workers.engines import ENGINES, Engine, build, launcher, resolve
from workers.engines.launcher import Door, attach, stop_all
from workers.engines.llamacpp import LlamaCppEngine

ROOT = Path(__file__).parents[2]
CONTEXT = 1024
REQUESTS_A_MINUTE, TOKENS_A_MINUTE = 900_000, 90_000_000
SCRIPT = {
    "replies": {"(?i)city": '{"city": "Paris"}', "(?i)mood": "positive"},
    "tool_calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}],
}


def available(engine: Engine) -> Engine:
    """The engine, or a skipped test where this machine has not got what it needs. On CI that is a failure."""
    try:
        engine.check()
    except EngineUnavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    return engine


def llamacpp_lane(**fields: Any) -> Lane:
    return Lane.model_validate({"engine": "auto", "threads": 4, "context_tokens": CONTEXT} | fields)


@pytest.fixture(scope="session")
def served(var: Path) -> Iterator[Door]:
    """The node's llama.cpp process."""
    engine = available(build("local", llamacpp_lane(), var))
    assert isinstance(engine, LlamaCppEngine)
    engine.open()
    assert engine.hold.door is not None
    yield engine.hold.door
    engine.close()


@pytest.fixture(scope="session")
def mock_url() -> Iterator[str]:
    """A provider that we did not write, as a process on a free port."""
    pytest.importorskip("llmock")
    limits = {"LLMOCK_RPM": str(REQUESTS_A_MINUTE), "LLMOCK_TPM": str(TOKENS_A_MINUTE)}
    with mock_provider(limits) as url:
        yield url


IMPLEMENTATIONS = (
    "echo",
    "llamacpp",
    "mlx",
    "openai over llamacpp",
    "openai over llmock",
    "anthropic over llmock",
    "vllm",
    "openai over vllm",
)


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.vllm) if name.endswith("vllm") else name
        for name in IMPLEMENTATIONS
    ]
)
def engine(request: pytest.FixtureRequest, var: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    match request.param:
        case "echo":
            lane = Lane.model_validate({"engine": "echo", "echo": SCRIPT | {"latency_ms": 20}})
        case "llamacpp":
            request.getfixturevalue("served")
            lane = llamacpp_lane()
        case "mlx":
            lane = request.getfixturevalue("mlx_lane")()
            available(build("a-lane", lane, var))
        case "openai over llamacpp":
            served: Door = request.getfixturevalue("served")
            monkeypatch.setenv("A_KEY", served.key)
            lane = Lane(
                engine="openai",
                model="any",
                base_url=served.base_url,
                api_key_env="A_KEY",
                dialect="llamacpp",
            )
        case "vllm":
            request.getfixturevalue("vllm_door")
            lane = request.getfixturevalue("vllm_lane")()
        case "openai over vllm":
            door: Door = request.getfixturevalue("vllm_door")
            monkeypatch.setenv("A_KEY", door.key)
            lane = Lane(
                engine="openai", model=door.model, base_url=door.base_url, api_key_env="A_KEY", dialect="vllm"
            )
        case name:
            url: str = request.getfixturevalue("mock_url")
            control(url, "POST", "reset")
            lane = mock_lane(name, url)
    engine = build("a-lane", lane, var)
    engine.open()
    yield engine
    engine.close()


def mock_lane(name: str, url: str) -> Lane:
    """A lane to the provider that we did not write, which knows older models only."""
    if name.startswith("anthropic"):
        return Lane(engine="anthropic", model="claude-3-5-haiku-20241022", base_url=f"{url}/anthropic")
    return Lane(engine="openai", model="gpt-4o-mini", base_url=f"{url}/v1")


@pytest.fixture(params=["openai", "anthropic"])
def mock(request: pytest.FixtureRequest, mock_url: str, var: Path) -> Iterator[Engine]:
    control(mock_url, "POST", "reset")
    engine = build("rented", mock_lane(request.param, mock_url), var)
    engine.open()
    yield engine
    engine.close()


def test_every_engine_of_the_table_is_in_this_suite() -> None:
    assert {name.split()[0] for name in IMPLEMENTATIONS} == set(ENGINES)
    assert resolve(llamacpp_lane()) in ENGINES


def test_text_comes_with_its_usage_and_times(engine: Engine) -> None:
    reply = engine.call(asked("Say hello.", max_tokens=8), wanted)
    assert reply.text
    assert reply.model
    assert reply.usage_known
    assert reply.usage.input_tokens + reply.usage.cached_input_tokens > 0
    assert reply.usage.output_tokens > 0
    assert reply.time_to_first_token_ms is not None
    assert 0 < reply.time_to_first_token_ms <= reply.latency_ms
    assert reply.finish_reason in ("stop", "length")


def test_a_schema_holds_the_answer(engine: Engine) -> None:
    reply = engine.call(asked("Which city? I live in Paris.", schema=SCHEMA, max_tokens=40), wanted)
    assert set(json.loads(reply.text)) == {"city"}


def test_a_sound_engine_passes_its_probe(engine: Engine) -> None:
    engine.probe(8)


def test_choices_hold_the_answer_to_one_of_them(engine: Engine) -> None:
    reply = engine.call(asked("The mood of: I love this so much.", choices=CHOICES, max_tokens=48), wanted)
    assert reply.text in CHOICES


def test_a_required_tool_is_called_with_arguments_of_its_schema(engine: Engine) -> None:
    call = asked("The weather in Paris, please.", tools=(TOOL,), tool_choice="required", max_tokens=64)
    reply = engine.call(call, wanted)
    assert reply.finish_reason == "tool_calls"
    assert {one.name for one in reply.tool_calls} == {"get_weather"}
    assert all(one.id and set(json.loads(one.arguments)) == {"city"} for one in reply.tool_calls)
    assert reply.usage.output_tokens > 0


def test_tools_that_may_not_be_used_are_not(engine: Engine) -> None:
    reply = engine.call(asked("Say hello.", tools=(TOOL,), tool_choice="none", max_tokens=8), wanted)
    assert reply.text
    assert reply.tool_calls == ()


def test_a_tools_result_goes_back_to_the_model(engine: Engine) -> None:
    used = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    messages = (
        {"role": "user", "content": "The weather in Paris, please."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call-1", "type": "function", "function": used}],
        },
        {"role": "tool", "tool_call_id": "call-1", "content": "sunny, 21 °C"},
    )
    reply = engine.call(Call(messages, tools=(TOOL,), max_tokens=48), wanted)
    assert reply.text or reply.tool_calls
    assert reply.usage.input_tokens > 0


def test_the_same_seed_and_no_temperature_give_the_same_answer(engine: Engine) -> None:
    first, second = (engine.call(asked("Name three colours.", seed=7), wanted).text for _ in range(2))
    assert first == second


def test_calls_run_side_by_side(engine: Engine) -> None:
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(engine.call, asked(f"Count from {n}.", max_tokens=4), wanted) for n in range(4)
        ]
        assert all(call.result().usage.output_tokens for call in calls)


def slow(engine: Engine, request: pytest.FixtureRequest, var: Path) -> Engine:
    """The same engine, made to take seconds for ``story()``."""
    name = request.node.callspec.params["engine"]
    if name == "echo":
        engine = build("slow", Lane.model_validate({"engine": "echo", "echo": {"latency_ms": 30_000}}), var)
    if name.endswith("over llmock"):
        script(
            request.getfixturevalue("mock_url"), {"type": "stream_fault", "kind": "stall", "stall_seconds": 5}
        )
    return engine


def test_a_time_out_bounds_the_whole_call(engine: Engine, request: pytest.FixtureRequest, var: Path) -> None:
    engine = slow(engine, request, var)
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match="0\\.6 s"):
        engine.call(story(timeout_s=0.6), wanted)
    assert 0.5 < time.monotonic() - started < 2


def test_a_cancelled_call_ends_at_once(engine: Engine, request: pytest.FixtureRequest, var: Path) -> None:
    engine = slow(engine, request, var)
    started = time.monotonic()
    with pytest.raises(CallCancelled):
        engine.call(story(), after_polls(5))
    assert time.monotonic() - started < 3


def test_closing_ends_the_calls_in_flight(engine: Engine, request: pytest.FixtureRequest, var: Path) -> None:
    engine = slow(engine, request, var)
    started = time.monotonic()
    with pytest.raises((CallCancelled, EngineConnectionLost)):
        engine.call(story(), after_polls(5, engine.close, answer=False))
    assert time.monotonic() - started < 3


def test_it_opens_again_after_it_was_closed(engine: Engine) -> None:
    engine.close()
    engine.open()
    engine.open()
    assert engine.call(asked("Say hello.", max_tokens=4), wanted).text


# --- llama.cpp: the process that owns the model


def holder(engine: Engine) -> Door:
    assert isinstance(engine, LlamaCppEngine)
    assert engine.hold.door is not None
    return engine.hold.door


def test_a_cancelled_call_frees_its_slot(served: Door, var: Path) -> None:
    engine = build("local", llamacpp_lane(), var)
    engine.open()
    for _ in range(4):
        with pytest.raises(CallCancelled):
            engine.call(story(), after_polls(3))
    assert engine.call(asked("Say hello.", max_tokens=1, timeout_s=5), wanted).usage.output_tokens == 1
    engine.close()


def test_lanes_of_the_same_model_share_one_process(served: Door, var: Path) -> None:
    second = build("local-guided", llamacpp_lane(system="Answer briefly.", threads=2), var)
    second.open()
    assert holder(second).pid == served.pid
    second.close()


def test_its_key_keeps_other_users_of_the_machine_out(served: Door, var: Path) -> None:
    stranger = build("x", Lane(engine="openai", model="any", base_url=served.base_url), var)
    stranger.open()
    with pytest.raises(AuthenticationFailed):
        stranger.call(asked("Hi"), wanted)
    stranger.close()


def test_an_engine_that_reads_a_long_prompt_is_heard_meanwhile(var: Path) -> None:
    """Health is tokens: a minute of reading must not look like a minute of standing still."""
    engine = build("local", llamacpp_lane(), var)
    engine.open()
    beats = []
    for words in (5, CONTEXT - 100):
        before = engine.beats()
        engine.call(asked("sea " * words, max_tokens=1), wanted)
        beats.append(engine.beats() - before)
    engine.close()
    assert beats[1] > beats[0]


@pytest.mark.parametrize("name", ["llamacpp", "openai"])
def test_a_prompt_that_does_not_fit(
    name: str, served: Door, var: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", served.key)
    cloud = Lane(engine="openai", model="any", base_url=served.base_url, api_key_env="A_KEY")
    engine = build("local", llamacpp_lane() if name == "llamacpp" else cloud, var)
    engine.open()
    with pytest.raises(ContextOverflow) as failed:
        engine.call(asked("word " * CONTEXT * 2), wanted)
    assert failed.value.usage == Usage()
    engine.close()


WORKER_THAT_DIES = """
import os, signal, sys
from pathlib import Path
from broker.settings.lanes import Lane
from workers.engines import build
engine = build("local", Lane(engine="llamacpp", threads=4, context_tokens=512), Path(sys.argv[1]))
engine.open()
print(engine.hold.door.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_worker_leaves_its_engine_and_a_dead_engine_comes_back(served: Door, var: Path) -> None:
    worker = subprocess.run(
        [sys.executable, "-c", WORKER_THAT_DIES, str(var)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == -signal.SIGKILL, worker.stderr
    engine = build("local", llamacpp_lane(context_tokens=512), var)
    engine.open()
    pid = holder(engine).pid
    assert pid == int(worker.stdout)

    started = time.monotonic()
    with pytest.raises(EngineConnectionLost):
        engine.call(story(max_tokens=400), after_polls(5, lambda: os.kill(pid, signal.SIGKILL), answer=False))
    assert time.monotonic() - started < 5

    assert engine.call(asked("Say hello."), wanted).text
    assert holder(engine).pid != pid
    engine.close()


def test_a_frozen_engine_is_replaced(served: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "ANSWER_S", 2)
    monkeypatch.setattr(launcher, "STOP_S", 0.5)
    engine = build("local", llamacpp_lane(context_tokens=256), tmp_path)
    engine.open()
    pid = holder(engine).pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineUnavailable, match="makes no token"):
        engine.probe(1)
    with pytest.raises(EngineTimeout):
        engine.call(asked("Are you there?", timeout_s=0.3), wanted)
    assert engine.call(asked("Say hello.", max_tokens=2), wanted).text
    assert holder(engine).pid != pid
    engine.close()
    stop_all(tmp_path)


def test_an_engine_that_nobody_uses_ends(served: Door, tmp_path: Path) -> None:
    mine = attach(LlamaCppEngine("local", llamacpp_lane(), tmp_path)._wanted(), tmp_path, idle_s=0.5)
    os.close(mine.users)
    eventually(lambda: not list(tmp_path.glob("*.json")), 10)


def test_stop_all_ends_them(served: Door, tmp_path: Path) -> None:
    engine = build("local", llamacpp_lane(context_tokens=256), tmp_path)
    engine.open()
    assert stop_all(tmp_path) == 1
    assert stop_all(tmp_path) == 0
    with pytest.raises(EngineConnectionLost):
        engine.call(asked("Are you there?"), wanted)
    engine.close()
    assert stop_all(tmp_path) == 0


def test_a_model_file_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "none.gguf"
    engine = build("local", llamacpp_lane(model_path=missing), tmp_path)
    with pytest.raises(EngineUnavailable, match=r"none\.gguf(.|\n)*mend: .*lanes\.local\.model_path"):
        engine.check()


def test_a_model_file_that_is_none(served: Door, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and then nothing")
    engine = build("local", llamacpp_lane(model_path=broken), tmp_path)
    with pytest.raises(EngineUnavailable, match=r"at its start; the end of .*\.log:\n(.|\n)*model"):
        engine.open()


# --- a provider's failures


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"status": 429, "retry_after": 7}, RateLimited),
        ({"status": 500}, EngineFault),
        ({"status": 503}, EngineOverloaded),
        ({"status": 529}, EngineOverloaded),
        ({"status": 504}, EngineTimeout),
        ({"status": 401}, AuthenticationFailed),
        ({"status": 403}, AuthenticationFailed),
        ({"status": 402}, OutOfCredit),
        ({"status": 404}, ModelNotFound),
        ({"status": 400, "code": "context_length_exceeded"}, ContextOverflow),
        ({"status": 429, "code": "insufficient_quota"}, OutOfCredit),
    ],
)
def test_a_status_has_its_leaf(
    mock: Engine, mock_url: str, fault: dict[str, Any], expected: type[EngineError]
) -> None:
    script(mock_url, {"type": "fail", **fault})
    with pytest.raises(EngineError) as failed:
        mock.call(asked("Hi"), wanted)
    assert type(failed.value) is expected
    refused = fault["status"] < 500 or fault["status"] in (503, 529)
    assert failed.value.usage == (Usage() if refused else None)
    if "retry_after" in fault:
        assert getattr(failed.value, "retry_after_s", None) == fault["retry_after"]
    assert control(mock_url, "GET", "requests")["count"] == 1, "a call is one request, never retried below us"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("disconnect", EngineConnectionLost),
        ("truncate", EngineConnectionLost),
        ("malformed", MalformedReply),
    ],
)
def test_a_broken_stream_is_no_answer(
    mock: Engine, mock_url: str, kind: str, expected: type[EngineError]
) -> None:
    script(mock_url, {"type": "stream_fault", "kind": kind, "after_chunks": 2})
    with pytest.raises(expected) as failed:
        mock.call(asked("Hi"), wanted)
    assert failed.value.usage is None
    assert control(mock_url, "GET", "requests")["count"] == 1


def test_a_broken_tool_call_comes_as_the_model_wrote_it(mock: Engine, mock_url: str) -> None:
    script(mock_url, {"type": "tool_fault", "kind": "malformed_arguments"})
    script(mock_url, {"type": "tool_fault", "kind": "unknown_tool"})
    (broken,) = mock.call(asked("The weather, please.", tools=(TOOL,)), wanted).tool_calls
    with pytest.raises(ValueError, match=r"Expecting|Unterminated"):
        json.loads(broken.arguments)
    (unknown,) = mock.call(asked("The weather, please.", tools=(TOOL,)), wanted).tool_calls
    assert unknown.name != TOOL["function"]["name"]


def test_what_the_provider_says_of_its_limits(mock: Engine) -> None:
    quota = mock.call(asked("Hi"), wanted).quota
    assert quota is not None
    assert (quota.requests_limit, quota.tokens_limit) == (REQUESTS_A_MINUTE, TOKENS_A_MINUTE)
    assert quota.requests_left is not None
    assert 0 < quota.requests_left <= REQUESTS_A_MINUTE
    assert quota.tokens_reset_s is not None
    assert 0 <= quota.tokens_reset_s < 60


def test_a_slow_first_token_shows(mock: Engine, mock_url: str) -> None:
    script(mock_url, {"type": "slow_first_token", "seconds": 0.3})
    reply = mock.call(asked("Hi"), wanted)
    assert reply.time_to_first_token_ms is not None
    assert reply.time_to_first_token_ms >= 300


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_nobody_listens(name: str, var: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lane = Lane.model_validate({"engine": name, "model": "m", "base_url": f"http://127.0.0.1:{port}/v1"})
    engine = build("rented", lane, var)
    engine.open()
    with pytest.raises(EngineConnectionLost, match=r"lanes\.rented\.base_url") as failed:
        engine.call(asked("Hi"), wanted)
    assert failed.value.usage == Usage()
    engine.close()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_missing_key_is_named(name: str, var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_PROVIDER_KEY", raising=False)
    lane = Lane.model_validate({"engine": name, "model": "m", "api_key_env": "SOME_PROVIDER_KEY"})
    engine = build("midtier", lane, var)
    with pytest.raises(EngineUnavailable, match="SOME_PROVIDER_KEY"):
        engine.check()


# Linux counts into a child's ru_maxrss what its parent had when it forked; the peak of its own memory is VmHWM.
CLOUD_LANE = """
import resource, sys
from pathlib import Path
from broker.settings.lanes import Lane
from workers import shell
from workers.engines import build
from broker.call import Call
name, base_url = sys.argv[1:]
engine = build("rented", Lane(engine=name, model="m", base_url=base_url), Path("."))
engine.check()
assert not {"openai", "anthropic"} & set(sys.modules), "imported before it is needed"
engine.open()
assert {"openai", "anthropic"} & set(sys.modules) == {name}, "one SDK, and no other"
assert engine.call(Call(({"role": "user", "content": "Hi"},)), lambda: False).text
status = Path("/proc/self/status")
if status.exists():
    print(*(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_a_cloud_lane_stays_small(name: str, mock_url: str) -> None:
    control(mock_url, "POST", "reset")
    base_url = mock_lane(name, mock_url).base_url
    assert base_url is not None
    child = subprocess.run(
        [sys.executable, "-c", CLOUD_LANE, name, base_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(child.stdout) < 120 * 1024, "KiB"


# --- echo's script


def echo(**script: Any) -> Engine:
    return build("dry", Lane.model_validate({"engine": "echo", "echo": script}), Path())


def test_echo_gives_the_prompt_back_or_what_its_script_says() -> None:
    assert echo().call(asked("a b"), wanted).text == "a b"
    assert echo(reply="<{prompt}>").call(asked("a"), wanted).text == "<a>"
    assert echo(**SCRIPT).call(asked("which city"), wanted).text == '{"city": "Paris"}'
    assert echo(reply="x", output_tokens=9).call(asked("a"), wanted).usage == Usage(
        input_tokens=1, output_tokens=9
    )


def test_echo_calls_tools_until_it_has_a_result() -> None:
    engine = echo(
        tool_calls=[{"name": "a", "arguments": {"x": 1}}, {"name": "b", "arguments": "{broken"}], reply="done"
    )
    reply = engine.call(asked("go", tools=(TOOL,)), wanted)
    assert [(one.name, one.arguments) for one in reply.tool_calls] == [("a", '{"x": 1}'), ("b", "{broken")]
    assert (reply.text, reply.finish_reason) == ("", "tool_calls")
    result = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "1"}
    assert engine.call(Call((result,), tools=(TOOL,)), wanted).text == "done"
    assert engine.call(asked("go"), wanted).text == "done"


def test_echo_fails_as_scripted_and_then_works() -> None:
    engine = echo(failures=["rate_limited", "", "malformed_reply"])
    with pytest.raises(RateLimited):
        engine.call(asked("a"), wanted)
    assert engine.call(asked("a"), wanted).text == "a"
    with pytest.raises(MalformedReply):
        engine.call(asked("a"), wanted)
    assert engine.call(asked("a"), wanted).text == "a"
    with pytest.raises(EngineUnavailable, match="no failure 'nonsense'"):
        echo(failures=["nonsense"]).check()


def test_echo_strikes_the_same_prompts_each_time() -> None:
    def struck() -> list[int]:
        engine = echo(failure_rate=0.3)
        return [n for n in range(1000) if fails(engine, f"prompt {n}")]

    assert struck() == struck()
    assert 250 < len(struck()) < 350


def fails(engine: Engine, prompt: str) -> bool:
    try:
        engine.call(asked(prompt), wanted)
    except EngineFault:
        return True
    return False


ECHO_THAT_KILLS = """
from pathlib import Path
from broker.call import Call
from broker.settings.lanes import Lane
from workers.engines import build
engine = build("dry", Lane.model_validate({"engine": "echo", "echo": SCRIPT}), Path("."))
engine.call(Call(({"role": "user", "content": "poison"},)), lambda: False)
"""


@pytest.mark.parametrize("script", ['{"kill_on": "pois"}', '{"failures": ["kill"]}'])
def test_echo_ends_its_process(script: str) -> None:
    program = ECHO_THAT_KILLS.replace("SCRIPT", script)
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
