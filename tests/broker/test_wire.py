"""What a released version wrote decode for ever. A new version adds a file beside wire-1.json and changes none."""

import json
from pathlib import Path

from broker.events import Attempted, Escalated, Finished, Submitted, decode_entry
from broker.task import Outcome, decode_outcome, decode_progress, decode_task

DATA = Path(__file__).parents[1] / "data"
WRITTEN = json.loads((DATA / "wire-1.json").read_text())
GROUPED = json.loads((DATA / "wire-1-group.json").read_text())


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


def test_an_entry_of_facts_that_were_packed_together() -> None:
    """One of the group was refused, and the script wrote one of its own."""
    events = list(decode_entry(bytes.fromhex(GROUPED["entry"])))
    assert [(event.task_id, event.seq, event.at_us - event.submitted_us) for event in events] == [
        ("t", 1, 5),
        ("t", 2, 5),
        ("v", 3, 5),
        ("w", 1, 5),
    ]
    submitted, call, escalated, ended = (event.fact for event in events)
    assert submitted == Submitted("sync", user="Grüße")
    assert isinstance(call, Attempted)
    assert (call.attempt_id, call.cost_nano, call.latency_ms, call.settled) == ("t-1", None, 90.0, True)
    assert escalated == Escalated("local", "midtier", "why", (("a", "b"),))
    assert ended == Finished("cancelled", None, "", "x")
