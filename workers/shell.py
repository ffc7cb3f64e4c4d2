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
from broker.errors import (
    CallCancelled,
    ConfigError,
    EngineConnectionLost,
    EngineError,
    LanewayError,
    RedisFull,
    RedisUnavailable,
)
from broker.events import Attempted
from broker.hands import Hands
from broker.money import nano
from broker.prices import Price, cost_nano, worst_nano
from broker.queue import LaneBroker, TaskQueue
from broker.scopes import next_window_s, scopes_of
from broker.settings import HUMAN, GateSettings, Settings, TaskType, load
from broker.settings import Lane as LaneSettings
from broker.sights import Sights
from broker.store import MICRO, Heard, Intent, Move, Store
from broker.tariff import cpu_price
from broker.task import Claim, lane_queue
from dispatcher.availability import unavailable
from dispatcher.budget import (
    Limits,
    ParkForBudget,
    Refusal,
    Unusable,
    limits_of,
    may_retry,
    over_soft,
    parse_refusal,
    refused,
    spare,
    stopped,
)
from dispatcher.endpoints import crowded
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
from workers.endpoints import Endpoint, Endpoints, tokens_of, told
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
        endpoints = Endpoints.build(lane_name, lane, settings.fleet.var)
        endpoints.check()
        store = connect(settings)
        store.declare_limits(settings.budgets)
        endpoints.open()
    except LanewayError as error:
        sys.exit(f"lane {lane_name!r} cannot be served on this node: {error}")
    return broker_of(lane_name, settings, store, endpoints)


def broker_of(lane_name: str, settings: Settings, store: Store, endpoints: Endpoints) -> LaneBroker:
    """A broker with the lane's two queues: threads are kept for sync tasks, and async ones take what is left."""
    lane = settings.lanes[lane_name]
    broker = LaneBroker(store, lanes=[lane_name])
    served = Lane(lane_name, settings, store, endpoints, broker.hands)

    def speak() -> None:
        broker.speak()
        served.sights.forget()

    broker.beside(Health(endpoints, broker.hands, speak))
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
    """A call that is about to be made. ``worst_nano`` None: no price is known. ``tokens`` is about what it will use."""

    claim: Claim
    task_type: TaskType
    limits: Limits
    gates: tuple[GateSettings, ...]
    call: Call
    endpoint: Endpoint
    price: Price | None
    worst_nano: int | None
    tokens: int


