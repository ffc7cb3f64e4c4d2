"""A bit that turned in a nightly file changes no figure unseen."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accounting.bills.reprice import reprice
from accounting.files import ledger, parts, reading
from accounting.files.ledger import LocalStore
from accounting.reports import measured, report
from accounting.reports.report import Question
from accounting.rollup import rollup
from broker.errors import LedgerError
from tests.accounting.folding import table_of
from tests.accounting.stories import DAY, day_of_stories

HEADER_BYTES = 25  # of a page, at least: its kind, how many bytes and values it has, how they are written


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("ledger"))
    lot = [event for one in day_of_stories(300) for event in one]
    store.put(f"{ledger.partition(ledger.EVENTS, DAY)}/1.parquet", parts.encode(table_of(lot)))
    rollup.rollup(store, DAY)
    return store


def figures(store: LocalStore) -> tuple[Any, ...]:
    """What every reader of nightly files makes of the day."""
    asked = Question(by=["user", "model", "version"])
    told = report.to_dict(report.build(store, since=DAY, until=DAY, asked=asked))
    found = measured.measure(store, DAY, DAY)
    assert found is not None
    kinds = [(found.work(kind), found.tries(kind)) for kind in found.types]
    return told, kinds, reprice(store, [DAY], {})


def figures_or_error(store: LocalStore) -> tuple[Any, ...] | LedgerError:
    try:
        return figures(store)
    except LedgerError as error:
        return error


def in_pages(data: bytes, chance: random.Random) -> Iterator[int]:
    yield from (chance.randrange(4, footer_of(data)) for _ in range(20))


def in_headers(data: bytes, chance: random.Random) -> Iterator[int]:
    """Of a column with a dictionary any byte of that one's header, of others the kind of the page."""
    group = pq.read_metadata(pa.BufferReader(data)).row_group(0)
    for column in map(group.column, range(group.num_columns)):
        if column.has_dictionary_page:
            yield column.dictionary_page_offset + chance.randrange(HEADER_BYTES)
        else:
            yield column.data_page_offset + 1


def footer_of(data: bytes) -> int:
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


@pytest.mark.parametrize("dataset", rollup.PUBLISHED)
@pytest.mark.parametrize("places", [in_pages, in_headers])
def test_no_bit_of_a_nightly_file_turns_unseen(
    dataset: str, places: Callable[[bytes, random.Random], Iterator[int]], day: LocalStore
) -> None:
    path = f"{ledger.partition(dataset, DAY)}/{dataset}.parquet"
    data, good, chance = day.read(path), figures(day), random.Random(3)
    assert data is not None
    found = []
    for place in places(data, chance):
        turned = bytearray(data)
        turned[place] ^= 1 << chance.randrange(8)
        day.put(path, bytes(turned))
        found.append(figures_or_error(day))
    day.put(path, data)
    told = [one for one in found if isinstance(one, LedgerError)]
    assert told
    assert all(f"{path} is damaged" in one.message for one in told)
    assert {one.mend for one in told} == {f"laneway rollup --date {DAY} writes it anew"}
    assert all(one == good for one in found if one not in told)  # what nobody reads had changed


def test_a_page_that_is_passed_over_is_missed_though_its_column_is_read_alone() -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"seq": [1, 2]}), sink, use_dictionary=False)
    data = bytearray(sink.getvalue())
    data[5] ^= 4  # the kind of the first page, now none that is known
    with pytest.raises(reading.BROKEN, match="rows"):
        reading.rows_of(reading.opened(pa.BufferReader(data)), [0], ["seq"])
