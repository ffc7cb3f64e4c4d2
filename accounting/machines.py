"""A machine's day, shared out among the calls that it made: wear, the power that it drew, and the time it was idle.

A call is booked when it ends, at its share of the seconds that it took. A day's machine costs more than that: it wears
off while nobody asks anything of it. When the day is over the rest is shared out by how long each call took, so that
the calls of a machine sum to what its day did cost. What only that call caused (``marginal``) stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from accounting import facts, ledger, parts
from accounting.ledger import Store as Files
from broker.events import Allotted, Attempted, Submitted
from broker.money import nano, split
from broker.scopes import scopes_named
from broker.settings import Hardware, Settings
from broker.store import Store
from broker.task import reference

DAYS_PER_YEAR = 365
SECONDS_PER_HOUR = 3600
HANDFUL = 500
TOOL = "tool"  # the purpose of a tool's use, which is booked on the lane of its task and no work of the lane's machine


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a machine. ``busy_us`` is its share of the time that the machine was at work for it: calls that run
    side by side share it. ``booked_nano`` is what it was booked at, ``scopes`` are those that its money counts in.
    """

    ref: str
    attempt_id: str
    busy_us: int
    booked_nano: int
    scopes: tuple[str, ...] = ()


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


def day_cost_nano(hardware: Hardware, *, on_s: float, busy_s: float) -> int:
    """The wear of a whole day, and the power of the hours in which it was on: at work, and idle."""
    wear = hardware.price_usd / (DAYS_PER_YEAR * hardware.life_years)
    busy = min(Decimal(str(busy_s)), Decimal(str(on_s)) if on_s else Decimal(str(busy_s)))
    idle = max(Decimal(0), Decimal(str(on_s)) - busy)
    watt_seconds = busy * hardware.watts + idle * hardware.idle_watts
    power = watt_seconds / 1000 / SECONDS_PER_HOUR * hardware.usd_per_kwh
    return nano(wear + power)


def shared_out(cost_nano: int, calls: Sequence[Call]) -> list[int]:
    """What each call has beside what it was booked at, in proportion to how long it took; the sum is exact."""
    rest = cost_nano - sum(call.booked_nano for call in calls)
    return split(rest, [call.busy_us for call in calls]) if calls else []


def allot(files: Files, store: Store, settings: Settings, day: str) -> list[MachineDay]:
    """Shares out the machines' day among their calls, which may be done again at any time. Raises LedgerError."""
    days = []
    uptimes_s = store.uptimes_s(day)
    for machine, mine in _machines(files, settings, day).items():
        busy_s = sum(call.busy_us for call in mine.calls) / 1e6
        cost = day_cost_nano(mine.hardware, on_s=uptimes_s.get(machine[0], 0.0), busy_s=busy_s)
        parts = zip(mine.calls, shared_out(cost, mine.calls), strict=True)
        told = [(call.ref, Allotted(call.attempt_id, part), call.scopes) for call, part in parts]
        for start in range(0, len(told), HANDFUL):
            store.allot(day, told[start : start + HANDFUL])
        booked = sum(call.booked_nano for call in mine.calls)
        days.append(MachineDay(machine[0], cost, booked, len(mine.calls)))
    return days


@dataclass(slots=True)
class _Machine:
    hardware: Hardware
    calls: list[Call] = field(default_factory=list)


def _machines(files: Files, settings: Settings, day: str) -> Mapping[tuple[str, str], _Machine]:
    """The calls that ended on that day, by machine: a node, and what its hardware is."""
    owned = {name: lane for name, lane in settings.lanes.items() if lane.hardware is not None}
    if not owned:
        return {}
    begin_us = ledger.midnight_us(day)
    end_us = begin_us + ledger.US_PER_DAY
    machines: dict[tuple[str, str], _Machine] = {}
    for submission in ledger.days_of(day, day, ledger.REACH_DAYS):
        for ref, call, told in _calls(files, submission, sorted(owned)):
            lane = owned[call.lane]
            of_machine = call.node and call.purpose != TOOL and begin_us <= call.ended_us < end_us
            if lane.hardware is None or not of_machine:
                continue
            key = (call.node, lane.hardware.model_dump_json())
            scopes = scopes_named(ref.partition("/")[0], told.workflow, told.pipeline, told.user, call.lane)
            busy_us = max(0, call.ended_us - call.started_us) // lane.threads
            machine = machines.setdefault(key, _Machine(lane.hardware))
            machine.calls.append(Call(ref, call.attempt_id, busy_us, call.cost_nano or 0, scopes))
    return machines


def _calls(files: Files, day: str, lanes: Sequence[str]) -> Iterator[tuple[str, Attempted, Submitted]]:
    """The last word on each call of these lanes, for tasks submitted on that day."""
    submitted: dict[str, Submitted] = {}
    last: dict[tuple[str, str], tuple[int, Attempted]] = {}
    for part in parts.of_day(files, day):
        for event in facts.events(_of_lanes(parts.whole(part), lanes)):
            ref, fact = reference(event.workspace, event.task_id), event.fact
            if isinstance(fact, Submitted):
                submitted[ref] = fact
            elif isinstance(fact, Attempted):
                known = last.get((ref, fact.attempt_id))
                if known is None or known[0] <= event.seq:
                    last[ref, fact.attempt_id] = (event.seq, fact)
    for (ref, _), (_, call) in sorted(last.items()):
        yield ref, call, submitted.get(ref, Submitted(""))


def _of_lanes(table: Any, lanes: Sequence[str]) -> Any:
    """Submissions, and the calls of these lanes."""
    mine = pc.and_(
        pc.equal(table["kind"], "attempted"), pc.is_in(table["lane"], pa.array(lanes, pa.string()))
    )
    return table.filter(pc.or_(mine, pc.equal(table["kind"], "submitted")))
