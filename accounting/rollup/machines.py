"""A machine's day, shared out among the calls that it made: wear, the power that it drew, and the time it was idle.

A call is booked when it ends, at its share of the seconds that it took. A day's machine costs more than that: it wears
off while nobody asks anything of it. When the day is over the rest is shared out by how long each call took, so that
the calls of a machine sum to what its day did cost. What only that call caused (``marginal``) stays as it is.

The facts are read as a rollup reads them, those of some tasks at a time. What there is to share out is known when all
calls are, so these wait in a temporary file: memory is bounded however many a day has.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from accounting.files import facts, ledger, parts, schema
from accounting.files.ledger import Store as Files
from accounting.rollup import view
from accounting.rollup.calls import calls_of
from accounting.rollup.columns import Columns, Facts, distinct
from accounting.rollup.lots import Lot
from accounting.rollup.order import Rows
from broker.clock import utc_day
from broker.events import Allotted, Submitted
from broker.money import nano
from broker.purpose import TOOL
from broker.scopes import scopes_named
from broker.settings import Settings
from broker.settings.prices import Hardware
from broker.state import Share
from broker.store import Store
from broker.task import reference

DAYS_PER_YEAR = 365
WATT_US_PER_KWH = 1000 * 3600 * 10**6
HANDFUL = 500
SLICE_ROWS = 400_000  # of facts, of which some columns are read
_MADE_BY = ("lane", "node", "purpose", "ended_at")
_COLUMNS = (
    *facts.IDENTITY, *_MADE_BY, "workflow", "pipeline", "user_id", "attempt_id", "engine", "model", "hop",
    "started_at", "cost_usd", "gate_usd", "unpriced",
)  # fmt: skip
log = logging.getLogger("laneway.machines")

_WHOSE = ("workspace", "task_id", "workflow", "pipeline", "user_id", "lane", "attempt_id")
_NUMBERS = ("submitted_us", "machine", "busy_us")


@dataclass(frozen=True, slots=True)
class MachineDay:
    """What a machine's day came to. ``rest_nano`` is what its calls were not booked at; nobody bears it where there was
    no call."""

    machine: str
    cost_nano: int
    booked_nano: int
    calls: int

    @property
    def rest_nano(self) -> int:
        return self.cost_nano - self.booked_nano


def day_cost_nano(hardware: Hardware, *, on_us: int, busy_us: int) -> int:
    """The wear of a whole day, and the power of the hours in which it was on: at work, and idle."""
    wear = hardware.price_usd / (DAYS_PER_YEAR * hardware.life_years)
    busy = min(busy_us, on_us) if on_us else busy_us
    idle = max(0, on_us - busy)
    kwh = (busy * hardware.watts + idle * hardware.idle_watts) / WATT_US_PER_KWH
    return nano(wear + kwh * hardware.usd_per_kwh)


@dataclass(slots=True)
class Sharing:
    """An amount that is shared out by weights that come some at a time, and whose sum is ``whole``.

    Each part is that of all weights so far less that of all before it: less than a nano-dollar beside its exact share,
    and the sum of all is the amount, which may be below 0. Where all weights are 0 the first one has it.
    """

    nano: int
    whole: int
    _so_far: int = 0
    _given: int = 0

    def parts(self, weights: Rows) -> list[int]:
        """Those of the next ones. No weight is negative."""
        made = []
        for weight in weights.tolist():
            self._so_far += weight
            due = self.nano * self._so_far // self.whole if self.whole else self.nano
            made.append(due - self._given)
            self._given = due
        return made


@dataclass(slots=True)
class _Machine:
    """``busy_us`` is for how long it was at work: calls that run side by side share that time."""

    node: str
    hardware: Hardware
    busy_us: int = 0
    booked_nano: int = 0
    calls: int = 0

    def day(self, on_us: int) -> MachineDay:
        cost = day_cost_nano(self.hardware, on_us=on_us, busy_us=self.busy_us)
        return MachineDay(self.node, cost, self.booked_nano, self.calls)


@dataclass(frozen=True, slots=True)
class _Owned:
    """A lane of a machine: what the machine is, and how many calls it makes at a time."""

    hardware: Hardware
    threads: int

    @classmethod
    def of(cls, kept: str) -> Self:
        threads, _, hardware = kept.partition(" ")
        return cls(Hardware.model_validate_json(hardware), int(threads))

    def kept(self) -> str:
        return f"{self.threads} {self.hardware.model_dump_json()}"


def allot(
    files: Files, store: Store, settings: Settings, day: str, told: Callable[[], object] = lambda: None
) -> list[MachineDay] | None:
    """Shares out the machines' day among their calls, which may be done again at any time. None: somebody began later,
    and has it.

    ``told`` is called each time that some facts of it have come into the stream, so that they can be taken off it
    before there are too many. Raises LedgerError.
    """
    lanes = {
        name: _Owned(lane.hardware, lane.threads) for name, lane in settings.lanes.items() if lane.hardware
    }
    turn, kept = store.machine_days.begin(day, {name: lane.kept() for name, lane in lanes.items()})
    owned = {name: _Owned.of(one) for name, one in kept.items()}
    if not owned:
        return []
    with closing(_Waiting(owned)) as waiting:
        for calls in _calls(files, owned, day):
            waiting.add(calls)
        uptimes_us = store.machine_days.uptimes_us(day)
        days = [machine.day(uptimes_us.get(machine.node, 0)) for machine in waiting.machines]
        sharings = [
            Sharing(one.rest_nano, machine.busy_us)
            for one, machine in zip(days, waiting.machines, strict=True)
        ]
        for calls in waiting.tables():
            if not _tell(store, day, turn, calls, sharings):
                log.info("%s: another node began to share out its machines, and goes on with it", day)
                return None
            told()
    store.machine_days.end(day, turn)
    return days


def _tell(store: Store, day: str, turn: int, calls: Any, sharings: list[Sharing]) -> bool:
    """What each of these calls has of its machine's rest; not where somebody began to share out the day since."""
    machine, busy_us = calls["machine"].to_numpy(), calls["busy_us"].to_numpy()
    nanos = np.zeros(len(machine), dtype=np.int64)
    for number, sharing in enumerate(sharings):
        mine = machine == number
        nanos[mine] = sharing.parts(busy_us[mine])
    whose = (calls[name].to_pylist() for name in _WHOSE)
    made = [
        Share(
            reference(workspace, task),
            submitted_us,
            Allotted(attempt, part),
            scopes_named(workspace, workflow, pipeline, user, lane),
        )
        for workspace, task, workflow, pipeline, user, lane, attempt, submitted_us, part in zip(
            *whose, calls["submitted_us"].to_pylist(), nanos.tolist(), strict=True
        )
    ]
    handfuls = (made[start : start + HANDFUL] for start in range(0, len(made), HANDFUL))
    return all(store.machine_days.allot(day, turn, some) is not None for some in handfuls)


