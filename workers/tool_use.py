"""A task's tool calls before and after they are made, as ``workers/jobs.py`` does it for calls of models."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from broker.call import ToolCall
from broker.errors import CallNeverMade, RedisFull, RedisUnavailable, TaskTooLarge, ToolError
from broker.events import Attempted
from broker.purpose import TOOL
from broker.scopes import scopes_of
from broker.settings.tools import SubtaskTool
from broker.settings.types import TaskType
from broker.state import Intent, Move
from broker.task import Claim, Task
from dispatcher import turns
from dispatcher.batching import left_s
from dispatcher.budget import Limits, ParkForBudget, Refusal, Unusable, tool_stopped
from dispatcher.text import cut
from workers.attempt import of_unknown_type, overdue, put_back, running_s, without_call
from workers.jobs import Jobs, limits_for
from workers.parts import LOOK_AGAIN_S, ended, handed_on, submitted, waiting
from workers.toolbox import Offer, Used, arguments_of

KEPT = "kept"  # the engine of a use whose result was there already
COMPLAINT_CHARS = 300
UNKNOWN_END = (
    "Error: this call was begun, and the machine was lost before it was known how it ended. It may have taken effect or"
    " not, and was not made again."
)


@dataclass(frozen=True, slots=True)
class Use:
    """A tool call that is about to be made. ``offer`` None: the task has no such tool. ``begun``: it has effects, and
    was begun by a worker of which nothing was heard again."""

    claim: Claim
    task_type: TaskType
    limits: Limits
    call: ToolCall
    offer: Offer | None
    worst_nano: int
    begun: bool


class ToolUses:
    """One lane's, on this node. Thread-safe."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs, self.toolbox, self.store = jobs, jobs.toolbox, jobs.store

    def prepare(self, claims: Sequence[Claim], *, fresh: bool) -> tuple[list[Use], list[Move]]:
        """The tool calls to make, one a task, and the moves of tasks that may make none.

        ``fresh``: the claims were just taken, so that what was begun before was begun by another worker.
        """
        uses, moves = [], []
        now_us = self.store.clock.now_us()
        for claim in claims:
            task_type = self.jobs.settings.types.get(claim.progress.task_type)
            left, ran_s = left_s(claim, now_us), running_s(claim, now_us)
            if task_type is None:
                moves.append(of_unknown_type(claim))
                continue
            call = turns.pending(claim.progress.turns)[0]
            limits = limits_for(task_type, claim)
            before, same = turns.used(claim.progress.turns, call), turns.same(claim.progress.turns, call)
            if left is not None and left <= 0:
                moves.append(overdue(claim, task_type))
            elif why := tool_stopped(limits, before, ran_s):
                moves.append(self._without(claim, ParkForBudget(why)))
            elif limits.same_tool_calls is not None and same >= limits.same_tool_calls:
                moves.append(
                    self._without(claim, Unusable(f"{call.name} was called {same} times with the same words"))
                )
            else:
                offer = self.toolbox.offer(turns.tools_of(task_type, claim.task), call)
                begun = fresh and claim.progress.started == call.id
                worst = self.toolbox.worst_nano(offer) if offer and not begun else 0
                uses.append(Use(claim, task_type, limits, call, offer, worst, begun))
        return uses, moves

    def intent(self, use: Use) -> Intent:
        now_us = self.store.clock.now_us()
        lost = self._fact(use, now_us, now_us, Used("", use.worst_nano, "worker_lost"))
        scopes = scopes_of(use.claim.task, self.jobs.name)
        return Intent(use.claim, use.worst_nano, lost, scopes, use.limits.hard_nano)

    def refused(self, use: Use, refusal: Refusal) -> Move:
        return self.jobs.refused(_not_begun(use.claim), refusal, use.worst_nano)

    def made(self, use: Use) -> Move:
        """Use the tool, and the step that says what came of it."""
        started_us, began_ns = self.store.clock.now_us(), time.monotonic_ns()
        if use.offer and isinstance(use.offer.row, SubtaskTool):
            found = self._handed_on(use, use.offer.row)
            if isinstance(found, Move):  # where it was booked as lost meanwhile: it was not made so far
                never = self._fact(use, started_us, started_us, Used("", failure=CallNeverMade.failure))
                return replace(found, late=(never,))
            used = found
        elif use.begun:
            used = Used(UNKNOWN_END, 0, "unknown_end")
        elif use.offer is None:
            used = Used(f"Error: there is no tool {use.call.name!r} here", failure="unknown_tool")
        else:
            used = self.toolbox.use(use.offer, use.call, use.claim.task.workspace)
        ended_us = started_us + (time.monotonic_ns() - began_ns) // 1000  # Redis's clock may be set meanwhile
        fact = self._fact(use, started_us, ended_us, used)
        return self.jobs.going_on(use.claim, fact, turns.told(use.call, used.text), use.task_type, use.limits)

    def _handed_on(self, use: Use, row: SubtaskTool) -> Used | Move:
        """What its part came to, or the move with which it waits for it. All parts that the model asked for at once are
        under way together."""
        parts: list[Task] = []
        for call in turns.pending(use.claim.progress.turns):
            offer = self.toolbox.offer(turns.tools_of(use.task_type, use.claim.task), call)
            if offer is None or not isinstance(offer.row, SubtaskTool):
                break
            try:
                arguments = arguments_of(offer.function, call)
            except ToolError as error:
                if not parts:
                    return Used(f"Error: {error}", failure=error.failure)
                break
            parts.append(handed_on(use.claim, call, offer.row, arguments, self.store.clock.now_us()))
        try:
            ref, record = submitted(self.store, parts)
        except TaskTooLarge as error:
            return Used(f"Error: {error.message}", failure="bad_arguments")
        except (RedisFull, RedisUnavailable):
            return replace(
                put_back(use.claim, LOOK_AGAIN_S), scopes=scopes_of(use.claim.task, self.jobs.name)
            )
        if record is None:
            return Used("Error: what came of it is no longer kept", failure="subtask_gone")
        if not ended(record):
            return waiting(use.claim, ref, self.jobs.name)
        outcome = record.outcome
        if record.status == "succeeded" and outcome:
            return Used(cut(outcome.output or "", row.result_chars))
        why = outcome.reason if outcome else ""
        return Used(f"Error: it ended as {record.status}: {why}", failure=f"subtask_{record.status}")

    def _without(self, claim: Claim, decision: ParkForBudget | Unusable) -> Move:
        return without_call(_not_begun(claim), decision, self.jobs.away(), self.jobs.places())

    def _fact(self, use: Use, started_us: int, ended_us: int, used: Used) -> Attempted:
        earlier = use.claim.progress.attempts
        return Attempted(
            attempt_id=use.claim.attempt_id,
            parent_attempt_id=earlier[-1].attempt_id if earlier else "",
            hop=use.claim.progress.hop,
            lane=self.jobs.name,
            engine=KEPT if used.kept else TOOL,
            model=use.call.name,
            purpose=TOOL,
            started_us=started_us,
            ended_us=ended_us,
            queue_wait_ms=0.0,
            latency_ms=(ended_us - started_us) / 1000,
            cost_nano=used.cost_nano,
            marginal_nano=used.cost_nano,
            price_ref=f"{TOOL}:{use.offer.name if use.offer else 'unknown'}",
            failure=used.failure,
            complaint=used.text[:COMPLAINT_CHARS] if used.failure else "",
            settled=used.failure != "worker_lost",
            node=self.jobs.settings.fleet.node,
            avoided_nano=used.avoided_nano,
        )


def _not_begun(claim: Claim) -> Claim:
    return replace(claim, progress=replace(claim.progress, started=""))
