"""A day's calls beside its tasks, some row groups of each in hand.

Both files have tasks in one order (accounting/rollup/order.py): those of some calls are the next ones after those of
the calls before, so that what lies behind is let go. Files whose orders differ are joined all the same, with all
tasks in hand; and of files that are older than the workspace of a call nothing is let go, so that ids which two
workspaces share are the first one's.
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
    """Each table of calls, a table of tasks, and of each call the row there of its own task.

    ``tasks`` begins anew to hand over all tasks of the day, in tables that have their ``workspace`` as plain text and
    their ``task_id``.
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
