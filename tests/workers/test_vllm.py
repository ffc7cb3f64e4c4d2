"""Which vLLM a lane gets, how it is started, and what it is asked: all that needs no vLLM."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import workers.engines
from broker.call import Call
from broker.errors import (
    AuthenticationFailed,
    CallRejected,
    ContextOverflow,
    EngineError,
    EngineFault,
    EngineOverloaded,
    EngineUnavailable,
    ModelNotFound,
)
from broker.settings import parse
from broker.settings.lanes import Lane
from workers.engines import build, resolve
from workers.engines.vllm import order_of, spoken
from workers.engines.vllm_command import batch, environment, kv_bytes, serving
from workers.engines.vllm_inside import KeyOnEveryPath

LLAMA = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "small-1b"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LLAMA))
    return model


def lane_of(folder: Path, **fields: Any) -> Lane:
    return Lane.model_validate(
        {
            "engine": "vllm",
            "model_path": folder,
            "context_tokens": 1024,
            "vllm": {"python": sys.executable} | fields.pop("vllm", {}),
            **fields,
        }
    )


def order(**changes: Any) -> dict[str, Any]:
    return {
        "python": "/opt/vllm/bin/python",
        "model": "small",
        "weights": "/models/small",
        "local": True,
        "context_tokens": 4096,
        "accelerator": False,
        "kv_bytes": 2**30,
        "cpu_threads": None,
        "in_flight": 256,
        "tool_parser": "hermes",
        "arguments": [],
        "key": "sesame",
    } | changes


def has(command: list[str], *words: str) -> bool:
    return any(tuple(command[at : at + len(words)]) == words for at in range(len(command)))


# --- the command line


@pytest.mark.parametrize(
    ("changes", "words", "there"),
    [
        ({}, ("--model", "/models/small"), True),
        ({}, ("--served-model-name", "small"), True),
        ({}, ("--max-model-len", "4096"), True),
        ({}, ("--host", "127.0.0.1"), True),
        ({}, ("--port", "8123"), True),
        ({}, ("--scheduling-policy", "priority"), True),
        ({}, ("--max-num-queued-reqs", "256"), True),
        ({}, ("--enable-prefix-caching",), True),
        ({}, ("--enable-prompt-tokens-details",), True),
        ({}, ("--middleware", "__main__.KeyOnEveryPath"), True),
        ({}, ("--stream-interval", "8"), True),
        ({}, ("--disable-uvicorn-access-log",), True),
        ({}, ("--enforce-eager",), True),
        ({"accelerator": True}, ("--enforce-eager",), False),
        ({}, ("--kv-cache-memory-bytes", str(2**30)), True),
        ({"kv_bytes": None}, ("--kv-cache-memory-bytes",), False),
        ({}, ("--enable-auto-tool-choice",), True),
        ({"tool_parser": "mistral"}, ("--tool-call-parser", "mistral"), True),
        ({"tool_parser": ""}, ("--enable-auto-tool-choice",), False),
        ({}, ("sesame",), False),
    ],
)
def test_the_server_is_started_with(changes: dict[str, Any], words: tuple[str, ...], there: bool) -> None:
    assert has(serving(order(**changes), 8123), *words) is there


def test_a_lanes_own_arguments_come_last_and_so_win() -> None:
    own = ["--max-num-queued-reqs", "2"]
    assert serving(order(arguments=own), 8123)[-2:] == own
    assert batch(order(arguments=own), Path("in"), Path("out"))[-2:] == own


def test_a_batch_is_started_with_the_servers_engine_and_without_its_door() -> None:
    command = batch(order(), Path("/tmp/in.jsonl"), Path("/tmp/out.jsonl"))
    assert has(command, "vllm.entrypoints.openai.run_batch", "-i", "/tmp/in.jsonl", "-o", "/tmp/out.jsonl")
    assert has(command, "--scheduling-policy", "priority")
    assert not has(command, "--port")
    assert not has(command, "--max-num-queued-reqs")


def test_it_is_run_by_the_lanes_python_and_finds_none_of_our_modules_beside_it() -> None:
    assert serving(order(), 8123)[:2] == ["/opt/vllm/bin/python", "-P"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"VLLM_API_KEY": "sesame", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}),
        ({"local": False}, {"HF_HUB_OFFLINE": None}),
        ({"cpu_threads": 6}, {"OMP_NUM_THREADS": "6", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}),
        ({}, {"OMP_NUM_THREADS": None}),
    ],
)
def test_its_environment(changes: dict[str, Any], expected: Mapping[str, str | None]) -> None:
    found = environment(order(**changes))
    assert {name: found.get(name) for name in expected} == expected


def test_room_for_keys_and_values_is_counted_by_the_models_own_figures() -> None:
    # SmolLM2-135M: vLLM itself counts 23,040 bytes a token (46,592 tokens in 1 GiB of 16-token blocks).
    assert kv_bytes(LLAMA, 1) == 2 * 2 * 30 * 3 * 64 == 23_040
    assert kv_bytes(LLAMA | {"head_dim": 128}, 10) == 2 * 2 * 30 * 3 * 128 * 10
    assert (
        kv_bytes({key: LLAMA[key] for key in LLAMA if key != "num_key_value_heads"}, 1) == 2 * 2 * 30 * 9 * 64
    )
    assert kv_bytes({"architectures": ["Unheard"]}, 1024) is None


# --- what a lane stands for


def test_an_order_of_a_folder(folder: Path) -> None:
    found = order_of("gpu", lane_of(folder, threads=32))
    assert found["weights"] == str(folder)
    assert found["model"] == "small-1b"
    assert found["revision"] == "bfloat16"
    assert found["kv_bytes"] == 23_040 * 1024 * 32
    assert found["in_flight"] == 256
    assert order_of("gpu", lane_of(folder, model="house-model"))["model"] == "house-model"
    assert order_of("gpu", lane_of(folder, threads=100))["in_flight"] == 800


def test_a_quantised_folder_says_how(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(LLAMA | {"quantization_config": {"quant_method": "awq"}}))
    assert order_of("gpu", lane_of(folder))["revision"] == "awq"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_path": None}, r"no model is named(.|\n)*mend: .*lanes\.gpu\.model"),
        ({"model_path": "/nowhere"}, r"/nowhere is no folder with a config\.json"),
        (
            {"vllm": {"python": "/nowhere/python"}},
            r"no Python at /nowhere/python(.|\n)*lanes\.gpu\.vllm\.python",
        ),
        ({"vllm": {"python": None}}, r"needs the package vllm(.|\n)*mend: pip install"),
    ],
)
def test_what_a_node_lacks_is_said_with_its_mend(folder: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineUnavailable, match=words):
        build("gpu", lane_of(folder, **fields), folder).check()


def test_other_weights_in_the_same_folder_are_another_process(folder: Path, tmp_path: Path) -> None:
    engine: Any = build("gpu", lane_of(folder), tmp_path)
    before = engine._wanted().stem()
    assert engine._wanted().stem() == before
    (folder / "model.safetensors").write_bytes(b"other")
    assert engine._wanted().stem() != before


def test_lanes_that_differ_in_threads_only_share_a_process(folder: Path, tmp_path: Path) -> None:
    one: Any = build("a", lane_of(folder, threads=4), tmp_path)
    two: Any = build("b", lane_of(folder, threads=64), tmp_path)
    other: Any = build("c", lane_of(folder, vllm={"arguments": ["--seed", "1"]}), tmp_path)
    assert one._wanted().stem() == two._wanted().stem() != other._wanted().stem()


def test_a_relative_python_lies_beside_the_configuration(tmp_path: Path) -> None:
    toml = '[lanes.local]\nengine = "vllm"\nmodel = "m"\nvllm = { python = "venv/bin/python" }'
    settings = parse(toml + '\n[types.general]\nchain = ["local"]', folder=tmp_path)
    assert settings.lanes["local"].vllm.python == tmp_path / "venv/bin/python"


@pytest.mark.parametrize(
    ("fields", "gpu", "expected"),
    [
        ({}, True, "llamacpp"),  # nobody names a model: the packaged one is llama.cpp's
        ({"base_url": "http://gpu-1:8000/v1"}, False, "vllm"),
        ({"vllm": {"python": "/opt/vllm/bin/python"}, "model": "org/model"}, True, "vllm"),
        ({"vllm": {"python": "/opt/vllm/bin/python"}, "model": "org/model"}, False, "llamacpp"),
        ({"vllm": {"python": "/opt/vllm/bin/python"}, "model_path": "model.gguf"}, True, "llamacpp"),
        ({"model": "org/model"}, True, "llamacpp"),  # no vLLM here
        ({"engine": "vllm"}, False, "vllm"),
        ({"engine": "openai", "base_url": "http://gpu-1:8000/v1"}, True, "openai"),
    ],
)
def test_auto_is_vllm_where_one_serves(
    fields: dict[str, Any], gpu: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.engines, "accelerated", lambda: gpu)
    assert resolve(Lane.model_validate({"engine": "auto"} | fields)) == expected


# --- the door that asks for its key on every path


async def asked(scope: dict[str, Any]) -> list[Mapping[str, Any]]:
    sent: list[Mapping[str, Any]] = []

    async def app(scope: object, receive: object, send: object) -> None:
        sent.append({"type": "served"})

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> None: ...

    await KeyOnEveryPath(app)(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/invocations", "/metrics", "/health"])
def test_no_path_answers_without_the_key(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyOnEveryPath, "expected", b"Bearer sesame")
    for headers in ([], [(b"authorization", b"Bearer other")]):
        refused = asyncio.run(asked({"type": "http", "path": path, "headers": headers}))
        assert refused[0]["status"] == 401
        assert {"type": "served"} not in refused
    with_key = {"type": "http", "path": path, "headers": [(b"authorization", b"Bearer sesame")]}
    assert asyncio.run(asked(with_key)) == [{"type": "served"}]


def test_a_websocket_is_closed_without_the_key_and_its_own_life_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KeyOnEveryPath, "expected", b"Bearer sesame")
    closed = asyncio.run(asked({"type": "websocket", "path": "/v1/realtime", "headers": []}))
    assert [message["type"] for message in closed] == ["websocket.close"]
    assert asyncio.run(asked({"type": "lifespan"})) == [{"type": "served"}]


# --- a server that is given by its address


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [  # as vLLM 0.32 worded them
        (
            400,
            {
                "message": "This model's maximum context length is 1024 tokens. However, your prompt contains at least"
                " 1025 input tokens, which exceeds this limit even without any output tokens. Please reduce the length"
                " of the input prompt. (parameter=input_tokens, value=1025)",
                "type": "BadRequestError",
                "param": "input_tokens",
                "code": 400,
            },
            ContextOverflow,
        ),
        (
            404,
            {
                "message": "The model `nope` does not exist. Valid aliases: smol.",
                "type": "NotFoundError",
                "param": "model",
                "code": 404,
            },
            ModelNotFound,
        ),
        (
            400,
            {"message": "Invalid regex", "type": "BadRequestError", "param": None, "code": 400},
            CallRejected,
        ),
        (
            503,
            {
                "message": "Server has reached its maximum",
                "type": "ServiceUnavailableError",
                "param": None,
                "code": 503,
            },
            EngineOverloaded,
        ),
        (
            500,
            {
                "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
                "type": "InternalServerError",
                "param": None,
                "code": 500,
            },
            EngineFault,
        ),
        (401, "Unauthorized", AuthenticationFailed),
    ],
)
def test_what_vllm_refuses_has_its_leaf(
    status: int, body: object, expected: type[EngineError], provider: Any, tmp_path: Path
) -> None:
    provider.status, provider.body = status, json.dumps({"error": body}).encode()
    provider.content_type = "application/json"
    engine = build("gpu", Lane(engine="vllm", model="m", base_url=f"{provider.url}/v1"), tmp_path)
    engine.open()
    with pytest.raises(EngineError) as failed:
        engine.call(Call(({"role": "user", "content": "Hi"},)), lambda: False)
    assert type(failed.value) is expected
    engine.close()


def stream(text: str) -> bytes:
    chunks: list[object] = [
        {"model": "m", "choices": [{"delta": {"content": text}, "finish_reason": "stop"}]},
        {
            "model": "m",
            "choices": [],
            "usage": {
                "prompt_tokens": 48,
                "completion_tokens": 3,
                "total_tokens": 51,
                "prompt_tokens_details": {"cached_tokens": 32, "created_cache_tokens": 16},
            },
        },
    ]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode() + b"data: [DONE]\n\n"


def test_it_is_asked_in_vllms_dialect_with_the_lanes_key(
    provider: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_KEY", "sesame")
    provider.body = stream("positive")
    table = {"engine": "auto", "model": "m", "base_url": f"{provider.url}/v1", "api_key_env": "GPU_KEY"}
    lane = Lane.model_validate(table | {"vllm": {"priorities": True}})
    engine = build("gpu", lane, tmp_path)
    assert engine.name == "vllm"
    engine.open()
    call = Call(({"role": "user", "content": "Hi"},), choices=("positive", "negative"), priority=3, seed=7)
    reply = engine.call(call, lambda: False)
    assert reply.text == "positive"
    assert (reply.usage.input_tokens, reply.usage.cached_input_tokens, reply.usage.cache_write_tokens) == (
        16,
        32,
        0,
    )
    asked = provider.asked[0]
    assert asked["structured_outputs"] == {"choice": ["positive", "negative"]}
    assert (asked["priority"], asked["seed"]) == (-3, 7)
    assert provider.asked_headers[0]["authorization"] == "Bearer sesame"
    engine.close()


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({}, {"priority": -5}),
        ({"base_url": "http://gpu-1:8000/v1"}, None),
        ({"base_url": "http://gpu-1:8000/v1", "vllm": {"priorities": True}}, {"priority": -5}),
    ],
)
def test_priorities_go_to_servers_that_take_them(fields: dict[str, Any], sent: object) -> None:
    lane = Lane.model_validate({"engine": "vllm", "model": "m"} | fields)
    row = spoken(lane)
    assert (row.priority and row.priority(5)) == sent


def test_tools_are_told_in_words_where_the_chat_template_knows_none() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    call = Call(({"role": "user", "content": "Hi"},), tools=(tool,))
    native = spoken(Lane(engine="vllm", model="m")).constrain(call)
    told = spoken(
        Lane.model_validate({"engine": "vllm", "model": "m", "vllm": {"tool_parser": ""}})
    ).constrain(call)
    assert native.fields["tools"] == [tool]
    assert "tools" not in told.fields
    assert "look" in told.told


def test_its_tokens_are_probed_where_nobody_bills_them(provider: Any, tmp_path: Path) -> None:
    free = build("gpu", Lane(engine="vllm", model="m", base_url=f"{provider.url}/v1"), tmp_path)
    billed = Lane.model_validate(
        {
            "engine": "vllm",
            "model": "m",
            "base_url": f"{provider.url}/v1",
            "price": {"input_mtok": "1", "output_mtok": "1"},
        }
    )
    rented = build("rented", billed, tmp_path)
    rented.open()
    rented.probe(5)
    assert provider.asked == []
    free.open()
    provider.body = stream("Hi")
    free.probe(5)
    assert provider.asked[0]["max_tokens"] == 1
    provider.status = 503
    free.probe(5)  # too much to do is no illness
    provider.status = 500
    with pytest.raises(EngineUnavailable, match="makes no token"):
        free.probe(5)
    rented.close()
    free.close()
