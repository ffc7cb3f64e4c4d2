"""The calls of many tasks: the last word on each, and the rows of ``attempts`` that they make.

What a machine of ours did beside the calls (finding the lane, checking an answer) has a row too where it cost
something, with lane "", so that attempts and tasks sum to the same amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting import schema
from accounting.columns import NONE, Facts, Flags, Texts
from accounting.order import Rows
from broker.events import Allotted, Attempted, Routed

#: What stands as the engine of rows that no model call made.
DISPATCHER, GATE = "dispatcher", "gate"
_EMBED, _JUDGE = "embed", "judge"


@dataclass(frozen=True, slots=True)
class Calls:
    """Those of a task together, by hop, start and id. ``cost_nano`` is 0 where ``priced`` is not true."""

    places: Rows
    task: Rows
    lane: Texts
    model: Texts
    purpose: Texts
    cost_nano: Rows
    gate_nano: Rows
    priced: Flags
    is_call: Flags


@dataclass(frozen=True, slots=True)
class Routings:
    """Decisions of the dispatcher that cost something."""

    places: Rows
    task: Rows
    cost_nano: Rows


def calls_of(facts: Facts) -> Calls:
    """A later fact of the same attempt replaces an earlier one; what it has of its machine's day is added."""
    told, given = facts.of(Attempted), facts.of(Allotted)
    codes, count = _codes(facts, told, given)
    mine = codes[: len(told)]
    last = np.full(count, NONE, dtype=np.int64)
    last[mine] = np.arange(len(told))
    allotted = np.zeros(count, dtype=np.int64)
    allotted[codes[len(told) :]] = facts.whole("cost_usd", given)
    kept = np.flatnonzero(last[mine] == np.arange(len(told)))
    places = told[kept]
    keys = (facts.task[places], facts.whole("hop", places), facts.whole("started_at", places))
    sorted_places = arranged(keys, facts.values("attempt_id", places))
    if sorted_places is not None:
        kept, places = kept[sorted_places], places[sorted_places]
    priced = ~facts.true("unpriced", places)
    gate_nano = facts.whole("gate_usd", places)
    booked = facts.whole("cost_usd", places) - gate_nano + allotted[mine[kept]]
    lane = facts.texts("lane", places).filled()
    ours = facts.texts("engine", places).are(DISPATCHER, GATE)
    return Calls(
        places,
        facts.task[places],
        lane,
        facts.texts("model", places).filled(),
        facts.texts("purpose", places),
        np.where(priced, booked, 0),
        gate_nano,
        priced,
        ~(lane.are("") & ours),
    )


def _codes(facts: Facts, told: Rows, given: Rows) -> tuple[Rows, int]:
    """A number for each attempt that facts speak of, and how many numbers there are."""
    both = np.concatenate((told, given))
    codes = facts.values("attempt_id", both).dictionary_encode().indices.to_numpy().astype(np.int64)
    count = int(codes.max(initial=-1)) + 1
    task = facts.task[both]
    owner = np.zeros(count, dtype=np.int64)
    owner[codes] = task
    if bool((owner[codes] == task).all()):
        return codes, count
    pairs, numbers = np.unique(
        task * count + codes, return_inverse=True
    )  # two tasks have an attempt of one name
    return numbers, len(pairs)


def arranged(keys: tuple[Rows, Rows, Rows], ids: Any) -> Rows | None:
    """The order by task, hop, start and id, of rows whose tasks are in order; None where that is how they are.

    Nearly all are in order as they come, so only the tasks that are not are sorted.
    """
    task, hop, start = keys
    same_task, same_hop = task[1:] == task[:-1], hop[1:] == hop[:-1]
    rises = (hop[1:] > hop[:-1]) | (same_hop & (start[1:] > start[:-1]))
    wrong = np.flatnonzero(same_task & ~rises)
    if not len(wrong):
        return None
    touched = np.zeros(int(task[-1]) + 1, dtype=bool)
    touched[task[wrong]] = True
    members = np.flatnonzero(touched[task])
    table = pa.table(
        {
            "task": task[members],
            "hop": hop[members],
            "start": start[members],
            "id": ids.take(pa.array(members)),
        }
    )
    by = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in table.column_names])
    rows = np.arange(len(task))
    rows[members] = members[by.to_numpy()]
    return rows


def routings_of(facts: Facts) -> Routings:
    places = facts.of(Routed)
    cost = facts.whole("cost_usd", places)
    some = cost != 0
    return Routings(places[some], facts.task[places[some]], cost[some])


