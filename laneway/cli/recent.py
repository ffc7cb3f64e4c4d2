"""How the latest calls of each lane ended: those still in the stream, and those of the ledger's newest files."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq

from accounting import ledger, wire
from broker import keys
from broker.errors import LedgerError
from broker.events import Attempted
from broker.store import Store, ask

STREAM_ENTRIES = 1000
FILES = 3
CALL = "attempted"
Counts = dict[str, Counter[str]]


def verdicts(store: Store, files: ledger.Store) -> Counts:
    """By lane the number of ``pass``, ``fail``, ``ungated``, and of each failure by its code."""
    found: Counts = {}
    for _, fields in ask(lambda: store.client.xrevrange(keys.EVENTS, count=STREAM_ENTRIES)):
        for event in wire.readable(fields.get(b"b", b"")):
            if isinstance(event.fact, Attempted):
                _count(found, event.fact.lane, event.fact.failure, event.fact.verdict, 1)
    for day in ledger.days(files, ledger.EVENTS)[-1:]:
        folder = ledger.partition(ledger.EVENTS, day)
        for name in files.list(folder)[-FILES:]:
            _count_file(found, files, f"{folder}/{name}")
    return found


def _count_file(found: Counts, files: ledger.Store, path: str) -> None:
    try:
        table = pq.ParquetFile(files.open(path)).read(columns=["kind", "lane", "failure", "verdict"])
    except pa.ArrowInvalid as error:
        raise LedgerError(f"{path} is damaged: {error}", mend="put the file back from a copy") from error
    calls = table.group_by(["kind", "lane", "failure", "verdict"]).aggregate([([], "count_all")])
    for row in calls.to_pylist():
        if row["kind"] == CALL:
            _count(found, row["lane"], row["failure"], row["verdict"], row["count_all"])


def _count(found: Counts, lane: str | None, failure: str | None, verdict: str | None, calls: int) -> None:
    found.setdefault(lane or "", Counter())[failure or verdict or "ungated"] += calls
