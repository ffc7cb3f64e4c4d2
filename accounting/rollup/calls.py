"""The calls of many tasks: the last word on each, and the rows of ``attempts`` that they make.

What a machine of ours did beside the calls (finding the lane, checking an answer) has a row too where it cost
something, with lane "", so that attempts and tasks sum to the same amount.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import schema
from accounting.rollup.columns import NONE, Columns, Facts, Flags, Texts
from accounting.rollup.order import Rows
from broker.events import Allotted, Attempted, Routed
from broker.purpose import EMBED, JUDGE

#: What stands as the engine of rows that no model call made.
DISPATCHER, GATE = "dispatcher", "gate"


@dataclass(frozen=True, slots=True)
class Calls:
    """Those of a task together, by hop, start and id; ``bounds`` says where each task's begin, and the last one's end.

    ``said`` is what their facts say, ``settled_us`` when they were written. ``cost_nano`` is 0 where ``priced`` is not
    true.
    """

    said: Columns
    settled_us: Rows
    task: Rows
    bounds: Rows
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


def calls_of(facts: Facts, told: Columns) -> Calls:
    """``told`` are the calls' facts as they came. A later fact of the same attempt replaces an earlier one; what it has
    of its machine's day is added.
    """
    places, given = facts.of(Attempted), facts.of(Allotted)
    rows = facts.rows_told(places)
    codes, count = _codes(facts, told["attempt_id"], places, rows, given)
    mine = codes[: len(places)]
    last = np.full(count, NONE, dtype=np.int64)
    last[mine] = np.arange(len(places))
    allotted = np.zeros(count, dtype=np.int64)
    allotted[codes[len(places) :]] = facts.whole("cost_usd", given)
    kept = np.flatnonzero(last[mine] == np.arange(len(places)))
    keys = (facts.task[places[kept]], told.whole("hop")[rows[kept]], told.whole("started_at")[rows[kept]])
    by = arranged(keys, lambda: told["attempt_id"].take(pa.array(rows[kept])))
    kept = kept if by is None else kept[by]
    places, allotted = places[kept], allotted[mine[kept]]
    said = told.at(rows[kept])
    task = facts.task[places]
    priced = ~said.true("unpriced")
    gate_nano = said.whole("gate_usd")
    lane = said.texts("lane").filled()
    return Calls(
        said,
        facts.whole("at", places),
        task,
        np.concatenate(([0], np.cumsum(np.bincount(task, minlength=facts.count)))),
        lane,
        said.texts("model").filled(),
        said.texts("purpose"),
        np.where(priced, said.whole("cost_usd") - gate_nano + allotted, 0),
        gate_nano,
        priced,
        ~(lane.are("") & said.texts("engine").are(DISPATCHER, GATE)),
    )


def _codes(facts: Facts, told: Any, places: Rows, rows: Rows, given: Rows) -> tuple[Rows, int]:
    """A number for each attempt that facts speak of, calls first, and how many numbers there are."""
    ids = pa.concat_arrays([told, facts.values("attempt_id", given)]).dictionary_encode().indices.to_numpy()
    codes = np.concatenate((ids[rows], ids[len(told) :])).astype(np.int64)
    count = int(codes.max(initial=-1)) + 1
    task = facts.task[np.concatenate((places, given))]
    owner = np.zeros(count, dtype=np.int64)
    owner[codes] = task
    if bool((owner[codes] == task).all()):
        return codes, count
    # Two tasks have an attempt of one name.
    pairs, numbers = np.unique(task * count + codes, return_inverse=True)
    return numbers, len(pairs)


def arranged(keys: tuple[Rows, Rows, Rows], ids: Callable[[], Any]) -> Rows | None:
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
            "id": ids().take(pa.array(members)),
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


def costs_by_part(
    calls: Calls,
    routings: Routings,
    parts: Rows,
    *,
    calls_in: Rows,
    gates_in: Rows,
    routings_in: Rows,
    count: int,
) -> dict[str, Rows]:
    """What each of ``count`` groups did cost, in all and in each part. The others say in which group each call, its
    gates and each decision stand, and which part of ``schema.PARTS`` each call is. An unpriced call adds nothing."""
    made = np.zeros((len(schema.PARTS), count), dtype=np.int64)
    np.add.at(made.reshape(-1), parts * count + calls_in, calls.cost_nano)
    np.add.at(made[schema.PARTS.index("routing_usd")], routings_in, routings.cost_nano)
    np.add.at(made[schema.PARTS.index("validation_usd")], gates_in, calls.gate_nano)
    return {"cost_usd": made.sum(axis=0), **dict(zip(schema.PARTS, made, strict=True))}


class AttemptRows:
    """The rows of ``attempts``: of each task the decisions of the dispatcher, then call by call, each with its gate."""

    def __init__(self, facts: Facts, calls: Calls, routings: Routings) -> None:
        self.facts, self.calls, self.routings = facts, calls, routings
        self.gated = np.flatnonzero(calls.gate_nano)
        self.count = len(routings.places) + len(calls.task) + len(self.gated)
        self.routed, self.called, self.checked = self._places()
        self.task = self._rows(calls.task, routings.task, calls.task[self.gated])
        hop, start = calls.said.whole("hop"), calls.said.whole("started_at")
        self.routed_us = facts.whole("at", routings.places)
        self.checked_us = calls.said.whole("ended_at")[self.gated]
        self.hop = self._rows(hop, 0, hop[self.gated])
        self.started_us = self._rows(start, self.routed_us, self.checked_us)
        self._sort()

    def table(self) -> Any:
        calls, said = self.calls, self.calls.said
        made = {
            "attempt_id": self.ids().take(self._sources()),
            "parent_attempt_id": self._parents().take(self._sources()),
            "task_id": self.facts.heads("task_id").cast(schema.TEXT).take(pa.array(self.task)),
            "hop": pa.array(self.hop),
            "lane": self._texts(calls.lane, "", ""),
            "engine": self._texts(said.texts("engine").filled(), DISPATCHER, GATE),
            "model": self._texts(calls.model, "", ""),
            "purpose": self._texts(calls.purpose, EMBED, JUDGE),
            "started_at": pa.array(self.started_us),
            "ended_at": self._numbers(said["ended_at"], self.routed_us, self.checked_us),
            "settled_at": pa.array(
                self._rows(calls.settled_us, self.routed_us, calls.settled_us[self.gated])
            ),
            "cost_usd": self._money(pa.array(calls.cost_nano, mask=~calls.priced)),
            "marginal_usd": self._money(said["marginal_usd"]),
        }
        for name in (*schema.TOKENS, "cache_write_1h_tokens", "queue_wait_ms", "latency_ms"):
            made[name] = self._numbers(said[name], 0, 0)
        for name, else_said in (("time_to_first_token_ms", None), ("batch", False), ("settled", True)):
            made[name] = self._numbers(said[name], else_said, else_said)
        made["workspace"] = self.facts.heads("workspace").take(pa.array(self.task))
        for name in ("model_revision", "price_ref", "gate", "verdict", "failure"):
            made[name] = self._texts(said.texts(name), None, None)
        return pa.table({name: made[name] for name in schema.ATTEMPTS.names})

    def ids(self) -> Any:
        """Those of routings, calls and gates, which are not yet in their places."""
        facts, routings = self.facts, self.routings
        whose = facts.heads("task_id").take(pa.array(routings.task)).cast(schema.TEXT)
        seq = facts.values("seq", routings.places).cast(schema.TEXT)
        routed = pc.binary_join_element_wise(whose, "routing", seq, "-")
        called = self.calls.said["attempt_id"]
        checked = pc.binary_join_element_wise(called.take(pa.array(self.gated)), "gate", "-")
        return pa.concat_arrays([routed, called, checked])

    def _parents(self) -> Any:
        said = self.calls.said
        nobody = pa.nulls(len(self.routed), schema.TEXT)
        checked = said["attempt_id"].take(pa.array(self.gated))
        return pa.concat_arrays([nobody, said.texts("parent_attempt_id").array.cast(schema.TEXT), checked])

    def _places(self) -> tuple[Rows, Rows, Rows]:
        """Of routings, calls and gates the row of each."""
        calls, routings = self.calls, self.routings
        routed_before = np.cumsum(np.bincount(routings.task, minlength=self.facts.count))
        gates_before = np.concatenate(([0], np.cumsum(calls.gate_nano != 0)))
        called = np.arange(len(calls.task)) + gates_before[:-1] + routed_before[calls.task]
        before = calls.bounds[routings.task]
        return np.arange(len(routings.places)) + before + gates_before[before], called, called[self.gated] + 1

    def _sort(self) -> None:
        """By task, hop, start and id, where they do not stand so already."""
        by = arranged((self.task, self.hop, self.started_us), lambda: self.ids().take(self._sources()))
        if by is not None:
            place = np.empty(self.count, dtype=np.int64)
            place[by] = np.arange(self.count)
            self.routed, self.called, self.checked = (
                place[one] for one in (self.routed, self.called, self.checked)
            )
            self.hop, self.started_us = self.hop[by], self.started_us[by]

    def _sources(self) -> Any:
        """Of each row, which one of routings, calls and gates it is."""
        sources = np.empty(self.count, dtype=np.int64)
        sources[np.concatenate((self.routed, self.called, self.checked))] = np.arange(self.count)
        return pa.array(sources)

    def _rows(self, called: Any, routed: Any, checked: Any) -> Any:
        made = np.empty(self.count, dtype=called.dtype)
        made[self.called] = called
        made[self.routed] = routed
        made[self.checked] = checked
        return made

    def _numbers(self, called: Any, routed: Any, checked: Any) -> Any:
        """``None`` of routings and gates: nothing is known."""
        nothing = False if called.type == schema.FLAG else 0
        values = pc.fill_null(called, nothing).to_numpy(zero_copy_only=False)
        known = [nothing if one is None else one for one in (routed, checked)]
        made = self._rows(values, *known)
        if not called.null_count and routed is not None:
            return pa.array(made)
        missing = called.is_null().to_numpy(zero_copy_only=False)
        return pa.array(made, mask=self._rows(missing, routed is None, checked is None))

    def _money(self, called: Any) -> Any:
        return self._numbers(called, self.routings.cost_nano, self.calls.gate_nano[self.gated])

    def _texts(self, called: Texts, routed: str | None, checked: str | None) -> Any:
        made = called.having(*(word for word in (routed, checked) if word is not None))
        others = (NONE if word is None else made.code(word) for word in (routed, checked))
        return Texts(self._rows(made.codes, *others), made.words).array
