"""The shell around every lane: connect, check the engine, serve the lane's two queues.

A lane's module is its name and a call of ``serve``. What happens to one handful of tasks stands in ``Lane.work``, in
the order in which it happens.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from broker.call import Call, Reply
from broker.connect import connect
from broker.errors import CallCancelled, ConfigError, EngineConnectionLost, EngineError, LanewayError
from broker.events import Attempted
from broker.hands import Hands
from broker.money import nano
from broker.prices import Price, cost_nano, worst_nano
from broker.queue import LaneBroker, TaskQueue
from broker.scopes import next_window_s, scopes_of
from broker.settings import HUMAN, GateSettings, Settings, TaskType, load
from broker.settings import Lane as LaneSettings
from broker.sights import Sights
from broker.store import Intent, Move, Store
from broker.tariff import cpu_price, price_of
from broker.task import Claim, lane_queue
from dispatcher.availability import unavailable
from dispatcher.budget import (
    Limits,
    ParkForBudget,
    Refusal,
    limits_of,
    may_retry,
    over_soft,
    parse_refusal,
    refused,
    spare,
    stopped,
)
from dispatcher.gates import Verdict, check, gates_of, judge
from dispatcher.policy import Bounds, above
from dispatcher.recovery import again_is_cheapest
from workers.attempt import (
    NO_VERDICT,
    Ended,
    attempted,
    bounds_of,
    lost,
    move,
    next_step,
    overdue,
    put_back,
    running_s,
    time_left_s,
    without_call,
)
from workers.compose import compose, input_bound
from workers.engines import Engine, build
from workers.health import Health
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
        for name, row in settings.types.items():
            check([row.gate], where=f"types.{name}.gate")
        engine = build(lane_name, lane, settings.fleet.var)
        engine.check()
        store = connect(settings)
        store.declare_limits(settings.budgets)
        engine.open()
    except LanewayError as error:
        sys.exit(f"lane {lane_name!r} cannot be served on this node: {error}")
    return broker_of(lane_name, settings, store, engine)


def broker_of(lane_name: str, settings: Settings, store: Store, engine: Engine) -> LaneBroker:
    """A broker with the lane's two queues: threads are kept for sync tasks, and async ones take what is left."""
    lane = settings.lanes[lane_name]
    broker = LaneBroker(store, lanes=[lane_name])
    served = Lane(lane_name, settings, store, engine, broker.hands)

    def speak() -> None:
        broker.speak()
        served.sights.forget()

    broker.beside(Health(lane_name, engine, broker.hands, speak))
    kept = lane.sync_threads if lane.sync_threads is not None else max(1, lane.threads // 4)
    hold_s = lane.timeout_s * lane.batch + HOLD_MARGIN_S
    for mode, messages, priority in (
        ("sync", lane.threads, 0),
        ("async", max(1, lane.threads - kept), ASYNC_BEHIND_SYNC),
    ):
        queue = TaskQueue(
            lane_queue(lane_name, mode), messages, lane.batch, hold_s, priority, shared=lane.threads
        )
        broker.task_queue(queue, served.work)
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
    limits: Limits
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
            elif word == "cancel":  # no call was made; the script turns any move of it into its end
                moves.append(Move(job.claim, "cancelled", job.claim.progress))
            elif word != "lost":
                moves.append(self._refused(job, parse_refusal(word)))
        self.store.commit(moves)

    def _prepare(self, claims: Sequence[Claim]) -> tuple[list[_Job], list[Move]]:
        """The calls to make, and the moves of tasks that this lane can make no call for."""
        now_us = self.store.now_us()
        price = price_of(self.name, self.row, _today(now_us))
        jobs, moves = [], []
        for claim in claims:
            task_type = self.settings.types.get(claim.progress.task_type)
            left_s, ran_s = time_left_s(claim, now_us), running_s(claim, now_us)
            if task_type is None:
                log.error("no type %r in this node's configuration; put back", claim.progress.task_type)
                moves.append(put_back(claim, UNKNOWN_TYPE_DELAY_S))
                continue
            limits = limits_of(task_type.budget, claim.task.budget, claim.raised)
            if left_s is not None and left_s <= 0:
                moves.append(overdue(claim))
            elif why := stopped(limits, claim.progress.attempts, ran_s):
                moves.append(without_call(claim, ParkForBudget(why), {}))
            else:
                gates = gates_of(task_type, claim.task)
                until_s = [
                    one for one in (left_s, limits.wall_s and limits.wall_s - ran_s) if one is not None
                ]
                call = compose(claim, self.row, task_type, gates, min(until_s, default=None))
                jobs.append(_Job(claim, task_type, limits, gates, call, price, self._worst(call, price)))
        return jobs, moves

    def _worst(self, call: Call, price: Price | None) -> int | None:
        return worst_nano(
            price, input_tokens=input_bound(call), max_tokens=call.max_tokens, timeout_s=call.timeout_s
        )

    def _intent(self, job: _Job) -> Intent:
        fact = lost(
            job.claim, self.name, self.engine.name, self.row.model, self.store.now_us(), job.worst_nano
        )
        scopes = scopes_of(job.claim.task, self.name)
        return Intent(job.claim, job.worst_nano, fact, scopes, job.limits.hard_nano)

    def _refused(self, job: _Job, refusal: Refusal) -> Move:
        """The call must not leave: what its limits say follows."""
        now_us = self.store.now_us()
        decision = refused(
            refusal,
            mode=job.claim.task.mode,
            spent=bool(job.claim.progress.attempts),
            worst_nano=job.worst_nano,
            window_s=next_window_s(refusal.period, now_us),
            left_s=time_left_s(job.claim, now_us),
        )
        return without_call(job.claim, decision, self._away())

    def _attempt(self, job: _Job) -> Move:
        started_us = self.store.now_us()
        result: Reply | EngineError
        try:
            result = self.engine.call(job.call, lambda: self.hands.broken(job.claim))
        except EngineError as error:
            result = error
        if isinstance(result, CallCancelled) and self.hands.paused:
            result = EngineConnectionLost(
                f"lane {self.name!r}: the engine makes no tokens", usage=result.usage
            )
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
        away = self._away()
        step = next_step(job.claim, self.name, self._bounds(job, fact, away), ended, away)
        earlier = job.claim.progress.attempts
        if over_soft(job.limits, job.claim.cost_nano, earlier, fact):
            step = spare(step, self.name, job.claim.progress.chain, (*earlier, fact), away)
        done = move(job.claim, step, fact, ended)
        scopes = scopes_of(job.claim.task, self.name)
        return replace(done, scopes=scopes, soft_nano=job.limits.soft_nano)

    def _bounds(self, job: _Job, fact: Attempted, away: Mapping[str, str]) -> Bounds:
        """How often this lane may be tried again, within what the task may spend on trying, and where it pays."""
        progress = job.claim.progress
        human = self.settings.human.usd_per_review
        again = may_retry(job.limits, (*progress.attempts, fact), job.worst_nano) and again_is_cheapest(
            progress.task_type,
            self.name,
            "reprompt" if fact.verdict == "fail" else "retry",
            [lane for lane in above(self.name, progress.chain) if lane not in away],
            self.sights.rates(),
            human_nano=None if human is None else nano(human),
        )
        return bounds_of(progress, self.row, job.task_type, again=again)

    def _away(self) -> dict[str, str]:
        return unavailable(self.settings, self.sights.lanes(), self.sights.watched_s())

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
