"""Facts as columns of ``events``, and its rows as facts again.

``broker.events`` packs and reads facts one at a time. A ledger has very many, so here whole pages of them are taken
apart kind by kind and turned into columns at once, each value checked against the annotation of its field. Facts of a
group (``broker.events.encode_group``) lie by kind and field already and are only laid end to end. What a newer version
added at the end of a fact is not lost: its bytes then go along as they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, fields
from itertools import chain
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import schema
from broker.events import (
    KINDS,
    VERSION,
    Allotted,
    Attempted,
    DeadLettered,
    Escalated,
    Event,
    Fact,
    Finished,
    Parked,
    Rated,
    Routed,
    Submitted,
)
from broker.money import text

#: No number of ours is as large: 10 million dollars in nano-dollars, the year 2286 in microseconds.
LIMIT = 10**16
_NO_DEFAULT = object()
_HEAD = 2  # a packed fact begins with its version and its kind
_SEPARATOR = ": "  # between a lane that was passed over and the reason

#: Fields that stand in a column of another name. Several kinds share a column where it says the same of each.
_COLUMNS: dict[type[Any], dict[str, str]] = {
    Submitted: {"user": "user_id", "parent": "parent_task_id", "value_nano": "value_usd"},
    Routed: {"cost_nano": "cost_usd", "root": "root_task_id"},
    Attempted: {
        "avoided_nano": "avoided_usd",
        "started_us": "started_at",
        "ended_us": "ended_at",
        "cost_nano": "cost_usd",
        "gate_cost_nano": "gate_usd",
        "marginal_nano": "marginal_usd",
    },
    Escalated: {"to_lane": "lane"},
    DeadLettered: {"cause": "reason"},
    Rated: {"ok": "succeeded", "value_nano": "value_usd"},
    Allotted: {"cost_nano": "cost_usd"},
}
#: Where nothing was said these are null, and "" as fields.
_SILENT = frozenset(
    {
        "verdict", "failure", "price_ref", "model_revision", "parent_attempt_id", "gate", "complaint", "node", "why",
        "rule", "reason", "comment", "root_task_id",
    }
)  # fmt: skip
KIND_NAMES = tuple(kind.__name__.lower() for kind in KINDS)
NAMES = pa.array(KIND_NAMES, schema.TEXT)
PARKED = "parked"
#: What a row of version 1 says that is not in the bytes of its fact; and those.
OLD_COLUMNS = ("workspace", "task_id", "seq", "at", "submitted_at", "fact")
Places = npt.NDArray[np.int64]
_FOUND = {
    int: frozenset({schema.COUNT}),
    float: frozenset({schema.REAL, schema.COUNT}),
    str: frozenset({schema.TEXT}),
    bool: frozenset({schema.FLAG}),
    tuple: frozenset({schema.TEXTS}),
    NoneType: frozenset({pa.null()}),
}


class Piece(NamedTuple):
    """Facts of one kind as values, a sequence a field; ``places`` says where each fact stands among those around it.

    A sequence of one value is that of all facts. ``longer`` has the bytes of those that a newer version wrote more in;
    None: there are none.
    """

    kind: int
    places: Places
    fields: Sequence[Sequence[Any]]
    longer: Sequence[bytes | None] | None = None

    def moved(self, by: int) -> Piece:
        return self._replace(places=self.places + by)


class Columns(NamedTuple):
    """Facts of one kind as columns; ``places`` says where each stood among those that were given."""

    kind: int
    places: Places
    table: Any


def columns(facts: Sequence[bytes]) -> list[Columns]:
    """The facts kind by kind. Raises ValueError where one of them is none of a version that is known."""
    return arranged(pieces(facts, np.arange(len(facts))))


def pieces(facts: Sequence[bytes], places: Places) -> list[Piece]:
    """Facts that came one by one, sorted by kind. Raises ValueError where one of them is none."""
    try:
        rows = [msgpack.unpackb(fact, use_list=False) for fact in facts]
        codes = [row[1] for row in rows]
        if codes and (set(map(type, codes)) != {int} or not 0 <= min(codes) <= max(codes) < len(KINDS)):
            raise ValueError("of a kind that this version does not know")
        found = np.array(codes, dtype=np.int64)
        made = []
        for code in np.unique(found).tolist():
            chosen = np.flatnonzero(found == code)
            made.append(_SHAPES[code].piece([rows[at] for at in chosen.tolist()], facts, places, chosen))
        return made
    except (ValueError, TypeError, LookupError, msgpack.UnpackException) as error:
        raise ValueError(str(error)) from error


def group_pieces(group: bytes, rows: Sequence[Any]) -> list[Piece] | None:
    """The facts of a group that rows name, as they lie in it; None where one is not there, or of another version.

    Rows that have a fact of their own are none of the group's.
    """
    try:
        place_of = {row[3]: at for at, row in enumerate(rows) if type(row[3]) is not bytes}
        version, kinds = msgpack.unpackb(group, use_list=False)
        made = [
            piece
            for code, numbers, fields in kinds
            if (piece := _named(Piece(code, np.array(numbers, dtype=np.int64), fields), numbers, place_of))
        ]
    except (ValueError, TypeError, LookupError, OverflowError, msgpack.UnpackException):
        return None
    fits = version == VERSION and sum(len(piece.places) for piece in made) == len(place_of)
    return made if fits else None


def _named(piece: Piece, numbers: Sequence[Any], place_of: dict[Any, int]) -> Piece | None:
    """Those of its facts that have a place; None where none has. Raises ValueError where it is of another version."""
    kept = [at for at, number in enumerate(numbers) if number in place_of]
    if not kept:
        return None
    if not _fits(piece):
        raise ValueError("of another version")
    fields = piece.fields
    if len(kept) < len(numbers):
        fields = [values if len(values) == 1 else [values[at] for at in kept] for values in fields]
    return Piece(piece.kind, np.array([place_of[numbers[at]] for at in kept], dtype=np.int64), fields)


def _fits(piece: Piece) -> bool:
    """Whether there is a value of each place in each field that the kind has in this version, and in no other."""
    return (
        type(piece.kind) is int
        and 0 <= piece.kind < len(KINDS)
        and len(piece.fields) == len(_SHAPES[piece.kind].names)
        and {type(values) for values in piece.fields} == {tuple}
        and {len(values) for values in piece.fields} <= {1, len(piece.places)}
    )


def arranged(pieces: Iterable[Piece]) -> list[Columns]:
    """The pieces of each kind as one. Raises ValueError where a value is not what its field may hold."""
    of_kind: dict[int, list[Piece]] = {}
    for piece in pieces:
        of_kind.setdefault(piece.kind, []).append(piece)
    try:
        return [
            Columns(
                code,
                np.concatenate([piece.places for piece in same]),
                _SHAPES[code].table(same),
            )
            for code, same in sorted(of_kind.items())
        ]
    except (ValueError, TypeError, LookupError, OverflowError, pa.ArrowException) as error:
        raise ValueError(str(error)) from error


def _joined(lists: Sequence[Sequence[Any]]) -> Sequence[Any]:
    return lists[0] if len(lists) == 1 else list(chain.from_iterable(lists))


def _spread(array: Any, told: Sequence[int], sizes: Sequence[int]) -> Any:
    """The array with a value for each fact of some pieces: ``sizes`` are theirs, ``told`` how many values each had."""
    if len(array) == sum(sizes):
        return array
    times = [size if had < size else 1 for had, size in zip(told, sizes, strict=True)]
    return array.take(pa.array(np.repeat(np.arange(len(array)), np.repeat(times, told))))


def together(pages: Sequence[Columns]) -> tuple[dict[str, Any], Places]:
    """All columns that facts have, their rows as they lie in the pages; and the place of each."""
    kinds = np.repeat([page.kind for page in pages], [len(page.places) for page in pages])
    made = {"kind": pa.DictionaryArray.from_arrays(pa.array(kinds.astype(np.int32)), NAMES)}
    for field in schema.EVENTS:
        if field.name in _FACT_COLUMNS:
            made[field.name] = pa.concat_arrays(_pieces(pages, field))
    return made, np.concatenate([page.places for page in pages])


def in_order(pages: Sequence[Columns]) -> dict[str, Any]:
    """All columns that facts have, their rows in the order of the facts' places."""
    made, places = together(pages)
    order = pa.array(np.argsort(places))
    return {name: column.take(order) for name, column in made.items()}