class AttemptRows:
    """The rows of ``attempts``: decisions of the dispatcher, calls, and gates after the calls that they checked."""

    def __init__(self, facts: Facts, calls: Calls, routings: Routings) -> None:
        self.facts, self.calls, self.routings = facts, calls, routings
        self.gated = np.flatnonzero(calls.gate_nano)
        self.gates = calls.places[self.gated]
        self.ids = self._ids()
        self.order = self._interleaved()

    def table(self) -> Any:
        facts, calls, routings = self.facts, self.calls, self.routings
        made = {
            "attempt_id": self.ids,
            "parent_attempt_id": self._parents(),
            "task_id": facts.heads("task_id").cast(schema.TEXT).take(pa.array(self._tasks())),
            "lane": self._texts("lane", "", "", calls.lane),
            "engine": self._texts("engine", DISPATCHER, GATE, facts.texts("engine", calls.places).filled()),
            "model": self._texts("model", "", "", calls.model),
            "purpose": self._texts("purpose", _EMBED, _JUDGE, calls.purpose),
            "cost_usd": self._numbers(self._spent(), routings.cost_nano, calls.gate_nano[self.gated]),
        }
        made |= self._times()
        marginal = facts.values("marginal_usd", calls.places)
        made["marginal_usd"] = self._numbers(marginal, routings.cost_nano, calls.gate_nano[self.gated])
        for name in ("hop", *schema.TOKENS, "cache_write_1h_tokens", "queue_wait_ms", "latency_ms"):
            at_gates = facts.values(name, self.gates) if name == "hop" else self._same(0, self.gates)
            mine = facts.values(name, calls.places)
            made[name] = self._numbers(mine, self._same(0, routings.places), at_gates)
        for name, else_said in (("time_to_first_token_ms", None), ("batch", False), ("settled", True)):
            mine = facts.values(name, calls.places)
            made[name] = self._numbers(
                mine, self._same(else_said, routings.places), self._same(else_said, self.gates)
            )
        for name in ("model_revision", "price_ref", "gate", "verdict", "failure"):
            made[name] = self._texts(name, None, None, facts.texts(name, calls.places))
        order = pa.array(self.order)
        return pa.table({name: made[name].take(order) for name in schema.ATTEMPTS.names})

    def _ids(self) -> Any:
        facts, routings = self.facts, self.routings
        whose = facts.heads("task_id").take(pa.array(routings.task)).cast(schema.TEXT)
        seq = facts.values("seq", routings.places).cast(schema.TEXT)
        routed = pc.binary_join_element_wise(whose, "routing", seq, "-")
        called = facts.values("attempt_id", self.calls.places)
        checked = pc.binary_join_element_wise(called.take(pa.array(self.gated)), "gate", "-")
        return pa.concat_arrays([routed, called, checked])

    def _parents(self) -> Any:
        called = self.facts.texts("parent_attempt_id", self.calls.places).array.cast(schema.TEXT)
        nobody = pa.nulls(len(self.routings.places), schema.TEXT)
        checked = self.facts.values("attempt_id", self.gates)
        return pa.concat_arrays([nobody, called, checked])

    def _tasks(self) -> Rows:
        return np.concatenate((self.routings.task, self.calls.task, self.calls.task[self.gated]))

    def _spent(self) -> Any:
        return pa.array(self.calls.cost_nano, mask=~self.calls.priced)

    def _times(self) -> dict[str, Any]:
        facts, calls = self.facts, self.calls
        routed = facts.values("at", self.routings.places)
        ended = facts.values("ended_at", calls.places)
        checked = ended.take(pa.array(self.gated))
        settled = facts.values("at", calls.places)
        return {
            "started_at": self._numbers(facts.values("started_at", calls.places), routed, checked),
            "ended_at": self._numbers(ended, routed, checked),
            "settled_at": self._numbers(settled, routed, settled.take(pa.array(self.gated))),
        }

    def _texts(self, name: str, routed: str | None, checked: str | None, called: Texts) -> Any:
        words = [word for word in (routed, checked) if word is not None]
        made = called.having(*words)
        others = (NONE if word is None else made.code(word) for word in (routed, checked))
        before, after = (
            np.full(len(rows), code, dtype=np.int32)
            for rows, code in zip((self.routings.places, self.gates), others, strict=True)
        )
        return Texts(np.concatenate((before, made.codes, after)), made.words).array

    def _numbers(self, called: Any, routed: Any, checked: Any) -> Any:
        return pa.concat_arrays([_cast(routed, called.type), called, _cast(checked, called.type)])

    def _same(self, value: object, places: Rows) -> Any:
        return pa.nulls(len(places), pa.null()) if value is None else pa.array(np.full(len(places), value))

    def _interleaved(self) -> Rows:
        """Of each task first what found its lane, then call by call, each with its gate; then by the known keys."""
        calls, routings = self.calls, self.routings
        gates_before = np.concatenate(([0], np.cumsum(calls.gate_nano != 0)))
        number = np.arange(len(calls.places))
        called = number + gates_before[:-1] + np.searchsorted(routings.task, calls.task, side="right")
        before = np.searchsorted(calls.task, routings.task)
        routed = np.arange(len(routings.places)) + before + gates_before[before]
        position = np.concatenate((routed, called, called[self.gated] + 1))
        order = np.empty(len(position), dtype=np.int64)
        order[position] = np.arange(len(position))
        facts = self.facts
        hop = np.concatenate(
            (
                np.zeros(len(routings.places), np.int64),
                *(facts.whole("hop", one) for one in (calls.places, self.gates)),
            )
        )
        start = np.concatenate(
            (
                facts.whole("at", routings.places),
                facts.whole("started_at", calls.places),
                facts.whole("ended_at", self.gates),
            )
        )
        keys = (self._tasks()[order], hop[order], start[order])
        by = arranged(keys, self.ids.take(pa.array(order)))
        return order if by is None else order[by]


def _cast(values: Any, kind: Any) -> Any:
    made = values if isinstance(values, pa.Array) else pa.array(values)
    return made if made.type == kind else made.cast(kind)
