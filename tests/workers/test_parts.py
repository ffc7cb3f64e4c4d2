"""Sub-tasks: parts of a task that are tasks themselves, over a real Redis and a provider that we did not write."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from broker import keys
from broker.errors import ConfigError
from broker.events import Attempted, Finished, Routed
from broker.settings import parse
from broker.state import Intent, Move, Record
from broker.task import DISPATCH, Claim, Outcome, Task
from dispatcher.family import (
    DEEPEST,
    LONGEST_ID,
    LONGEST_WAIT_S,
    NotIts,
    NotYet,
    family_of,
    other_id,
    part_id,
)
from dispatcher.route import chain_of
from tests.accounting.reference import fold
from tests.mock_provider import mock_provider
from tests.workers.nodes import ScriptedNode, calls, says

TOML = """
[fleet]
lease_s = 5
cpu_usd_per_hour = "0"

[lanes.rented]
engine = "openai"
model = "m"
base_url = "URL/v1"
price = { input_mtok = "1", output_mtok = "2" }

[tools.hand-on]
kind = "subtask"
types = ["part"]

[types.general]
chain = ["rented", "human"]
tools = ["hand-on"]
budget = { hard_usd = "1" }

[types.part]
chain = ["rented", "human"]
budget = { hard_usd = "1" }

[types.essay]
chain = ["rented", "human"]
critic = "judge"
rounds = 2

[types.judge]
chain = ["rented", "human"]
"""


def hands_on(*prompts: str) -> dict[str, Any]:
    return calls(*(("hand-on", {"prompt": prompt}) for prompt in prompts))


def verdict(*, ok: bool) -> str:
    return json.dumps({"ok": ok, "comment": "more"})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mock_provider() as url:
        yield url


@pytest.fixture
def node(client: redis.Redis, url: str, tmp_path: Path) -> Iterator[ScriptedNode]:
    made = ScriptedNode(client, tmp_path, TOML, url)
    yield made
    made.close()


def until_done(node: ScriptedNode, *scripted: dict[str, Any], **more: Any) -> Record:
    """The task's record when neither the dispatcher nor the lane finds anything to do."""
    node.scripted(*scripted)
    node.store.submit([Task("t", "acme", ({"role": "user", "content": "Plan it."},), **more)])
    for _ in range(12):
        node.dispatch()
        node.work()
    return node.record()


def test_a_model_hands_a_part_on_and_goes_on_with_what_came_of_it(node: ScriptedNode) -> None:
    record = until_done(
        node, hands_on("Do the left half."), says("left"), says("all"), workflow="w", user="u"
    )
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "all")
    [ref] = node.store.records.parts("acme/t")
    part = node.store.records.one(ref)
    assert (part.task.parent, part.task.workflow, part.task.user, part.task.type) == ("t", "w", "u", "part")
    assert part.outcome
    assert part.outcome.output == "left"
    assert node.asked()[-1]["messages"][-1]["content"] == "left"
    assert part.progress.family == (("acme/t", 1_000_000_000),)


def test_what_parts_cost_is_theirs_and_counts_beside_the_parents(node: ScriptedNode) -> None:
    record = until_done(node, hands_on("Do it."), says("left"), says("all"))
    [part] = node.store.records.many(node.store.records.parts("acme/t"))
    calls_of_it = [one for one in record.progress.attempts if one.purpose == "task"]
    assert record.cost_nano == sum(one.cost_nano or 0 for one in calls_of_it)
    assert record.family_nano == part.cost_nano > 0


def test_parts_that_are_asked_for_at_once_are_under_way_together(node: ScriptedNode) -> None:
    node.scripted(hands_on("Left.", "Right."))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    node.work()
    assert len(node.store.records.parts("acme/t")) == 2
    assert node.record().status == "queued"


def test_a_parent_that_waits_is_called_back_by_the_end_of_its_part_and_by_nothing_else(
    node: ScriptedNode,
) -> None:
    node.scripted(hands_on("Left."), says("left"), says("all"))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    node.work()
    node.work()
    assert len(node.asked()) == 1, "it holds no thread and asks for nothing"
    node.dispatch()
    node.work()
    assert node.client.zscore(keys.queue_key("lane-rented-sync"), "acme/t") is not None
    node.work()
    assert node.record().status == "succeeded"


