"""What a released version wrote decode for ever. A new version adds a file beside wire-1.json and changes none."""

import json
from pathlib import Path

from broker.events import Attempted
from broker.task import Outcome, decode_outcome, decode_progress, decode_task

WRITTEN = json.loads((Path(__file__).parents[1] / "data" / "wire-1.json").read_text())


def test_a_task_of_version_1() -> None:
    task = decode_task(bytes.fromhex(WRITTEN["task"]))
    assert (task.ref, task.prompt, task.type, task.mode) == ("acme/ticket-1", "Grüße", "t", "async")
    assert (task.deadline_s, task.priority, task.value_nano) == (3.5, -2, 7)
    assert (task.gate, task.budget) == (
        {"kind": "regex", "pattern": "x"},
        {"hard_usd": "0.50", "llm_calls": 3},
    )


def test_a_progress_of_version_1() -> None:
    progress = decode_progress(bytes.fromhex(WRITTEN["progress"]))
    assert (progress.task_type, progress.chain, progress.hop) == ("t", ("local", "human"), 1)
    assert progress.skipped == (("a", "b"),)
    (call,) = progress.attempts
    assert isinstance(call, Attempted)
    assert (call.attempt_id, call.cost_nano, call.verdict, call.overrun) == (
        "ticket-1-2",
        None,
        "fail",
        False,
    )


def test_an_outcome_of_version_1() -> None:
    assert decode_outcome(bytes.fromhex(WRITTEN["outcome"])) == Outcome("parked", "why", None, "human")
