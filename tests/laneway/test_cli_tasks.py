"""Submit, wait, show, explain, over a real Redis."""

import json
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any

import pytest

from broker.events import Attempted, Submitted
from broker.state import Intent, Move, Record
from broker.task import Progress, Task
from dispatcher.actor import Dispatcher
from dispatcher.classify import Classifier
from dispatcher.embedding import HashEmbedder
from laneway.cli.story import story
from laneway.submission import Budget
from tests.accounting.stories import attempted


def test_a_task_from_its_submission_to_its_feedback(laneway: Any) -> None:
    task_id = laneway.process("submit", "hello there", "--workspace", "acme", "--user", "u-1").stdout.strip()
    assert laneway.json("result", task_id)["status"] == "queued"
    laneway.work()
    found = json.loads(laneway.process("result", task_id, "--wait", "5", "--json").stdout)
    assert (found["status"], found["output"], found["workspace"]) == ("succeeded", "hello there", "acme")
    assert Decimal(found["cost_usd"]) > 0
    assert found["lanes"] == ["local"]
    words = laneway.run("result", task_id).stdout
    assert words.startswith("succeeded  local  $")
    assert "hello there" in words
    assert laneway.json("feedback", task_id, "--ok", "--value-usd", "2.00")["ok"] is True
    assert laneway.json("cancel", task_id)["status"] == "succeeded"


def test_the_same_id_is_one_task_and_another_content_a_conflict(laneway: Any) -> None:
    laneway.run("submit", "a", "--task-id", "mine")
    laneway.run("submit", "a", "--task-id", "mine")
    assert "mine: already submitted" in laneway.run("submit", "b", "--task-id", "mine", code=1).stderr
    assert laneway.json("queues")["queues"][0]["depth"] == 1


def test_all_options_reach_the_task(laneway: Any) -> None:
    laneway.run(
        "submit", "a", "--task-id", "t", "--type", "intent", "--mode", "async", "--workspace", "acme",
        "--workflow", "w", "--pipeline", "p", "--user", "u", "--priority", "3", "--deadline-s", "9.5",
        "--schema", '{"type": "string"}', "--gate", '{"kind": "choice", "choices": ["a"]}', "--value-usd", "1.5",
        "--hard-usd", "0.5", "--soft-usd", "0.3", "--retry-usd", "0.2", "--llm-calls", "30", "--tool-calls", "50",
        "--same-tool-calls", "4", "--tokens", "900", "--failures", "3", "--wall-s", "60", "--parent", "t0",
    )  # fmt: skip
    task = laneway.store.records.one("acme/t").task
    assert (task.type, task.mode, task.workflow, task.pipeline, task.user) == (
        "intent",
        "async",
        "w",
        "p",
        "u",
    )
    assert (task.priority, task.deadline_s, task.parent) == (3, 9.5, "t0")
    assert (task.schema, task.gate) == ({"type": "string"}, {"kind": "choice", "choices": ("a",)})
    assert task.value_nano == 1_500_000_000
    assert task.budget == {
        "hard_usd": "0.5", "soft_usd": "0.3", "retry_usd": "0.2", "llm_calls": 30, "tool_calls": 50,
        "same_tool_calls": 4, "tokens": 900, "failures": 3, "wall_s": 60.0,
    }  # fmt: skip
    assert task.budget.keys() == {one.name for one in fields(Budget)}


def test_what_this_version_does_not_do_is_refused(laneway: Any) -> None:
    said = laneway.run("submit", "a", "--callback-url", "https://example.org/done", code=1).stderr
    assert said.startswith("error: callback_url: ")
    assert "Not in this version" in laneway.run("submit", "--help").stdout
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 0


def test_wait_may_stand_without_seconds_in_front_of_the_prompt(laneway: Any) -> None:
    laneway.client.submit("the prompt", task_id="t")
    laneway.work()
    found = json.loads(laneway.run("submit", "--wait", "the prompt", "--task-id", "t").stdout)
    assert (found["status"], found["output"]) == ("succeeded", "the prompt")


def test_a_wait_that_is_over_names_what_goes_on(laneway: Any) -> None:
    said = laneway.run("submit", "a", "--task-id", "slow", "--wait", "0.2", code=1)
    assert "1 of 1 tasks have not ended within 0.2 s (slow" in said.stderr
    assert "has not ended" in laneway.run("result", "slow", "--wait", "0.1", code=1).stderr


