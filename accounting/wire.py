"""Reads stream entries as the producers' scripts wrote them, quickly and without trust.

``broker.events`` gives typed facts, one at a time; ingest wants columns of very many, with the bytes as they came, and
must not stop at a bad one. So this reads each fact as a plain row in the order of its dataclass's fields and checks
each value against the annotation there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgpack

from broker.events import KINDS, Allotted, Attempted, Finished, Parked, Routed
from broker.money import text

#: No number of ours is as large: 10 million dollars in nano-dollars, the year 2286 in microseconds.
LIMIT = 10**16
_NO_DEFAULT = object()


class Row(NamedTuple):
    """One fact as a row of the ``events`` data set, in the order of its columns."""

    workspace: str
    task_id: str
    seq: int
    at_us: int
    submitted_us: int
    kind: str
    attempt_id: str | None
    lane: str | None
    model: str | None
    purpose: str | None
    cost_nano: int | None
    verdict: str | None
    failure: str | None
    status: str | None
    fact: bytes


class Flaw(NamedTuple):
    """What is wrong with an entry, or with one fact of it."""

    why: str


Said = tuple[str | None, str | None, str | None, str | None, int | None, str | None, str | None, str | None]


def rows(entry: bytes) -> Iterator[Row | Flaw]:
    """The entry's facts, a flaw in the place of each one that cannot be read."""
    try:
        at, items = msgpack.unpackb(entry, use_list=False, raw=True)  # Lua tells no text from bytes
        at_us = _whole(at)
        items = tuple(items)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        yield Flaw(f"not an entry: {error}")
        return
    for place, item in enumerate(items):
        try:
            yield _row(at_us, item)
        except (ValueError, TypeError, IndexError, AttributeError, msgpack.UnpackException) as error:
            yield Flaw(f"fact {place}: {error}")


def _row(at_us: int, item: Any) -> Row:
    ref, submitted, seq, fact = item
    workspace, slash, task_id = ref.decode().partition("/")
    if not (workspace and slash and task_id):
        raise ValueError("it names no task")
    if type(fact) is not bytes:
        raise ValueError(f"it is {type(fact).__name__}, not bytes")
    _, code, *values = msgpack.unpackb(fact, use_list=False)
    if type(code) is not int or not 0 <= code < len(_SHAPES):
        raise ValueError("of a kind that this version does not know")
    shape = _SHAPES[code]
    name, said = shape.name, shape.said(shape.checked(values))
    return Row(workspace, task_id, _whole(seq), at_us, _whole(submitted), name, *said, fact)


def _whole(number: Any) -> int:
    """Lua writes a large integer as a double; both are the same number here."""
    whole = int(number)
    if whole != number or not 0 <= whole < LIMIT:
        raise ValueError("a number that is no count and no time")
    return whole


class _Shape(NamedTuple):
    name: str
    fields: tuple[str, ...]
    allowed: tuple[frozenset[type], ...]
    defaults: tuple[Any, ...]
    numbers: tuple[int, ...]
    seen: set[tuple[type, ...]]  # of checked values' types: few, and quicker to look up than to check again
    said: Callable[[list[Any]], Said]

    def checked(self, values: list[Any]) -> list[Any]:
        """What a newer version added at the end is passed over, what an older one lacks takes its default."""
        width = len(self.fields)
        if len(values) != width:
            values = [*values[:width], *self.defaults[len(values) :]]
        signature = tuple(map(type, values))
        if signature not in self.seen:
            for name, kind, allowed in zip(self.fields, signature, self.allowed, strict=True):
                if kind not in allowed:
                    raise ValueError(f"{self.name}.{name} is of a wrong type")
            self.seen.add(signature)
        for place in self.numbers:
            number = values[place]
            if number is not None and not -LIMIT < number < LIMIT:
                raise ValueError(
                    f"{self.name}.{self.fields[place]} is beyond {text(LIMIT)} dollars or the year 2286"
                )
        return values


def _allowed(annotation: Any) -> frozenset[type]:
    if get_origin(annotation) is UnionType or isinstance(annotation, UnionType):
        return frozenset().union(*(_allowed(one) for one in get_args(annotation)))
    origin = get_origin(annotation) or annotation
    if origin is float:
        return frozenset({float, int})
    return frozenset({NoneType if origin is None else origin})


def _shape(kind: type[Any]) -> _Shape:
    hints = get_type_hints(kind)
    known = fields(kind)
    allowed = tuple(_allowed(hints[one.name]) for one in known)
    return _Shape(
        kind.__name__.lower(),
        tuple(one.name for one in known),
        allowed,
        tuple(_NO_DEFAULT if one.default is MISSING else one.default for one in known),
        tuple(place for place, types in enumerate(allowed) if int in types),
        set(),
        _SAYS.get(kind, _says_nothing),
    )


def _place(kind: type[Any], *names: str) -> tuple[int, ...]:
    order = [one.name for one in fields(kind)]
    return tuple(order.index(name) for name in names)


_ID, _LANE, _MODEL, _PURPOSE, _COST, _GATE_COST, _VERDICT, _FAILURE = _place(
    Attempted, "attempt_id", "lane", "model", "purpose", "cost_nano", "gate_cost_nano", "verdict", "failure"
)
_ROUTED_LANE, _ROUTED_COST = _place(Routed, "lane", "cost_nano")
_FINISHED_LANE, _FINISHED_STATUS = _place(Finished, "lane", "status")


def _says_nothing(_values: list[Any]) -> Said:
    return None, None, None, None, None, None, None, None


def _attempted(values: list[Any]) -> Said:
    cost, gate = values[_COST], values[_GATE_COST]
    if gate:
        cost = gate if cost is None else cost + gate
    return (
        values[_ID], values[_LANE], values[_MODEL], values[_PURPOSE],
        cost, values[_VERDICT] or None, values[_FAILURE] or None, None,
    )  # fmt: skip


def _routed(values: list[Any]) -> Said:
    return None, values[_ROUTED_LANE], None, None, values[_ROUTED_COST], None, None, None


def _finished(values: list[Any]) -> Said:
    return None, values[_FINISHED_LANE], None, None, None, None, None, values[_FINISHED_STATUS]


def _parked(_values: list[Any]) -> Said:
    return None, None, None, None, None, None, None, "parked"


def _allotted(values: list[Any]) -> Said:
    return values[0], None, None, None, values[1], None, None, None


_SAYS: dict[type[Any], Callable[[list[Any]], Said]] = {
    Attempted: _attempted,
    Routed: _routed,
    Finished: _finished,
    Parked: _parked,
    Allotted: _allotted,
}
_SHAPES = tuple(_shape(kind) for kind in KINDS)
