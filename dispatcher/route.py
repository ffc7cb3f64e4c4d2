"""A task's places as values: the first one, and each climb from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.events import Escalated, Fact, Finished, Parked, Routed
from broker.scopes import scopes_of
from broker.settings import Settings
from broker.settings.lanes import HUMAN
from broker.settings.types import TaskType
from broker.state import Move
from broker.task import Claim, Outcome, Progress, reference
from dispatcher.batching import Places
from dispatcher.classify import Classified
from dispatcher.context import Kept
from dispatcher.gates import failed
from dispatcher.policy import Fail, Park, Run, start


def route(
    claim: Claim,
    classified: Classified,
    settings: Settings,
    unavailable: Mapping[str, str],
    cost_nano: int,
    places: Places,
    family: tuple[tuple[str, int], ...] = (),
    kept: Kept = (),
) -> Move:
    """The first lane of the task's type, with the decision recorded as a fact and on the task.

    ``unavailable`` maps lanes that cannot take tasks to the reason; ``cost_nano`` is what classifying cost. ``family``
    are the tasks that it is a part of, ``kept`` the passages of its long texts that are told.
    """
    task_type = settings.types[classified.task_type]
    chain = chain_of(task_type)
    step = start(chain, unavailable)
    lane = step.lane if isinstance(step, Run) else HUMAN if isinstance(step, Park) else ""
    progress = Progress(
        task_type=classified.task_type,
        category=task_type.category,
        by=classified.by,
        rule=classified.rule,
        confidence=classified.confidence,
        chain=chain,
        family=family,
        kept=kept,
        lane=lane,
        why=step.why,
        skipped=step.skipped,
    )
    return _place(claim, step, progress, cost_nano, places)


def chain_of(task_type: TaskType) -> tuple[str, ...]:
    """The lanes of a task of this type: all that it declares, and of a planner's the strongest with what follows it."""
    if task_type.role != "planner":
        return task_type.chain
    strongest = max((at for at, lane in enumerate(task_type.chain) if lane != HUMAN), default=0)
    return task_type.chain[strongest:]


def climbing(claim: Claim, step: Run | Park | Fail, told: Progress, places: Places) -> Move:
    """From the task's present lane to where ``step`` says. ``told`` is how far it has come."""
    lane = told.lane
    match step:
        case Run(to, why, skipped):
            facts: tuple[Fact, ...] = (Escalated(lane, to, why, skipped),)
            return Move(claim, "queued", climbed(told, to, why, skipped), places.of(claim, to), facts=facts)
        case Park(why, skipped):
            outcome = Outcome("parked", f"waits for a person: {why}", told.last_answer or None, HUMAN)
            facts = (Escalated(lane, HUMAN, why, skipped), Parked(HUMAN, why))
            return Move(claim, "parked", climbed(told, HUMAN, why, skipped), outcome=outcome, facts=facts)
        case Fail(why, skipped):
            outcome = Outcome("failed", why, told.last_answer or None, lane)
            told = replace(told, why=why, skipped=(*told.skipped, *skipped))
            verdict = failed(places.types.get(told.task_type), claim.task)
            return Move(
                claim, "failed", told, outcome=outcome, facts=(Finished("failed", verdict, lane, why),)
            )


def climbed(progress: Progress, to: str, why: str, skipped: tuple[tuple[str, str], ...]) -> Progress:
    """On the next lane everything that counts per lane starts anew."""
    return replace(
        progress,
        lane=to,
        hop=progress.hop + 1,
        retries=0,
        reprompts=0,
        complaint="",
        why=why,
        skipped=(*progress.skipped, *skipped),
    )


def refuse(claim: Claim, reason: str) -> Move:
    """A task that no configuration fits ends as failed, with what to change in its reason; nobody judged it."""
    facts = (Finished("failed", None, "", reason),)
    return Move(claim, "failed", claim.progress, outcome=Outcome("failed", reason), facts=facts)


def _place(claim: Claim, step: Run | Park | Fail, progress: Progress, cost_nano: int, places: Places) -> Move:
    routed = Routed(
        progress.task_type,
        progress.category,
        progress.by,
        progress.rule,
        progress.confidence,
        progress.chain,
        progress.lane,
        progress.why,
        progress.skipped,
        cost_nano,
        _root(claim, progress),
    )
    scopes = scopes_of(claim.task, "")
    move = Move(claim, "queued", progress, cost_nano=cost_nano, attempts=(routed,), scopes=scopes)
    match step:
        case Run(lane):
            return replace(move, queue=places.of(replace(claim, progress=progress), lane))
        case Park(why):
            outcome = Outcome("parked", f"waits for a person: {why}", None, HUMAN)
            return replace(move, status="parked", outcome=outcome, facts=(Parked(HUMAN, why),))
        case Fail(why):
            ends = (Finished("failed", failed(places.types.get(progress.task_type), claim.task), "", why),)
            return replace(move, status="failed", outcome=Outcome("failed", why), facts=ends)


def _root(claim: Claim, progress: Progress) -> str:
    """The id of the outermost task that it is a part of, which is one of its workspace; "" for none."""
    return progress.family[-1][0].removeprefix(reference(claim.task.workspace, "")) if progress.family else ""
