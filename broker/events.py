"""The facts that accounting lives on: immutable, added and never changed.

A fact is written to the stream by the same script that changes the task's record, which gives it its number and time;
``(workspace, task_id, seq)`` is its identity, so a fact that is read twice counts once. A later ``Attempted`` with the
same ``attempt_id`` replaces an earlier one: that is how a late settlement corrects an unsettled call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import msgpack

VERSION = 1


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task came in. ``task_type`` is the declared one, "" where the dispatcher is to find it."""

    mode: str
    workflow: str = ""
    pipeline: str = ""
    user: str = ""
    task_type: str = ""
    parent: str | None = None
    value_nano: int | None = None


@dataclass(frozen=True, slots=True)
class Routed:
    """The dispatcher's decision: ``lane`` is where it goes, ``cost_nano`` what classifying cost (processor time).

    ``root`` is the id of the task that it is a part of in the end, of its own workspace; "" for none.
    """

    task_type: str
    category: str
    by: str
    rule: str
    confidence: float
    chain: tuple[str, ...]
    lane: str
    why: str
    skipped: tuple[tuple[str, str], ...] = ()
    cost_nano: int = 0
    root: str = ""


@dataclass(frozen=True, slots=True)
class Attempted:
    """One call of a model (or a person), whatever came of it.

    Times are microseconds since the epoch on Redis's clock, durations milliseconds. ``cost_nano`` None: no price is
    known (unpriced). ``purpose`` is one of ``broker/purpose.py``. ``verdict`` is ``pass``,
    ``fail`` or "" (no gate); ``failure`` the code of what went wrong, "" for nothing. ``settled`` False: the call was
    lost and stands at its reserved cost. ``gate_cost_nano`` is what checking the answer cost.
    ``overrun``: the provider used more than the worst case that was reserved. ``cache_write_1h_tokens`` are those of
    ``cache_write_tokens`` that were written for an hour. ``node`` is the machine that made the call. ``avoided_nano``
    is what a cache saved, no part of the cost: below 0 where writing to it cost more than reading from it saved.
    """

    attempt_id: str
    hop: int
    lane: str
    engine: str
    model: str
    purpose: str
    started_us: int
    ended_us: int
    queue_wait_ms: float
    latency_ms: float
    cost_nano: int | None
    marginal_nano: int | None = None
    price_ref: str = ""
    model_revision: str = ""
    parent_attempt_id: str = ""
    time_to_first_token_ms: float | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    batch: bool = False
    gate: str = ""
    verdict: str = ""
    failure: str = ""
    complaint: str = ""
    settled: bool = True
    gate_cost_nano: int = 0
    overrun: bool = False
    cache_write_1h_tokens: int = 0
    node: str = ""
    avoided_nano: int = 0


@dataclass(frozen=True, slots=True)
class Escalated:
    """The task climbs from one lane to the next one of its chain (or to ``human``), and why."""

    from_lane: str
    to_lane: str
    why: str
    skipped: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Parked:
    """The task waits for a person: for their work (``reason`` ``human``) or for a higher limit (``budget``)."""

    reason: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A parked task goes on; ``by`` is who made it."""

    by: str
    lane: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The task reached its one terminal status. ``succeeded`` None: no gate judged it, it is in no success figure."""

    status: str
    succeeded: bool | None
    lane: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """The task was taken out of its queue for ``cause`` and waits with the dead letters."""

    cause: str
    starts: int = 0


@dataclass(frozen=True, slots=True)
class Rated:
    """What a person or a downstream system said of the outcome. None: not said."""

    ok: bool | None = None
    value_nano: int | None = None
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Allotted:
    """What an attempt has of its machine's day beside what it was booked at: of the hours in which the machine wore off
    and was idle. A later one for the same attempt replaces an earlier one. Nano-dollars; it may be below 0 where more
    calls ran side by side than the machine's price foresees.
    """

    attempt_id: str
    cost_nano: int


Fact = (
    Submitted | Routed | Attempted | Escalated | Parked | Resumed | Finished | DeadLettered | Rated | Allotted
)

