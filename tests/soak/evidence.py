"""All that a run left behind, read into plain values for the checker."""

from __future__ import annotations

import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from accounting.files import facts, ledger, parts, schema
from accounting.rollup import rollup
from broker.events import Event
from tests.soak.history import read

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Evidence:
    """``history`` is the producers' and the nemesis's log, ``journal`` the provider's own, ``arrivals`` the names of
    the requests as they came in, ``events`` every row of the ledger's facts, ``tasks`` and ``attempts`` its rolled-up
    rows (money in nano-dollars), ``final`` Redis's account at the end, ``unlike`` the files that came out otherwise
    when the facts were given to a rollup again, shuffled and some of them several times.
    """

    history: list[Row]
    journal: list[Row]
    arrivals: list[str]
    events: list[Event]
    tasks: list[Row]
    attempts: list[Row]
    final: Row
    unlike: list[str]


def gather(folder: Path) -> Evidence:
    files = folder / "ledger"
    return Evidence(
        history=list(read(folder / "history.jsonl")),
        journal=list(read(folder / "journal.jsonl")),
        arrivals=[row["id"] for row in read(folder / "arrivals.jsonl")],
        events=[event for table in _tables(files, f"{ledger.EVENTS}/*") for event in facts.events(table)],
        tasks=[_in_nano(row) for row in _rows(files, ledger.TASKS)],
        attempts=[_in_nano(row) for row in _rows(files, ledger.ATTEMPTS)],
        final=json.loads((folder / "final.json").read_text()),
        unlike=rolled_again(files, seed=7),
    )


def rolled_again(files: Path, seed: int) -> list[str]:
    """Which nightly files differ when the same facts come in another order, in other parts, up to five times."""
    pick = random.Random(seed)
    unlike = []
    first = ledger.LocalStore(files)
    with tempfile.TemporaryDirectory() as scratch:
        second = ledger.LocalStore(Path(scratch))
        for day in ledger.days(first, ledger.EVENTS):
            rows = pa.concat_tables(_tables(files, f"{ledger.EVENTS}/date={day}"))
            order = [place for place in range(rows.num_rows) for _ in range(pick.choice([1, 1, 1, 2, 5]))]
            pick.shuffle(order)
            for part in range(5):
                piece = rows.take(pa.array(order[part::5], pa.int64())).combine_chunks()
                second.put(f"{ledger.partition(ledger.EVENTS, day)}/{part}.parquet", parts.encode(piece))
            rollup.rollup(second, day)
            for dataset in (ledger.TASKS, ledger.ATTEMPTS, ledger.DAILY):
                path = f"{ledger.partition(dataset, day)}/{dataset}.parquet"
                if first.read(path) != second.read(path):
                    unlike.append(path)
    return unlike


def _tables(files: Path, folder: str) -> list[Any]:
    return [
        pq.ParquetFile(path).read().cast(schema.EVENTS) for path in sorted(files.glob(f"{folder}/*.parquet"))
    ]


def _rows(files: Path, dataset: str) -> list[Row]:
    rows: list[Row] = []
    for path in sorted((files / dataset).glob("date=*/*.parquet")):
        rows += pq.ParquetFile(path).read().to_pylist()
    return rows


def _in_nano(row: Row) -> Row:
    return {
        name.removesuffix("_usd") + "_nano" if name.endswith("_usd") else name: int(value * 10**9)
        if name.endswith("_usd") and value is not None
        else value
        for name, value in row.items()
    }
