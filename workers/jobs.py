"""A lane's calls before and after they are made: what each may cost, what is recorded of it, where its task goes next.

Shared by the shell that makes calls one by one (``workers/shell.py``) and the one that sends them in batches
(``workers/batch.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from broker.ask import patiently
from broker.call import Call, Reply, ToolCall
from broker.clock import utc_day
from broker.errors import CallNeverMade, EngineError
from broker.events import Attempted
from broker.hands import Hands
from broker.money import nano
from broker.prices import Price, cost_nano, worst_nano
from broker.purpose import REPROMPT, RETRY
from broker.scopes import next_window_s, scopes_of
from broker.settings import Settings
from broker.settings.gates import GateSettings
from broker.settings.types import TaskType
from broker.sights import Sights
from broker.state import Intent, Move
from broker.store import Store
from broker.tariff import cpu_price
from broker.task import Claim
from dispatcher import turns
from dispatcher.availability import unavailable
from dispatcher.batching import Places, left_s
from dispatcher.budget import (
    Limits,
    ParkForBudget,
    Refusal,
    Unusable,
    limits_of,
    may_retry,
    over_soft,
    refused,
    spare,
    stopped,
)
from dispatcher.context import Cut, applied, guarded, unused_tokens
from dispatcher.endpoints import PATIENCE_S, crowded
from dispatcher.gates import Verdict, gates_of, judge
from dispatcher.policy import Bounds, Complete, above
from dispatcher.recovery import again_is_cheapest
from workers.attempt import (
    NO_VERDICT,
    Ended,
    attempted,
    bounds_of,
    going_on,
    lost,
    move,
    next_step,
    of_unknown_type,
    overdue,
    put_back,
    running_s,
    to_critic,
    wants_critic,
    without_call,
)
from workers.compose import compose, input_bound
from workers.endpoints import Endpoint, Endpoints, tokens_of
from workers.settle import settle
from workers.toolbox import Toolbox

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A call that is about to be made, or was. ``worst_nano`` None: no price is known. ``tokens`` is about what it will
    use. ``cut`` is what its context guards left of its messages. ``batch``: it goes in a provider's batch, at that
    price."""

    claim: Claim
    task_type: TaskType
    limits: Limits
    gates: tuple[GateSettings, ...]
    call: Call
    cut: Cut
    endpoint: Endpoint
    price: Price | None
    worst_nano: int | None
    tokens: int
    batch: bool


def limits_for(task_type: TaskType, claim: Claim) -> Limits:
    return limits_of(task_type.budget, claim.task.budget, claim.raised, guarded=bool(task_type.tools))


def asked_for(call: Call, result: Reply | EngineError) -> tuple[ToolCall, ...]:
    """The tool calls of an answer, where the call had any on offer."""
    offered = call.tools and call.tool_choice != "none"
    return result.tool_calls if isinstance(result, Reply) and offered else ()


def _measured(job: Job, result: Reply | EngineError) -> Claim:
    """The claim with what the call was not told, and what it was told for nothing."""
    unused = unused_tokens(job.call.messages, result.text) if isinstance(result, Reply) else 0
    told = replace(
        job.claim.progress,
        history_tokens=job.cut.history_tokens,
        passages_tokens=job.cut.passages_tokens,
        unused_tokens=unused,
    )
    return replace(job.claim, progress=told)


