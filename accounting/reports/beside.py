"""A day's calls, each with its task, while only some row groups of either are in memory.

Both files have the tasks in the same order (accounting/rollup/order.py): the tasks of a row group of calls follow those
of the group before it, so that earlier tasks can be let go. Where the orders differ, all tasks are read and kept. Calls
of older files do not name their workspace; then no task is let go, and an id that two workspaces share stands for
the first one's task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.reports.rows import names_of
from accounting.rollup.order import Rows

NONE = -1  # in place of a row: the task is not there


def beside(tasks: Callable[[], Iterator[Any]], calls: Iterable[Any]) -> Iterator[tuple[Any, Any, Rows]]:
    """For each table of calls: these calls, a table of tasks, and the row in it of each call's task, NONE where that is
    not there.

    Each call of ``tasks`` gives all tasks of the day from the first one on, as tables with ``workspace`` (plain text)
    and ``task_id``.
    """
    coming = tasks()
    near = next(coming)
    whole, behind = False, False
    for some in calls:
        rows = _rows(some, near)
        for twice in count():
            if not (rows == NONE).any():
                break
            more = list(islice(coming, 1 << twice))
            if not more and not behind:
                break
            if not more:
                near, whole, behind = pa.concat_tables(tasks()).combine_chunks(), True, False
            else:
                near = pa.concat_tables([near, *more]).combine_chunks()
            rows = _rows(some, near)
        yield some, near, rows
        nameless = some["workspace"].null_count
        if len(rows) and not whole and not nameless and (last := int(rows.max())) > 0:
            near, behind = near.slice(last), True


def at(rows: Rows) -> Any:
    """Rows as something to take."""
    return pa.array(rows, mask=rows == NONE)


def _rows(calls: Any, tasks: Any) -> Rows:
    ids, homes = calls["task_id"], calls["workspace"]
    rows = first_of(ids, tasks["task_id"])
    if homes.null_count:
        return rows
    there = tasks["workspace"].take(at(rows))
    if pc.all(pc.equal(there, homes), min_count=0).as_py():
        return rows
    return first_of(*(names_of(some) for some in (calls, tasks)))


def first_of(names: Any, among: Any) -> Rows:
    """The row of each name. The calls of a task are several, so it is their names that are made an index of."""
    names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    there = pc.index_in(among, value_set=names.dictionary)
    found = np.flatnonzero(there.is_valid())[::-1]
    rows = np.full(len(names.dictionary), NONE, dtype=np.int64)
    rows[there.drop_null().to_numpy()[::-1]] = found
    return np.asarray(rows[names.indices.to_numpy()])
