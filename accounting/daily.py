"""The day's sums: costs and tokens under the lane and model that caused them, tasks under those that ended them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from accounting import schema
from accounting.calls import Calls
from accounting.columns import NONE, Facts, Flags, Texts
from accounting.order import Rows

KEYS = ("workspace", "pipeline", "task_type", "lane", "model")
_SUMS = tuple(name for name in schema.DAILY.names if name not in KEYS)


def sums(
    facts: Facts, calls: Calls, tasks: dict[str, Any], costs: dict[str, Rows], part_of: dict[str, Flags]
) -> Any:
    """The sums of these tasks, a row each for what was together in them."""
    lane, model = _home(facts, calls, tasks)
    called = np.flatnonzero(calls.is_call)
    whose = np.concatenate((np.arange(facts.count), calls.task[called]))
    keys = [_texts(tasks[name]).at(whose) for name in KEYS[:3]]
    keys += [_both(lane, calls.lane.at(called)), _both(model, calls.model.at(called))]
    group, numbers = _grouped(keys)
    made: dict[str, Any] = {name: texts.at(group).array for name, texts in zip(KEYS, keys, strict=True)}
    for name, values in _values(facts, calls, called, tasks, costs, part_of).items():
        total = np.zeros(len(group), dtype=np.int64)
        np.add.at(total, numbers, values)
        made[name] = pa.array(total)
    return pa.table({name: made[name] for name in schema.DAILY.names})


def _home(facts: Facts, calls: Calls, tasks: dict[str, Any]) -> tuple[Texts, Texts]:
    """The lane that a task ended on, and the model of its last call there."""
    lane = _texts(tasks["final_lane"])
    words = lane.having_all(calls.lane.words).words
    there = calls.is_call & (calls.lane.of(words).codes == lane.of(words).codes[calls.task])
    last = np.full(facts.count, NONE, dtype=np.int64)
    last[calls.task[there]] = np.flatnonzero(there)
    return lane, calls.model.at(last).filled()


def _values(
    facts: Facts,
    calls: Calls,
    called: Rows,
    tasks: dict[str, Any],
    costs: dict[str, Rows],
    part_of: dict[str, Flags],
) -> dict[str, Rows]:
    """Of each task and then of each call what it adds. A task adds what its calls do not."""
    verdict = tasks["succeeded"]
    one, none = np.ones(facts.count, dtype=np.int64), np.zeros(facts.count, dtype=np.int64)
    nothing = np.zeros(len(called), dtype=np.int64)
    spent = calls.cost_nano[called]
    made = {
        "tasks": np.concatenate((one, nothing)),
        "judged": np.concatenate((verdict.is_valid().to_numpy(zero_copy_only=False), nothing)),
        "successes": np.concatenate((verdict.fill_null(False).to_numpy(zero_copy_only=False), nothing)),
        "attempts": np.concatenate((none, np.ones(len(called), dtype=np.int64))),
    }
    for name in schema.TOKENS:
        made[name] = np.concatenate((none, facts.whole(name, calls.places[called])))
    for part in ("cost_usd", *schema.PARTS):
        those = part_of.get(part)
        mine = (
            spent if part == "cost_usd" else nothing if those is None else np.where(those[called], spent, 0)
        )
        rest = costs[part] - facts.sums(mine, calls.task[called])
        made[part] = np.concatenate((rest, mine))
    return made


def _grouped(keys: Sequence[Texts]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """A row of each group, and the number of each row's group."""
    key = np.zeros(len(keys[0].codes), dtype=np.int64)
    for texts in keys:
        key = key * len(texts.words) + texts.codes
        if key.max(initial=0) > 2**40:
            key = np.unique(key, return_inverse=True)[1]
    _, rows, numbers = np.unique(key, return_index=True, return_inverse=True)
    return rows, numbers


def _texts(column: Any) -> Texts:
    return Texts(column.indices.to_numpy().astype(np.int32), column.dictionary)


def _both(first: Texts, then: Texts) -> Texts:
    """One column after the other."""
    made = first.having_all(then.words)
    return Texts(np.concatenate((made.codes, then.of(made.words).codes)), made.words)


def merged(pieces: Sequence[Any]) -> Any:
    """Sums of several lots of tasks as those of all, in their order of the file."""
    plain = [_plain(piece) for piece in pieces]
    grouped = pa.concat_tables(plain).group_by(list(KEYS), use_threads=False)
    total = grouped.aggregate([(name, "sum") for name in _SUMS])
    total = total.rename_columns([name.removesuffix("_sum") for name in total.column_names])
    return total.select(schema.DAILY.names).sort_by([(name, "ascending") for name in KEYS])


def _plain(piece: Any) -> Any:
    return piece.cast(
        pa.schema([(name, schema.TEXT if name in KEYS else schema.COUNT) for name in schema.DAILY.names])
    )
