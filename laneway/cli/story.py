"""`laneway show`: everything that is known of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import click

from broker.errors import BadTask, UnknownTask
from broker.events import Attempted
from broker.purpose import part_of
from broker.settings.lanes import HUMAN
from broker.state import Record
from broker.store import Store
from broker.task import TERMINAL, Task
from laneway.cli.options import json_option, one_task
from laneway.cli.output import emit, moment, price, say, shorten, table, usd
from laneway.client import Client, attempt_row

PROMPT_CHARS = 300
CHECKING, REST = "validation", "routing_and_lost"


@click.command()
@one_task
@json_option
def show(task_id: str, workspace: str | None, as_json: bool) -> None:
    """The whole story of one task.

    What was asked, how it was classified, which lane was chosen over which, each call with its tokens, cost and
    verdict, each move and why, what it costs and where it stands now.
    """
    client = Client()
    record = client.record(task_id, workspace=workspace)
    told = story(record, parts_of(client.store, record.task.ref))
    if as_json:
        emit(told)
    else:
        tell(told)


def parts_of(store: Store, ref: str, seen: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """The tree of a task's sub-tasks, each with its calls, its own cost and that of all below it."""
    told: list[dict[str, Any]] = []
    for part in store.records.parts(ref):
        if part in seen:
            continue
        try:
            record = store.records.one(part)
        except (UnknownTask, BadTask):
            told.append({"task_id": part.partition("/")[2], "status": "no longer kept"})
            continue
        progress = record.progress
        told.append(
            {
                "task_id": record.task.task_id,
                "status": record.status,
                "type": progress.task_type,
                "lane": progress.lane,
                "cost_usd": usd(record.cost_nano),
                "parts_usd": usd(record.family_nano),
                "latency_ms": _took_ms(record),
                "attempts": [_attempt(one) for one in progress.attempts],
                "parts": parts_of(store, part, seen | {ref, part}),
            }
        )
    return told


def _took_ms(record: Record) -> float | None:
    return None if record.finished_us is None else (record.finished_us - record.submitted_us) / 1000


