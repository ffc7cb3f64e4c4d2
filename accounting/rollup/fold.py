"""The facts of many tasks folded at once into rows: one a task, one an attempt, and their share of the day's sums.

Pure: the same set of facts gives the same rows, in whatever order and however often they come. What a task's row says
is mostly the last fact of some kinds: a terminal status stays until the task is resumed, whatever settles late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import schema
from accounting.rollup import daily
from accounting.rollup.calls import AttemptRows, Calls, Routings, calls_of, costs_by_part, routings_of
from accounting.rollup.columns import NONE, Columns, Facts, Flags, Texts, distinct, first_told, sums
from accounting.rollup.lots import Lot
from accounting.rollup.order import Rows
from broker.events import Escalated, Finished, Parked, Rated, Resumed, Routed, Submitted
from broker.purpose import MODEL_CALLS, TOOL, part_of

INFERENCE = "inference_usd"
#: The columns of ``events`` that rows are made of.
COLUMNS = (
    "workspace", "task_id", "seq", "at", "submitted_at", "kind", "attempt_id", "lane", "model", "purpose", "cost_usd",
    "verdict", "failure", "status", "mode", "workflow", "pipeline", "user_id", "task_type", "parent_task_id",
    "value_usd", "category", "by", "confidence", "hop", "engine", "model_revision", "started_at", "ended_at",
    "queue_wait_ms", "latency_ms", "time_to_first_token_ms", *schema.TOKENS, "cache_write_1h_tokens", "unpriced",
    "gate_usd", "marginal_usd", "price_ref", "parent_attempt_id", "batch", "gate", "settled", "succeeded",
    "root_task_id", "avoided_usd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folded:
    """Rows of ``tasks`` and ``attempts`` in their order, and sums of ``daily`` in none.

    Texts may be dictionaries; money is nano-dollars and times are microseconds still. ``events`` is how many facts the
    rows were made of, those that came twice among them.
    """

    events: int
    tasks: Any
    attempts: Any
    daily: Any
    cost_nano: int


def fold(lot: Lot) -> Folded:
    """The rows of all tasks whose facts the lot has. Raises OverflowError where sums are beyond any real amount."""
    events = lot.identity.num_rows
    facts, told = Facts(lot), Columns(lot.calls)
    del lot  # it is large, and these have what they take of it
    calls, routings = calls_of(facts, told), routings_of(facts)
    del told
    parts = _parts(calls)
    costs = _costs(facts, calls, routings, parts)
    tasks = _tasks(facts, calls, costs)
    day = daily.sums(facts, calls, routings, tasks, parts)
    return Folded(
        events,
        pa.table({name: tasks[name] for name in schema.TASKS.names}),
        AttemptRows(facts, calls, routings).table(),
        day,
        int(costs["cost_usd"].sum()),
    )


def _tasks(facts: Facts, calls: Calls, costs: dict[str, Rows]) -> dict[str, Any]:
    """The columns of ``tasks``."""
    ends = facts.last(facts.of(Resumed, Finished))
    made = {
        "task_id": facts.heads("task_id").cast(schema.TEXT),
        "workspace": facts.heads("workspace"),
        "submitted_at": facts.heads("submitted_at"),
        "avoided_usd": pa.array(sums(calls.said.whole("avoided_usd"), calls.bounds)),
        "value_usd": facts.values("value_usd", facts.last(_with_value(facts))),
        "succeeded": facts.values("succeeded", facts.last(_with_verdict(facts))),
        "hops": pa.array(np.bincount(facts.task[facts.of(Escalated)], minlength=facts.count)),
    }
    finished = facts.is_kind(Finished, ends)
    made["finished_at"] = facts.values("at", np.where(finished, ends, NONE))
    took_us = pc.subtract(made["finished_at"], made["submitted_at"])
    made["latency_ms"] = pc.divide(took_us.cast(schema.REAL), 1000.0)
    made |= _as_submitted_and_routed(facts)
    made |= _as_called(facts, calls)
    made |= _lanes(facts, calls)
    made["status"] = _status(facts, made["attempts"].to_numpy() > 0)
    made |= {name: pa.array(amounts) for name, amounts in costs.items()}
    made["overhead_share"] = _overhead(costs["cost_usd"], costs[INFERENCE])
    return made


def _with_value(facts: Facts) -> Rows:
    said = facts.of(Submitted, Rated)
    return said[facts.is_kind(Submitted, said) | facts.known("value_usd", said)]


def _with_verdict(facts: Facts) -> Rows:
    said = facts.of(Resumed, Finished, Rated)
    return said[~facts.is_kind(Rated, said) | facts.known("succeeded", said)]


def _status(facts: Facts, called: Flags) -> Any:
    """As the last of its moves says; before those, whether a call was made."""
    moved = facts.texts("status", facts.last(facts.of(Parked, Resumed, Finished)))
    queued = Texts(called.astype(np.int32), pa.array(["queued", "running"], schema.TEXT))
    return first_told(moved, queued).array


def _as_submitted_and_routed(facts: Facts) -> dict[str, Any]:
    submitted, routed = facts.last(facts.of(Submitted)), facts.last(facts.of(Routed))
    names = ("mode", "workflow", "pipeline", "user_id")
    made = {name: facts.texts(name, submitted).filled().array for name in names}
    made["parent_task_id"] = facts.texts("parent_task_id", submitted).null_for_empty().array
    made["root_task_id"] = facts.texts("root_task_id", routed).null_for_empty().array
    made["task_type"] = first_told(*(facts.texts("task_type", one) for one in (routed, submitted))).array
    made["category"] = facts.texts("category", routed).filled().array
    made["classified_by"] = facts.texts("by", routed).null_for_empty().array
    made["confidence"] = facts.values("confidence", routed)
    return made


def _as_called(facts: Facts, calls: Calls) -> dict[str, Any]:
    """Sums and counts of the task's calls, and the first and last of their times."""

    def count(those: Flags) -> Any:
        return pa.array(np.bincount(calls.task[those], minlength=facts.count))

    purpose, said = calls.purpose, calls.said
    made = {name: pa.array(sums(said.whole(name), calls.bounds)) for name in schema.TOKENS}
    made["attempts"] = pa.array(np.diff(calls.bounds))
    made["llm_calls"] = count(purpose.are(*MODEL_CALLS))
    made["tool_calls"] = count(purpose.are(TOOL))
    made["unpriced_calls"] = count(~calls.priced)
    made["unsettled_calls"] = count(~said.true("settled"))
    batched = np.bincount(calls.task[said.true("batch")], minlength=facts.count)
    made["batch"] = pa.array(batched > 0)
    answers = np.flatnonzero(purpose.are(*MODEL_CALLS))
    last = np.full(facts.count, NONE, dtype=np.int64)  # by the order of calls, which is not that of facts
    last[calls.task[answers]] = answers
    made["time_to_first_token_ms"] = said["time_to_first_token_ms"].take(pa.array(last, mask=last == NONE))
    some = np.diff(calls.bounds) > 0
    starts = np.zeros(facts.count, dtype=np.int64)
    waits = np.zeros(facts.count)
    if some.any():
        bounds = calls.bounds[:-1][some]
        starts[some] = np.minimum.reduceat(said.whole("started_at"), bounds)
        waits[some] = np.add.reduceat(said["queue_wait_ms"].to_numpy(zero_copy_only=False), bounds)
    made["started_at"] = pa.array(starts, mask=~some)
    made["queue_wait_ms"] = pa.array(waits)
    return made