def upgraded(table: Any) -> Any:
    """Rows of ``events`` as version 1 wrote them, as this one does. Raises ValueError where a fact cannot be read."""
    pages = columns(table["fact"].to_pylist())
    made = in_order(pages) if pages else {}
    made |= {name: table[name] for name in OLD_COLUMNS[:-1]}
    return (
        pa.table({name: made[name] for name in schema.EVENTS.names}) if pages else schema.EVENTS.empty_table()
    )


def _pieces(pages: Sequence[Columns], field: Any) -> list[Any]:
    """The column's values page by page, nulls where a kind has none."""
    pieces = []
    for page in pages:
        at = page.table.schema.get_field_index(field.name)
        if at < 0:
            pieces.append(pa.nulls(len(page.places), field.type))
        else:
            pieces.extend(page.table.column(at).chunks)
    return pieces


def events(table: Any) -> Iterator[Event]:
    """The rows of ``events`` as facts in their places."""
    plain = {field.name: _plain(table[field.name], field.type) for field in table.schema}
    identity = [plain[name] for name in IDENTITY[:-1]]
    for at, kind in enumerate(plain["kind"]):
        shape = _SHAPES[KIND_NAMES.index(kind)]
        workspace, task_id, seq, at_us, submitted_us = (column[at] for column in identity)
        yield Event(
            workspace,
            task_id,
            seq,
            at_us,
            submitted_us,
            shape.fact({name: plain[name][at] for name in (*shape.columns, "unpriced")}),
        )