#: The wire's kinds. Append only: a fact's place in this table is its code in messages of every released version.
KINDS: tuple[type[Any], ...] = (
    Submitted, Routed, Attempted, Escalated, Parked, Resumed, Finished, DeadLettered, Rated,
    Allotted,
)  # fmt: skip
_CODES = {kind: code for code, kind in enumerate(KINDS)}
_FIELDS = {kind: tuple(one.name for one in fields(kind)) for kind in KINDS}
_VALUES = {kind: attrgetter(*names) for kind, names in _FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Event:
    """A fact in its place: whose it is, its number within the task, when it was written.

    ``submitted_us`` is the task's own submission, which decides the day that the fact belongs to. Microseconds since
    the epoch on Redis's clock.
    """

    workspace: str
    task_id: str
    seq: int
    at_us: int
    submitted_us: int
    fact: Fact


def encode_fact(fact: Fact) -> bytes:
    """Letters that UTF-8 cannot hold are replaced: a provider's odd text must not keep its call from being booked."""
    kind = type(fact)
    return msgpack.packb([VERSION, _CODES[kind], *_VALUES[kind](fact)], unicode_errors="replace")  # type: ignore[no-any-return]


def encode_group(facts: Sequence[Fact]) -> bytes:
    """Many facts as columns: ``[version, [[kind, their numbers, [a list of values for each field]], …]]``.

    A fact's number is its place among ``facts``; a list of one value is that of all facts of the kind. These are fewer
    bytes than the facts one by one, and less work for who writes and for who reads them.
    """
    numbers: dict[type[Any], list[int]] = {}
    for number, fact in enumerate(facts):
        numbers.setdefault(type(fact), []).append(number)
    kinds = []
    for kind, chosen in numbers.items():
        columns = zip(*[_VALUES[kind](facts[number]) for number in chosen], strict=True)
        kinds.append([_CODES[kind], chosen, [_once(values) for values in columns]])
    return msgpack.packb([VERSION, kinds], unicode_errors="replace")  # type: ignore[no-any-return]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return values[:1] if values.count(values[0]) == len(values) else values


def decode_group(data: bytes) -> dict[int, bytes]:
    """The facts of a group by their numbers, each as ``encode_fact`` has it. Raises ValueError where it is no group.

    What is wrong with a fact is wrong with its bytes too, and found there; a kind that is not whole has none.
    """
    found: dict[int, bytes] = {}
    try:
        version, kinds = msgpack.unpackb(data, use_list=False, unicode_errors="surrogateescape")
        for code, numbers, columns in kinds:
            columns = [values * len(numbers) if len(values) == 1 else values for values in columns]
            if {len(values) for values in columns} == {len(numbers)}:
                rows = ([version, code, *row] for row in zip(*columns, strict=True))
                packed = [msgpack.packb(row, unicode_errors="surrogateescape") for row in rows]
                found.update(zip(numbers, packed, strict=True))
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise ValueError(f"{len(data)} bytes that are no group of facts: {error}") from error
    return found


def decode_fact(data: bytes) -> Fact:
    """The fact of these bytes. Raises ValueError for anything else than a fact of a released version."""
    try:
        _, code, *row = msgpack.unpackb(data, use_list=False)
        kind = KINDS[code]
        return kind(*row[: len(_FIELDS[kind])])  # type: ignore[no-any-return]
    except (ValueError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise ValueError(f"{len(data)} bytes that are no fact of a known version") from error


def decode_entry(data: bytes) -> Iterator[Event]:
    """The events of one stream entry as the scripts write it: ``[at_us, [[ref, submitted_us, seq, fact], …]]``.

    Where the facts were packed together it is ``[at_us, [[ref, submitted_us, seq, number], …], group]``. A fact of the
    group that no row names is none: a script refused it.
    """
    at_us, rows, *group = msgpack.unpackb(data, use_list=False, raw=True)
    for ref, submitted_us, seq, fact in named(rows, group[0]) if group else rows:
        workspace, _, task_id = ref.decode().partition("/")
        yield Event(workspace, task_id, int(seq), int(at_us), int(submitted_us), decode_fact(fact))


def named(rows: Sequence[Any], group: bytes) -> list[Any]:
    """Rows with the facts that they name by number. One that names none keeps its number, which is no fact."""
    facts = decode_group(group)
    return [
        (*row[:3], facts.get(row[3], row[3])) if type(row) is tuple and len(row) == 4 else row for row in rows
    ]
