"""Nightly files as they grow, lot by lot, on a disk of this machine: a day is larger than its rollup's memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import closing
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from accounting.files import ledger, schema
from accounting.rollup import daily
from accounting.rollup.fold import Folded

GROUP_ROWS = 131_072
#: By which readers pass over row groups.
_STATISTICS = frozenset(
    {
        "task_id", "submitted_at", "settled_at", "workspace", "pipeline", "task_type", "status", "lane", "model",
        "purpose", "root_task_id",
    }
)  # fmt: skip
#: Hardly a value comes twice.
_PLAIN = frozenset(
    {
        "task_id", "attempt_id", "parent_attempt_id", "queue_wait_ms", "latency_ms", "time_to_first_token_ms",
        "overhead_share",
    }
)  # fmt: skip
#: Integers near to those above them: half the time of a dictionary or of plain ones.
_DELTA = frozenset(
    {
        "submitted_at", "started_at", "finished_at", "ended_at", "settled_at", "cost_usd", "marginal_usd",
        "inference_usd", "reprompt_usd", "input_tokens", "cached_input_tokens", "output_tokens", "hops", "attempts",
        "llm_calls",
    }
)  # fmt: skip


_DICTIONARY = pa.dictionary(pa.int32(), schema.TEXT)


class Draft:
    """One Parquet file. The same rows give the same bytes, whatever the lots that they came in."""

    def __init__(self, columns: Any) -> None:
        self.columns = columns
        self.rows = 0
        self._file = tempfile.TemporaryFile(prefix="laneway-")  # noqa: SIM115 - closed with the draft
        lists = {field.name: f"{field.name}.list.element" for field in columns if field.type == schema.TEXTS}
        names = [lists.get(name, name) for name in columns.names]
        self._kinds = pa.schema([field.with_type(_handed_over(field)) for field in columns])
        self._writer = pq.ParquetWriter(
            self._file,
            self._kinds,
            compression="zstd",
            use_dictionary=[name for name in names if name not in _PLAIN | _DELTA],
            column_encoding={name: "DELTA_BINARY_PACKED" for name in names if name in _DELTA},
            write_statistics=[name for name in names if name in _STATISTICS],
            store_decimal_as_integer=True,
            # Fewer and larger pages, written at once: a tenth less of the time, for a fiftieth more bytes.
            write_batch_size=GROUP_ROWS,
            max_rows_per_page=GROUP_ROWS,
            write_page_checksum=True,
            data_page_version="1.0",  # later ones say in their headers, which have no checksum, where values begin
            store_schema=False,  # the file's own types say it all, and dictionaries are none of a reader's business
        )
        self._writer.add_key_value_metadata(columns.metadata)
        self._waiting: list[Any] = []
        self._waits = 0

    def add(self, table: Any) -> None:
        """Takes rows that come after all before them; texts may be dictionaries, money nano-dollars."""
        self._waiting.append(table)
        self._waits += table.num_rows
        self.rows += table.num_rows
        if self._waits >= GROUP_ROWS:
            self._write(self._waits // GROUP_ROWS * GROUP_ROWS)

    def done(self) -> mmap.mmap:
        """The bytes of the file."""
        if self._waits or not self.rows:
            self._write(self._waits)
        self._writer.close()
        self._file.flush()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        with self._file:
            self._writer.close()

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting).unify_dictionaries()
        for start in range(0, max(rows, 1), GROUP_ROWS):
            group = table.slice(start, min(GROUP_ROWS, rows - start))
            made = pa.Table.from_arrays(
                [_as_written(group[one.name], one.type) for one in self._kinds], schema=self._kinds
            )
            self._writer.write_table(made, row_group_size=GROUP_ROWS)
        rest = table.slice(rows)
        kept = rest.take(pa.array(np.arange(rest.num_rows)))  # which lets go of all else of the lot
        self._waiting = [kept] if rest.num_rows else []
        self._waits -= rows


def encode(table: Any) -> bytes:
    """The table as a file by itself."""
    with closing(Draft(table.schema)) as draft:
        draft.add(table)
        return draft.done()[:]


class Drafts:
    """The files of a day. ``tasks`` and ``attempts`` are how many rows they have so far, ``events`` of how many
    facts; money in nano-dollars."""

    def __init__(self) -> None:
        self._tasks, self._attempts = Draft(schema.TASKS), Draft(schema.ATTEMPTS)
        self._sums = daily.Merging()
        self.events = self.cost_nano = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._attempts), closing(self._tasks):
            pass  # both, even where a disk is full

    @property
    def tasks(self) -> int:
        return self._tasks.rows

    @property
    def attempts(self) -> int:
        return self._attempts.rows

    def add(self, lot: Folded) -> None:
        self.events += lot.events
        self._tasks.add(lot.tasks)
        self._attempts.add(lot.attempts)
        self._sums.add(lot.daily)
        self.cost_nano += lot.cost_nano

    def done(self) -> Iterator[tuple[str, mmap.mmap]]:
        """Each data set and the bytes of its file; none before all are whole, as what fails then would find the others
        published. Raises OverflowError where sums do not fit."""
        with closing(Draft(schema.DAILY)) as sums:
            for table in self._sums.tables():
                sums.add(table)
            drafts = {ledger.TASKS: self._tasks, ledger.ATTEMPTS: self._attempts, ledger.DAILY: sums}
            yield from [(name, draft.done()) for name, draft in drafts.items()]


def _handed_over(field: Any) -> Any:
    """Of what type the writer gets the column: texts that come often as dictionaries, which it takes as they are."""
    return _DICTIONARY if field.type == schema.TEXT and field.name not in _PLAIN else field.type


def _as_written(column: Any, kind: Any) -> Any:
    whole = schema.in_one(column)
    if kind == _DICTIONARY:
        return _in_order(whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode())
    if kind == schema.MONEY and whole.type != kind:
        return schema.money(whole)
    return whole if whole.type == kind else whole.cast(kind)


def _in_order(texts: Any) -> Any:
    """The same with a dictionary that depends on nothing but the rows: the words that they have, in their order."""
    none = len(texts.dictionary)
    codes = pc.fill_null(texts.indices, none).to_numpy()
    used = np.zeros(none + 1, dtype=np.bool_)
    used[codes] = True
    there = np.flatnonzero(used[:none])
    words = texts.dictionary.take(pa.array(there))
    order = pc.sort_indices(words).to_numpy()
    ranks = np.zeros(none + 1, dtype=np.int32)
    ranks[there[order]] = np.arange(len(there))
    indices = pa.array(ranks[codes], mask=codes == none) if texts.null_count else pa.array(ranks[codes])
    return pa.DictionaryArray.from_arrays(indices, words.take(pa.array(order)))
