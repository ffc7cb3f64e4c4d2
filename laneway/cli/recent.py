"""How the latest calls of each lane ended: those still in the stream, and those of the ledger's newest files."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa

from accounting.files import facts, ledger, reading
from accounting.intake import wire
from broker.errors import LedgerError
from broker.store import Store
from broker.stream import newest_entries

STREAM_ENTRIES, STREAM_FACTS = 1000, 10_000
COLUMNS = ["kind", "lane", "failure", "verdict"]
FILES = 3
Counts = dict[str, Counter[str]]


def verdicts(store: Store, files: ledger.Store) -> Counts:
    """By lane the number of ``pass``, ``fail``, ``ungated``, and of each failure by its code."""
    found: Counts = {}
    for table in wire.tables(newest_entries(store.client, STREAM_ENTRIES), STREAM_FACTS):
        _count_table(found, table)
    for day in ledger.days(files, ledger.EVENTS)[-1:]:
        folder = ledger.partition(ledger.EVENTS, day)
        for name in files.list(folder)[-FILES:]:
            _count_file(found, files, f"{folder}/{name}")
    return found


def _count_file(found: Counts, files: ledger.Store, path: str) -> None:
    try:
        file = reading.opened(files.open(path))
        table = reading.rows_of(file, range(file.num_row_groups), COLUMNS)
    except reading.BROKEN as error:
        raise LedgerError(f"{path} is damaged: {error}", mend="put the file back from a copy") from error
    _count_table(found, table)


def _count_table(found: Counts, table: pa.Table) -> None:
    calls = table.group_by(COLUMNS).aggregate([([], "count_all")])
    for row in calls.to_pylist():
        if row["kind"] == facts.CALL:
            _count(found, row["lane"], row["failure"], row["verdict"], row["count_all"])


def _count(found: Counts, lane: str | None, failure: str | None, verdict: str | None, calls: int) -> None:
    found.setdefault(lane or "", Counter())[failure or verdict or "ungated"] += calls
