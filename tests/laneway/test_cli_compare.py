"""`laneway compare`: the same cases in each variant, really run."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from broker.state import Record
from broker.task import Progress, Task
from laneway.cli.compare import _records, figures, submitted
from tests.accounting.stories import attempted

TOML = """
[lanes.local]
engine = "echo"
model = "small"
price = { input_mtok = "100", output_mtok = "400" }
echo = { reply = "Nobody knows.", tool_calls = [{ name = "calculator", arguments = { expression = "6 * 7" } }] }

[tools.calculator]
kind = "calculator"

[types.general]
chain = ["local", "human"]
tools = ["calculator"]
context = { turns = 1, passages_chars = 500 }
"""
MANUAL = "\n".join(f"Chapter {n} is about gardens and kites." for n in range(120))


@contextmanager
def working(laneway: Any) -> Iterator[None]:
    """The fleet works for as long as the command waits."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            laneway.work()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def cases(laneway: Any, *prompts: Any) -> str:
    path = laneway.folder / "cases.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in prompts))
    return str(path)


def test_each_case_is_run_in_each_variant_and_what_it_came_to_stands_side_by_side(laneway: Any) -> None:
    laneway.configure(TOML)
    said = [{"role": "user", "content": MANUAL}, {"role": "user", "content": "What is it?"}]
    path = cases(laneway, {"prompt": "How much is 6 * 7?"}, {"messages": said})
    with working(laneway):
        told = laneway.json("compare", "--file", path)
        shown = laneway.run("compare", "--file", path, "--variant", "plain", "--variant", "all").stdout
    assert told["cases"] == 2
    variants = told["variants"]
    assert list(variants) == ["plain", "tools", "history", "passages", "all"]
    assert {row["tasks"] for row in variants.values()} == {2}
    assert {row["succeeded"] for row in variants.values()} == {2}
    assert [row["tool_calls"] for row in variants.values()] == [0, 2, 0, 0, 2]
    assert [row["llm_calls"] for row in variants.values()] == [2, 4, 2, 2, 4]
    assert variants["plain"]["tokens_cut"] == variants["tools"]["tokens_cut"] == 0
    assert variants["passages"]["tokens_cut"] > 700
    assert variants["passages"]["input_tokens"] < variants["plain"]["input_tokens"] / 2
    assert variants["passages"]["unused_tokens"] < variants["plain"]["unused_tokens"]
    first = [words[0] for line in shown.splitlines() if (words := line.split())]
    assert [word for word in first if word in variants] == ["plain", "all"]
    laneway.run("rollup")
    spent = {part["name"] for part in laneway.json("report")["parts"] if float(part["usd"])}
    assert "eval" in spent
    assert "inference" not in spent


def test_what_a_person_did_is_no_call_of_a_model_or_a_tool(laneway: Any) -> None:
    laneway.configure(TOML.replace("tools = ", 'gate = { kind = "choice", choices = ["42"] }\ntools = '))
    laneway.client.submit("How much is 6 * 7?", task_id="t")
    laneway.work()
    laneway.run("review", "answer", "t", "--text", "42")
    record = laneway.client.record("t")
    assert [one.purpose for one in record.progress.attempts] == ["task", "tool", "task", "human"]
    told = figures([record])
    assert (told["llm_calls"], told["tool_calls"]) == (2, 1)


def test_records_are_read_a_hundred_at_a_time(laneway: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    laneway.configure(TOML)
    rows = [{"prompt": str(n)} for n in range(250)]
    handles = submitted(laneway.client, rows, {})
    asked, ask = [], laneway.store.records.many

    def noted(refs: Sequence[str]) -> Any:
        asked.append(len(refs))
        return ask(refs)

    monkeypatch.setattr(laneway.store.records, "many", noted)
    assert figures(_records(laneway.client, handles))["tasks"] == 250
    assert asked == [100, 100, 50]


def test_a_case_with_an_id_of_its_own_is_refused(laneway: Any) -> None:
    path = cases(laneway, {"prompt": "x", "task_id": "mine"})
    assert "take it out" in laneway.run("compare", "--file", path, code=1).stderr


def test_what_does_not_end_in_time_is_said_so(laneway: Any) -> None:
    path = cases(laneway, {"prompt": "x"})
    said = laneway.run("compare", "--file", path, "--variant", "all", "--wait", "0.1", code=1).stderr
    assert "1 of 1 tasks have not ended within 0.1 s" in said


def record(status: str, cost_nano: int, family_nano: int, *purposes: str) -> Record:
    """Of a task whose calls each read 7 tokens, and 3 that were kept or are kept from now on."""
    calls = tuple(
        attempted(f"a-{place}", purpose=purpose, input_tokens=7, cached_input_tokens=2, cache_write_tokens=1)
        for place, purpose in enumerate(purposes)
    )
    progress = Progress(attempts=calls, history_tokens=20, passages_tokens=5, unused_tokens=11)
    task = Task("t", "compare", ({"role": "user", "content": "hi"},))
    return Record(task, progress, None, status, "", 1, cost_nano, 0, 0, 0, 0, 0, {}, "", family_nano)


@pytest.mark.parametrize(
    ("records", "usd", "per_success", "calls", "tools"),
    [
        ([record("succeeded", 2_000_000_000, 500_000_000, "task", "tool", "tool")], "2.5", "2.5", 1, 2),
        ([record("succeeded", 9, 0, "task"), record("failed", 0, 1, "task", "retry")], *["0.00000001"] * 2, 3, 0),
        ([record("succeeded", 4, 1, "task"), record("succeeded", 6, 1, "task")], "0.000000012", "0.000000006", 2, 0),
        ([record("failed", 20, 0, "task", "reprompt", "judge")], "0.00000002", None, 3, 0),
        ([record("parked", 20, 0, "task", "tool", "human", "human")], "0.00000002", None, 1, 1),
        ([], "0.0", None, 0, 0),
    ],
)  # fmt: skip
def test_what_the_tasks_of_a_variant_came_to_by_hand(
    records: list[Record], usd: str, per_success: str | None, calls: int, tools: int
) -> None:
    """Sub-tasks are paid for too; people are neither models nor tools."""
    told = figures(records)
    assert (told["cost_usd"], told["usd_per_success"]) == (usd, per_success)
    assert (told["llm_calls"], told["tool_calls"]) == (calls, tools)
    assert told["input_tokens"] == 10 * calls
    assert (told["tokens_cut"], told["unused_tokens"]) == (25 * len(records), 11 * len(records))
    assert (told["tasks"], told["succeeded"]) == (
        len(records),
        sum(one.status == "succeeded" for one in records),
    )