class _Waiting:
    """Calls in a file that has no name, so that nothing is left of it; and what those of each machine come to."""

    def __init__(self, owned: Mapping[str, _Owned]) -> None:
        self.machines: list[_Machine] = []
        self._owned = owned
        self._numbers: dict[tuple[str, Hardware], int] = {}
        kinds = [(name, schema.TEXT) for name in _WHOSE] + [(name, schema.COUNT) for name in _NUMBERS]
        self._schema = pa.schema(kinds)
        with view.room():
            self._file = tempfile.TemporaryFile(prefix="laneway-")  # noqa: SIM115 - closed with these
            options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
            self._sink = pa.ipc.new_stream(pa.PythonFile(self._file, "w"), self._schema, options=options)

    def close(self) -> None:
        self._file.close()

    def add(self, calls: Any) -> None:
        """Calls with ``_WHOSE`` they are, their ``node``, what it ``booked_nano`` for them and was ``busy_us``."""
        lanes, nodes = (schema.in_one(calls[name]).dictionary_encode() for name in ("lane", "node"))
        codes = lanes.indices.to_numpy().astype(np.int64) * len(nodes.dictionary) + nodes.indices.to_numpy()
        first, number = distinct(codes)
        names = zip(
            *(calls[name].take(pa.array(first)).to_pylist() for name in ("lane", "node")), strict=True
        )
        machine = np.array([self._number(lane, node) for lane, node in names], dtype=np.int64)[number]
        busy_us, booked_nano = calls["busy_us"].to_numpy(), calls["booked_nano"].to_numpy()
        for at in np.unique(machine).tolist():
            mine = machine == at
            one = self.machines[at]
            one.busy_us += int(busy_us[mine].sum())
            one.booked_nano += int(booked_nano[mine].sum())
            one.calls += int(mine.sum())
        kept = calls.select([*_WHOSE, "submitted_us", "busy_us"]).append_column("machine", pa.array(machine))
        with view.room():
            self._sink.write_table(kept.select(self._schema.names).cast(self._schema))

    def tables(self) -> Iterator[Any]:
        """All calls in the order in which they came, some at a time."""
        with view.room():
            self._sink.close()
            self._file.seek(0)
            batches = pa.ipc.open_stream(pa.PythonFile(self._file, "r"))
        for batch in batches:
            yield pa.Table.from_batches([batch])

    def _number(self, lane: str, node: str) -> int:
        hardware = self._owned[lane].hardware
        number = self._numbers.setdefault((node, hardware), len(self.machines))
        if number == len(self.machines):
            self.machines.append(_Machine(node, hardware))
        return number