def story(record: Record, parts: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """For JSON: money as decimal strings, times in ISO 8601, durations in milliseconds."""
    task, progress = record.task, record.progress
    return {
        "task_id": task.task_id,
        "workspace": task.workspace,
        "status": record.status,
        "submission": _submission(task, record),
        "classification": {
            "type": progress.task_type,
            "category": progress.category,
            "by": progress.by,
            "rule": progress.rule,
            "confidence": progress.confidence,
        },
        "decision": {
            "chain": list(progress.chain),
            "lane": progress.lane,
            "why": progress.why,
            "passed_over": [{"lane": lane, "reason": reason} for lane, reason in progress.skipped],
        },
        "attempts": [_attempt(one) for one in progress.attempts],
        "context": {
            "history_tokens_cut": progress.history_tokens,
            "passages_tokens_cut": progress.passages_tokens,
            "unused_tokens": progress.unused_tokens,
        },
        "parts": list(parts),
        "escalations": _escalations(progress.attempts, progress.lane, progress.why),
        "now": _now(record),
        "cost": _cost(record),
        "outcome": _outcome(record),
        "person": _for_a_person(record) if record.status == "parked" else None,
    }


def _submission(task: Task, record: Record) -> dict[str, Any]:
    return {
        "prompt": shorten(task.prompt, PROMPT_CHARS),
        "messages": len(task.messages),
        "declared_type": task.type,
        "mode": task.mode,
        "workflow": task.workflow,
        "pipeline": task.pipeline,
        "user": task.user,
        "priority": task.priority,
        "deadline_s": task.deadline_s,
        "gate": task.gate,
        "schema": task.schema,
        "tools": None if task.tools is None else list(task.tools),
        "parent": task.parent,
        "value_usd": usd(task.value_nano),
        "budget": dict(task.budget),
        "callback_url": task.callback_url,
        "submitted_at": moment(record.submitted_us),
    }


def _attempt(one: Attempted) -> dict[str, Any]:
    row = attempt_row(one)
    row["started_at"], row["ended_at"] = moment(row.pop("started_us")), moment(row.pop("ended_us"))
    return row


def _escalations(attempts: Sequence[Attempted], lane: str, why: str) -> list[dict[str, str]]:
    """The moves between lanes, each with what the call before it came to. Only the last move's own words are kept."""
    moves = [
        {"from": one.lane, "to": other.lane, "why": one.failure or one.complaint}
        for one, other in pairwise(attempts)
        if one.lane != other.lane
    ]
    if attempts and lane and attempts[-1].lane != lane:
        return [*moves, {"from": attempts[-1].lane, "to": lane, "why": why}]
    if moves:
        moves[-1]["why"] = why or moves[-1]["why"]
    return moves


def _now(record: Record) -> dict[str, Any]:
    places = {
        "queued": f"waits in queue {record.queue}",
        "running": f"in hand, taken from queue {record.queue}",
        "parked": "waits for a person",
    }
    if record.batch:
        places["running"] = f"in batch {record.batch} of lane {record.progress.lane}"
    return {
        "where": places.get(record.status, "ended"),
        "waits_for": record.progress.waits_for or None if record.status == "queued" else None,
        "queue": record.queue if record.status in ("queued", "running") else None,
        "batch": record.batch or None,
        "epoch": record.epoch,
        "started_at": moment(record.started_us),
        "finished_at": moment(record.finished_us) if record.status in TERMINAL else None,
        "reserved_usd": usd(record.reserved_nano),
    }


def _cost(record: Record) -> dict[str, Any]:
    """The record's total in its parts. What no settled call accounts for is what classifying it cost, and what was
    booked for calls that were lost with their worker."""
    parts: dict[str, int] = {}
    for one in record.progress.attempts:
        if one.failure == "worker_lost":
            continue
        part = part_of(one.purpose)
        parts[part] = parts.get(part, 0) + (one.cost_nano or 0)
        if one.gate_cost_nano:
            parts[CHECKING] = parts.get(CHECKING, 0) + one.gate_cost_nano
    rest = record.cost_nano - sum(parts.values())
    if rest:
        parts[REST] = rest
    return {
        "total_usd": usd(record.cost_nano),
        "with_parts_usd": usd(record.cost_nano + record.family_nano),
        "parts": {f"{name}_usd": usd(nano) for name, nano in parts.items()},
        "unpriced_calls": sum(one.cost_nano is None for one in record.progress.attempts),
        "unsettled_calls": sum(not one.settled for one in record.progress.attempts),
    }


def _outcome(record: Record) -> dict[str, Any] | None:
    """None until it ends or is parked: an earlier outcome of a task that goes on again is none."""
    outcome = record.outcome
    if outcome is None or (record.status not in TERMINAL and record.status != "parked"):
        return None
    return {"reason": outcome.reason, "output": outcome.output, "lane": outcome.lane}


def _for_a_person(record: Record) -> dict[str, Any]:
    """What whoever takes it over needs to see."""
    last = record.progress.attempts[-1] if record.progress.attempts else None
    return {
        "question": record.task.prompt,
        "why": record.outcome.reason if record.outcome else record.progress.why,
        "last_answer": record.progress.last_answer or None,
        "gate": last.gate if last else "",
        "complaint": last.complaint if last else "",
    }


def tell(told: Mapping[str, Any]) -> None:
    """Prints a ``story`` for a person."""
    asked, found, chosen = told["submission"], told["classification"], told["decision"]
    say(f"{told['workspace']}/{told['task_id']}  {told['status']}  {told['now']['where']}")
    if told["now"]["waits_for"]:
        say(f"  put off     {told['now']['waits_for']}")
    labels = [f"{name} {asked[name]}" for name in ("workflow", "pipeline", "user", "parent") if asked[name]]
    say(f"  submitted   {asked['submitted_at']}  {asked['mode']}  {'  '.join(labels)}".rstrip())
    say(f"  prompt      {asked['prompt']}")
    if found["type"]:
        rule = f", {shorten(found['rule'], 80)}" if found["rule"] else ""
        say(f"  type        {found['type']} by {found['by']}{rule}, confidence {found['confidence']:.2f}")
    if chosen["chain"]:
        lanes = (f"[{lane}]" if lane == chosen["lane"] else lane for lane in chosen["chain"])
        say(f"  chain       {' → '.join(lanes)}")
        say(f"  chosen      {chosen['lane'] or 'no lane'}: {chosen['why']}")
    for one in chosen["passed_over"]:
        say(f"  passed over {one['lane']}: {one['reason']}")
    if told["attempts"]:
        _tell_attempts(told["attempts"])
    if any(told["context"].values()):
        cut = told["context"]
        say(
            f"  context     about {cut['history_tokens_cut']} tokens of history and {cut['passages_tokens_cut']} of"
            f" long texts not told; {cut['unused_tokens']} told that the answer shows no trace of"
        )
    _tell_parts(told["parts"])
    for one in told["escalations"]:
        say(f"  moved       {one['from']} → {one['to']}: {one['why']}")
    _tell_money(told)
    _tell_end(told)


def _tell_attempts(attempts: Sequence[Mapping[str, Any]]) -> None:
    numbers = ("#", "in", "cached", "out", "cost", "latency", "first token", "waited")
    table(
        (
            "#", "lane", "engine", "model", "purpose", "in", "cached", "out", "cost", "latency", "first token",
            "waited", "came to",
        ),
        (_attempt_cells(number, one) for number, one in enumerate(attempts, 1)),
        right=numbers,
    )  # fmt: skip


def _tell_parts(parts: Sequence[Mapping[str, Any]], indent: str = "  ") -> None:
    """As a tree: each part, its calls, and its own parts."""
    for at, one in enumerate(parts):
        last = at == len(parts) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        if "attempts" not in one:
            say(f"{indent}{branch}{one['task_id']}  {one['status']}")
            continue
        took = "" if one["latency_ms"] is None else f"  {one['latency_ms']:.0f} ms"
        say(
            f"{indent}{branch}{one['task_id']}  {one['type']}  {one['status']}  {price(one['cost_usd'])}{took}"
        )
        for call in one["attempts"]:
            what = f"{call['lane']} {call['purpose']} {call['model']}"
            say(
                f"{indent}{below}   {what}  {price(call['cost_usd'])}  {call['latency_ms']:.0f} ms  {_came_to(call)}"
            )
        _tell_parts(one["parts"], indent + below)


def _attempt_cells(number: int, one: Mapping[str, Any]) -> tuple[str, ...]:
    first = one["time_to_first_token_ms"]
    return (
        str(number),
        one["lane"],
        one["engine"],
        one["model"],
        one["purpose"],
        str(one["input_tokens"] + one["cache_write_tokens"]),
        str(one["cached_input_tokens"]),
        str(one["output_tokens"] + one["reasoning_tokens"]),
        price(one["cost_usd"]),
        f"{one['latency_ms']:.0f} ms",
        "-" if first is None else f"{first:.0f} ms",
        f"{one['queue_wait_ms']:.0f} ms",
        _came_to(one),
    )


def _came_to(one: Mapping[str, Any]) -> str:
    said = one["failure"] or {"pass": "passed", "fail": "failed", "": "answered"}[one["verdict"]]
    gate = f" {one['gate']}" if one["gate"] else ""
    complaint = f": {shorten(one['complaint'], 120)}" if one["complaint"] else ""
    unsettled = "" if one["settled"] else " (not settled: booked at what was reserved)"
    return f"{said}{gate}{complaint}{unsettled}"


def _tell_money(told: Mapping[str, Any]) -> None:
    cost = told["cost"]
    parts = ", ".join(
        f"{name.removesuffix('_usd')} {price(amount)}" for name, amount in cost["parts"].items()
    )
    say(f"  cost        {price(cost['total_usd'])}" + (f"  ({parts})" if parts else ""))
    if told["parts"]:
        say(f"  with parts  {price(cost['with_parts_usd'])}")
    if told["now"]["reserved_usd"] != "0.0":
        say(f"  reserved    {price(told['now']['reserved_usd'])}")
    for name in ("unpriced", "unsettled"):
        if cost[f"{name}_calls"]:
            say(f"  {name:11} {cost[f'{name}_calls']} calls")


def _tell_end(told: Mapping[str, Any]) -> None:
    person, outcome = told["person"], told["outcome"]
    if person:
        say(f"  a person is to take it: {person['why']}")
        for name, words in (("complaint", person["complaint"]), ("last answer", person["last_answer"])):
            if words:
                say(f"  {name:11} {shorten(words, PROMPT_CHARS)}")
        ways = "answer, approve, reject or retry" if told["decision"]["lane"] == HUMAN else "retry"
        say(f"  to go on    laneway review {ways} {told['task_id']}")
        if told["decision"]["lane"] != HUMAN:
            say(f"  more money  laneway budget raise {told['task_id']} --usd N")
        say(f"  to stop it  laneway cancel {told['task_id']}")
    elif outcome:
        if outcome["reason"]:
            say(f"  reason      {outcome['reason']}")
        if outcome["output"] is not None:
            say(f"  output      {shorten(outcome['output'], PROMPT_CHARS)}")