def test_a_parent_that_was_thought_lost_while_it_handed_a_part_on_paid_nothing_for_that(
    client: redis.Redis, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = ScriptedNode(
        client, tmp_path, TOML.replace('cpu_usd_per_hour = "0"', 'cpu_usd_per_hour = "1"'), url
    )
    node.scripted(hands_on("Left."))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    submit, booked = node.store.submit, []

    def stalled(parts: Sequence[Task]) -> list[str]:
        words = submit(parts)
        node.store.release_held([("acme/t", node.record().epoch)], "its worker was lost")
        booked.append(node.record().cost_nano)
        return words

    monkeypatch.setattr(node.store, "submit", stalled)
    node.work()
    node.close()
    paid = fold(event for event in node.events() if event.task_id == "t").task
    assert booked[0] > node.record().cost_nano == paid.cost.total
    assert paid.unsettled_calls == 0
    used: Any = client.hget(keys.used_key("total"), "fleet")
    assert int(used) == paid.cost.total


def test_a_part_that_failed_is_told_to_the_model(node: ScriptedNode) -> None:
    node.scripted(hands_on("Left."), says("then alone"))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    node.work()
    [ref] = node.store.records.parts("acme/t")
    node.store.cancel(ref)
    node.work()
    assert "ended as cancelled" in node.asked()[-1]["messages"][-1]["content"]
    assert node.record().status == "succeeded"


def test_cancelling_a_task_cancels_its_parts(node: ScriptedNode) -> None:
    node.scripted(hands_on("Left.", "Right."))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    node.work()
    node.store.cancel("acme/t")
    assert [node.store.records.status(ref) for ref in node.store.records.parts("acme/t")] == ["cancelled"] * 2


def test_a_part_has_no_more_than_its_parent_has_left(node: ScriptedNode) -> None:
    node.scripted(hands_on("Left."), says("left"), says("all"))
    node.give(Task("t", "acme", ({"role": "user", "content": "Plan it."},)))
    node.work()
    spent = node.record().cost_nano
    node.store.parked.raise_limits("acme/t", spent + 1)
    node.dispatch()
    node.work()
    [ref] = node.store.records.parts("acme/t")
    part = node.store.records.one(ref)
    assert part.status == "budget_exceeded"
    assert "the limit of task acme/t has $0.000000001 left" in (part.outcome.reason if part.outcome else "")
    assert node.record().family_nano == 0


def test_of_many_parts_at_once_none_takes_the_family_over_its_parents_limit(
    node: ScriptedNode, client: redis.Redis
) -> None:
    """A hundred parts in eight threads, of which the parent's limit pays thirty-seven."""
    family = (("acme/t", 37 * 1000),)
    node.store.submit([Task("t", "acme", ({"role": "user", "content": "x"},))])
    client.hset("laneway:task:acme/t", "cost", 0)
    parts = [Task(f"p{n}", "acme", ({"role": "user", "content": "x"},), parent="t") for n in range(100)]
    node.store.submit(parts)
    claims = [one for one in node.store.fetch(DISPATCH, 200, idle=True).claims if one.task.parent]
    words: list[str] = []

    def begin(mine: list[Claim]) -> None:
        for claim in mine:
            told = replace(claim, progress=replace(claim.progress, family=family))
            words.extend(node.store.begin([Intent(told, 1000, _lost())]))

    threads = [threading.Thread(target=begin, args=(claims[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words.count("go") == 37
    assert set(words) == {"go", "over|task:acme/t||0"}
    assert node.record().family_nano == 37_000


def _lost() -> Any:
    return Attempted("a", 0, "rented", "openai", "m", "task", 0, 0, 0.0, 0.0, 1000, settled=False)


def test_an_answer_goes_to_its_critic_and_is_asked_for_again_until_that_is_content(
    node: ScriptedNode,
) -> None:
    record = until_done(
        node,
        says("draft"),
        says(json.dumps({"ok": False, "comment": "name the year"})),
        says("better, 1969"),
        says(json.dumps({"ok": True, "comment": ""})),
        type="essay",
    )
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "better, 1969")
    assert [one.purpose for one in record.progress.attempts] == ["task", "reprompt"]
    critics = node.store.records.parts("acme/t")
    assert critics == ["acme/t-critic1", "acme/t-critic2"]
    first, _, second, _ = node.asked()
    assert "name the year" in second["messages"][-1]["content"]
    assert first["messages"] == second["messages"][: len(first["messages"])]
    parts = node.store.records.many(critics)
    assert record.family_nano == sum(one.cost_nano for one in parts)
    assert [one.purpose for part in parts for one in part.progress.attempts] == ["judge", "judge"]
    assert {key: rate.tries for key, rate in node.store.lanes.rates().items()} == {
        ("essay", "rented", "task"): 1,
        ("essay", "rented", "reprompt"): 1,
        ("judge", "rented", "task"): 2,
    }
    roots = {event.task_id: event.fact.root for event in node.events() if isinstance(event.fact, Routed)}
    assert roots == {"t": "", "t-critic1": "t", "t-critic2": "t"}
    assert verdicts(node)["t"] is True  # no gate, but a critic that was content


def test_the_root_of_a_part_of_a_part_is_the_outermost_task(node: ScriptedNode) -> None:
    for name, parent in (("a", None), ("b", "a"), ("c", "b"), ("d", "nobody")):
        node.store.submit(
            [Task(name, "acme", ({"role": "user", "content": "x"},), type="part", parent=parent)]
        )
        node.dispatch()
    roots = {event.task_id: event.fact.root for event in node.events() if isinstance(event.fact, Routed)}
    assert roots == {"a": "", "b": "a", "c": "a", "d": ""}


def test_what_is_done_to_try_something_out_is_booked_as_evaluation(node: ScriptedNode) -> None:
    record = until_done(node, says("fine"), type="part", role="eval")
    assert [one.purpose for one in record.progress.attempts] == ["eval"]


@pytest.mark.parametrize(
    ("taken", "task_type", "scripted"),
    [
        (
            "t-critic1",
            "essay",
            [says("draft"), says(verdict(ok=False)), says("all"), says(verdict(ok=True))],
        ),
        ("t-c00000000", "general", [hands_on("Left."), says("left"), says("all")]),
    ],
)
def test_a_task_that_happens_to_have_the_id_of_a_part_does_not_pass_for_it(
    node: ScriptedNode, taken: str, task_type: str, scripted: list[dict[str, Any]]
) -> None:
    node.store.submit([Task(taken, "acme", ({"role": "user", "content": "x"},))])
    (claim,) = node.store.fetch(DISPATCH, 9, idle=True).claims
    node.store.commit(
        [Move(claim, "succeeded", claim.progress, outcome=Outcome("succeeded", "", "a stranger's"))]
    )
    record = until_done(node, *scripted, type=task_type)
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "all")
    assert "a stranger's" not in str(node.asked())
    parts = node.store.records.parts("acme/t")
    assert f"acme/{other_id(taken)}" in parts
    assert f"acme/{taken}" not in parts


@pytest.mark.parametrize(
    ("taken", "task_type", "scripted"),
    [
        ("t-critic1", "essay", [says("all"), says(verdict(ok=True))]),
        ("t-c00000000", "general", [hands_on("Left."), says("left"), says("all")]),
    ],
)
@pytest.mark.parametrize("deadline_s", [None, 3600.0])
def test_a_part_of_a_conversation_that_redis_has_lost_does_not_pass_for_what_is_asked_for_now(
    node: ScriptedNode, taken: str, task_type: str, scripted: list[dict[str, Any]], deadline_s: float | None
) -> None:
    """Its worker got it through when Redis was back, without the turn or the answer that it came of."""
    for again in (taken, other_id(taken)):
        node.store.submit([Task(again, "acme", ({"role": "user", "content": f"x {again}"},), parent="t")])
        (claim,) = node.store.fetch(DISPATCH, 9, idle=True).claims
        lost = Outcome("succeeded", "", "of a lost one")
        node.store.commit([Move(claim, "succeeded", claim.progress, outcome=lost)])
    record = until_done(node, *scripted, type=task_type, deadline_s=deadline_s)
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "all")
    assert "of a lost one" not in str(node.asked())
    assert len(node.asked()) == len(scripted), "all that was scripted was asked for, each once"
    assert f"acme/{other_id(other_id(taken))}" in node.store.records.parts("acme/t")


@pytest.mark.parametrize("said", ["no JSON at all", '{"ok": true, "comment": "fine"}', '["ok"]'])
def test_a_critic_that_says_nothing_against_it_lets_the_answer_through(node: ScriptedNode, said: str) -> None:
    judged = [says(said)] * (1 if said.startswith("{") else 3)
    record = until_done(node, says("draft"), *judged, type="essay", deadline_s=None)
    if record.status != "succeeded":  # the critic waits for a person, and so does what it judges
        [ref] = node.store.records.parts("acme/t")
        node.store.cancel(ref)
        node.work()
        record = node.record()
    assert (record.status, record.outcome and record.outcome.output) == ("succeeded", "draft")
    assert verdicts(node)["t"] is (True if said.startswith("{") else None)


def verdicts(node: ScriptedNode) -> dict[str, bool | None]:
    """What the end of each task says of its outcome."""
    return {
        event.task_id: event.fact.succeeded for event in node.events() if isinstance(event.fact, Finished)
    }


def test_a_failure_that_no_gate_would_have_judged_is_in_no_success_rate(node: ScriptedNode) -> None:
    for name, more in (
        ("free", {}),
        ("asked", {"schema": {"type": "object"}}),
        ("critic", {"type": "essay"}),
    ):
        given: dict[str, Any] = {"type": "part", **more, "deadline_s": 1e-6}
        node.give(Task(name, "acme", ({"role": "user", "content": "x"},), **given))
        node.work()
    assert verdicts(node) == {"free": None, "asked": False, "critic": False}


def record_of(node: ScriptedNode, task_id: str, **more: Any) -> Record:
    node.store.submit([Task(task_id, "acme", ({"role": "user", "content": "x"},), **more)])
    return node.store.records.one(f"acme/{task_id}")


def claim_of(task_id: str, *, waited_s: float = 0) -> Claim:
    task = Task(task_id, "acme", (), parent="p")
    return Claim(task, None, 1, DISPATCH, 0, 0, round(waited_s * 1e6), 0)  # type: ignore[arg-type]


def test_a_part_waits_for_its_parent_to_be_classified_and_no_longer_than_that(node: ScriptedNode) -> None:
    parent = record_of(node, "p")
    assert isinstance(family_of(claim_of("c"), parent, node.settings), NotYet)
    late = family_of(claim_of("c", waited_s=LONGEST_WAIT_S + 1), parent, node.settings)
    assert isinstance(late, NotIts)


def test_a_parent_that_nobody_knows_limits_nothing(node: ScriptedNode) -> None:
    assert family_of(claim_of("c"), None, node.settings) == ()


def test_nothing_is_a_part_of_itself_nor_too_deep(node: ScriptedNode) -> None:
    parent = record_of(node, "p")
    placed = replace(parent, progress=replace(parent.progress, task_type="part"))
    assert family_of(claim_of("c"), placed, node.settings) == (("acme/p", 1_000_000_000),)
    assert isinstance(family_of(claim_of("p"), placed, node.settings), NotIts)
    above = tuple((f"acme/{n}", -1) for n in range(DEEPEST))
    deep = replace(placed, progress=replace(placed.progress, family=above))
    assert isinstance(family_of(claim_of("c"), deep, node.settings), NotIts)


def test_the_id_of_a_part_is_always_an_id(tmp_path: Path) -> None:
    assert part_id("t", "critic1") == "t-critic1"
    long = part_id("x" * LONGEST_ID, "t00001000")
    assert len(long) <= LONGEST_ID
    assert long == part_id("x" * LONGEST_ID, "t00001000") != part_id("y" * LONGEST_ID, "t00001000")


def test_a_planner_begins_at_the_strongest_lane_of_its_chain(tmp_path: Path) -> None:
    toml = '[lanes.a]\nengine = "echo"\n[lanes.b]\nengine = "echo"\n[types.general]\nchain = ["a", "b", "human"]\n'
    settings = parse(toml + '[types.plan]\nchain = ["a", "b", "human"]\nrole = "planner"\n', folder=tmp_path)
    assert chain_of(settings.types["general"]) == ("a", "b", "human")
    assert chain_of(settings.types["plan"]) == ("b", "human")


def test_a_parents_raised_limit_sets_its_parked_parts_going(node: ScriptedNode) -> None:
    until_done(node, hands_on("Left."), says("left"), says("all"), tools=())
    part = Task("p", "acme", ({"role": "user", "content": "x"},), parent="t", budget={"llm_calls": 0})
    node.store.submit([part])
    node.dispatch()
    node.work()
    assert node.store.records.status("acme/p") == "parked"
    node.store.parked.raise_limits("acme/t", 2_000_000_000)
    assert node.store.records.status("acme/p") == "queued"


def test_a_critic_is_told_the_beginning_of_what_is_too_long_for_a_task(node: ScriptedNode) -> None:
    node.scripted(says("y" * 60_000), says(json.dumps({"ok": True, "comment": ""})))
    prompt = "x" * 200_000
    node.store.submit([Task("t", "acme", ({"role": "user", "content": prompt},), type="essay")])
    for _ in range(8):
        node.dispatch()
        node.work()
    assert node.record().status == "succeeded"
    assert 40_000 < len(node.asked()[1]["messages"][0]["content"]) < 41_000


def test_a_critic_of_critics_does_not_start(tmp_path: Path) -> None:
    judged = TOML.replace("[types.judge]", '[types.judge]\ncritic = "essay"')
    with pytest.raises(ConfigError, match="has a critic itself"):
        parse(judged.replace("URL", "http://127.0.0.1"), folder=tmp_path)
