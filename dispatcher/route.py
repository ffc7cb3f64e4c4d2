"""From a classified task to its first place: a pure decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.events import Fact, Finished, Parked, Routed
from broker.scopes import scopes_of
from broker.settings import HUMAN, Settings
from broker.store import Move
from broker.task import Claim, Outcome, Progress, lane_queue
from dispatcher.classify import Classified
from dispatcher.policy import Fail, Park, Run, start


def route(
    claim: Claim, classified: Classified, settings: Settings, unavailable: Mapping[str, str], cost_nano: int
) -> Move:
    """The first lane of the task's type, with the decision recorded as a fact and on the task.

    ``unavailable`` maps lanes that cannot take tasks to the reason; ``cost_nano`` is what classifying cost.
    """
    task_type = settings.types[classified.task_type]
    step = start(task_type.chain, unavailable)
    lane = step.lane if isinstance(step, Run) else HUMAN if isinstance(step, Park) else ""
    progress = Progress(
        task_type=classified.task_type,
        category=task_type.category,
        by=classified.by,
        rule=classified.rule,
        confidence=classified.confidence,
        chain=task_type.chain,
        lane=lane,
        why=step.why,
        skipped=step.skipped,
    )
    return _place(claim, step, progress, cost_nano)


def refuse(claim: Claim, reason: str) -> Move:
    """A task that no configuration fits ends as failed, with what to change in its reason."""
    facts = (Finished("failed", False, "", reason),)
    return Move(claim, "failed", claim.progress, outcome=Outcome("failed", reason), facts=facts)


def _place(claim: Claim, step: Run | Park | Fail, progress: Progress, cost_nano: int) -> Move:
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
    )
    scopes = scopes_of(claim.task, "")
    move = Move(claim, "queued", progress, cost_nano=cost_nano, attempts=(routed,), scopes=scopes)
    match step:
        case Run(lane):
            return replace(move, queue=lane_queue(lane, claim.task.mode))
        case Park(why):
            outcome = Outcome("parked", f"waits for a person: {why}", None, HUMAN)
            return replace(move, status="parked", outcome=outcome, facts=(Parked(HUMAN, why),))
        case Fail(why):
            facts: tuple[Fact, ...] = (Finished("failed", False, "", why),)
            return replace(move, status="failed", outcome=Outcome("failed", why), facts=facts)
