"""What the use of a tool that works in a process of its own is booked at."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import redis

from broker.call import ToolCall
from broker.settings import parse
from broker.store import Store
from workers.toolbox import Toolbox

TOML = """
[fleet]
cpu_usd_per_hour = "3600"
[lanes.local]
engine = "echo"
[tools.shop]
kind = "sql"
database = "."
timeout_s = 0.5
[types.general]
chain = ["local"]
tools = ["shop"]
"""


def test_a_query_is_booked_at_the_time_that_its_process_took(client: redis.Redis, tmp_path: Path) -> None:
    settings = parse(TOML, folder=tmp_path)
    toolbox = Toolbox.open(settings, "local", Store(client, settings.fleet))
    query = ToolCall("x", "shop", '{"query": "SELECT count(*) FROM range(100000000000) a, range(100) b"}')
    offer = toolbox.offer(["shop"], query)
    assert offer is not None
    used = toolbox.use(offer, query, "acme")
    toolbox.close()
    assert used.failure == "tool_timeout"
    assert Decimal("0.5") <= Decimal(used.cost_nano) / 10**9 < 5, (
        "a dollar a second, while the worker only waited"
    )