class Jobs:
    """All that a lane's calls need on this node. Thread-safe."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        store: Store,
        endpoints: Endpoints,
        hands: Hands,
        toolbox: Toolbox,
    ) -> None:
        self.name, self.settings, self.store, self.endpoints = name, settings, store, endpoints
        self.toolbox, self.hands = toolbox, hands
        self.row = settings.lanes[name]
        self.sights = Sights(store)
        self.cpu = cpu_price(settings.fleet.cpu_usd_per_hour)

    def prepare(self, claims: Sequence[Claim], *, batch: bool = False) -> tuple[list[Job], list[Move]]:
        """The calls to make, and the moves of tasks that this lane can make no call for."""
        now_us = self.store.clock.now_us()
        day = utc_day(now_us)
        jobs, moves = [], []
        for claim in claims:
            task_type = self.settings.types.get(claim.progress.task_type)
            left, ran_s = left_s(claim, now_us), running_s(claim, now_us)
            if task_type is None:
                log.error("no type %r in this node's configuration; put back", claim.progress.task_type)
                moves.append(of_unknown_type(claim))
                continue
            limits = limits_for(task_type, claim)
            endpoint = self.endpoints.first if batch else self.endpoints.choose(day)
            if left is not None and left <= 0:
                moves.append(overdue(claim, task_type))
            elif why := stopped(limits, claim.progress.attempts, ran_s):
                moves.append(without_call(claim, ParkForBudget(why), {}, self.places()))
            elif endpoint is None:
                moves.append(self._crowded(claim, left))
            else:
                until_s = [one for one in (left, limits.wall_s and limits.wall_s - ran_s) if one is not None]
                until = min(until_s, default=None)
                jobs.append(self._job(claim, task_type, limits, endpoint, day, until, batch=batch))
        return jobs, moves

    def again(self, claim: Claim, day: str) -> Job | None:
        """The call that was sent in a batch on that day, None where the configuration lost its type meanwhile."""
        task_type = self.settings.types.get(claim.progress.task_type)
        if task_type is None:
            return None
        limits = limits_for(task_type, claim)
        return self._job(claim, task_type, limits, self.endpoints.first, day, None, batch=True)

    def _job(
        self,
        claim: Claim,
        task_type: TaskType,
        limits: Limits,
        endpoint: Endpoint,
        day: str,
        until_s: float | None,
        *,
        batch: bool,
    ) -> Job:
        gates = gates_of(task_type, claim.task)
        tools = () if batch else self.toolbox.definitions(turns.tools_of(task_type, claim.task))
        cut = guarded(claim.task.messages, applied(task_type.context, claim.task), claim.progress.kept)
        call = compose(claim, endpoint.row, task_type, gates, until_s, tools, cut.messages)
        price, size = self.endpoints.price(endpoint, day), input_bound(call)
        worst = worst_nano(
            price,
            input_tokens=size,
            max_tokens=call.max_tokens,
            timeout_s=call.timeout_s,
            batch=batch,
            writes=endpoint.row.writes,
        )
        tokens = tokens_of(call, size)
        return Job(claim, task_type, limits, gates, call, cut, endpoint, price, worst, tokens, batch)

    def _crowded(self, claim: Claim, left: float | None) -> Move:
        """No endpoint here takes a call just now. Limits are waited for in the queue, and this node takes no more for
        as long, unless it is so long that what comes may go on along its chain; what has failed is left to other nodes
        of the lane, or to the next lane where there are none."""
        away, wait_s = self.away(), self.endpoints.opens_s()
        if self.name in away:
            return without_call(claim, Unusable(f"{self.name}: {away[self.name]}"), away, self.places())
        if self.endpoints.dead():
            self.hands.rest(wait_s)
            return put_back(claim, 0.0)
        if wait_s <= PATIENCE_S:
            self.hands.rest(wait_s)
        decision = crowded(wait_s, mode=claim.task.mode, left_s=left)
        return without_call(claim, decision, away, self.places())

    def intent(self, job: Job) -> Intent:
        """What is recorded before the call leaves. A batch is no call that an endpoint's limits count."""
        row = job.endpoint.row
        engine = job.endpoint.engine.name
        fact = lost(job.claim, self.name, engine, row.model, self.store.clock.now_us(), job.worst_nano)
        return Intent(
            job.claim,
            job.worst_nano,
            replace(fact, batch=job.batch),
            scopes_of(job.claim.task, self.name),
            job.limits.hard_nano,
            endpoint="" if job.batch else job.endpoint.id,
            tokens=job.tokens,
            rpm=row.requests_per_minute or 0,
            tpm=row.tokens_per_minute or 0,
        )

    def refused(self, claim: Claim, refusal: Refusal, worst_nano: int | None) -> Move:
        """The call must not leave: what its limits say follows."""
        now_us = self.store.clock.now_us()
        decision = refused(
            refusal,
            mode=claim.task.mode,
            spent=bool(claim.progress.attempts),
            worst_nano=worst_nano,
            window_s=next_window_s(refusal.period, now_us),
            left_s=left_s(claim, now_us),
        )
        return without_call(claim, decision, self.away(), self.places())

    def settled(self, job: Job, result: Reply | EngineError, started_us: int, ended_us: int) -> Move:
        """The call is over: the task's next move, with the attempt settled in it. Times on Redis's clock."""
        never = isinstance(result, CallNeverMade)
        job = job if never else replace(job, claim=_measured(job, result))
        asks = asked_for(job.call, result)
        ended = self._ended(job, result, started_us, ended_us, judged=not asks)
        engine, model = job.endpoint.engine.name, job.endpoint.row.model
        fact = attempted(job.claim, self.name, engine, model, ended, self.settings.fleet.node)
        scopes = scopes_of(job.claim.task, self.name)
        if never:
            return replace(self._not_made(job), late=(fact,), scopes=scopes)
        if asks:
            asked = turns.asked(job.claim.progress.turns, ended.text, asks, self.name)
            return self.going_on(job.claim, fact, asked, job.task_type, job.limits)
        away = self.away()
        step = next_step(job.claim, self.name, self._bounds(job, fact, away), ended, away)
        earlier = job.claim.progress.attempts
        if over_soft(job.limits, job.claim.cost_nano, earlier, fact):
            step = spare(step, self.name, job.claim.progress.chain, (*earlier, fact), away)
        if isinstance(step, Complete) and wants_critic(job.claim.progress, job.task_type):
            return to_critic(job.claim, fact, ended, scopes, job.limits.soft_nano)
        return move(job.claim, step, fact, ended, self.places(), scopes, job.limits.soft_nano)

    def _ended(
        self, job: Job, result: Reply | EngineError, started_us: int, ended_us: int, *, judged: bool
    ) -> Ended:
        """The call with its price, and the gates' verdict where it is to be ``judged``."""
        verdict, gate_nano = self._judge(job, result) if judged else (NO_VERDICT, 0)
        busy_ms = 0.0 if isinstance(result, CallNeverMade) else (ended_us - started_us) / 1000
        settlement = settle(
            job.price, result, worst_nano=job.worst_nano, busy_ms=busy_ms, batch=job.batch, ended_us=ended_us
        )
        return Ended(result, verdict, settlement, started_us, ended_us, gate_nano, job.batch)

    def _not_made(self, job: Job) -> Move:
        """Where a task goes whose call was begun in Redis and not made: where it would have gone before that."""
        left, away = left_s(job.claim, self.store.clock.now_us()), self.away()
        if left is not None and left <= 0:
            return overdue(job.claim, job.task_type)
        if self.name in away:
            return without_call(job.claim, Unusable(f"{self.name}: {away[self.name]}"), away, self.places())
        return put_back(job.claim, 0.0)

    def going_on(
        self, claim: Claim, fact: Attempted, turn: turns.Turn, task_type: TaskType, limits: Limits
    ) -> Move:
        """A step within the task. Where the next tool call has effects it is marked as begun before it is."""
        said = (*claim.progress.turns, turn)
        started = ""
        if waiting := turns.pending(said):
            offer = self.toolbox.offer(turns.tools_of(task_type, claim.task), waiting[0])
            started = waiting[0].id if offer and not offer.function.reads_only else ""
        scopes = scopes_of(claim.task, self.name)
        return going_on(claim, fact, said, started, scopes, limits.soft_nano)

    def _bounds(self, job: Job, fact: Attempted, away: Mapping[str, str]) -> Bounds:
        """How often this lane may be tried again, within what the task may spend on trying, and where it pays."""
        progress = job.claim.progress
        human = self.settings.human.usd_per_review
        again = may_retry(job.limits, (*progress.attempts, fact), job.worst_nano) and again_is_cheapest(
            progress.task_type,
            self.name,
            REPROMPT if fact.verdict == "fail" else RETRY,
            [lane for lane in above(self.name, progress.chain) if lane not in away],
            patiently(self.sights.rates),
            human_nano=None if human is None else nano(human),
        )
        return bounds_of(progress, self.row, job.task_type, again=again)

    def away(self) -> dict[str, str]:
        return unavailable(self.settings, patiently(self.sights.lanes), self.sights.watched_s())

    def places(self) -> Places:
        return Places(self.settings.lanes, self.settings.types, self.store.clock.now_us())

    def _judge(self, job: Job, result: Reply | EngineError) -> tuple[Verdict, int]:
        """The verdict, and what reaching it cost in nano-dollars of processor time: nothing where no gate judged."""
        if not isinstance(result, Reply):
            return NO_VERDICT, 0
        before_ns = time.thread_time_ns()
        verdict = judge(job.gates, result.text, job.claim.task)
        if not verdict.gate:
            return verdict, 0
        spent_ms = (time.thread_time_ns() - before_ns) / 1e6
        return verdict, cost_nano(self.cpu, None, busy_ms=spent_ms) or 0