def test_who_waits_long_stays_one_reader_and_asks_the_less_often_the_more_it_waits_for(
    laneway: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laneway.client.LONGEST_WAIT_S", 0.02)
    handles = laneway.client.submit_many(
        [{"prompt": "hello", "task_id": f"t{number}"} for number in range(50)]
    )
    assert list(laneway.client.results(handles[:1], timeout_s=0.2)) == []
    assert laneway.store.client.scard("laneway:watch:default/t0") == 1
    monkeypatch.setattr("laneway.client.AT_ONCE", 1)
    laneway.store.client.config_resetstat()
    assert list(laneway.client.results(handles, timeout_s=0.2)) == []
    assert laneway.store.client.info("commandstats")["cmdstat_evalsha"]["calls"] == 1
    laneway.work()
    assert len(list(laneway.client.results(handles, timeout_s=5))) == 50


@pytest.mark.parametrize("by", ["file", "stdin", "pipe"])
def test_a_file_is_submitted_and_waited_for_in_json_lines(laneway: Any, by: str) -> None:
    rows = [{"prompt": f"task {number}", "task_id": f"t{number}"} for number in range(1200)]
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    path = laneway.folder / "tasks.jsonl"
    path.write_text(text)
    source = {"file": "tasks.jsonl", "stdin": "-", "pipe": "/dev/stdin"}[by]
    give = laneway.run if by == "file" else laneway.process
    ids = give("submit", "--mode", "async", "--file", source, given=text).stdout.split()
    assert ids == [row["task_id"] for row in rows]
    assert laneway.store.records.one("default/t7").task.mode == "async"
    laneway.work()
    lines = laneway.run(
        "submit", "--mode", "async", "--file", "tasks.jsonl", "--wait", "30"
    ).stdout.splitlines()
    found = {row["task_id"]: row for row in map(json.loads, lines)}
    assert set(found) == set(ids)
    assert {row["status"] for row in found.values()} == {"succeeded"}


def test_a_line_says_more_than_the_options(laneway: Any) -> None:
    text = '{"prompt": "a", "task_id": "a", "workspace": "own"}\n{"prompt": "b", "task_id": "b"}\n'
    laneway.run("submit", "--workspace", "acme", "--file", "-", given=text)
    assert laneway.client.record("a").task.workspace == "own"
    assert laneway.client.record("b").task.workspace == "acme"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b"nope", "not a JSON object"),
        (b"[1]", "not a JSON object but list"),
        (b'{"prompt": "\xff"}', "not a JSON object"),
        (b'{"prompt": NaN}', "NaN is no JSON"),
        (b'{"prompt": ""}', "prompt: '' is text; expected text that is not empty"),
        (b"{}", "either a prompt or messages"),
        (b'{"prompt": "a", "colour": 1}', "unknown argument 'colour'"),
        (b'{"prompt": "a", "mode": "soon"}', "mode: 'soon' is text; expected sync or async"),
        (b'{"prompt": "a", "gate": {"kind": "vibes"}}', "gate: unknown gate 'vibes'"),
        (b'{"prompt": "a", "value_usd": 2.5}', "value_usd: 2.5 is a float"),
        (b'{"prompt": "a", "budget": {"hard_usd": "x"}}', "budget.hard_usd: 'x'"),
        (b'{"prompt": "\\ud800"}', "prompt: text that is no Unicode"),
        (json.dumps({"prompt": "a" * 300_000}).encode(), "the limit is 262,144"),
    ],
    ids=lambda value: value[:30].decode("ascii", "replace") if isinstance(value, bytes) else "",
)
def test_one_bad_line_stores_nothing_at_all_and_is_named(laneway: Any, line: bytes, named: str) -> None:
    (laneway.folder / "tasks.jsonl").write_bytes(b'{"prompt": "good"}\n\n' + line + b'\n{"prompt": "good"}\n')
    said = laneway.run("submit", "--file", "tasks.jsonl", code=1).stderr
    assert said.startswith("error: tasks.jsonl:3: ")
    assert named in said
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 0


