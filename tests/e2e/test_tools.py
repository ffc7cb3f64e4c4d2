"""kill -9 in the middle of a tool, by the tool itself: real processes over a real Redis."""

from collections.abc import Callable

import pytest

from tests.e2e.conftest import LiveFleet
from tests.workers import tools_of_ours

pytestmark = pytest.mark.e2e
OURS = tools_of_ours.__name__


@pytest.mark.parametrize(
    ("function", "read_only", "done", "came_to"),
    [("book_and_die", False, 1, "unknown_end"), ("read_and_die", True, 2, "")],
    ids=["with effects", "reading"],
)
def test_a_node_that_dies_in_a_tool_leaves_the_task_to_another_and_no_paid_step_is_paid_again(
    live: Callable[[str], LiveFleet], function: str, read_only: bool, done: int, came_to: str
) -> None:
    fleet = live("")
    book = fleet.folder / "book"
    toml = f"""
[fleet]
lease_s = 1.0
cpu_usd_per_hour = "0"
[lanes.rented]
engine = "echo"
price = {{ input_mtok = "100", output_mtok = "400" }}
echo = {{ tool_calls = [{{ name = "it", arguments = {{ file = "{book}" }} }}] }}
[tools.it]
kind = "python"
function = "{OURS}:{function}"
read_only = {str(read_only).lower()}
usd_per_call = "0.01"
[types.general]
chain = ["rented", "human"]
tools = ["it"]
"""
    fleet = live(toml)
    fleet.start("dispatcher.node", threads=2)
    for name in ("first", "second"):
        fleet.start("workers.lane_rented", threads=2, name=name, PYTHONPATH=".")
    handle = fleet.client.submit("Book a room.")
    result = handle.result(timeout_s=40)
    assert result.status == "succeeded"
    assert len(book.read_text().splitlines()) == done
    record = fleet.client.record(handle.task_id)
    attempts = record.progress.attempts
    assert [one.purpose for one in attempts] == ["task", "tool", "tool", "task"]
    assert [one.failure for one in attempts[1:3]] == ["worker_lost", came_to]
    lost = 10_000_000  # what the dead node's use may have cost is booked
    used = 0 if came_to else 10_000_000
    models = sum(one.cost_nano or 0 for one in attempts if one.purpose == "task")
    assert models + used + lost <= record.cost_nano < models + used + lost + 1_000_000
