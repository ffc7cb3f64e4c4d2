"""Critic and refiner: a sub-task judges an answer that passed its gate; what that says goes into the next attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from broker.errors import RedisFull, RedisUnavailable
from broker.events import Finished
from broker.scopes import scopes_of
from broker.state import Move, Record
from broker.task import Claim, Outcome, lane_queue
from dispatcher.schema import NotJson, parse_json
from workers.attempt import of_unknown_type, overdue, put_back, rated_as
from workers.jobs import Jobs
from workers.parts import LOOK_AGAIN_S, critic_of, ended, submitted, waiting


def complaint_of(part: Record | None) -> str | None:
    """What a critic wants better, "" where it is content; None where it came to nothing: the gate was passed."""
    if part is None or part.status != "succeeded" or part.outcome is None:
        return None
    try:
        said = parse_json(part.outcome.output or "")
    except NotJson:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("ok"), bool):
        return None
    return "" if said["ok"] else str(said.get("comment") or "a critic was not content with it")


class Critics:
    """One lane's, on this node. Thread-safe."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.store = jobs, jobs.store

    def moves(self, claims: Sequence[Claim]) -> list[Move]:
        """The next move of each of these tasks, whose answers are with a critic."""
        return [self._move(claim) for claim in claims]

    def _move(self, claim: Claim) -> Move:
        task_type = self.jobs.settings.types.get(claim.progress.task_type)
        if task_type is None or task_type.critic is None:
            return of_unknown_type(claim)
        part = critic_of(claim, task_type.critic, self.store.clock.now_us())
        if part.deadline_s is not None and part.deadline_s <= 0:
            return overdue(claim, task_type)
        try:
            ref, record = submitted(self.store, [part])
        except (RedisFull, RedisUnavailable):
            return put_back(claim, LOOK_AGAIN_S)
        if not ended(record):
            return waiting(claim, ref, self.jobs.name)
        return self._judged(claim, complaint_of(record))

    def _judged(self, claim: Claim, complaint: str | None) -> Move:
        told = replace(claim.progress, critic="")
        lane, last = self.jobs.name, told.attempts[-1]
        scopes = scopes_of(claim.task, lane)
        tally = (told.task_type, lane, rated_as(last.purpose))
        if complaint:
            again = replace(told, complaint=complaint, reprompts=told.reprompts + 1)
            queue = lane_queue(lane, claim.task.mode)
            return Move(claim, "queued", again, queue, scopes=scopes, tally=tally)
        outcome = Outcome("succeeded", "", told.last_answer, lane)
        judged = complaint == "" or last.verdict == "pass"
        facts = (Finished("succeeded", True if judged else None, lane),)
        return Move(claim, "succeeded", told, outcome=outcome, facts=facts, scopes=scopes, tally=tally)