def _plain(column: Any, kind: Any) -> list[Any]:
    if kind == schema.MONEY:
        known = column.is_valid().to_pylist()
        return [
            nano if there else None for nano, there in zip(schema.nanos(column).tolist(), known, strict=True)
        ]
    return (schema.micros(column) if kind == schema.TIME else column).to_pylist()  # type: ignore[no-any-return]


class _Shape(NamedTuple):
    """How facts of one kind lie in columns. ``names`` are its fields, ``columns`` where each of them stands."""

    kind: type[Any]
    names: tuple[str, ...]
    columns: tuple[str, ...]
    allowed: tuple[frozenset[Any], ...]
    defaults: tuple[Any, ...]

    def piece(
        self, rows: Sequence[tuple[Any, ...]], facts: Sequence[bytes], places: Places, chosen: Places
    ) -> Piece:
        """The rows field by field; ``chosen`` says which facts they are."""
        width = _HEAD + len(self.names)
        longer = None
        if set(map(len, rows)) != {width}:
            longer = [
                facts[at] if len(row) > width else None for row, at in zip(rows, chosen.tolist(), strict=True)
            ]
            rows = [(*row[:width], *self.defaults[max(0, len(row) - _HEAD) :]) for row in rows]
        fields = list(zip(*rows, strict=True))[_HEAD:]
        return Piece(KINDS.index(self.kind), places[chosen], fields, longer)

    def table(self, pieces: Sequence[Piece]) -> Any:
        made: dict[str, Any] = {}
        sizes = [len(piece.places) for piece in pieces]
        if any(piece.longer for piece in pieces):
            longer = [piece.longer or [None] * size for piece, size in zip(pieces, sizes, strict=True)]
            made["fact"] = pa.array(_joined(longer), pa.binary())
        for at, (name, column) in enumerate(zip(self.names, self.columns, strict=True)):
            told = [piece.fields[at] for piece in pieces]
            made[column] = _spread(self._array(at, name, column, _joined(told)), list(map(len, told)), sizes)
        if self.kind is Attempted:
            made |= _all_money(made["cost_usd"], made["gate_usd"])
        if self.kind is Parked:
            made["status"] = pa.repeat(pa.scalar(PARKED, schema.TEXT), sum(sizes))
        return pa.table({name: _written(name, array) for name, array in made.items()})

    def _array(self, at: int, name: str, column: str, values: Sequence[Any]) -> Any:
        """Money and times are still integers. What the values are is found by Arrow, which mixes none but numbers."""
        kind = schema.EVENTS.field(column).type
        if kind == schema.TEXTS:
            return self._texts(name, column, values)
        made = pa.array(values)
        if made.type not in self.allowed[at] or (made.null_count and pa.null() not in self.allowed[at]):
            raise ValueError(f"{self.kind.__name__}.{name} is of a wrong type")
        if kind in (schema.MONEY, schema.TIME, schema.COUNT):
            ends = pc.min_max(made).as_py()
            if made.null_count < len(made) and not -LIMIT < ends["min"] <= ends["max"] < LIMIT:
                raise ValueError(
                    f"{self.kind.__name__}.{name} is beyond {text(LIMIT)} dollars or the year 2286"
                )
            return made.cast(schema.COUNT)
        return _unless_empty(made) if column in _SILENT else made.cast(kind)

    def _texts(self, name: str, column: str, values: Sequence[Any]) -> Any:
        if set(map(type, values)) - {tuple}:
            raise ValueError(f"{self.kind.__name__}.{name} is of a wrong type")
        if column == "skipped":
            values = [[f"{lane}{_SEPARATOR}{why}" for lane, why in pairs] for pairs in values]
        return pa.array(values, schema.TEXTS)

    def fact(self, row: dict[str, Any]) -> Fact:
        if self.kind is Attempted:
            gate = row["gate_usd"] or 0
            row = row | {"cost_usd": None if row["unpriced"] else row["cost_usd"] - gate}
        told = zip(self.columns, self.allowed, self.defaults, strict=True)
        return self.kind(*(_field(column, row[column], known, default) for column, known, default in told))  # type: ignore[no-any-return]


