"""A real small model in a tool loop: its first step is a tool's call, whose form llama.cpp holds it to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from broker.task import Task
from tests.workers.nodes import Node
from workers.engines.launcher import stop_all

pytest.importorskip("xllamacpp")

TOML = """
[fleet]
lease_s = 60

[lanes.rented]
engine = "llamacpp"
context_tokens = 1024
max_tokens = 64
timeout_s = 120

[tools.calculator]
kind = "calculator"

[types.general]
chain = ["rented", "human"]
tools = ["calculator"]
tools_first = true
instruction = "Use the calculator, then say the number."
"""


@pytest.fixture
def node(client: redis.Redis, tmp_path: Path) -> Iterator[Node]:
    made = Node(client, tmp_path, TOML)
    yield made
    made.close()
    stop_all(tmp_path)


def test_the_packaged_model_begins_with_a_tool_and_goes_on_with_what_came_of_it(node: Node) -> None:
    node.give(Task("t", "acme", ({"role": "user", "content": "How much is 17 * 23?"},)))
    node.work()
    record = node.record()
    first, use, *rest = record.progress.attempts
    assert (first.purpose, first.engine, first.settled) == ("task", "llamacpp", True)
    assert (use.purpose, use.model) == ("tool", "calculator")
    assert rest
    assert rest[-1].purpose == "task"
    assert record.status == "succeeded"
    assert record.cost_nano >= sum(one.cost_nano or 0 for one in record.progress.attempts)
    assert record.progress.turns[0]["tool_calls"][0]["function"]["name"] == "calculator"
