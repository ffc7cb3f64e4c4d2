"""A day's parts have every fact as it was, whole tasks can be read out of them, and older parts are read too."""

from __future__ import annotations

import random
import resource
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accounting.files import facts, ledger, parts, schema
from accounting.files.ledger import LocalStore
from accounting.intake import wire
from accounting.rollup import daily, lots, rollup
from accounting.rollup.fold import COLUMNS
from broker.errors import LedgerError
from broker.events import Event, Submitted, encode_fact
from tests.accounting.folding import facts_in, lots_of, table_of
from tests.accounting.golden import stories
from tests.accounting.stories import DAY, NOON_US, random_story

FOLDER = ledger.partition(ledger.EVENTS, DAY)


def events() -> list[Event]:
    chance = random.Random(5)
    return [event for one in (*stories(), *(random_story(n, chance) for n in range(80))) for event in one]


def old_part(lot: list[Event]) -> bytes:
    """As the first version wrote it: the bytes of each fact, sorted by task, without stripes."""
    lot = sorted(lot, key=lambda event: (event.task_id, event.workspace, event.seq))
    names = schema.EVENTS.names[: schema.EVENTS.names.index("fact") + 1]
    order = [(name, "ascending") for name in ("task_id", "workspace", "seq")]
    known = table_of(lot).cast(schema.EVENTS).sort_by(order)
    made = {name: known[name] for name in names}
    made["fact"] = pa.array([encode_fact(event.fact) for event in lot])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(made), sink, compression="zstd", store_decimal_as_integer=True)
    return bytes(sink.getvalue())


def rolled(root: Path, files: list[bytes]) -> tuple[bytes | None, ...]:
    store = LocalStore(root)
    for number, data in enumerate(files):
        store.put(f"{FOLDER}/{number}.parquet", data)
    rollup.rollup(store, DAY, slice_rows=rollup.SLICE_ROWS)
    return tuple(store.read(f"{ledger.partition(name, DAY)}/{name}.parquet") for name in rollup.PUBLISHED)


def readings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, parts.Span]]:
    """Of which part which buckets are read from now on."""
    found: list[tuple[str, parts.Span]] = []
    read = parts.read

    def noted(part: parts.Part, span: parts.Span, columns: Sequence[str]) -> Any:
        found.append((part.path, span))
        return read(part, span, columns)

    monkeypatch.setattr(parts, "read", noted)
    return found


def test_every_kind_of_fact_comes_back_from_its_columns() -> None:
    known = events()
    part = pq.read_table(pa.BufferReader(parts.encode(table_of(known))))
    assert part.schema.equals(schema.EVENTS)
    assert facts_in([part]) == sorted((e.workspace, e.task_id, e.seq, encode_fact(e.fact)) for e in known)


def test_what_a_newer_version_added_to_a_fact_is_kept() -> None:
    newer = msgpack.packb([*msgpack.unpackb(encode_fact(Submitted("sync"))), "of a later version"])
    told = msgpack.packb(
        [NOON_US, [["acme/t", NOON_US, 1, newer], ["acme/u", NOON_US, 1, encode_fact(Submitted("async"))]]]
    )
    [(_, table)] = wire.Gathered([told]).by_day()
    part = pq.read_table(pa.BufferReader(parts.encode(table)))
    assert part["fact"].to_pylist() == [newer, None]
    assert [event.fact for event in facts.events(part)] == [Submitted("sync"), Submitted("async")]


def stored(folder: Path, *those: list[Event]) -> list[parts.Part]:
    """The day's parts, one of each list."""
    store = LocalStore(folder)
    for number, some in enumerate(those):
        store.put(f"{FOLDER}/{number}.parquet", parts.encode(table_of(some)))
    return parts.of_day(store, DAY)


def test_the_same_rows_give_the_same_bytes() -> None:
    assert parts.encode(table_of(events())) == parts.encode(table_of(events()))


def test_parts_of_the_first_version_give_the_same_day(tmp_path: Path) -> None:
    known = events()
    new = [parts.encode(table_of(known[:300])), parts.encode(table_of(known[300:]))]
    old = [old_part(known[:300]), parts.encode(table_of(known[300:]))]
    assert rolled(tmp_path / "old", old) == rolled(tmp_path / "new", new)


@pytest.mark.parametrize("seldom", [0, lots.SELDOM, 10**6])
@pytest.mark.parametrize("small", [20, 1])
def test_a_day_of_small_parts_is_the_same_in_many_spans_and_each_part_is_read_once(
    small: int, seldom: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = events()
    monkeypatch.setattr(lots, "PIECE_ROWS", 40)
    monkeypatch.setattr(lots, "PIECE_PARTS", 30)
    monkeypatch.setattr(lots, "SELDOM", seldom)
    files = [parts.encode(table_of(known[start : start + small])) for start in range(0, len(known), small)]
    one = rolled(tmp_path / "one", [parts.encode(table_of(known))])
    monkeypatch.setattr(rollup, "SLICE_ROWS", 8)
    read = readings(monkeypatch)
    assert rolled(tmp_path / "small", files) == one
    assert len(read) == len(set(read)) == len(files)


def test_of_large_parts_only_the_stripes_of_a_span_are_read_and_small_ones_beside_them_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "STRIPE_ROWS", 10)
    known = events()
    found = stored(tmp_path, known[:-20], known[-20:])
    large, small = (part.path for part in found)
    spans = parts.spans(found, 100)
    read = readings(monkeypatch)
    there = [lot.identity.num_rows for lot in lots_of(found, 100)]
    assert sum(there) == len(known)
    half = parts.BUCKETS // 2  # which is what a stripe of the small one has
    expected = [
        [(large, span), (small, (span[0], span[0] + half))][: 1 + (span[0] % half == 0)] for span in spans
    ]
    assert read == [one for some in expected for one in some]


