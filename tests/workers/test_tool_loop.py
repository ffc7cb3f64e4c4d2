"""Tasks whose model uses tools: over a real Redis, and against a provider that we did not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from broker.call import ToolCall
from broker.events import Attempted, Finished
from broker.state import Record
from broker.task import Task
from tests.mock_provider import mock_provider
from tests.workers import tools_of_ours
from tests.workers.nodes import ScriptedNode, calls, says
from tests.workers.tools_of_ours import RELEASED
from workers.toolbox import MOST_HANGING

OURS = tools_of_ours.__name__
TOML = f"""
[fleet]
lease_s = 0.3
max_starts = 30
cpu_usd_per_hour = "0"

[lanes.rented]
engine = "openai"
model = "m"
base_url = "URL/v1"
price = {{ input_mtok = "1", output_mtok = "2" }}
retries = 1

[lanes.frontier]
engine = "echo"

[tools.calculator]
kind = "calculator"

[tools.days]
kind = "python"
function = "{OURS}:days_between"
read_only = true
ttl_s = 60
usd_per_call = "0.01"

[tools.book]
kind = "python"
function = "{OURS}:book"

[tools.hang]
kind = "python"
function = "{OURS}:hang"
timeout_s = 0.2

[tools.broken]
kind = "python"
function = "{OURS}:broken"

