"""The shell around every lane: connect, check the engine, serve the lane's two queues.

A lane's module is its name and a call of ``serve``. What happens to one handful of tasks stands in ``Lane.work``, in
the order in which it happens.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from broker.call import Call, Reply
from broker.connect import connect
from broker.errors import ConfigError, EngineError, LanewayError
from broker.hands import Hands
from broker.prices import Price, cost_nano, worst_nano
from broker.queue import LaneBroker, TaskQueue
from broker.settings import HUMAN, GateSettings, Settings, TaskType, load
from broker.settings import Lane as LaneSettings
from broker.sights import Sights
from broker.store import Intent, Move, Store
from broker.tariff import cpu_price, price_of
from broker.task import Claim, lane_queue
from dispatcher.availability import unavailable
from dispatcher.gates import Verdict, check, gates_of, judge
from workers.attempt import (
    NO_VERDICT,
    Ended,
    attempted,
    lost,
    move,
    next_step,
    overdue,
    put_back,
    time_left_s,
)
from workers.compose import compose, input_bound
from workers.engines import Engine, build
from workers.settle import settle

log = logging.getLogger(__name__)
ASYNC_BEHIND_SYNC = 10
HOLD_MARGIN_S = 30.0
UNKNOWN_TYPE_DELAY_S = 5.0


def serve(lane_name: str) -> LaneBroker:
    """The broker for ``dramatiq``: this node serves ``lane_name``. Ends the process with the mend where it cannot."""
    try:
        settings = load()
        lane = _lane(settings, lane_name)
        check([gate for row in settings.types.values() for gate in (row.gate,)])
        engine = build(lane_name, lane, settings.fleet.var)
        engine.check()
        store = connect(settings)
        engine.open()
    except LanewayError as error:
        sys.exit(f"lane {lane_name!r} cannot be served on this node: {error}")
    return broker_of(lane_name, settings, store, engine)


def broker_of(lane_name: str, settings: Settings, store: Store, engine: Engine) -> LaneBroker:
    """A broker with the lane's two queues: threads are kept for sync tasks, and async ones take what is left."""
    lane = settings.lanes[lane_name]
    broker = LaneBroker(store, lanes=[lane_name])
    work = Lane(lane_name, settings, store, engine, broker.hands).work
    kept = lane.sync_threads if lane.sync_threads is not None else max(1, lane.threads // 4)
    hold_s = lane.timeout_s * lane.batch + HOLD_MARGIN_S
    for mode, messages, priority in (
        ("sync", lane.threads, 0),
        ("async", max(1, lane.threads - kept), ASYNC_BEHIND_SYNC),
    ):
        queue = TaskQueue(
            lane_queue(lane_name, mode), messages, lane.batch, hold_s, priority, shared=lane.threads
        )
        broker.task_queue(queue, work)
    return broker


def _lane(settings: Settings, name: str) -> LaneSettings:
    if name == HUMAN or name not in settings.lanes:
        raise ConfigError(
            f"the configuration has no lane {name!r}; it has {', '.join(sorted(settings.lanes))}",
            mend=f"add a table [lanes.{name}], or start another lane's module on this node",
        )
    return settings.lanes[name]


@dataclass(frozen=True, slots=True)
class _Job:
    """A call that is about to be made. ``worst_nano`` None: no price is known."""

    claim: Claim
    task_type: TaskType
    gates: tuple[GateSettings, ...]
    call: Call
    price: Price | None
    worst_nano: int | None


class Lane:
    """One lane on this node. ``work`` runs on dramatiq's threads."""

    def __init__(self, name: str, settings: Settings, store: Store, engine: Engine, hands: Hands) -> None:
        self.name, self.settings, self.store, self.engine, self.hands = name, settings, store, engine, hands
        self.row = settings.lanes[name]
        self.sights = Sights(store)
        self.cpu = cpu_price(settings.fleet.cpu_usd_per_hour)

    def work(self, claims: Sequence[Claim]) -> None:
        """Record the intents, make the calls, settle and move on."""
        jobs, moves = self._prepare(claims)
        words = self.store.begin([self._intent(job) for job in jobs]) if jobs else []
        for job, word in zip(jobs, words, strict=True):
            if word == "go":
                moves.append(self._attempt(job))
            elif (
                word == "cancel"
            ):  # nothing was called; the script turns any move of a cancelled task into its end
                moves.append(Move(job.claim, "cancelled", job.claim.progress))
        self.store.commit(moves)

    def _prepare(self, claims: Sequence[Claim]) -> tuple[list[_Job], list[Move]]:
        """The calls to make, and the moves of tasks that this lane can make no call for."""
        now_us = self.store.now_us()
        price = price_of(self.name, self.row, _today(now_us))
        jobs, moves = [], []
        for claim in claims:
            task_type = self.settings.types.get(claim.progress.task_type)
            left_s = time_left_s(claim, now_us)
            if task_type is None:
                log.error("no type %r in this node's configuration; put back", claim.progress.task_type)
                moves.append(put_back(claim, UNKNOWN_TYPE_DELAY_S))
            elif left_s is not None and left_s <= 0:
                moves.append(overdue(claim))
            else:
                gates = gates_of(task_type, claim.task)
                call = compose(claim, self.row, task_type, gates, left_s)
                jobs.append(_Job(claim, task_type, gates, call, price, self._worst(call, price)))
        return jobs, moves

    def _worst(self, call: Call, price: Price | None) -> int | None:
        return worst_nano(
            price, input_tokens=input_bound(call), max_tokens=call.max_tokens, timeout_s=call.timeout_s
        )

    def _intent(self, job: _Job) -> Intent:
        fact = lost(
            job.claim, self.name, self.engine.name, self.row.model, self.store.now_us(), job.worst_nano
        )
        return Intent(job.claim, job.worst_nano or 0, fact)

    def _attempt(self, job: _Job) -> Move:
        started_us = self.store.now_us()
        result: Reply | EngineError
        try:
            result = self.engine.call(job.call, lambda: self.hands.broken(job.claim))
        except EngineError as error:
            result = error
        ended_us = self.store.now_us()
        verdict, gate_nano = self._judge(job, result)
        busy_ms = (ended_us - started_us) / 1000
        ended = Ended(
            result=result,
            verdict=verdict,
            settlement=settle(job.price, result, worst_nano=job.worst_nano, busy_ms=busy_ms),
            started_us=started_us,
            ended_us=ended_us,
            gate_cost_nano=gate_nano,
            price_ref=job.price.ref if job.price else "",
        )
        fact = attempted(job.claim, self.name, self.engine.name, self.row.model, ended)
        away = unavailable(self.settings, self.sights.seen_s_ago(), self.sights.watched_s())
        step = next_step(job.claim, self.name, self.row, job.task_type, ended, away)
        return move(job.claim, step, fact, ended)

    def _judge(self, job: _Job, result: Reply | EngineError) -> tuple[Verdict, int]:
        """The verdict, and what reaching it cost in nano-dollars of processor time."""
        if not isinstance(result, Reply):
            return NO_VERDICT, 0
        before_ns = time.thread_time_ns()
        verdict = judge(job.gates, result.text, job.claim.task)
        spent_ms = (time.thread_time_ns() - before_ns) / 1e6
        return verdict, cost_nano(self.cpu, None, busy_ms=spent_ms) or 0


def _today(now_us: int) -> str:
    return datetime.fromtimestamp(now_us / 1_000_000, tz=UTC).date().isoformat()
