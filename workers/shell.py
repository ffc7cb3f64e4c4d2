"""The shell around every lane: connect, check the engine, serve the lane's two queues.

A lane's module is its name and a call of ``serve``. What happens to one handful of tasks stands in ``Lane.work``, in the
order in which it happens.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from broker.call import Call, Reply
from broker.connect import connect
from broker.errors import CallCancelled, ConfigError, EngineError, LanewayError
from broker.hands import Hands
from broker.prices import Price, cost_nano, worst_nano
from broker.queue import LaneBroker, TaskQueue
from broker.settings import HUMAN, Settings, load
from broker.settings import Lane as LaneSettings
from broker.sights import Sights
from broker.store import Intent, Move, Store
from broker.tariff import cpu_price, price_of
from broker.task import Claim, lane_queue
from dispatcher.availability import unavailable
from dispatcher.gates import check, gates_of, judge
from workers.attempt import NO_VERDICT, Ended, attempted, lost, move, next_step
from workers.compose import compose, input_bound
from workers.engines import Engine, build
from workers.settle import settle

log = logging.getLogger(__name__)
ASYNC_BEHIND_SYNC = 10
HOLD_MARGIN_S = 30.0


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
    both = {"batch": lane.batch, "hold_s": hold_s, "shared": lane.threads}
    broker.task_queue(TaskQueue(lane_queue(lane_name, "sync"), messages=lane.threads, **both), work)
    broker.task_queue(
        TaskQueue(
            lane_queue(lane_name, "async"),
            messages=max(1, lane.threads - kept),
            priority=ASYNC_BEHIND_SYNC,
            **both,
        ),
        work,
    )
    return broker


def _lane(settings: Settings, name: str) -> LaneSettings:
    if name == HUMAN or name not in settings.lanes:
        raise ConfigError(
            f"the configuration has no lane {name!r}; it has {', '.join(sorted(settings.lanes))}",
            mend=f"add a table [lanes.{name}], or start another lane's module on this node",
        )
    return settings.lanes[name]


class Lane:
    """One lane on this node. ``work`` runs on dramatiq's threads."""

    def __init__(self, name: str, settings: Settings, store: Store, engine: Engine, hands: Hands) -> None:
        self.name, self.settings, self.store, self.engine, self.hands = name, settings, store, engine, hands
        self.row = settings.lanes[name]
        self.sights = Sights(store)
        self.cpu = cpu_price(settings.fleet.cpu_usd_per_hour)

    def work(self, claims: Sequence[Claim]) -> None:
        """Record the intents, make the calls, settle and move on."""
        price = price_of(self.name, self.row, _today(self.store.now_us()))
        calls = [self._compose(claim) for claim in claims]
        worsts = [self._worst(call, price) for call in calls]
        words = self.store.begin(
            [self._intent(claim, worst) for claim, worst in zip(claims, worsts, strict=True)]
        )
        moves = [
            self._attempt(claim, call, price, worst)
            for claim, call, worst, word in zip(claims, calls, worsts, words, strict=True)
            if word == "go"
        ]
        self.store.commit(
            moves
            + [self._cancelled(claim) for claim, word in zip(claims, words, strict=True) if word == "cancel"]
        )

    def _compose(self, claim: Claim) -> Call:
        task_type = self.settings.types[claim.progress.task_type]
        return compose(claim, self.row, task_type, gates_of(task_type, claim.task))

    def _worst(self, call: Call, price: Price | None) -> int | None:
        return worst_nano(
            price, input_tokens=input_bound(call), max_tokens=call.max_tokens, timeout_s=call.timeout_s
        )

    def _intent(self, claim: Claim, worst: int | None) -> Intent:
        fact = lost(claim, self.name, self.engine.name, self.row.model, self.store.now_us(), worst)
        return Intent(claim, worst or 0, fact)

    def _attempt(self, claim: Claim, call: Call, price: Price | None, worst: int | None) -> Move:
        task_type = self.settings.types[claim.progress.task_type]
        started_us = self.store.now_us()
        result: Reply | EngineError
        try:
            result = self.engine.call(call, lambda: self.hands.broken(claim))
        except EngineError as error:
            result = error
        ended_us = self.store.now_us()
        busy_ms = (ended_us - started_us) / 1000
        verdict, gate_nano = NO_VERDICT, 0
        if isinstance(result, Reply):
            before = time.thread_time_ns()
            verdict = judge(gates_of(task_type, claim.task), result.text, claim.task)
            gate_ms = (time.thread_time_ns() - before) / 1e6
            gate_nano = cost_nano(self.cpu, None, busy_ms=gate_ms) or 0
        ended = Ended(
            result=result,
            verdict=verdict,
            settlement=settle(price, result, worst_nano=worst, busy_ms=busy_ms),
            started_us=started_us,
            ended_us=ended_us,
            gate_cost_nano=gate_nano,
            price_ref=price.ref if price else "",
        )
        fact = attempted(claim, self.name, self.engine.name, self.row.model, ended)
        away = unavailable(self.settings, self.sights.seen_s_ago(), self.sights.watched_s())
        step = next_step(claim, self.name, self.row, task_type, ended, away)
        return move(claim, step, fact, ended)

    def _cancelled(self, claim: Claim) -> Move:
        """Nothing was called; the script turns any move of a cancelled task into its end."""
        return Move(claim, "cancelled", claim.progress)


def _today(now_us: int) -> str:
    return datetime.fromtimestamp(now_us / 1_000_000, tz=UTC).date().isoformat()
