"""A Redis that goes down under calls and tools that are being paid for."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import redis

from broker import embedded
from broker.task import Task
from tests.awaited import eventually
from tests.workers.conftest import ANSWER, Provider
from tests.workers.nodes import Node

TOML = """
[lanes.rented]
engine = "openai"
model = "m"
base_url = "URL/v1"
price = { input_mtok = "1", output_mtok = "2" }

[types.general]
chain = ["rented"]
"""


def test_an_answer_waits_for_a_redis_that_is_away_and_is_not_paid_again(
    tmp_path: Path, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    server = embedded.start(tmp_path / "var")
    client = redis.Redis.from_url(server.url)
    provider.body = ANSWER
    provider.meanwhile = lambda: os.kill(server.pid, signal.SIGKILL)
    node = Node(client, tmp_path, TOML.replace("URL", provider.url))
    node.give(Task("t", "acme", ({"role": "user", "content": "hi"},)))
    worker = threading.Thread(target=node.work)
    worker.start()
    try:
        eventually(lambda: "waits for Redis" in caplog.text, 10)
    finally:
        server = embedded.start(tmp_path / "var")
        worker.join(10)
    record = node.record()
    client.close()
    embedded.stop(server)
    assert (record.status, len(provider.asked)) == ("succeeded", 1)
    assert [(one.cost_nano, one.settled) for one in record.progress.attempts] == [(7_000, True)]
