"""What a task's rows must say: its facts folded one by one. ``accounting/rollup/fold.py`` does it for many at once.

Pure: the same set of facts gives the same rows, in whatever order and however often they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import add

from accounting.files import facts, schema
from accounting.rollup.fold import COLUMNS
from broker.events import (
    Allotted,
    Attempted,
    Escalated,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Resumed,
    Routed,
    Submitted,
    encode_fact,
)
from tests.accounting.reference_rows import GATE, AttemptRow, Cost, DailyKey, Folded, TaskRow, Tokens

#: purpose → the part of the cost that it belongs to.
PART_OF = {
    "task": "inference",
    "retry": "retry",
    "reprompt": "reprompt",
    "judge": "validation",
    "embed": "routing",
    "tool": "tool",
    "eval": "eval",
    "human": "human",
}
LLM_PURPOSES = frozenset({"task", "retry", "reprompt", "judge", "eval"})


class _Places(dict[str, int]):
    """purpose → its part's place in a ``Cost``; a purpose that nobody foresaw is inference."""

    def __missing__(self, purpose: str) -> int:
        return Cost._fields.index("inference")


_PART = _Places({purpose: Cost._fields.index(part) for purpose, part in PART_OF.items()})
_TASKS, _JUDGED, _SUCCESSES, _ATTEMPTS = range(4)
_TOKENS = 4
_COST = _TOKENS + len(Tokens._fields)
_RATED = _COST + len(Cost._fields)
_SATISFIED, _PART_TASKS, _PART_JUDGED, _PART_SUCCESSES, _VISITS = range(_RATED + 1, _RATED + 6)
_WIDTH = _VISITS + 1


@dataclass(slots=True)
class _State:
    """What is known of the task so far, its facts taken in their order."""

    submitted: Submitted | None = None
    routed: Routed | None = None
    status: str = ""
    finished_us: int | None = None
    succeeded: bool | None = None
    value_nano: int | None = None
    first_lane: str = ""
    lane: str = ""
    hops: int = 0
    calls: dict[str, tuple[int, Attempted]] = field(default_factory=dict)
    allotted: dict[str, int] = field(default_factory=dict)
    routings: list[tuple[int, int, Routed]] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Folded:
    """The rows of one task. Raises ValueError without any event."""
    ordered = _in_order(events)
    if not ordered:
        raise ValueError("no events, no task")
    state = _State()
    for event in ordered:
        _take(state, event)
    first = ordered[0]
    calls = [
        _call_row(first.task_id, at_us, call, state.allotted.get(call.attempt_id, 0))
        for at_us, call in state.calls.values()
    ]
    calls.sort(key=lambda row: (row.hop, row.started_us, row.attempt_id))
    overhead = [*_routing_rows(first.task_id, state), *_gate_rows(first.task_id, state)]
    calls, overhead = (
        [row._replace(workspace=first.workspace) for row in rows] for rows in (calls, overhead)
    )
    return Folded(_task_row(first, state, calls, overhead), (*calls, *overhead))


def _in_order(events: Iterable[Event]) -> list[Event]:
    """Each fact once, by its number. Facts that share a number without being the same are kept: money was spent."""
    ordered = sorted(events, key=lambda event: (event.seq, event.at_us))
    unique: list[Event] = []
    clash = False
    for event in ordered:
        if unique and unique[-1].seq == event.seq:
            if unique[-1] == event:
                continue
            clash = True
        unique.append(event)
    if clash:
        by_text = {(event.seq, event.at_us, *_text(event.fact)): event for event in unique}
        return [by_text[key] for key in sorted(by_text)]
    return unique


def _text(fact: Fact) -> tuple[str, str]:
    """Which of two facts comes first that share their number and their moment: by what they say, column by column."""
    [page] = facts.columns([encode_fact(fact)])
    [said] = page.table.to_pylist()
    mine = facts.CALL_COLUMNS if isinstance(fact, Attempted) else facts.OTHER_COLUMNS
    names = [name for name in schema.EVENTS.names if name in mine and name in COLUMNS]
    return type(fact).__name__, repr({name: said.get(name) for name in names})


