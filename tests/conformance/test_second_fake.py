"""The cloud engines against a fake provider by other authors: what agrees with one alone may agree with its faults.

It streams text and tool calls in both protocols, and OpenAI's without usage. It knows no streamed errors, choices of
tools, or schemas.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.call import Call
from broker.settings.lanes import Lane
from tests.awaited import eventually
from workers.engines import Engine, build

RULES = """
version: 1
rules:
  - name: told
    when: { messages_contain: "21 degrees" }
    respond: { content: "It is sunny." }
  - name: tools
    when: { messages_contain: "weather" }
    respond: { tool_calls: [{ name: get_weather, arguments: { city: "Paris" } }, { name: get_time, arguments: {} }] }
  - name: text
    respond: { content: "Hello there, dear reader." }
"""
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("get_weather", "get_time")
)


@pytest.fixture(scope="module")
def fake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("fakellm")
    rules = tmp_path_factory.mktemp("fake") / "rules.yaml"
    rules.write_text(RULES, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = ["-m", "uvicorn", "fakellm.server:app", "--port", str(port), "--log-level", "warning"]
    environment = os.environ | {"FAKELLM_CONFIG": str(rules)}
    with subprocess.Popen([sys.executable, *serve], env=environment, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: requests(url), 30)
            yield url
        finally:
            process.terminate()


def requests(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{url}/_fakellm/stats", timeout=10) as response:
            counted: dict[str, Any] = json.load(response)
            return counted
    except urllib.error.URLError:
        return {}


@pytest.fixture(params=["openai", "anthropic"])
def engine(request: pytest.FixtureRequest, fake_url: str, tmp_path: Path) -> Iterator[Engine]:
    base_url = f"{fake_url}/v1" if request.param == "openai" else fake_url
    lane = Lane.model_validate({"engine": request.param, "model": "m", "base_url": base_url})
    engine = build("rented", lane, tmp_path)
    engine.open()
    yield engine
    engine.close()


def test_text(engine: Engine, fake_url: str) -> None:
    before = requests(fake_url)["total_requests"]
    reply = engine.call(Call(({"role": "user", "content": "Hi"},)), lambda: False)
    assert (reply.text, reply.finish_reason) == ("Hello there, dear reader.", "stop")
    assert reply.usage_known == (engine.name == "anthropic")
    assert requests(fake_url)["total_requests"] == before + 1


def test_tools_and_their_results(engine: Engine) -> None:
    question = {"role": "user", "content": "The weather in Paris?"}
    reply = engine.call(Call((question,), tools=TOOLS), lambda: False)
    assert reply.finish_reason == "tool_calls"
    assert [(one.name, json.loads(one.arguments)) for one in reply.tool_calls] == [
        ("get_weather", {"city": "Paris"}),
        ("get_time", {}),
    ]
    used = [
        {"id": one.id, "type": "function", "function": {"name": one.name, "arguments": one.arguments}}
        for one in reply.tool_calls
    ]
    results = [{"role": "tool", "tool_call_id": one.id, "content": "21 degrees"} for one in reply.tool_calls]
    answer: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": used}
    messages: tuple[dict[str, Any], ...] = (question, answer, *results)
    assert engine.call(Call(messages, tools=TOOLS), lambda: False).text == "It is sunny."