def _lanes(facts: Facts, calls: Calls) -> dict[str, Any]:
    """Lanes and models in the order of their first use; where the task began and where it stands."""
    used, models = (_each_once(facts, calls, texts) for texts in (calls.lane, _models(calls)))
    routed = facts.of(Routed)
    first = facts.first(routed[~facts.texts("lane", routed).are("")])
    moved = facts.of(Routed, Escalated, Resumed, Finished)
    always = facts.is_kind(Routed, moved) | facts.is_kind(Escalated, moved)
    final = facts.last(moved[always | ~facts.texts("lane", moved).are("")])
    bounds = used.offsets.to_numpy()
    some = bounds[1:] > bounds[:-1]
    lanes = Texts(np.append(used.values.indices.to_numpy(), NONE).astype(np.int32), used.values.dictionary)
    began = lanes.at(np.where(some, bounds[:-1], NONE))
    ended = lanes.at(np.where(some, bounds[1:] - 1, NONE))
    return {
        "lanes": used,
        "models": models,
        "first_lane": first_told(facts.texts("lane", first), began).array,
        "final_lane": first_told(facts.texts("lane", final), ended).array,
    }


def _models(calls: Calls) -> Texts:
    """Of each call its model, "" where it asked none: a tool and a person have a name there too."""
    named = calls.model.having("")
    asked = calls.purpose.are(*MODEL_CALLS)
    return Texts(np.where(asked, named.codes, named.code("")).astype(np.int32), named.words)


def _each_once(facts: Facts, calls: Calls, texts: Texts) -> Any:
    """Of each task the texts that its calls have, by their first use; the same one after another is looked at once."""
    turns = np.ones(len(calls.task), dtype=np.bool_)
    turns[1:] = (texts.codes[1:] != texts.codes[:-1]) | (calls.task[1:] != calls.task[:-1])
    named = np.flatnonzero(turns & ~texts.are(""))
    new = named[distinct(calls.task[named] * len(texts.words) + texts.codes[named])[0]]
    ends = np.cumsum(np.bincount(calls.task[new], minlength=facts.count))
    offsets = pa.array(np.concatenate(([0], ends)), pa.int32())
    return pa.ListArray.from_arrays(offsets, Texts(texts.codes[new], texts.words).array)


def _parts(calls: Calls) -> Rows:
    """Of each call the place of its part of the cost in ``schema.PARTS``."""
    names = calls.purpose.words.to_pylist()
    known = [schema.PARTS.index(f"{part_of(name)}_usd") for name in names]
    return np.array([*known, schema.PARTS.index(INFERENCE)], dtype=np.int64)[calls.purpose.codes]


def _costs(facts: Facts, calls: Calls, routings: Routings, parts: Rows) -> dict[str, Rows]:
    """What each task did cost, and in which parts. An unpriced call adds nothing, and is counted elsewhere."""
    amounts = (calls.cost_nano, calls.gate_nano, routings.cost_nano)
    if sum(float(np.abs(one).astype(np.float64).sum()) for one in amounts) > daily.LARGEST:
        raise OverflowError("the facts of some tasks sum to more than nine thousand million dollars")
    return costs_by_part(
        calls,
        routings,
        parts,
        calls_in=calls.task,
        gates_in=calls.task,
        routings_in=routings.task,
        count=facts.count,
    )


def _overhead(total: Rows, inference: Rows) -> Any:
    """The share that is no inference; null where nothing was spent."""
    free = total == 0
    return pa.array((total - inference) / np.where(free, 1, total), mask=free)
