"""Of each task the model that was tried last, and with which revision: what ``tasks`` has not got as a column.

The revision stands in ``attempts``: the calls of a day are gone through once. Files that are older than the workspace
of a call tell it of one task alone, where two workspaces share an id on a day.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import ledger, schema
from accounting.files.ledger import Store
from accounting.reports.beside import NONE, at, beside
from accounting.reports.rows import MOST_THREADS, Derive, Files, Names, Piece, at_once, pieces, read
from accounting.rollup.order import Rows

MODEL, VERSION = "model", "version"
#: Derived column → the columns of ``tasks`` that it is made from.
NEEDS = {MODEL: ("models",), VERSION: ("models",)}


def derived(store: Store, tasks: Files, wanted: Sequence[str]) -> Derive:
    """What adds these columns to the rows of a day of ``tasks``. Thread-safe."""
    revisions, lock = lru_cache(MOST_THREADS + 1)(partial(_revisions, store, tasks)), Lock()

    def derive(day: str, rows: Any, start: int = 0) -> Any:
        if MODEL in wanted:
            rows = rows.append_column(MODEL, _last(rows["models"]).dictionary_encode())
        if VERSION in wanted:
            models = _last(rows["models"])
            with lock:
                names, codes = revisions(day)
            revision = names.take(at(codes[start : start + rows.num_rows]))
            both = pc.coalesce(pc.binary_join_element_wise(models, revision, " "), models)
            rows = rows.append_column(VERSION, both.dictionary_encode())
        return rows

    return derive


def _last(lists: Any) -> Any:
    """The last text of each list, "" of an empty one."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    ends = lists.offsets[1:]
    places = pc.if_else(pc.equal(ends, lists.offsets[:-1]), None, pc.subtract(ends, 1))
    return lists.values.take(places).cast(schema.TEXT).fill_null("")


def _revisions(store: Store, tasks: Files, day: str) -> tuple[Any, Rows]:
    """Names, and of each task of the day the place of its own: of its last call that has its last model."""
    names = Names()
    found = np.full(sum(piece.rows for piece in tasks.of(day)), NONE, dtype=np.int32)
    calls = at_once(_revised, pieces(store, ledger.ATTEMPTS, (day,), {}))
    for some, near, rows in beside(lambda: map(_tried, tasks.of(day)), calls):
        same = pc.equal(near["model"].take(at(rows)), some["model"]).fill_null(False).to_numpy()
        numbers, codes = names.of(some["model_revision"])
        found[near["row"].to_numpy()[rows[same]]] = numbers[codes[same]]  # of several the last
    return names.all(), found.astype(np.min_scalar_type(-len(names.all()) - 1))


def _tried(piece: Piece) -> Any:
    rows = read(piece, ("workspace", "task_id", "models"))
    places = np.arange(piece.start, piece.start + rows.num_rows)
    home, model = rows["workspace"].cast(schema.TEXT), _last(rows["models"])
    return pa.table({"workspace": home, "task_id": rows["task_id"], "row": places, "model": model})


def _revised(piece: Piece) -> Any:
    rows = read(piece, ("workspace", "task_id", "model", "model_revision"))
    return rows.filter(rows["model_revision"].is_valid())