def _take(state: _State, event: Event) -> None:
    """One fact's effect. A terminal status stays until the task is resumed, whatever settles late."""
    match event.fact:
        case Attempted() as call:
            state.calls[call.attempt_id] = (event.at_us, call)
        case Allotted() as part:
            state.allotted[part.attempt_id] = part.cost_nano
        case Routed() as routed:
            state.routed = routed
            state.routings.append((event.seq, event.at_us, routed))
            state.first_lane = state.first_lane or routed.lane
            state.lane = routed.lane
        case Submitted() as submitted:
            state.submitted = submitted
            state.value_nano = submitted.value_nano
        case Escalated() as move:
            state.hops += 1
            state.lane = move.to_lane
        case Parked():
            state.status = "parked"
        case Resumed() as resumed:
            state.status, state.finished_us, state.succeeded = "", None, None
            state.lane = resumed.lane or state.lane
        case Finished() as end:
            state.status, state.finished_us, state.succeeded = end.status, event.at_us, end.succeeded
            state.lane = end.lane or state.lane
        case Rated() as said:
            state.succeeded = state.succeeded if said.ok is None else said.ok
            state.value_nano = state.value_nano if said.value_nano is None else said.value_nano


def _task_row(
    first: Event, state: _State, calls: Sequence[AttemptRow], overhead: Sequence[AttemptRow]
) -> TaskRow:
    submitted = state.submitted or Submitted(mode="")
    routed = state.routed
    cost = cost_of([*calls, *overhead])
    answers = [call for call in calls if call.purpose in LLM_PURPOSES]
    lanes = tuple(dict.fromkeys(call.lane for call in calls if call.lane))
    began = min((call.started_us for call in calls), default=None)
    ended = state.finished_us
    return TaskRow(
        task_id=first.task_id,
        submitted_us=first.submitted_us,
        started_us=began,
        finished_us=ended,
        workspace=first.workspace,
        workflow=submitted.workflow,
        pipeline=submitted.pipeline,
        user=submitted.user,
        task_type=(routed.task_type if routed else "") or submitted.task_type,
        category=routed.category if routed else "",
        mode=submitted.mode,
        status=state.status or ("running" if calls else "queued"),
        succeeded=state.succeeded,
        classified_by=routed.by or None if routed else None,
        confidence=routed.confidence if routed else None,
        first_lane=state.first_lane or (lanes[0] if lanes else ""),
        final_lane=state.lane or (lanes[-1] if lanes else ""),
        lanes=lanes,
        models=tuple(
            dict.fromkeys(call.model for call in calls if call.model and call.purpose in LLM_PURPOSES)
        ),
        hops=state.hops,
        attempts=len(calls),
        llm_calls=sum(call.purpose in LLM_PURPOSES for call in calls),
        tool_calls=sum(call.purpose == "tool" for call in calls),
        tokens=add_tokens(call.tokens for call in calls),
        cost=cost,
        overhead_share=cost.overhead_share,
        avoided_nano=sum(call.avoided_nano for _, call in state.calls.values()),
        batch=any(call.batch for call in calls),
        queue_wait_ms=float(sum(call.queue_wait_ms for call in calls)),
        latency_ms=None if ended is None else (ended - first.submitted_us) / 1000,
        time_to_first_token_ms=answers[-1].time_to_first_token_ms if answers else None,
        unpriced_calls=sum(call.cost_nano is None for call in calls),
        unsettled_calls=sum(not call.settled for call in calls),
        value_nano=state.value_nano,
        parent_task_id=submitted.parent or None,
        root_task_id=(routed.root or None) if routed else None,
    )


def _call_row(task_id: str, at_us: int, call: Attempted, allotted_nano: int) -> AttemptRow:
    return AttemptRow(
        attempt_id=call.attempt_id,
        parent_attempt_id=call.parent_attempt_id or None,
        task_id=task_id,
        hop=call.hop,
        lane=call.lane,
        engine=call.engine,
        model=call.model,
        model_revision=call.model_revision or None,
        purpose=call.purpose,
        started_us=call.started_us,
        ended_us=call.ended_us,
        settled_us=at_us,
        queue_wait_ms=call.queue_wait_ms,
        latency_ms=call.latency_ms,
        time_to_first_token_ms=call.time_to_first_token_ms,
        tokens=Tokens(
            call.input_tokens,
            call.cached_input_tokens,
            call.cache_write_tokens,
            call.output_tokens,
            call.reasoning_tokens,
        ),
        cost_nano=None if call.cost_nano is None else call.cost_nano + allotted_nano,
        marginal_nano=call.marginal_nano,
        price_ref=call.price_ref or None,
        batch=call.batch,
        gate=call.gate or None,
        verdict=call.verdict or None,
        failure=call.failure or None,
        settled=call.settled,
        cache_write_1h_tokens=call.cache_write_1h_tokens,
    )