class Lane:
    """One lane on this node. ``work`` runs on dramatiq's threads."""

    def __init__(
        self, name: str, settings: Settings, store: Store, endpoints: Endpoints, hands: Hands
    ) -> None:
        self.name, self.settings, self.store, self.endpoints = name, settings, store, endpoints
        self.hands = hands
        self.row = settings.lanes[name]
        self.sights = Sights(store)
        self.cpu = cpu_price(settings.fleet.cpu_usd_per_hour)

    def work(self, claims: Sequence[Claim]) -> None:
        """Record the intents, make the calls, settle and move on."""
        jobs, moves = self._prepare(claims)
        heard: list[tuple[Endpoint, Heard]] = []
        while jobs:
            elsewhere = []
            for job, word in zip(jobs, self.store.begin([self._intent(job) for job in jobs]), strict=True):
                match word.split("|"):
                    case ["go"]:
                        moves.append(self._attempt(job, heard))
                    case ["cancel"]:  # no call was made; the script turns any move of it into its end
                        moves.append(Move(job.claim, "cancelled", job.claim.progress))
                    case ["busy", wait_us, broken]:  # the endpoint let it not in; another one may
                        self.endpoints.shut(job.endpoint, int(wait_us) / MICRO, broken=broken == "1")
                        elsewhere.append(job.claim)
                    case [_, *scope] if scope:
                        moves.append(self._refused(job, parse_refusal(word)))
            jobs, waiting = self._prepare(elsewhere)
            moves += waiting
        self.store.commit(moves)
        self._tell(heard)

    def _prepare(self, claims: Sequence[Claim]) -> tuple[list[_Job], list[Move]]:
        """The calls to make, and the moves of tasks that this lane can make no call for."""
        now_us = self.store.now_us()
        jobs, moves = [], []
        for claim in claims:
            task_type = self.settings.types.get(claim.progress.task_type)
            left_s, ran_s = time_left_s(claim, now_us), running_s(claim, now_us)
            if task_type is None:
                log.error("no type %r in this node's configuration; put back", claim.progress.task_type)
                moves.append(put_back(claim, UNKNOWN_TYPE_DELAY_S))
                continue
            limits = limits_of(task_type.budget, claim.task.budget, claim.raised)
            endpoint = self.endpoints.choose(day := _today(now_us))
            if left_s is not None and left_s <= 0:
                moves.append(overdue(claim))
            elif why := stopped(limits, claim.progress.attempts, ran_s):
                moves.append(without_call(claim, ParkForBudget(why), {}))
            elif endpoint is None:
                moves.append(self._crowded(claim, left_s))
            else:
                until_s = [
                    one for one in (left_s, limits.wall_s and limits.wall_s - ran_s) if one is not None
                ]
                jobs.append(self._job(claim, task_type, limits, endpoint, min(until_s, default=None), day))
        return jobs, moves

    def _job(
        self,
        claim: Claim,
        task_type: TaskType,
        limits: Limits,
        endpoint: Endpoint,
        left_s: float | None,
        day: str,
    ) -> _Job:
        gates = gates_of(task_type, claim.task)
        call = compose(claim, endpoint.row, task_type, gates, left_s)
        price, size = self.endpoints.price(endpoint, day), input_bound(call)
        worst = worst_nano(price, input_tokens=size, max_tokens=call.max_tokens, timeout_s=call.timeout_s)
        return _Job(claim, task_type, limits, gates, call, endpoint, price, worst, tokens_of(call, size))

    def _crowded(self, claim: Claim, left_s: float | None) -> Move:
        """No endpoint here takes a call just now. Limits are waited for in the queue, and this node takes no more for
        as long; what has failed is left to other nodes of the lane, or to the next lane where there are none."""
        away, wait_s = self._away(), self.endpoints.opens_s()
        self.hands.rest(wait_s)
        if self.name in away:
            return without_call(claim, Unusable(f"{self.name}: {away[self.name]}"), away)
        if self.endpoints.dead():
            return put_back(claim, 0.0)
        return without_call(claim, crowded(wait_s, mode=claim.task.mode, left_s=left_s), away)

    def _intent(self, job: _Job) -> Intent:
        row = job.endpoint.row
        fact = lost(
            job.claim, self.name, job.endpoint.engine.name, row.model, self.store.now_us(), job.worst_nano
        )
        return Intent(
            job.claim,
            job.worst_nano,
            fact,
            scopes_of(job.claim.task, self.name),
            job.limits.hard_nano,
            endpoint=job.endpoint.id,
            tokens=job.tokens,
            rpm=row.requests_per_minute or 0,
            tpm=row.tokens_per_minute or 0,
        )

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

    def _attempt(self, job: _Job, heard: list[tuple[Endpoint, Heard]]) -> Move:
        started_us = self.store.now_us()
        result = self._called(job)
        ended_us = self.store.now_us()
        if job.endpoint.id:
            heard.append((job.endpoint, told(job.endpoint, result, job.tokens)))
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
        fact = attempted(job.claim, self.name, job.endpoint.engine.name, job.endpoint.row.model, ended)
        away = self._away()
        step = next_step(job.claim, self.name, self._bounds(job, fact, away), ended, away)
        earlier = job.claim.progress.attempts
        if over_soft(job.limits, job.claim.cost_nano, earlier, fact):
            step = spare(step, self.name, job.claim.progress.chain, (*earlier, fact), away)
        done = move(job.claim, step, fact, ended)
        scopes = scopes_of(job.claim.task, self.name)
        return replace(done, scopes=scopes, soft_nano=job.limits.soft_nano)

    def _called(self, job: _Job) -> Reply | EngineError:
        endpoint = job.endpoint
        try:
            return endpoint.engine.call(job.call, lambda: endpoint.broken_off or self.hands.broken(job.claim))
        except CallCancelled as error:
            if not endpoint.broken_off:
                return error
            return EngineConnectionLost(f"lane {self.name!r}: its engine makes no tokens", usage=error.usage)
        except EngineError as error:
            return error

    def _tell(self, heard: Sequence[tuple[Endpoint, Heard]]) -> None:
        """How the endpoints did, for all workers of the fleet. The tasks have moved on: what is lost here is a hint."""
        if not heard:
            return
        try:
            states = self.store.heard([one for _, one in heard])
        except (RedisUnavailable, RedisFull) as error:
            log.warning("how endpoints did is not told: %s", error)
            return
        for (endpoint, _), (failures, shut_s, blocked_s) in zip(heard, states, strict=True):
            self.endpoints.heard(endpoint, failures, shut_s, blocked_s)

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