[types.general]
chain = ["rented", "frontier", "human"]
tools = ["calculator", "days", "book", "hang", "broken"]
"""
DAYS = {"start": "2026-01-01", "end": "2026-01-31"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mock_provider() as url:
        yield url


Made = Callable[..., ScriptedNode]


@pytest.fixture
def made(client: redis.Redis, url: str, tmp_path: Path) -> Iterator[Made]:
    nodes: list[ScriptedNode] = []

    def make(*changes: tuple[str, str]) -> ScriptedNode:
        toml = TOML
        for old, new in changes:
            assert old in toml
            toml = toml.replace(old, new)
        nodes.append(ScriptedNode(client, tmp_path, toml, url))
        return nodes[-1]

    yield make
    RELEASED.set()
    RELEASED.clear()
    for node in nodes:
        node.close()


@pytest.fixture
def node(made: Made) -> ScriptedNode:
    return made()


def purposes(record: Record) -> list[str]:
    return [one.purpose for one in record.progress.attempts]


def uses(record: Record) -> list[tuple[str, str]]:
    return [(one.model, one.failure) for one in record.progress.attempts if one.purpose == "tool"]


def test_a_model_uses_tools_on_its_way_to_the_answer(node: ScriptedNode) -> None:
    record = node.done(
        calls(("days", DAYS), ("calculator", {"expression": "30 * 24"})),
        calls(("calculator", {"expression": "720 / 2"})),
        says("360 hours"),
    )
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "360 hours")
    assert purposes(record) == ["task", "tool", "tool", "task", "tool", "task"]
    first, second, third = node.asked()
    names = ["calculator", "days", "book", "hang", "broken"]
    assert [one["function"]["name"] for one in first["tools"]] == names
    assert [one["content"] for one in second["messages"] if one["role"] == "tool"] == ["30", "720"]
    assert [one["content"] for one in third["messages"] if one["role"] == "tool"] == ["30", "720", "360"]
    assert all("lane" not in message for message in third["messages"])
    assert third["messages"][: len(second["messages"])] == second["messages"], "the beginning stays as it was"
    ids = [one["tool_call_id"] for one in third["messages"] if one["role"] == "tool"]
    assert len(set(ids)) == 3


def test_each_use_is_an_event_with_its_cost_and_the_sum_is_the_tasks(node: ScriptedNode) -> None:
    record = node.done(calls(("days", DAYS)), says("30"))
    booked = [event.fact for event in node.events() if isinstance(event.fact, Attempted)]
    assert [one.purpose for one in booked] == ["task", "tool", "task"]
    assert booked[1].cost_nano == 10_000_000
    assert (booked[1].lane, booked[1].engine, booked[1].model) == ("rented", "tool", "days")
    assert booked[1].price_ref.startswith("tool:")  # which has no price by the token
    assert record.cost_nano == sum(one.cost_nano or 0 for one in booked)
    assert record.reserved_nano == 0
    assert len({one.attempt_id for one in booked}) == 3


@pytest.mark.parametrize(
    ("call", "failure", "told"),
    [
        (("weather", {}), "unknown_tool", "no tool 'weather'"),
        (("calculator", {}), "bad_arguments", "expression"),
        (("calculator", {"expression": 5}), "bad_arguments", "expression"),
        (("calculator", {"expression": "import os"}), "tool_failed", "no arithmetic"),
        (("days", {"start": "yesterday", "end": "today"}), "bad_arguments", "start"),
        (("broken", {}), "tool_failed", "KeyError: 'no such row'"),
        (("hang", {}), "tool_timeout", "more than 0.2 s"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model_and_booked(
    node: ScriptedNode, call: tuple[str, Any], failure: str, told: str
) -> None:
    record = node.done(calls(call), says("then so"))
    assert record.status == "succeeded"
    assert uses(record) == [(call[0], failure)]
    said = node.asked()[1]["messages"][-1]["content"]
    assert said.startswith("Error: ")
    assert told in said


def test_arguments_that_are_no_json_are_told(node: ScriptedNode) -> None:
    record = node.done(
        {"type": "tool_fault", "kind": "malformed_arguments"}, calls(("days", DAYS)), says("so")
    )
    assert uses(record) == [("days", "bad_arguments")]
    assert record.status == "succeeded"


def test_a_tool_that_hangs_again_and_again_is_asked_no_more(node: ScriptedNode) -> None:
    call = ToolCall("x", "hang", "{}")
    offer = node.toolbox.offer(["hang"], call)
    assert offer is not None
    failures = [node.toolbox.use(offer, call, "acme").failure for _ in range(MOST_HANGING + 1)]
    assert failures == ["tool_timeout"] * MOST_HANGING + ["tool_hangs"]


def test_as_many_uses_of_a_tool_as_there_are_threads_run_at_once(node: ScriptedNode) -> None:
    call = ToolCall("x", "calculator", '{"expression": "2 ** 200"}')
    offer = node.toolbox.offer(["calculator"], call)
    assert offer is not None
    with ThreadPoolExecutor(32) as pool:
        failures = list(pool.map(lambda _: node.toolbox.use(offer, call, "acme").failure, range(200)))
    assert set(failures) == {""}


def test_an_endless_loop_of_the_same_call_climbs(node: ScriptedNode) -> None:
    loop = calls(("calculator", {"expression": "1 + 1"})) | {"times": None}
    record = node.done(loop)
    assert (record.status, record.progress.lane) == ("queued", "frontier")
    assert record.progress.why == "calculator was called 3 times with the same words"
    assert len(uses(record)) == 3


def test_an_endless_loop_of_other_calls_ends_at_its_limit_and_goes_on_when_that_is_raised(
    node: ScriptedNode,
) -> None:
    node.submit(
        *[calls(("calculator", {"expression": f"1 + {n}"})) for n in range(4)],
        says("done"),
        budget={"tool_calls": 3},
    )
    node.work()
    record = node.record()
    assert record.status == "parked"
    assert "3 tool calls" in record.progress.why
    node.store.parked.raise_limits("acme/t", None, {"tool_calls": 4})
    node.work()
    record = node.record()
    assert (record.status, len(uses(record)), len(node.asked())) == ("succeeded", 4, 5)


def test_a_tool_that_the_budget_has_no_room_for_is_not_used(made: Made) -> None:
    node = made(
        (
            "[types.general]",
            '[[budgets]]\nscope = "workspace:acme"\nperiod = "day"\nusd = "0.005"\n[types.general]',
        )
    )
    record = node.done(calls(("days", DAYS)), says("x"))
    assert record.status == "parked"
    assert uses(record) == []
    assert "the call may cost $0.01" in record.progress.why


def test_what_a_tool_read_is_kept_for_its_time_and_costs_nothing_again(node: ScriptedNode) -> None:
    node.submit(calls(("days", DAYS)), says("30"), task_id="first")
    node.work()
    record = node.done(calls(("days", {"end": DAYS["end"], "start": DAYS["start"]})), says("30"))
    [use] = [one for one in record.progress.attempts if one.purpose == "tool"]
    assert (use.engine, use.cost_nano) == ("kept", 0)
    [kept] = node.client.scan_iter("laneway:tool:*")
    assert kept.startswith(b"laneway:tool:acme:"), "a workspace never sees another one's"
    assert 0 < int(node.client.ttl(kept)) <= 60


def test_a_worker_that_stops_leaves_its_task_to_another_one_between_two_steps(made: Made) -> None:
    node, other = made(), made()
    node.submit(calls(("book", {"file": str(node.folder / "rooms")})), says("booked"))
    node.hands.stopping.set()
    node.work()
    assert node.record().status == "queued"
    other.work()
    other.work()
    record = node.record()
    assert record.status == "succeeded"
    assert purposes(record) == ["task", "tool", "task"]
    assert (node.folder / "rooms").read_text() == "a\n"


def test_a_task_that_is_cancelled_between_two_steps_ends_there(made: Made) -> None:
    node = made()
    node.submit(calls(("days", DAYS)), says("never"))
    node.hands.stopping.set()
    node.work()
    node.store.cancel("acme/t")
    made().work()
    assert node.record().status == "cancelled"
    assert len(node.asked()) == 1


class Death(BaseException):
    """The process ends here: nothing of it catches this."""


def dying(node: ScriptedNode, step: int, *, after: bool) -> Callable[[], int]:
    """The node dies before or after its ``step``-th deed in Redis; how many it has done."""
    made = 0
    real = node.store.scripts.call

    def call(name: str, *given: Any) -> Any:
        nonlocal made
        made += name in ("begin", "commit", "fetch")
        if made == step and not after and name in ("begin", "commit"):
            raise Death
        result = real(name, *given)
        if made == step and after:
            raise Death
        return result

    node.store.scripts.call = call  # type: ignore[method-assign]
    return lambda: made


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_whichever_step_a_node_dies_at_no_paid_step_is_paid_again_and_nothing_with_effects_is_done_twice(
    made: Made, client: redis.Redis, after: bool
) -> None:
    step, last = 1, False
    while not last:
        client.flushall()
        node = made()
        rooms = node.folder / "rooms"
        rooms.unlink(missing_ok=True)
        node.submit(
            calls(("days", DAYS), ("book", {"file": str(rooms)})),
            calls(("days", DAYS | {"end": "2026-02-01"})),
            says("all done"),
        )
        count = dying(node, step, after=after)
        try:
            node.work()
            last = count() < step
        except Death:
            pass
        for _ in range(50):
            node = node.anew()
            node.store.keep([], [])
            node.work()
            if node.record().status in ("succeeded", "parked", "failed"):
                break
        record = node.record()
        booked = {one.attempt_id: one for event in node.events() if isinstance(one := event.fact, Attempted)}
        assert record.status == "succeeded", (step, record)
        assert sum(isinstance(event.fact, Finished) for event in node.events()) == 1
        assert record.cost_nano == sum(one.cost_nano or 0 for one in booked.values())
        assert record.reserved_nano == 0
        models = [one.settled for one in booked.values() if one.purpose != "tool"]
        lost = [one.purpose for one in booked.values() if not one.settled]
        assert len(lost) <= 1, "only what was under way at that moment is booked beside"
        asked = len(node.asked())
        assert asked in (models.count(True), len(models)), "what was settled is not asked again"
        assert models.count(True) in ((2, 3) if lost == ["task"] else (3,)), (step, models)
        done = rooms.read_text().splitlines() if rooms.exists() else []
        assert len(done) <= 1, step
        # The provider tells each of its replies once: a lost one asked for no room afterwards.
        unsure = ("book", "unknown_end") in uses(record) or models.count(True) == 2
        assert done == ["a"] or unsure, (step, uses(record))
        step += 1
    assert step > 10


def test_a_result_that_is_too_long_is_cut_and_said_to_be(made: Made) -> None:
    node = made(('kind = "calculator"', 'kind = "calculator"\nresult_chars = 100'))
    node.done(calls(("calculator", {"expression": "10 ** 300"})), says("big"))
    said = node.asked()[1]["messages"][-1]["content"]
    assert said.startswith("1" + "0" * 99 + "\n(cut: 201 more")


def test_a_task_may_be_given_fewer_tools_than_its_type(node: ScriptedNode) -> None:
    record = node.done(calls(("days", DAYS)), says("x"), tools=("calculator",))
    assert uses(record) == [("days", "unknown_tool")]
    assert [one["function"]["name"] for one in node.asked()[0]["tools"]] == ["calculator"]
    node.submit(says("x"), task_id="strange", tools=("rocket",))
    assert "has no tool rocket" in str(node.record("strange").outcome)


def test_a_task_without_tools_is_told_of_none(node: ScriptedNode) -> None:
    node.done(says("x"), tools=())
    assert "tools" not in node.asked()[0]


def test_context_guards_cut_what_is_sent_and_the_task_tells_how_much(made: Made) -> None:
    node = made(("[types.general]", "[types.general]\ncontext = { turns = 2, passages_chars = 800 }"))
    needle = "The warranty of the red pump ends on 4 May 2031."
    manual = "\n".join([*(f"Chapter {n} is about gardens and kites." for n in range(150)), needle])
    said = [
        {"role": role, "content": f"{role} {n}. " + "And more. " * 9}
        for n in range(6)
        for role in ("user", "assistant")
    ]
    asked = [{"role": "user", "content": manual}, {"role": "user", "content": "When does its warranty end?"}]
    node.scripted(says("4 May 2031"))
    node.give(Task("t", "acme", (*said, *asked)))
    node.work()
    [sent] = node.asked()
    gist, *_, document, question = [one["content"] for one in sent["messages"]]
    assert gist.startswith("Earlier in this conversation:\nuser: user 0.")
    assert needle in document
    assert len(document) < 1_000 < len(manual)
    assert question == asked[1]["content"]
    progress = node.record().progress
    assert progress.passages_tokens == (len(manual.encode()) - len(document.encode())) // 4
    assert progress.history_tokens > 0