def test_a_file_that_is_not_there_is_said_so(laneway: Any) -> None:
    assert "nowhere.jsonl cannot be read" in laneway.run("submit", "--file", "nowhere.jsonl", code=1).stderr


def test_no_fleet_and_no_redis_are_said_with_what_to_do(laneway: Any) -> None:
    said = laneway.process("submit", "a", code=1, LANEWAY_REDIS_URL="redis://127.0.0.1:1/0").stderr
    assert said.startswith("error: Redis does not answer")
    assert "\nmend: " in said
    for words in (["show", "x"], ["result", "x"], ["lanes"], ["queues"], ["dead", "list"]):
        assert laneway.run(*words, code=1, LANEWAY_REDIS_URL="redis://127.0.0.1:1/0").stdout == ""


def test_an_unknown_task_is_no_traceback(laneway: Any) -> None:
    for words in (
        ["show", "x"],
        ["result", "x"],
        ["cancel", "x"],
        ["feedback", "x", "--ok"],
        ["review", "show", "x"],
    ):
        assert "no task 'x' is known" in laneway.run(*words, code=1).stderr


def test_show_tells_the_whole_story_of_a_task_that_passed(laneway: Any) -> None:
    laneway.client.submit("Which intent: I want a REFUND", task_id="t", workspace="acme", user="u-1")
    laneway.work()
    told = laneway.json("show", "t")
    assert told["status"] == "succeeded"
    assert told["submission"]["user"] == "u-1"
    assert told["classification"] == {
        "type": "intent", "category": "extractive", "by": "regex", "rule": "(?i)\\bintent\\b", "confidence": 1.0,
    }  # fmt: skip
    assert told["decision"]["chain"] == ["frontier", "local", "human"]
    assert told["decision"]["lane"] == "local"
    assert [one["lane"] for one in told["decision"]["passed_over"]] == ["frontier"]
    [attempt] = told["attempts"]
    assert (attempt["lane"], attempt["engine"], attempt["model"], attempt["purpose"]) == (
        "local", "echo", "small", "task",
    )  # fmt: skip
    assert (attempt["gate"], attempt["verdict"], attempt["settled"]) == ("choice", "pass", True)
    assert attempt["input_tokens"] > 0
    assert attempt["output_tokens"] == 1
    assert attempt["attempt_id"] == f"t-{told['now']['epoch']}"
    parts = told["cost"]["parts"]
    assert sum(Decimal(amount) for amount in parts.values()) == Decimal(told["cost"]["total_usd"])
    assert told["outcome"]["output"] == "refund"
    words = laneway.process("show", "t").stdout
    for said in (
        "acme/t  succeeded",
        "intent by regex",
        "[local]",
        "passed over frontier",
        "small",
        "passed choice",
    ):
        assert said in words


def test_show_tells_of_a_parked_task_what_a_person_needs(laneway: Any) -> None:
    laneway.client.submit("intent: be rude", task_id="t")
    laneway.work()
    told = laneway.json("show", "t")
    assert told["status"] == "parked"
    assert told["now"]["where"] == "waits for a person"
    assert told["escalations"][-1]["to"] == "human"
    assert "gate failed on local" in told["escalations"][-1]["why"]
    assert told["person"]["last_answer"] == "go away"
    assert told["person"]["complaint"]
    words = laneway.run("show", "t").stdout
    assert "a person is to take it" in words
    assert "go away" in words
    [waiting] = laneway.json("review", "list")["parked"]
    assert (waiting["task_id"], waiting["last_answer"]) == ("t", "go away")
    assert "default/t" in laneway.run("review", "list").stdout
    assert laneway.json("review", "show", "t")["person"] == told["person"]


def test_a_deadline_that_passes_during_a_call_has_not_passed_in_the_queue(laneway: Any) -> None:
    slow = laneway.config.read_text().replace("echo = {", "retry_delay_s = 0\necho = { latency_ms = 9000,", 1)
    laneway.configure(slow)
    laneway.client.submit("a", task_id="t", deadline_s=1)
    laneway.work()
    result = laneway.client.result("t")
    assert (result.status, result.reason) == ("failed", "its deadline of 1 s passed before it was done")
    assert [one["failure"] for one in result.attempts] == ["timeout"]