def _field(column: str, value: Any, allowed: frozenset[Any], default: Any) -> Any:
    if column in _SILENT:
        return value or ""
    if value is None and pa.null() not in allowed:
        return default  # the row is older than the column
    if column == "skipped":
        return tuple(tuple(one.split(_SEPARATOR, 1)) for one in value)
    return tuple(value) if column == "chain" else value


def _all_money(call: Any, gate: Any) -> dict[str, Any]:
    """A call without a price cost nothing that is known; where its answer was checked, that is known."""
    checked = pc.add(pc.fill_null(call, 0), gate)
    costs = pc.if_else(pc.equal(gate, 0), call, checked)
    return {"cost_usd": costs, "unpriced": call.is_null()}


def _unless_empty(texts: Any) -> Any:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, schema.TEXT), texts)


def _written(column: str, array: Any) -> Any:
    """Integers as the money or the time that they are in files."""
    kind = schema.EVENTS.field(column).type
    if kind == schema.MONEY:
        return schema.money(array)
    return array.cast(kind) if kind == schema.TIME else array


def _allowed(annotation: Any) -> frozenset[Any]:
    """The types that Arrow may find in a field. Where there is nothing but nulls it finds that."""
    if get_origin(annotation) is UnionType or isinstance(annotation, UnionType):
        return frozenset().union(*(_allowed(one) for one in get_args(annotation)))
    return _FOUND[get_origin(annotation) or annotation]


def _shape(kind: type[Any]) -> _Shape:
    hints = get_type_hints(kind)
    known = fields(kind)
    renamed = _COLUMNS.get(kind, {})
    return _Shape(
        kind,
        tuple(one.name for one in known),
        tuple(renamed.get(one.name, one.name) for one in known),
        tuple(_allowed(hints[one.name]) for one in known),
        tuple(_NO_DEFAULT if one.default is MISSING else one.default for one in known),
    )


_SHAPES = tuple(_shape(kind) for kind in KINDS)
#: Whose fact it is, its number and times, and of which kind.
IDENTITY = ("workspace", "task_id", "seq", "at", "submitted_at", "kind")
_FACT_COLUMNS = frozenset(schema.EVENTS.names) - frozenset(IDENTITY)
CALL, END = (KIND_NAMES[KINDS.index(kind)] for kind in (Attempted, Finished))
#: Columns in which facts of calls say something, and those of all other kinds.
CALL_COLUMNS = frozenset({*_SHAPES[KINDS.index(Attempted)].columns, "unpriced"})
OTHER_COLUMNS = frozenset().union(*(set(one.columns) for one in _SHAPES if one.kind is not Attempted))
