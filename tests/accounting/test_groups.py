"""Facts that their caller packed together are in the ledger what the same facts one by one are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from accounting.files import facts, parts
from accounting.files.ledger import LocalStore
from accounting.intake import ingest, wire
from broker.events import (
    KINDS,
    Attempted,
    Event,
    Fact,
    Submitted,
    decode_entry,
    decode_fact,
    decode_group,
    encode_fact,
    encode_group,
)
from broker.keys import EVENTS
from broker.settings import Settings
from tests.accounting.stories import NOON_US, attempted, day_of_stories, entry, grouped_entry, publish, story


def of(annotation: Any) -> st.SearchStrategy[Any]:
    if isinstance(annotation, UnionType):
        return st.one_of([of(one) for one in get_args(annotation)])
    if get_origin(annotation) is tuple:
        inner = get_args(annotation)[0]
        return st.lists(
            st.tuples(lanes, st.text(max_size=5)) if get_origin(inner) else lanes, max_size=2
        ).map(tuple)
    return VALUES[annotation]


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(1 - facts.LIMIT, facts.LIMIT - 1) | st.sampled_from([0, 1]),
    float: st.floats(allow_nan=False) | st.integers(0, 1),
    str: st.text(max_size=5) | st.just(""),
    bool: st.booleans(),
    NoneType: st.none(),
}
lanes = st.sampled_from(["local", "midtier", ""])
any_fact: st.SearchStrategy[Fact] = st.one_of(
    [st.builds(kind, **{name: of(hint) for name, hint in get_type_hints(kind).items()}) for kind in KINDS]
)
entries_of_facts = st.lists(
    st.tuples(st.lists(any_fact, min_size=1, max_size=6), st.booleans()), min_size=1, max_size=6
)


def told(number: int, known: Sequence[Fact]) -> list[Event]:
    return story(f"t-{number % 4}", known, at_us=NOON_US + number, workspace=("acme", "globex")[number % 2])


def part_of(entries: Sequence[bytes]) -> bytes:
    gathered = wire.Gathered(entries)
    [(_, table)] = gathered.by_day()
    assert gathered.flaws == []
    return parts.encode(table)


@given(entries_of_facts)
@settings(deadline=None)
def test_both_forms_give_the_same_part_and_the_same_events(known: list[tuple[list[Fact], bool]]) -> None:
    events = [told(number, some) for number, (some, _) in enumerate(known)]
    one_by_one = list(map(entry, events))
    mixed = [
        grouped_entry(some) if together else entry(some)
        for some, (_, together) in zip(events, known, strict=True)
    ]
    part = part_of(one_by_one)
    assert part_of(list(map(grouped_entry, events))) == part
    assert part_of(mixed) == part
    for some, alone in zip(events, one_by_one, strict=True):
        assert list(decode_entry(grouped_entry(some))) == list(decode_entry(alone))


@given(st.lists(any_fact, max_size=12))
def test_a_group_has_the_bytes_of_each_of_its_facts(known: list[Fact]) -> None:
    found = decode_group(encode_group(known))
    assert [decode_fact(found[number]) for number in range(len(known))] == known


def test_a_large_day_is_the_same_in_both_forms() -> None:
    events = [event for one in day_of_stories(400) for event in one]
    lots = [events[start : start + 500] for start in range(0, len(events), 500)]
    assert part_of(list(map(grouped_entry, lots))) == part_of(list(map(entry, lots)))


def test_groups_of_which_scripts_took_some_are_those_some() -> None:
    """Some facts are refused, and some rows have a fact that the script wrote."""
    chance = random.Random(6)
    events = [event for one in day_of_stories(200) for event in one]
    together, alone = [], []
    for start in range(0, len(events), 100):
        lot = events[start : start + 100]
        at_us, named, group = msgpack.unpackb(grouped_entry(lot))
        packed = [encode_fact(event.fact) for event in lot]
        kept = [number for number in range(len(lot)) if chance.random() < 0.9]
        by_script = {number for number in kept if chance.random() < 0.1}
        together.append(
            msgpack.packb([at_us, [[*named[n][:3], packed[n] if n in by_script else n] for n in kept], group])
        )
        alone.append(msgpack.packb([at_us, [[*named[n][:3], packed[n]] for n in kept]]))
    assert part_of(together) == part_of(alone)


def rows(*facts_: Any) -> list[list[Any]]:
    return [[f"acme/t-{number}", NOON_US, 1, fact] for number, fact in enumerate(facts_)]


def groups_with_a_bad_fact() -> list[bytes]:
    """The second of three is bad."""
    good = Submitted("sync")
    known: list[Fact] = [good, attempted("t-1"), good]
    version, kinds = msgpack.unpackb(encode_group(known))
    ragged = [kinds[0], [2, [1], [*kinds[1][2][:-1], ["node", "node"]]]]
    return [
        encode_group([good, attempted("t-1", cost_nano=10**17), good]),
        encode_group([good, attempted("t-1", input_tokens="many"), good]),
        encode_group([good, attempted("t-1", settled=1), good]),
        encode_group([good, Submitted(7), good]),  # type: ignore[arg-type]
        encode_group([good, Submitted("bad!"), good]).replace(b"bad!", b"ba\xff!"),
        encode_group([good, Submitted("sync", user=b"bytes"), good]),  # type: ignore[arg-type]
        msgpack.packb([version, ragged]),
        msgpack.packb([version, [kinds[0], [99, [1], [["of a later kind"]]]]]),
        msgpack.packb([version, [kinds[0], [2, [1], [["an attempt of one field"]]]]]),
        msgpack.packb([version, kinds[:1]]),
    ]


@pytest.mark.parametrize("group", groups_with_a_bad_fact(), ids=range(10))
def test_a_bad_fact_of_a_group_is_set_aside_and_its_neighbours_pass(
    group: bytes, client: redis.Redis, store: LocalStore, quarantine: LocalStore
) -> None:
    whole = msgpack.packb([NOON_US, rows(0, 1, 2), group])
    before = story("before", [Submitted("sync")])
    publish(client, [entry(before), whole, grouped_entry(story("after", [Submitted("sync")]))])
    done = ingest.drain(client, store, quarantine)
    assert (done.events, done.flaws) == (4, 1)
    [name] = quarantine.list(".")
    assert quarantine.read(name) == whole
    [part] = store.root.glob("events/*/*.parquet")
    found = pq.read_table(part, partitioning=None)
    assert sorted(found["task_id"].to_pylist()) == ["after", "before", "t-0", "t-2"]
    assert set(found["mode"].to_pylist()) == {"sync"}
    assert client.xlen(EVENTS) == 0


@pytest.mark.parametrize("group", [b"", b"\xc1", msgpack.packb(7), msgpack.packb([1, 5]), 7])
def test_an_entry_whose_group_is_none_is_set_aside_whole(group: Any) -> None:
    gathered = wire.Gathered(
        [msgpack.packb([NOON_US, rows(0, 1), group]), entry(story("t", [Submitted("sync")]))]
    )
    assert [table["task_id"].to_pylist() for _, table in gathered.by_day()] == [["t"]]
    assert {flaw.entry for flaw in gathered.flaws} == {0}


def test_facts_of_a_group_that_nobody_names_are_in_no_ledger() -> None:
    """A script refuses tasks, and ends one that was cancelled with a fact of its own."""
    known = [attempted(f"t-{number}") for number in range(4)]
    cancelled = encode_fact(Submitted("async"))
    some = msgpack.packb([NOON_US, rows(0, cancelled, 3), encode_group(known)])
    alone = msgpack.packb([NOON_US, rows(encode_fact(known[0]), cancelled, encode_fact(known[3]))])
    assert part_of([some]) == part_of([alone])
    twice = msgpack.packb([NOON_US, rows(0, 0), encode_group(known)])
    assert part_of([twice]) == part_of([msgpack.packb([NOON_US, rows(*[encode_fact(known[0])] * 2)])])
    turned = msgpack.packb([NOON_US, rows(3, 2, 1, 0), encode_group(known)])
    assert part_of([turned]) == part_of([msgpack.packb([NOON_US, rows(*map(encode_fact, known[::-1]))])])


def test_a_bad_fact_that_nobody_names_spoils_nothing() -> None:
    group = encode_group([Submitted("sync"), attempted("t-1", settled=1)])
    assert part_of([msgpack.packb([NOON_US, rows(0), group])]) == part_of(
        [msgpack.packb([NOON_US, rows(encode_fact(Submitted("sync")))])]
    )


def test_what_a_newer_version_added_to_the_facts_of_a_group_is_kept() -> None:
    known: list[Fact] = [Submitted("sync"), attempted("t-1"), Submitted("async")]
    version, kinds = msgpack.unpackb(encode_group(known))
    for kind in kinds:
        kind[2].append([f"of a later version, {number}" for number in kind[1]])
    newer = [
        msgpack.packb([*msgpack.unpackb(encode_fact(fact)), f"of a later version, {number}"])
        for number, fact in enumerate(known)
    ]
    part = part_of([msgpack.packb([NOON_US, rows(0, 1, 2), msgpack.packb([version, kinds])])])
    assert part == part_of([msgpack.packb([NOON_US, rows(*newer)])])
    assert set(pq.read_table(pa.BufferReader(part))["fact"].to_pylist()) == set(newer)


def test_an_older_version_s_group_is_filled_up() -> None:
    group = msgpack.packb([1, [[0, [0, 1], [["sync", "async"]]]]])
    older = [encode_fact(Submitted("sync")), encode_fact(Submitted("async"))]
    assert part_of([msgpack.packb([NOON_US, rows(0, 1), group])]) == part_of(
        [msgpack.packb([NOON_US, rows(*older)])]
    )


def test_a_part_is_due_by_the_room_that_groups_take(client: redis.Redis) -> None:
    fleet = {"ingest_flush_events": 10_000, "ingest_flush_s": 3600}
    settings_ = Settings.model_validate({"fleet": fleet})
    calls: list[Fact] = [attempted(f"call-{number}", complaint=f"{number:032}") for number in range(500)]
    publish(client, [grouped_entry(story("t", calls))] * 10)
    assert not ingest.due(client, settings_)
    publish(client, [grouped_entry(story("t", calls))] * 20)
    assert ingest.due(client, settings_)


def test_a_call_without_a_price_is_none_in_both_forms() -> None:
    calls: list[Fact] = [Attempted("a", 0, "x", "e", "m", "task", 1, 2, 0.0, 0.0, None) for _ in range(3)]
    assert part_of([grouped_entry(story("t", calls))]) == part_of([entry(story("t", calls))])


def test_a_glance_at_the_stream_sees_both_forms_and_passes_over_what_is_flawed() -> None:
    lots = [story(f"t-{number}", [Submitted("sync"), attempted("t-1")]) for number in range(6)]
    stream = [b"junk", entry(lots[0]), None, *map(grouped_entry, lots[1:])]
    [table] = wire.tables(stream, 8)
    assert sorted(table["task_id"].to_pylist()) == ["t-0", "t-0", "t-1", "t-1", "t-2", "t-2"]
    assert wire.tables([b"junk", None], 8) == []
