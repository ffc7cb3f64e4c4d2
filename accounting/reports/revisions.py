"""Of each task the model that was tried last, and with which revision: what ``tasks`` has not got as a column.

The revision stands in ``attempts``; it is looked up there by the task's workspace and id. Files that are older than
the column ``workspace`` have the id alone, which two workspaces may share on a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from accounting import ledger, schema
from accounting.ledger import Store
from accounting.reports.rows import Derive, names_of, read_days

MODEL, VERSION = "model", "version"
#: Derived column → the columns of ``tasks`` that it is made from.
NEEDS = {MODEL: ("models",), VERSION: ("models", "workspace", "task_id")}


def derived(store: Store, wanted: Sequence[str]) -> Derive:
    """What adds these columns to the rows of a day."""

    def derive(day: str, rows: Any, _start: int = 0) -> Any:
        if MODEL in wanted:
            rows = rows.append_column(MODEL, _last(rows["models"]).dictionary_encode())
        if VERSION in wanted:
            rows = rows.append_column(VERSION, _revised(store, day, rows).dictionary_encode())
        return rows

    return derive


def _last(lists: Any) -> Any:
    """The last text of each list, "" of an empty one."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    ends = lists.offsets[1:]
    places = pc.if_else(pc.equal(ends, lists.offsets[:-1]), None, pc.subtract(ends, 1))
    return lists.values.take(places).cast(schema.TEXT).fill_null("")


def _revised(store: Store, day: str, rows: Any) -> Any:
    """``model revision`` of the last call that is of the task and has its last model."""
    models = _last(rows["models"])
    names = ("workspace", "task_id", "model", "model_revision")
    calls = read_days(store, ledger.ATTEMPTS, schema.ATTEMPTS, day, day, names)
    by_workspace = not calls["workspace"].null_count
    calls = calls.filter(pc.is_valid(calls["model_revision"]))
    known = _pair(names_of(calls, by_workspace=by_workspace), calls["model"])
    newest = pa.table({"known": known, "place": pa.array(range(len(known)), schema.COUNT)}).group_by("known")
    last = newest.aggregate([("place", "max")])
    wanted = _pair(names_of(rows, by_workspace=by_workspace), models)
    at = pc.index_in(wanted, value_set=last["known"].combine_chunks())
    revision = calls["model_revision"].take(last["place_max"].take(at)).combine_chunks()
    both = pc.binary_join_element_wise(models, revision, " ")
    return pc.if_else(pc.is_null(both), models, both)


def _pair(first: Any, second: Any) -> Any:
    joined = pc.binary_join_element_wise(first.cast(schema.TEXT), second, "\n")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined
