"""From the end of a call to the task's next move: pure decisions, one value each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from broker.call import Reply
from broker.clock import US_PER_S
from broker.errors import CallCancelled, EngineError, TransientEngineError
from broker.events import Attempted, Fact, Finished, Parked
from broker.purpose import FIRST_CALLS, FIRST_OF, REPROMPT, RETRY, TASK, TOOL
from broker.settings.lanes import Lane
from broker.settings.types import TaskType
from broker.state import Move
from broker.task import Claim, Outcome, Progress, lane_queue
from dispatcher.batching import Places
from dispatcher.budget import Exceeded, ParkForBudget, Unusable, Wait
from dispatcher.gates import Verdict, failed
from dispatcher.policy import (
    Answered,
    Bounds,
    Broken,
    Complete,
    Fail,
    Park,
    Reprompt,
    Retry,
    Run,
    Step,
    above,
    after,
    climb,
)
from dispatcher.route import climbing
from dispatcher.turns import Turn
from workers.settle import Settlement

UNKNOWN_TYPE_DELAY_S = 5.0
NO_VERDICT = Verdict(passed=None, gate="", complaint="")


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over. Times in microseconds of Redis's clock; ``gate_cost_nano`` is what judging it cost.
    ``verdict`` is ``NO_VERDICT`` where there is no answer. ``batch``: it was a line of a provider's batch."""

    result: Reply | EngineError
    verdict: Verdict
    settlement: Settlement
    started_us: int
    ended_us: int
    gate_cost_nano: int
    batch: bool = False

    @property
    def text(self) -> str:
        """The answer's, "" where there is none."""
        return self.result.text if isinstance(self.result, Reply) else ""


def booked_as(claim: Claim) -> str:
    """The purpose under which this call stands in the ledger."""
    why = purpose(claim.progress)
    return FIRST_OF.get(claim.task.role, why) if why == TASK else why


def rated_as(booked: str) -> str:
    """The purpose under which a call counts in its lane's rates: a first call is one, whatever it was made for."""
    return TASK if booked in FIRST_CALLS else booked


def purpose(progress: Progress) -> str:
    """Why this call is made: the first on its lane is the task itself, the others are overhead of two kinds."""
    if progress.complaint or progress.reprompts:
        return REPROMPT
    # After a tool was used the next call carries the task on.
    since = takewhile(lambda one: one.purpose != TOOL, reversed(progress.attempts))
    tried = any(one.lane == progress.lane for one in since)
    return RETRY if tried or progress.retries else TASK


def attempted(
    claim: Claim, lane_name: str, engine: str, model: str, ended: Ended, node: str = ""
) -> Attempted:
    """The fact of one call, as accounting books it. ``node`` is this machine.

    A call that was lost before stays what it was begun as, however far its task has come since.
    """
    earlier = (one for one in claim.progress.attempts if one.attempt_id == claim.attempt_id)
    begun = next(earlier, None) or lost(claim, lane_name, engine, model, ended.started_us, None)
    match ended.result:
        case Reply() as reply:
            ran, revision, first_ms = reply.model or model, reply.model_revision, reply.time_to_first_token_ms
            failure, complaint = "", ended.verdict.complaint
        case error:
            ran, revision, first_ms = model, "", None
            failure, complaint = error.failure, _first_line(error)
    settlement, usage = ended.settlement, ended.settlement.usage
    return replace(
        begun,
        model=ran,
        model_revision=revision,
        started_us=ended.started_us,
        ended_us=ended.ended_us,
        latency_ms=(ended.ended_us - ended.started_us) / 1000,
        time_to_first_token_ms=first_ms,
        cost_nano=settlement.cost_nano,
        marginal_nano=settlement.marginal_nano,
        price_ref=settlement.price_ref,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        gate=ended.verdict.gate,
        verdict=ended.verdict.word,
        failure=failure,
        complaint=complaint,
        settled=settlement.settled,
        gate_cost_nano=ended.gate_cost_nano,
        overrun=settlement.overrun,
        batch=ended.batch,
        node=node,
        avoided_nano=settlement.avoided_nano,
    )


def lost(
    claim: Claim, lane_name: str, engine: str, model: str, started_us: int, worst: int | None
) -> Attempted:
    """The fact to book should this call never be settled."""
    return Attempted(
        attempt_id=claim.attempt_id,
        parent_attempt_id=claim.progress.attempts[-1].attempt_id if claim.progress.attempts else "",
        hop=claim.progress.hop,
        lane=lane_name,
        engine=engine,
        model=model,
        purpose=booked_as(claim),
        started_us=started_us,
        ended_us=started_us,
        queue_wait_ms=max(0, claim.claimed_us - claim.enqueued_us) / 1000,
        latency_ms=0.0,
        cost_nano=worst,
        marginal_nano=worst,
        failure="worker_lost",
        settled=False,
    )


def bounds_of(progress: Progress, lane: Lane, task_type: TaskType, *, again: bool) -> Bounds:
    """How often the present lane may still be tried. ``again`` False: the task may spend no more on trying."""
    return Bounds(
        retries_left=lane.retries - progress.retries if again else 0,
        reprompts_left=task_type.reprompts - progress.reprompts if again else 0,
        retry_delay_s=lane.retry_delay_s,
        retries=progress.retries,
    )


def next_step(
    claim: Claim, lane_name: str, bounds: Bounds, ended: Ended, unavailable: Mapping[str, str]
) -> Step:
    """The policy's answer to how the call ended."""
    if isinstance(ended.result, CallCancelled):
        # Where somebody wants the task's end, or another holds it, the commit sees to that, whatever is said here.
        return Retry(0.0)
    return after(_outcome(ended), lane_name, claim.progress.chain, bounds, unavailable)


def move(
    claim: Claim,
    step: Step,
    fact: Attempted,
    ended: Ended,
    places: Places,
    scopes: tuple[str, ...],
    soft_nano: int | None,
) -> Move:
    """The task's next place, with the attempt settled in the same step. ``soft_nano`` is its soft limit."""
    told = replace(
        claim.progress,
        attempts=(*claim.progress.attempts, fact),
        last_answer=ended.text or claim.progress.last_answer,
    )
    return replace(
        _next_place(claim, step, told, ended, places),
        cost_nano=(fact.cost_nano or 0) + fact.gate_cost_nano,
        attempts=(fact,),
        overrun=fact.overrun,
        tally=(claim.progress.task_type, fact.lane, rated_as(fact.purpose)),
        scopes=scopes,
        soft_nano=soft_nano,
    )


def wants_critic(progress: Progress, task_type: TaskType) -> bool:
    """Whether an answer that passes its gate now goes to a critic."""
    return task_type.critic is not None and progress.rounds < task_type.rounds


def to_critic(
    claim: Claim, fact: Attempted, ended: Ended, scopes: tuple[str, ...], soft_nano: int | None
) -> Move:
    """A step within the task: its answer is kept, and a critic's part comes next."""
    round_ = claim.progress.rounds + 1
    told = replace(
        claim.progress,
        last_answer=ended.text,
        critic=f"critic{round_}",
        rounds=round_,
    )
    return going_on(replace(claim, progress=told), fact, told.turns, "", scopes, soft_nano)


def going_on(
    claim: Claim,
    fact: Attempted,
    said: tuple[Turn, ...],
    started: str,
    scopes: tuple[str, ...],
    soft_nano: int | None,
) -> Move:
    """A step within the task, which stays in the same hands: ``said`` are its turns from now on. ``started`` is the id
    of a call with effects that is about to be made, "" for none."""
    told = replace(
        claim.progress, attempts=(*claim.progress.attempts, fact), turns=said, started=started, complaint=""
    )
    return Move(
        claim,
        "running",
        told,
        cost_nano=(fact.cost_nano or 0) + fact.gate_cost_nano,
        attempts=(fact,),
        overrun=fact.overrun,
        tally=None if fact.purpose == TOOL else (claim.progress.task_type, fact.lane, rated_as(fact.purpose)),
        scopes=scopes,
        soft_nano=soft_nano,
    )


def _next_place(claim: Claim, step: Step, told: Progress, ended: Ended, places: Places) -> Move:
    lane = told.lane
    here = lane_queue(lane, claim.task.mode)
    match step:
        case Complete():
            outcome = Outcome("succeeded", "", ended.text, lane)
            facts = (Finished("succeeded", True if ended.verdict.passed else None, lane),)
            return Move(claim, "succeeded", told, outcome=outcome, facts=facts)
        case Retry(delay_s):
            return Move(claim, "queued", replace(told, retries=told.retries + 1), here, delay_s)
        case Reprompt(complaint):
            again = replace(told, reprompts=told.reprompts + 1, complaint=complaint)
            return Move(claim, "queued", again, here)
        case Run() | Park() | Fail():
            return climbing(claim, step, told, places)


def without_call(
    claim: Claim,
    decision: Wait | Exceeded | ParkForBudget | Unusable,
    unavailable: Mapping[str, str],
    places: Places,
) -> Move:
    """Where a task goes whose call its limits did not let leave."""
    progress = claim.progress
    match decision:
        case Wait(delay_s, why):
            return put_back(replace(claim, progress=replace(progress, waits_for=why)), delay_s)
        case Exceeded(why):
            outcome = Outcome("budget_exceeded", why, progress.last_answer or None, progress.lane)
            verdict = failed(places.types.get(progress.task_type), claim.task)
            facts: tuple[Fact, ...] = (Finished("budget_exceeded", verdict, progress.lane, why),)
            return Move(claim, "budget_exceeded", replace(progress, why=why), outcome=outcome, facts=facts)
        case ParkForBudget(why):
            outcome = Outcome("parked", f"budget: {why}", progress.last_answer or None, progress.lane)
            return Move(
                claim, "parked", replace(progress, why=why), outcome=outcome, facts=(Parked("budget", why),)
            )
        case Unusable(why):
            step = climb(above(progress.lane, progress.chain), unavailable, why)
            return climbing(claim, step, progress, places)


def running_s(claim: Claim, now_us: int) -> float:
    """Since the task's first call, without the time that it waited for a person; 0 before that."""
    attempts = claim.progress.attempts
    return max(0, now_us - attempts[0].started_us - claim.waited_us) / US_PER_S if attempts else 0.0


def to_others(move: Move) -> Move:
    """A step after which this worker goes home: another one of its lane takes the task on."""
    if move.status != "running":
        return move
    told = replace(move.progress, started="")
    return replace(move, status="queued", queue=move.claim.queue, progress=told)


def overdue(claim: Claim, task_type: TaskType) -> Move:
    """Its deadline passed before a call could be made: no money is spent on an answer that nobody waits for."""
    when = "before it was done" if claim.progress.attempts else "in the queue"
    why = f"its deadline of {claim.task.deadline_s:g} s passed {when}"
    outcome = Outcome("failed", why, claim.progress.last_answer or None, claim.progress.lane)
    facts = (Finished("failed", failed(task_type, claim.task), claim.progress.lane, why),)
    return Move(claim, "failed", claim.progress, outcome=outcome, facts=facts)


def put_back(claim: Claim, delay_s: float) -> Move:
    """To the same queue, for a node that can take it."""
    return Move(claim, "queued", claim.progress, queue=claim.queue, delay_s=delay_s)


def of_unknown_type(claim: Claim) -> Move:
    """This node's configuration has no such type; that of another node may."""
    return put_back(claim, UNKNOWN_TYPE_DELAY_S)


def cancelled(claim: Claim) -> Move:
    """Somebody wants the task's end, and its call was not made: the commit makes that end of any move of it."""
    return Move(claim, "cancelled", claim.progress)


def _outcome(ended: Ended) -> Answered | Broken:
    match ended.result:
        case Reply():
            return Answered(ended.verdict.passed, ended.verdict.complaint)
        case TransientEngineError() as error:
            return Broken(error.failure, transient=True, retry_after_s=error.retry_after_s)
        case error:
            return Broken(error.failure, transient=False)


def _first_line(error: EngineError) -> str:
    return error.message.splitlines()[0][:300] if error.message else ""
