"""What a step of a tool loop costs beside the bare SDK's loop: a model's call and the tool that it asks for.

The same server on a real socket answers both at once with the same calls of the calculator, and with an answer after
``STEPS`` of them. Ours claims the task, reserves and settles each call and each use in Redis, and keeps every step.
Pairs are interleaved; what is told is the median of their differences. Run: python -m benchmarks.bench_tools
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import openai
import redis

from benchmarks import bench_call
from broker import embedded
from broker.hands import Hands
from broker.settings import parse
from broker.store import Store
from broker.task import DISPATCH, Task
from dispatcher.actor import Dispatcher
from dispatcher.classify import Classifier
from dispatcher.embedding import HashEmbedder
from workers.endpoints import Endpoints
from workers.jobs import Jobs
from workers.shell import Lane
from workers.toolbox import Toolbox
from workers.tools.calculator import calculated

STEPS = 10
PAIRS = 21
MOST_MS = 2.0
PROMPT = "How much is it?"
TOML = """
[lanes.rented]
engine = "openai"
model = "m"
base_url = "URL/v1"
price = { input_mtok = "1", output_mtok = "2" }

[tools.calculator]
kind = "calculator"

[types.general]
chain = ["rented", "human"]
tools = ["calculator"]
"""


# --- the server


def answer(used: int) -> bytes:
    delta: dict[str, Any] = {"content": "so much"}
    if used < STEPS:
        function = {"name": "calculator", "arguments": json.dumps({"expression": f"{used} + 1"})}
        delta = {"tool_calls": [{"index": 0, "id": f"c{used}", "type": "function", "function": function}]}
    finish = "tool_calls" if used < STEPS else "stop"
    frame = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[dict[str, Any]] = [
        {**frame, "choices": [{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": None}]},
        {**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]},
        {**frame, "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}},
    ]
    return b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in chunks) + b"data: [DONE]\n\n"


def serve() -> None:
    """Until standard input ends."""
    bench_call.serve(lambda _, asked: answer(sum(one["role"] == "tool" for one in asked["messages"])))


# --- the two sides


class Bare:
    """The SDK's own loop, as its documentation writes it."""

    def __init__(self, url: str) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        parameters = {"type": "object", "properties": {"expression": {"type": "string"}}}
        function = {"name": "calculator", "description": "Calculates.", "parameters": parameters}
        self.tools: Any = [{"type": "function", "function": function}]

    def run(self) -> str:
        messages: list[Any] = [{"role": "user", "content": PROMPT}]
        while True:
            text, asked = self._call(messages)
            if not asked:
                return text
            messages.append({"role": "assistant", "content": text, "tool_calls": list(asked.values())})
            for one in asked.values():
                result = calculated(json.loads(one["function"]["arguments"])["expression"])
                messages.append({"role": "tool", "tool_call_id": one["id"], "content": result})

    def _call(self, messages: list[Any]) -> tuple[str, dict[int, Any]]:
        text, asked = "", dict[int, Any]()
        with self.client.chat.completions.create(
            model="m",
            messages=messages,
            tools=self.tools,
            stream=True,
            stream_options={"include_usage": True},
        ) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    for one in choice.delta.tool_calls or ():
                        asked[one.index] = one.model_dump(exclude_none=True)
        return text, asked


class Ours:
    def __init__(self, url: str, client: redis.Redis, folder: Path) -> None:
        settings = parse(TOML.replace("URL", url), folder=folder)
        self.store = Store(client, settings.fleet)
        endpoints = Endpoints.build("rented", settings.lanes["rented"], folder)
        endpoints.open()
        toolbox = Toolbox.open(settings, "rented", self.store)
        self.hands = Hands()
        self.lane = Lane(Jobs("rented", settings, self.store, endpoints, self.hands, toolbox))
        self.dispatcher = Dispatcher(settings, self.store, Classifier.build(settings, HashEmbedder()))
        self.number = 0

    def submit(self) -> str:
        self.number += 1
        task = Task(f"t{self.number}", "bench", ({"role": "user", "content": PROMPT},))
        self.store.submit([task])
        self.dispatcher.work(self.store.fetch(DISPATCH, 1, idle=True).claims)
        return task.ref

    def run(self) -> None:
        claims = self.store.fetch("lane-rented-sync", 1, idle=True).claims
        self.hands.take(claims, "lane-rented-sync", messages=1, hold_s=60)
        self.lane.work(claims)
        self.hands.drop(claims, "lane-rented-sync")


def seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, bench_call.server("benchmarks.bench_tools") as url:
        folder = Path(scratch)
        redis_server = embedded.start(folder)
        try:
            ours, bare = Ours(url, redis.Redis.from_url(redis_server.url), folder), Bare(url)
            pairs = []
            for _ in range(PAIRS + 1):  # the first one opens connections
                ref = ours.submit()
                pairs.append((seconds(ours.run), seconds(bare.run)))
                record = ours.store.records.one(ref)
                assert record.status == "succeeded", record
                assert len(record.progress.attempts) == 2 * STEPS + 1
        finally:
            embedded.stop(redis_server)
    more_ms = median((mine - theirs) * 1000 / STEPS for mine, theirs in pairs[1:])
    theirs_ms = median(theirs * 1000 / STEPS for _, theirs in pairs[1:])
    verdict = "reached" if more_ms <= MOST_MS else "MISSED"
    print(
        f"a step of a tool loop: the bare SDK's {theirs_ms:.2f} ms, ours {theirs_ms + more_ms:.2f} ms,"
        f" {more_ms:+.2f} ms (at most {MOST_MS:g} more: {verdict})"
    )


if __name__ == "__main__":
    main()
