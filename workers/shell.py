"""The shell around every lane: connect, check the engine, serve the lane's two queues.

A lane's module is its name and a call of ``serve``. What happens to one handful of tasks stands in ``Lane.work``, in
the order in which it happens.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from broker.ask import patiently
from broker.call import Reply, Usage
from broker.clock import US_PER_S
from broker.connect import connect
from broker.errors import (
    CallCancelled,
    CallNeverMade,
    ConfigError,
    EngineConnectionLost,
    EngineError,
    LanewayError,
    RedisFull,
    RedisUnavailable,
)
from broker.queue import LaneBroker, TaskQueue
from broker.settings import Settings, load
from broker.settings.lanes import HUMAN
from broker.settings.lanes import Lane as LaneSettings
from broker.state import Heard, Move
from broker.store import Store
from broker.task import Claim, lane_queue
from dispatcher import turns
from dispatcher.batching import left_s
from dispatcher.budget import parse_refusal
from dispatcher.gates import check_types
from workers.attempt import cancelled, to_others
from workers.batch import Batches
from workers.batch_send import BatchSender
from workers.batch_settle import BatchKeeper
from workers.critics import Critics
from workers.endpoints import Endpoint, Endpoints, told
from workers.engines.batches import BatchDoor
from workers.health import Health
from workers.jobs import Job, Jobs
from workers.tool_use import ToolUses
from workers.toolbox import Toolbox

log = logging.getLogger(__name__)
ASYNC_BEHIND_SYNC = 10
HOLD_MARGIN_S = 30.0
BATCH_SEND_EVERY_S = 2.0


def serve(lane_name: str) -> LaneBroker:
    """The broker for ``dramatiq``: this node serves ``lane_name``. Ends the process with the mend where it cannot."""
    try:
        settings = load()
        lane = _lane(settings, lane_name)
        check_types(settings.types)
        endpoints = Endpoints.build(lane_name, lane, settings.fleet.var)
        endpoints.check()
        store = connect(settings)
        store.limits.declare(settings.budgets)
        toolbox = Toolbox.open(settings, lane_name, store)
        endpoints.open()
        return broker_of(lane_name, settings, store, endpoints, toolbox)
    except LanewayError as error:
        sys.exit(f"lane {lane_name!r} cannot be served on this node: {error}")


def broker_of(
    lane_name: str, settings: Settings, store: Store, endpoints: Endpoints, toolbox: Toolbox
) -> LaneBroker:
    """A broker with the lane's two queues: threads are kept for sync tasks, and async ones take what is left."""
    lane = settings.lanes[lane_name]
    broker = LaneBroker(store, lanes=[lane_name])
    jobs = Jobs(lane_name, settings, store, endpoints, broker.hands, toolbox)
    served = Lane(jobs)

    def speak() -> None:
        broker.speak()
        jobs.sights.forget()

    broker.beside(Health(endpoints, broker.hands, speak))
    door = batch_door(endpoints) if lane.batches else endpoints.first.engine.batches()
    if door is not None:  # also where batches are switched off: one may be with the provider still
        batches = Batches(jobs, door)
        sender = BatchSender(batches, settings.fleet.var / "batches")
        broker.every(f"batch-send-{lane_name}", BATCH_SEND_EVERY_S, sender.send)
        broker.every(f"batch-look-{lane_name}", lane.batch_poll_s, BatchKeeper(batches).look)
    kept = lane.sync_threads if lane.sync_threads is not None else max(1, lane.threads // 4)
    hold_s = max(lane.timeout_s, toolbox.longest_s) * lane.batch + HOLD_MARGIN_S
    for mode, messages, priority in (
        ("sync", lane.threads, 0),
        ("async", max(1, lane.threads - kept), ASYNC_BEHIND_SYNC),
    ):
        queue = TaskQueue(
            lane_queue(lane_name, mode), messages, lane.batch, hold_s, priority, shared=lane.threads
        )
        broker.task_queue(queue, served.work)
    return broker


def batch_door(endpoints: Endpoints) -> BatchDoor:
    """Raises ConfigError where the lane's first endpoint has no batches."""
    door = endpoints.first.engine.batches()
    if door is None:
        raise ConfigError(
            f"lanes.{endpoints.lane_name}.batches: its first endpoint has no batches",
            mend="take the line out; a provider that has OpenAI's batches is told by dialect = 'openai'",
        )
    return door


def _lane(settings: Settings, name: str) -> LaneSettings:
    if name == HUMAN or name not in settings.lanes:
        raise ConfigError(
            f"the configuration has no lane {name!r}; it has {', '.join(sorted(settings.lanes))}",
            mend=f"add a table [lanes.{name}], or start another lane's module on this node",
        )
    return settings.lanes[name]


class Lane:
    """One lane on this node. ``work`` runs on dramatiq's threads."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.uses, self.critics = jobs, ToolUses(jobs), Critics(jobs)
        self.name, self.store, self.endpoints, self.hands = jobs.name, jobs.store, jobs.endpoints, jobs.hands

    def work(self, claims: Sequence[Claim]) -> None:
        """One step for each task, and again for those that go on: a call of a model, or of a tool that it asked for."""
        heard: list[tuple[Endpoint, Heard]] = []
        fresh = True
        while claims:
            claims = self._step(claims, heard, fresh=fresh)
            fresh = False
        self._tell(heard)

    def _step(
        self, claims: Sequence[Claim], heard: list[tuple[Endpoint, Heard]], *, fresh: bool
    ) -> list[Claim]:
        """Record the intents, make the calls, settle and move on. What goes on is still in hand.

        From the first call on nothing gives up for a Redis that is away: what was paid for would be lost with it.
        """
        uses: list[Claim] = []
        judged: list[Claim] = []
        asks: list[Claim] = []
        for claim in claims:
            waits = uses if turns.pending(claim.progress.turns) else judged if claim.progress.critic else asks
            waits.append(claim)
        moves = [*self.critics.moves(judged), *self._use(uses, fresh=fresh), *self._call(asks, heard)]
        if self.hands.stopping.is_set():
            moves = [to_others(move) for move in moves]
        going_on = patiently(lambda: self.store.step(moves))
        self.hands.step(going_on)
        return going_on

    def _call(self, claims: Sequence[Claim], heard: list[tuple[Endpoint, Heard]]) -> list[Move]:
        jobs, moves = self.jobs.prepare(claims)
        while jobs:
            elsewhere = []
            words = patiently(partial(self.store.begin, [self.jobs.intent(job) for job in jobs]))
            for job, word in zip(jobs, words, strict=True):
                match word.split("|"):
                    case ["go"]:
                        moves.append(self._attempt(job, heard))
                    case ["cancel"]:
                        moves.append(cancelled(job.claim))
                    case ["busy", wait_us, broken]:  # this endpoint takes no call now; another one may
                        self.endpoints.shut(job.endpoint, int(wait_us) / US_PER_S, broken=broken == "1")
                        elsewhere.append(job.claim)
                    case [_, *scope] if scope:
                        moves.append(self.jobs.refused(job.claim, parse_refusal(word), job.worst_nano))
            jobs, waiting = self.jobs.prepare(elsewhere)
            moves += waiting
        return moves

    def _use(self, claims: Sequence[Claim], *, fresh: bool) -> list[Move]:
        uses, moves = self.uses.prepare(claims, fresh=fresh)
        words = patiently(lambda: self.store.begin([self.uses.intent(use) for use in uses])) if uses else []
        for use, word in zip(uses, words, strict=True):
            match word.split("|"):
                case ["go"]:
                    moves.append(self.uses.made(use))
                case ["cancel"]:
                    moves.append(cancelled(use.claim))
                case [_, *scope] if scope:
                    moves.append(self.uses.refused(use, parse_refusal(word)))
        return moves

    def _attempt(self, job: Job, heard: list[tuple[Endpoint, Heard]]) -> Move:
        started_us, began_ns = self.store.clock.now_us(), time.monotonic_ns()
        result = self._called(job)
        ended_us = started_us + (time.monotonic_ns() - began_ns) // 1000  # Redis's clock may be set meanwhile
        if job.endpoint.id:
            heard.append((job.endpoint, told(job.endpoint, result, job.tokens)))
        return self.jobs.settled(job, result, started_us, ended_us)

    def _called(self, job: Job) -> Reply | EngineError:
        """The call comes after others of its handful, which may have taken long."""
        endpoint, left = job.endpoint, left_s(job.claim, self.store.clock.now_us())

        def unwanted() -> bool:
            return endpoint.broken_off or self.hands.broken(job.claim)

        if unwanted() or (left is not None and left <= 0):
            why = f"lane {self.name!r}: the call was not made, for nobody waits for it any more"
            return CallNeverMade(why, usage=Usage())
        call = job.call if left is None else replace(job.call, timeout_s=min(job.call.timeout_s, left))
        try:
            return endpoint.engine.call(call, unwanted)
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