def _routing_rows(task_id: str, state: _State) -> list[AttemptRow]:
    return [
        _machine_row(
            f"{task_id}-routing-{seq}",
            None,
            task_id,
            0,
            "dispatcher",
            "embed",
            at_us,
            at_us,
            routed.cost_nano,
        )
        for seq, at_us, routed in state.routings
        if routed.cost_nano
    ]


def _gate_rows(task_id: str, state: _State) -> list[AttemptRow]:
    return [
        _machine_row(
            f"{call.attempt_id}-gate", call.attempt_id, task_id, call.hop, GATE, "judge",
            call.ended_us, at_us, call.gate_cost_nano,
        )
        for at_us, call in sorted(state.calls.values(), key=lambda one: (one[1].ended_us, one[1].attempt_id))
        if call.gate_cost_nano
    ]  # fmt: skip


def _machine_row(
    attempt_id: str, parent: str | None, task_id: str, hop: int, engine: str, purpose: str,
    ended_us: int, settled_us: int, cost_nano: int,
) -> AttemptRow:  # fmt: skip
    return AttemptRow(
        attempt_id, parent, task_id, hop, "", engine, "", None, purpose, ended_us, ended_us, settled_us,
        0.0, 0.0, None, Tokens(), cost_nano, cost_nano, None, False, None, None, None, True,
    )  # fmt: skip


def cost_of(rows: Iterable[AttemptRow]) -> Cost:
    """The rows' cost in its parts. An unpriced call adds nothing; that it was there is counted elsewhere."""
    parts = [0] * len(Cost._fields)
    for row in rows:
        nano = row.cost_nano or 0
        parts[0] += nano
        parts[_PART[row.purpose]] += nano
    return Cost(*parts)


def add_tokens(tokens: Iterable[Tokens]) -> Tokens:
    total = Tokens()
    for one in tokens:
        total = Tokens(*map(add, total, one))
    return total


def satisfied(events: Iterable[Event]) -> bool | None:
    """What was last said of the outcome; None where nobody did."""
    said = [event.fact.ok for event in _in_order(events) if isinstance(event.fact, Rated)]
    return next((ok for ok in reversed(said) if ok is not None), None)


def add_to_day(day: dict[DailyKey, list[int]], folded: Folded, happy: bool | None) -> None:
    """Adds the task to the day's sums, each in the order of the file: tasks, judged, successes, attempts, tokens, cost,
    rated, satisfied, of tasks, judged, successes those that are parts of another task, visits.

    Money and tokens go under the lane and model of each call; the task itself, and what the dispatcher and the gates
    cost, under the lane and model that ended it.
    """
    task, attempts = folded
    model = next((row.model for row in reversed(attempts) if row.is_call and row.lane == task.final_lane), "")
    home = DailyKey(task.workspace, task.pipeline, task.task_type, task.final_lane, model)
    sums = _sums(day, home)
    sums[_TASKS] += 1
    sums[_JUDGED] += task.succeeded is not None
    sums[_SUCCESSES] += task.succeeded is True
    if task.root_task_id is None:
        sums[_RATED] += happy is not None
        sums[_SATISFIED] += happy is True
    else:
        sums[_PART_TASKS] += 1
        sums[_PART_JUDGED] += task.succeeded is not None
        sums[_PART_SUCCESSES] += task.succeeded is True
    lanes = {""}
    for row in attempts:
        if row.is_call:
            sums = _sums(day, home._replace(lane=row.lane, model=row.model))
            sums[_ATTEMPTS] += 1
            sums[_VISITS] += row.lane not in lanes
            lanes.add(row.lane)
            for place, count in enumerate(row.tokens, _TOKENS):
                sums[place] += count
        else:
            sums = _sums(day, home)
        nano = row.cost_nano or 0
        sums[_COST] += nano
        sums[_COST + _PART[row.purpose]] += nano


def _sums(day: dict[DailyKey, list[int]], key: DailyKey) -> list[int]:
    sums = day.get(key)
    if sums is None:
        sums = day[key] = [0] * _WIDTH
    return sums