def test_show_tells_where_a_task_waits_and_is_held(laneway: Any) -> None:
    laneway.client.submit("a", task_id="t")
    assert laneway.json("show", "t")["now"]["where"] == "waits in queue dispatch"
    [claim] = laneway.claim()
    laneway.store.begin([Intent(claim, 5_000_000, Submitted("sync"))])
    now = laneway.json("show", "t")["now"]
    assert (now["where"], now["reserved_usd"]) == ("in hand, taken from queue dispatch", "0.005")
    assert "reserved    $0.005" in laneway.run("show", "t").stdout


def test_show_counts_a_call_that_was_lost_and_what_became_known_of_its_cost(laneway: Any) -> None:
    laneway.client.submit("a", task_id="t")
    Dispatcher(laneway.settings, laneway.store, Classifier.build(laneway.settings, HashEmbedder())).work(
        laneway.claim()
    )
    [claim] = laneway.claim("lane-local-sync")
    lost = Attempted(
        claim.attempt_id, 0, "local", "echo", "small", "task", 1, 2, 0, 0, 5_000_000, settled=False
    )
    lost = replace(lost, failure="worker_lost")
    laneway.store.begin([Intent(claim, 5_000_000, lost)])
    laneway.store.release([claim], "its worker was lost")
    laneway.work()
    assert laneway.json("show", "t")["cost"]["unsettled_calls"] == 1
    late = replace(lost, cost_nano=1_000_000, settled=True, failure="")
    move = Move(claim, "failed", claim.progress, cost_nano=1_000_000, attempts=(late,))
    assert laneway.store.commit([move]) == ["late"]
    told = laneway.json("show", "t")
    assert [one["failure"] for one in told["attempts"]] == ["", ""]
    assert told["cost"]["unsettled_calls"] == 0
    parts = {name: Decimal(amount) for name, amount in told["cost"]["parts"].items()}
    assert sum(parts.values()) == Decimal(told["cost"]["total_usd"])
    assert Decimal("0.001") <= parts["inference_usd"] < Decimal("0.002")
    assert parts["routing_and_lost_usd"] < Decimal("0.001")


def test_control_characters_of_strangers_are_shown_and_not_obeyed(laneway: Any) -> None:
    laneway.client.submit("\x1b[2Jwiped\u202e", task_id="t")
    laneway.work()
    for words in (["show", "t"], ["result", "t"], ["explain", "\x1b[2Jwiped"]):
        assert "\x1b" not in laneway.run(*words).stdout
    assert laneway.json("result", "t")["output"] == "\x1b[2Jwiped\u202e"


def test_explain_needs_no_fleet_and_says_that_it_did_not_look(laneway: Any) -> None:
    told = laneway.json("explain", "Which intent?", LANEWAY_REDIS_URL="redis://127.0.0.1:1/0")
    assert (told["type"], told["by"], told["confidence"], told["lane"]) == (
        "intent",
        "regex",
        1.0,
        "frontier",
    )
    assert told["chain"] == ["frontier", "local", "human"]
    assert told["availability"] == "not checked"


def test_explain_passes_over_what_nobody_serves_and_stores_nothing(laneway: Any) -> None:
    told = laneway.json("explain", "Which intent?", "--mode", "async")
    assert (told["lane"], told["queue"], told["availability"]) == ("local", "lane-local-async", "checked")
    assert [one["lane"] for one in told["passed_over"]] == ["frontier"]
    assert laneway.json("explain", "Which intent?", "--type", "general")["by"] == "declared"
    refused = laneway.json("explain", "a", "--type", "nonsense")
    assert (refused["lane"], refused["chain"]) == (None, [])
    assert "it would be refused" in laneway.run("explain", "a", "--type", "nonsense").stdout
    assert laneway.store.lanes.queues(["dispatch"])[0].depth == 0


def test_explain_of_a_file_is_one_json_line_a_task_in_order(laneway: Any) -> None:
    rows = [{"prompt": "some intent" if number % 2 else "hello"} for number in range(1001)]
    text = "\n".join(json.dumps(row) for row in rows)
    lines = [
        json.loads(line)
        for line in laneway.run("explain", "--file", "-", "--json", given=text).stdout.splitlines()
    ]
    assert [line["type"] for line in lines] == [
        "intent" if number % 2 else "general" for number in range(1001)
    ]
    assert {"type", "by", "confidence", "chain", "lane"} <= set(lines[0])
    assert "some intent" in laneway.run("explain", "--file", "-", given=text).stdout
    assert (
        "standard input:2: mode"
        in laneway.run(
            "explain", "--file", "-", code=1, given='{"prompt": "a"}\n{"prompt": "a", "mode": "x"}'
        ).stderr
    )


