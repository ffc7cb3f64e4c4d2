"""How an asynchronous call is made: now, or in a provider's batch at its discount. Pure decisions.

A lane that has provider batches keeps a pool of what waits for one, in the order of deadlines. Engines of our own need
none: as many calls as they have slots run as one batch already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker.clock import US_PER_S, utc_day
from broker.prices import PPM, batch_ppm
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.tariff import price_of
from broker.task import BATCH, MODES, Claim, lane_queue


@dataclass(frozen=True, slots=True)
class Way:
    """One way of making a call. ``cost_ppm`` is what it costs beside a single call made now, in parts per million;
    ``ready_s`` what must be left of the task's time for it to be taken."""

    name: str
    cost_ppm: int
    ready_s: float


def ways(lane: Lane, batch_ppm: int) -> tuple[Way, ...]:
    """Of an asynchronous task on this lane, the soonest first. ``batch_ppm`` is a batch line's part of the price."""
    now = Way("async", PPM, lane.batch_overflow_s if lane.batches else 0.0)
    in_batch = Way(BATCH, batch_ppm, lane.batch_least_s)
    return (Way("sync", PPM, 0.0), now, in_batch) if lane.batches else (now,)


def cheapest(ways: Sequence[Way], left_s: float | None) -> Way:
    """The cheapest one that there is time for; of equal ones the one that leaves threads to others, the later one.

    ``left_s`` None: there is no deadline.
    """
    open_ones = [way for way in ways if left_s is None or way.ready_s <= left_s] or list(ways[:1])
    return min(reversed(open_ones), key=lambda way: way.cost_ppm)


def place(claim: Claim, name: str, lane: Lane, *, batch_ppm: int, now_us: int) -> str:
    """The queue of the lane that the task goes to. ``now_us`` on Redis's clock."""
    if claim.task.mode != "async":
        return lane_queue(name, claim.task.mode)
    options = ways(lane, batch_ppm)
    if batch_ppm >= PPM:
        options = tuple(way for way in options if way.name != BATCH)
    return lane_queue(name, cheapest(options, left_s(claim, now_us)).name)


def left_s(claim: Claim, now_us: int) -> float | None:
    """Until the task's deadline, at or below 0 when it has passed; None where it has none.

    The time that it waited for a person is not the lanes' and does not count.
    """
    if claim.task.deadline_s is None:
        return None
    return claim.task.deadline_s - (now_us - claim.submitted_us - claim.waited_us) / US_PER_S


@dataclass(frozen=True, slots=True)
class Places:
    """``place`` over a configuration, at a moment of Redis's clock: its UTC day says what a batch saves.

    Tasks whose type has tools or a critic are never put in batches: each step would wait for one.
    """

    lanes: Mapping[str, Lane]
    types: Mapping[str, TaskType]
    now_us: int

    def of(self, claim: Claim, lane: str) -> str:
        row = self.lanes.get(lane)
        task_type = self.types.get(claim.progress.task_type)
        if row is None or not row.batches or (task_type and (task_type.tools or task_type.critic)):
            return lane_queue(lane, claim.task.mode)
        ppm = batch_ppm(price_of(lane, row.doors()[0], utc_day(self.now_us)))
        return place(claim, lane, row, batch_ppm=ppm, now_us=self.now_us)


def queues_of(name: str, lane: Lane) -> dict[str, str]:
    """The lane's queues by mode, its pool among them where it has one."""
    return {mode: lane_queue(name, mode) for mode in ((*MODES, BATCH) if lane.batches else MODES)}


def fill_ready(waiting: int, waited_s: float, lane: Lane) -> bool:
    """Whether what waits in the pool is to be sent: enough of it, or long enough."""
    return waiting > 0 and (waiting >= lane.batch_lines or waited_s >= lane.batch_fill_s)