def test_spans_may_be_asked_for_in_any_order_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "STRIPE_ROWS", 50)
    known = events()
    found = stored(tmp_path, known[:-90], known[-90:-60], known[-60:])  # of eight stripes, of one, of one
    assert {part.width for part in found} == {parts.BUCKETS // 8, parts.BUCKETS}
    spans = parts.spans(found, 40)
    assert len(spans) > 8
    read = readings(monkeypatch)
    with closing(lots.Lots(found, spans, COLUMNS)) as facts_of:
        once = [facts_of.read(number) for number in range(len(spans))]
        assert len(read) == len(set(read)) == 4 + 2  # two stripes at a time
        again = {
            number: facts_of.read(number) for number in random.Random(1).sample(range(len(spans)), len(spans))
        }
    assert len(read) == 2 * (4 + 2)
    assert [again[number] for number in range(len(spans))] == once
    assert sum(lot.identity.num_rows for lot in once) == len(known)


def test_a_day_that_has_no_room_for_temporary_files_says_so_and_publishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "SLICE_ROWS", 8)
    store = LocalStore(tmp_path)
    for number in range(2):
        store.put(f"{FOLDER}/{number}.parquet", parts.encode(table_of(events()[number::2])))
    there = store.list("")
    small = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, small[1]))
    try:
        with pytest.raises(LedgerError, match="temporary file") as failure:
            rollup.rollup(store, DAY, slice_rows=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, small)
    assert "TMPDIR" in failure.value.mend
    assert not store.read(f"{ledger.partition(ledger.TASKS, DAY)}/tasks.parquet")
    assert there == store.list("")


def test_no_file_of_a_day_is_published_before_all_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflows(_: Any) -> Any:
        raise OverflowError("it sums to too much")

    stored(tmp_path, events())
    monkeypatch.setattr(daily.Merging, "tables", overflows)
    with pytest.raises(LedgerError, match=f"{DAY} cannot be rolled: it sums to too much"):
        rollup.rollup(LocalStore(tmp_path), DAY)
    assert LocalStore(tmp_path).list("") == ("events",)


def test_a_part_that_is_replaced_while_its_day_is_rolled_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, whole, known = LocalStore(tmp_path), table_of(events()), parts.of_day
    stored(tmp_path, events())
    again = [parts.encode(whole, stripes=stripes) for stripes in (8, 1, 4)]

    def of_day(near: Any, day: str) -> list[parts.Part]:
        found = known(near, day)
        if again:
            store.put(f"{FOLDER}/0.parquet", again.pop())
        return found

    monkeypatch.setattr(parts, "of_day", of_day)
    assert rollup.rollup(store, DAY).events == len(events())
    assert not again


def without(column: str) -> Any:
    table = table_of(events()).cast(schema.EVENTS)
    return table.set_column(
        table.schema.get_field_index(column), column, pa.nulls(len(table), table[column].type)
    )


@pytest.mark.parametrize(
    "table",
    [pa.table({"x": [1]}), pa.table({"unpriced": [True]}), *map(without, ("task_id", "seq", "kind", "at"))],
)
def test_a_file_of_another_hand_is_told_with_its_mend(table: Any, tmp_path: Path) -> None:
    stored(tmp_path, events())
    pq.write_table(table, tmp_path / FOLDER / "other.parquet", store_decimal_as_integer=True)
    with pytest.raises(LedgerError, match=r"other\.parquet is damaged") as failure:
        rollup.rollup(LocalStore(tmp_path), DAY)
    assert failure.value.mend


def test_a_kind_of_facts_of_a_newer_version_is_not_taken_for_another(tmp_path: Path) -> None:
    table = table_of(events()).cast(schema.EVENTS)
    kinds = pa.array(["refunded" if kind == "rated" else kind for kind in table["kind"].to_pylist()])
    newer = table.set_column(table.schema.get_field_index("kind"), "kind", kinds)
    (tmp_path / FOLDER).mkdir(parents=True)
    pq.write_table(newer, tmp_path / FOLDER / "newer.parquet", store_decimal_as_integer=True)
    with pytest.raises(LedgerError, match="cannot read: its kind is 'refunded'"):
        rollup.rollup(LocalStore(tmp_path), DAY)


def test_no_bit_of_a_parts_pages_turns_unseen(tmp_path: Path) -> None:
    data = parts.encode(table_of(events()))
    good = rolled(tmp_path / "good", [data])
    pages = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # where the footer begins
    chance = random.Random(3)
    for number in range(60):
        turned = bytearray(data)
        turned[chance.randrange(4, pages)] ^= 1 << chance.randrange(8)
        with suppress(LedgerError):  # or nothing that anybody reads has changed
            assert rolled(tmp_path / str(number), [bytes(turned)]) == good


def test_stripes_of_parts_have_whole_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "STRIPE_ROWS", 20)
    known = events()
    found = stored(tmp_path, known[::2], known[1::2])
    assert min(len(part.firsts) for part in found) >= 8
    tasks: dict[str, int] = {}
    for number, lot in enumerate(lots_of(found, 40)):
        for task_id in lot.identity["task_id"].to_pylist():
            assert tasks.setdefault(task_id, number) == number
    assert set(tasks) == {event.task_id for event in known}