def test_show_draws_the_tree_of_a_tasks_parts_with_what_each_cost(laneway: Any) -> None:
    for task_id, parent in (("whole", None), ("part", "whole"), ("part-of-part", "part")):
        laneway.client.submit("hello", task_id=task_id, workspace="acme", parent=parent)
        laneway.work()
    told = laneway.json("show", "whole")
    [part] = told["parts"]
    [deepest] = part["parts"]
    assert (part["task_id"], deepest["task_id"], deepest["status"]) == ("part", "part-of-part", "succeeded")
    assert len(part["attempts"]) == 1
    records = [laneway.client.record(name) for name in ("whole", "part", "part-of-part")]
    total = sum(one.cost_nano for one in records)
    shown = laneway.run("show", "whole").stdout
    assert "└─ part " in shown
    assert "   └─ part-of-part " in shown
    used = records[0].cost_nano + records[0].family_nano
    assert Decimal(told["cost"]["with_parts_usd"]) == Decimal(used).scaleb(-9)
    assert used <= total


@pytest.mark.parametrize(
    ("calls", "cost_nano", "parts"),
    [
        ([], 0, {}),
        ([], 3, {"routing_and_lost_usd": "0.000000003"}),
        ([{"cost_nano": 40}], 40, {"inference_usd": "0.00000004"}),
        ([{"cost_nano": 40}], 43, {"inference_usd": "0.00000004", "routing_and_lost_usd": "0.000000003"}),
        (
            [{"cost_nano": 500, "failure": "worker_lost", "settled": False}, {"cost_nano": 40}],
            543,
            {"inference_usd": "0.00000004", "routing_and_lost_usd": "0.000000503"},
        ),
        ([{"cost_nano": 40, "failure": "timeout", "settled": False}], 40, {"inference_usd": "0.00000004"}),
        ([{"cost_nano": None}], 0, {"inference_usd": "0.0"}),
        ([{"cost_nano": 40, "purpose": "of a later version"}], 40, {"inference_usd": "0.00000004"}),
        ([{"cost_nano": 40}], 38, {"inference_usd": "0.00000004", "routing_and_lost_usd": "-0.000000002"}),
        (
            [{"cost_nano": 40, "gate_cost_nano": 2}, {"cost_nano": 50, "purpose": "retry", "gate_cost_nano": 1}],
            93,
            {"inference_usd": "0.00000004", "retry_usd": "0.00000005", "validation_usd": "0.000000003"},
        ),
        (
            [{"cost_nano": nano, "purpose": name} for nano, name in ((6, "judge"), (5, "tool"), (4, "eval"))],
            15,
            {"validation_usd": "0.000000006", "tool_usd": "0.000000005", "eval_usd": "0.000000004"},
        ),
    ],
)  # fmt: skip
def test_what_a_task_did_cost_in_its_parts_by_hand(
    calls: list[dict[str, Any]], cost_nano: int, parts: dict[str, str]
) -> None:
    """What was booked for a call whose worker was lost is no inference: nobody knows what came of it."""
    attempts = tuple(attempted(f"a-{place}", **said) for place, said in enumerate(calls))
    task = Task("t", "acme", ({"role": "user", "content": "hi"},))
    record = Record(
        task, Progress(attempts=attempts), None, "succeeded", "", 1, cost_nano, 0, 0, 0, 0, 0, {}, "", 7
    )
    cost = story(record)["cost"]
    assert cost["parts"] == parts
    assert sum(map(Decimal, parts.values())) == Decimal(cost["total_usd"])
    assert Decimal(cost["with_parts_usd"]) == Decimal(cost["total_usd"]) + Decimal("0.000000007")
    assert cost["unpriced_calls"] == sum(one.cost_nano is None for one in attempts)
    assert cost["unsettled_calls"] == sum(not one.settled for one in attempts)
