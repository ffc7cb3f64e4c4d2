"""The day's sums: costs and tokens under the lane and model that caused them, tasks under those that ended them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import schema
from accounting.rollup.calls import Calls, Routings, costs_by_part
from accounting.rollup.columns import NONE, Facts, Texts, distinct
from accounting.rollup.order import Rows
from broker.events import Rated

KEYS = ("workspace", "pipeline", "task_type", "lane", "model")
PENDING_ROWS = 200_000  # of lots that wait to be added up
#: What no amount of a day comes near to, so that no sum of integers can turn over.
LARGEST = 9e18
_SUMS = tuple(name for name in schema.DAILY.names if name not in KEYS)


def sums(facts: Facts, calls: Calls, routings: Routings, tasks: dict[str, Any], parts: Rows) -> Any:
    """The sums of these tasks, a row each for what was together in them.

    ``parts`` says which part of ``schema.PARTS`` each call is. What a task's decisions and gates did cost stands where
    the task ended.
    """
    lane, model = _home(facts, calls, tasks)
    called = np.flatnonzero(calls.is_call)
    whose = np.concatenate((np.arange(facts.count), calls.task[called]))
    keys = [_texts(tasks[name]).at(whose) for name in KEYS[:3]]
    keys += [_both(lane, calls.lane.at(called)), _both(model, calls.model.at(called))]
    group, numbers = _grouped(keys)
    made: dict[str, Any] = {name: texts.at(group).array for name, texts in zip(KEYS, keys, strict=True)}
    of_task, of_call = numbers[: facts.count], numbers[: facts.count][calls.task]
    of_call[called] = numbers[facts.count :]

    def total(those: Rows, values: Any) -> Rows:
        found = np.zeros(len(group), dtype=np.int64)
        np.add.at(found, those, values)
        return found

    made["tasks"] = np.bincount(of_task, minlength=len(group))
    for name, those in _counted(facts, tasks).items():
        made[name] = total(of_task, those.to_numpy(zero_copy_only=False).astype(np.int64))
    made["attempts"] = np.bincount(of_call[called], minlength=len(group))
    made["visits"] = np.bincount(of_call[_arrivals(calls)], minlength=len(group))
    for name in schema.TOKENS:
        made[name] = total(of_call[called], calls.said.whole(name)[called])
    made |= costs_by_part(
        calls,
        routings,
        parts,
        calls_in=of_call,
        gates_in=of_task[calls.task],
        routings_in=of_task[routings.task],
        count=len(group),
    )
    return pa.table({name: made[name] for name in schema.DAILY.names})


def _counted(facts: Facts, tasks: dict[str, Any]) -> dict[str, Any]:
    """Of each task what of it is counted, by the column that counts it."""
    is_part = tasks["root_task_id"].is_valid()
    verdict, rating = tasks["succeeded"], _ratings(facts, is_part.to_numpy(zero_copy_only=False))
    judged, succeeded = verdict.is_valid(), verdict.fill_null(False)
    return {
        "judged": judged,
        "successes": succeeded,
        "rated": rating.is_valid(),
        "satisfied": rating.fill_null(False),
        "part_tasks": is_part,
        "part_judged": pc.and_(judged, is_part),
        "part_successes": pc.and_(succeeded, is_part),
    }


def _arrivals(calls: Calls) -> Rows:
    """The first call of each task on each of its lanes."""
    on_lane = np.flatnonzero(~calls.lane.are(""))
    first = distinct((calls.task * len(calls.lane.words) + calls.lane.codes)[on_lane])[0]
    return np.asarray(on_lane[first])


def _ratings(facts: Facts, is_part: Any) -> Any:
    """Of each task what was last said of its outcome by whoever got it; null where nobody did, and of parts."""
    rated = facts.of(Rated)
    said = facts.last(rated[facts.known("succeeded", rated)])
    return facts.values("succeeded", np.where(is_part, NONE, said))


def _home(facts: Facts, calls: Calls, tasks: dict[str, Any]) -> tuple[Texts, Texts]:
    """The lane that a task ended on, and the model of its last call there."""
    lane = _texts(tasks["final_lane"])
    words = lane.having_all(calls.lane.words).words
    there = calls.is_call & (calls.lane.of(words).codes == lane.of(words).codes[calls.task])
    last = np.full(facts.count, NONE, dtype=np.int64)
    last[calls.task[there]] = np.flatnonzero(there)
    return lane, calls.model.at(last).filled()


def _grouped(keys: Sequence[Texts]) -> tuple[Rows, Rows]:
    """A row of each group, and the number of each row's group."""
    key = np.zeros(len(keys[0].codes), dtype=np.int64)
    for texts in keys:
        key = key * len(texts.words) + texts.codes
        if key.max(initial=0) > 2**40:
            key = distinct(key)[1].astype(np.int64)
    return distinct(key)


def _texts(column: Any) -> Texts:
    return Texts(column.indices.to_numpy().astype(np.int32), column.dictionary)


def _both(first: Texts, then: Texts) -> Texts:
    """One column after the other."""
    made = first.having_all(then.words)
    return Texts(np.concatenate((made.codes, then.of(made.words).codes)), made.words)


class Merging:
    """Sums of several lots of tasks, added up as they come, so that rows of the same keys are held about twice and not
    once for each lot. Raises OverflowError for sums beyond any real amount."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self._settled = self._pending = 0  # rows

    def add(self, piece: Any) -> None:
        self._pieces.append(piece)
        self._pending += piece.num_rows
        if self._pending > self._settled + PENDING_ROWS:
            self._pieces = [self._added()]
            self._settled, self._pending = self._pieces[0].num_rows, 0

    def tables(self) -> Iterator[Any]:
        """Those of all lots, in their order of the file, some at a time; at least one was added."""
        total = self._added()
        order = np.lexsort([_ranks(_texts(schema.in_one(total[name]))) for name in reversed(KEYS)])
        for start in range(0, max(1, len(order)), PENDING_ROWS):
            yield total.take(pa.array(order[start : start + PENDING_ROWS]))

    def _added(self) -> Any:
        rows = pa.concat_tables(self._pieces)
        self._pieces.clear()
        keys = [_texts(schema.in_one(rows[name].unify_dictionaries())) for name in KEYS]
        group, numbers = _grouped(keys)
        made = {name: texts.at(group).array for name, texts in zip(KEYS, keys, strict=True)}
        for name in _SUMS:
            values = schema.in_one(rows[name]).to_numpy()
            rows = rows.drop_columns(name)  # so that it goes as soon as it is added up
            if float(np.abs(values.astype(np.float64)).sum()) > LARGEST:
                raise OverflowError(f"the {name} of its tasks sum to what no day has")
            made[name] = np.zeros(len(group), dtype=np.int64)
            np.add.at(made[name], numbers, values)
        return pa.table({name: made[name] for name in schema.DAILY.names})


def _ranks(texts: Texts) -> Rows:
    """The place of each text in their order."""
    ranks = np.empty(len(texts.words), dtype=np.int64)
    ranks[pc.sort_indices(texts.words).to_numpy()] = np.arange(len(texts.words))
    return np.asarray(ranks[texts.codes])