def _calls(files: Files, owned: Mapping[str, _Owned], day: str) -> Iterator[Any]:
    """The last word on each call of a machine that ended on that day, those of some tasks at a time. Its task may have
    come in on any day before, and on the next one where the clock was set back."""
    begin_us = ledger.midnight_us(day)
    cut = partial(parts.spans, rows=SLICE_ROWS)
    chosen = partial(_ended, lanes=pa.array(sorted(owned), schema.TEXT), begin_us=begin_us)
    next_day = utc_day(begin_us + ledger.US_PER_DAY)
    for submission in (one for one in ledger.days(files, ledger.EVENTS) if one <= next_day):
        if submission != day and not _has_any(files, submission, day, chosen):
            continue
        with view.opened(files, submission, cut, columns=_COLUMNS) as seen:
            for number in range(len(seen.spans)):
                made = seen.made(number, partial(_worked, owned=owned, chosen=chosen))
                if made.num_rows:
                    yield made


def _has_any(files: Files, submission: str, day: str, chosen: Callable[[Any], Rows]) -> bool:
    """Whether the tasks of another day have such calls: only parts with facts that were written since then are looked
    at, or, of the next day, before its end."""
    begin_us = ledger.midnight_us(day)
    # A clock that was set back may have written it before the call had ended.
    made = (
        parts.since(files, submission, begin_us - ledger.US_PER_DAY, _MADE_BY)
        if submission < day
        else parts.before(files, submission, begin_us + ledger.US_PER_DAY, _MADE_BY)
    )
    return any(len(chosen(calls)) for calls in made)


def _ended(calls: Any, *, lanes: Any, begin_us: int) -> Rows:
    """The rows of calls of these lanes that a known machine ended on the day that begins so. A tool's use is booked on
    the lane of its task, and is no work of the lane's machine."""
    lane, node, purpose = (
        schema.in_one(calls[name]).cast(schema.TEXT) for name in ("lane", "node", "purpose")
    )
    ended_us = pc.fill_null(schema.micros(schema.in_one(calls["ended_at"])), 0).to_numpy()
    known = pc.fill_null(pc.not_equal(node, ""), False)
    mine = pc.and_not(pc.and_(pc.is_in(lane, lanes), known), pc.equal(purpose, TOOL))
    in_time = (begin_us <= ended_us) & (ended_us < begin_us + ledger.US_PER_DAY)
    return np.flatnonzero(pc.fill_null(mine, False).to_numpy(zero_copy_only=False) & in_time)


def _worked(lot: Lot, *, owned: Mapping[str, _Owned], chosen: Callable[[Any], Rows]) -> Any:
    """What ``_Waiting.add`` takes of the lot's calls."""
    told = Facts(lot)
    calls = calls_of(told, Columns(lot.calls))
    rows = chosen(calls.said)
    rows = rows[calls.priced[rows]]  # what a call without a price has of a machine would be in no sum
    said, task = calls.said.at(rows), calls.task[rows]
    submitted = told.last(told.of(Submitted))[task]
    whose = {name: told.heads(name).take(pa.array(task)) for name in ("workspace", "task_id")}
    whose |= {
        name: told.texts(name, submitted).filled().array for name in ("workflow", "pipeline", "user_id")
    }
    whose |= {name: said[name] for name in ("lane", "attempt_id", "node")}
    lanes = said.texts("lane")
    threads = np.array(
        [owned[name].threads if name in owned else 1 for name in lanes.words.to_pylist()], np.int64
    )
    took_us = np.maximum(0, said.whole("ended_at") - said.whole("started_at"))
    return pa.table(
        {
            **{name: column.cast(schema.TEXT) for name, column in whose.items()},
            "submitted_us": told.heads("submitted_at").take(pa.array(task)),
            "busy_us": took_us // threads[lanes.codes],
            "booked_nano": said.whole("cost_usd") - calls.gate_nano[rows],
        }
    )
